"""Transcripts: how they are written, what spells them, and which rows can't be learnt from."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoProcessor, Wav2Vec2Processor

from hf_ssl_speech import SSLWav2Vec2Config, TextNormalization, add_labels, load_speech, make_processor, prepare_speech
from hf_ssl_speech.recognition.text import (
    count_tokens,
    find_case,
    rare_tokens,
    spellable_characters,
)
from hf_ssl_speech.recognition.transcript import Alphabet


def config_for(tokenizer):
    return SSLWav2Vec2Config(vocab_size=len(tokenizer))


def rows_of(texts, seconds=2.0, column="text") -> Dataset:
    """Prepared rows, whose audio does not matter here."""
    count = len(texts)
    seconds = [seconds] * count if isinstance(seconds, float) else seconds
    columns = {"name": [f"row-{i}" for i in range(count)], "sample_id": list(range(count)), column: texts}
    return Dataset.from_dict({**columns, "num_samples": [int(16_000 * length) for length in seconds]})


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("  Hello,\tWORLD!\n", "hello world"),
        ("don\u2019t \u201cstop\u201d", "don't stop"),
        ("twenty-five \u20ac", "twenty five"),
        ("\ufb01ne \uff21\uff22", "fine ab"),  # a ligature, wide letters
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
        ("नमस्ते, दुनिया", "नमस्ते दुनिया"),  # vowel signs are no punctuation
        ("می\u200cخواهم", "می\u200cخواهم"),  # the joiner is part of the spelling
        ("\ufeffsoft\u00adhyphen", "softhyphen"),
        ("今日は。", "今日は"),
        ("...", ""),
    ],
)
def test_what_sounds_alike_is_written_alike(text, written):
    normalization = TextNormalization()
    assert normalization(text) == written
    assert normalization(written) == written


def test_the_policy_is_explicit_and_comes_back_from_a_folder(tmp_path):
    normalization = TextNormalization("NFC", "upper", "keep")
    assert normalization("straße, nr. 5") == "STRASSE, NR. 5"
    normalization.save_pretrained(tmp_path)
    assert TextNormalization.from_pretrained(tmp_path) == normalization
    with pytest.raises(ValueError, match="case is 'title': choose one of lower, upper, keep"):
        TextNormalization(case="title")


def test_a_vocabulary_holds_every_character_once_and_its_blank_is_the_pad_token(tmp_path):
    processor = make_processor(["été à l'ombre", "тень", "影"])
    tokenizer = processor.tokenizer
    assert spellable_characters(tokenizer) == set("étéàl'ombretнь тень影")
    assert (tokenizer.pad_token_id, tokenizer.word_delimiter_token) == (0, "|")
    assert len(tokenizer) == 3 + len(spellable_characters(tokenizer) - {" "})

    processor.save_pretrained(tmp_path)
    for loaded in (Wav2Vec2Processor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
        labels = Alphabet(loaded.tokenizer, SSLWav2Vec2Config(vocab_size=len(tokenizer))).spell("l'été 影")
        assert loaded.tokenizer.decode(labels) == "l'été 影"


def test_rare_tokens_are_left_out_and_named():
    texts = ["aab", "abñ"]
    assert list(count_tokens(texts).items()) == [("a", 3), ("b", 2), ("ñ", 1)]
    assert rare_tokens(texts, 2) == {"ñ": 1}
    assert spellable_characters(make_processor(texts, min_count=2).tokenizer) == {"a", "b", " "}
    with pytest.raises(ValueError, match="no character 9 times"):
        make_processor(texts, min_count=9)


def test_a_delimiter_in_the_text_is_no_letter():
    assert "|" not in spellable_characters(make_processor(["a|b"]).tokenizer)


@pytest.mark.parametrize(
    ("vocabulary", "case"), [("abc'", "lower"), ("ABC'", "upper"), ("aB", "keep"), ("影", "lower")]
)
def test_the_case_of_a_vocabulary_is_found(vocabulary, case):
    assert find_case(set(vocabulary)) == case


def test_rows_that_can_not_be_learnt_from_are_named_with_the_reason():
    rows = rows_of(
        ["ab", " ... ", None, "ab ñ", "a" * 60, "ba", "ab"],
        [2.0, 2.0, 2.0, 2.0, 2.0, 40.0, 0.05],
    )
    tokenizer = make_processor(["ab"]).tokenizer
    labelled, report, facts = add_labels(rows, tokenizer, TextNormalization(), config_for(tokenizer), max_seconds=36)
    assert labelled["name"] == ["row-0"]
    assert labelled["labels"] == [[3, 4, 2]]
    assert report.skipped == {
        "without text": ["row-1", "row-2"],
        "with characters outside the vocabulary": ["row-3"],
        "with more text than its audio has frames": ["row-4", "row-6"],
        "too long (over 36 s)": ["row-5"],
    }
    assert facts["unknown_characters"] == {"ñ": 1}
    assert (facts["rows"], facts["words"], facts["characters"]) == (1, 1, 2)


@pytest.mark.parametrize("final", [True, False])
def test_labels_end_with_the_delimiter_or_not_as_the_setting_says_which_is_saved(tmp_path, final):
    normalization, tokenizer = TextNormalization(final_delimiter=final), make_processor(["ab"]).tokenizer
    labelled, _, _ = add_labels(rows_of(["ab ba"]), tokenizer, normalization, config_for(tokenizer))
    assert labelled["labels"] == [[3, 4, 2, 4, 3] + [2] * final]
    normalization.save_pretrained(tmp_path)
    assert TextNormalization.from_pretrained(tmp_path).final_delimiter is final


def test_repeats_need_a_blank_between_them():
    tokenizer = make_processor(["ab"]).tokenizer
    seven_frames = (7 * 320 + 80) / 16_000
    rows = rows_of(["ababab", "aaabab"], seven_frames)  # 7 labels; the second needs two blanks more
    labelled, report, _ = add_labels(rows, tokenizer, TextNormalization(), config_for(tokenizer))
    assert labelled["text"] == ["ababab"]
    assert report.num_skipped == 1


def test_labels_leave_columns_and_format_as_they_were():
    waves = [np.sin(np.arange(32_000) / 9) / 2] * 3
    encoded = Dataset.from_list(
        [
            {"id": str(i), "audio": {"array": wave, "sampling_rate": 16_000}, "sentence": text}
            for i, (wave, text) in enumerate(zip(waves, ["ab", "?", "ba"]))
        ]
    )
    rows, _ = prepare_speech(encoded, min_seconds=1, cache=True, keep=["sentence"])
    tokenizer = make_processor(["ab"]).tokenizer
    labelled, _, _ = add_labels(rows, tokenizer, TextNormalization(), config_for(tokenizer), text_column="sentence")
    row = labelled[1]
    assert (row["name"], row["text"], row["labels"]) == ("2", "ba", [4, 3, 2])
    assert isinstance(row["samples"], np.ndarray) and len(row["samples"]) == 32_000


def test_a_vocabulary_in_the_other_case_is_told(tmp_path):
    tokenizer = make_processor(["AB"]).tokenizer
    with pytest.raises(ValueError, match=r"No row can be trained on.*Not in the vocabulary: a b.*the other case"):
        add_labels(rows_of(["ab"]), tokenizer, TextNormalization(), config_for(tokenizer))


def test_twelve_languages_are_spelt_and_read_back(corpora):
    rows, _ = prepare_speech(load_speech(f"{corpora}/languages/test*.parquet"), min_seconds=0.5, keep=["text"])
    normalization = TextNormalization()
    texts = [normalization(text) for text in rows["text"]]
    tokenizer = make_processor(texts).tokenizer
    labelled, report, facts = add_labels(rows, tokenizer, normalization, config_for(tokenizer))
    assert facts["unknown_characters"] == {}
    assert len(labelled) + report.num_skipped == len(rows)
    assert len(labelled) > 0.95 * len(rows)
    for text, labels in zip(labelled["text"], labelled["labels"]):
        assert tokenizer.decode(labels, group_tokens=False) == text
