"""Forced alignment: a known transcript gets the times it was said at, as columns and as TextGrid."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hf_ssl_speech import SSLWav2Vec2Config, SSLWav2Vec2ForCTC
from hf_ssl_speech.file_names import file_names
from hf_ssl_speech.recognition.alignment import TEXTGRID, add_alignment, align_text, write_textgrid
from hf_ssl_speech.recognition.transcript import Alphabet

TOKENS = ["<pad>", "<unk>", "|", *"abcdefgh'"]


@pytest.fixture
def tokenizer(tmp_path):
    file = tmp_path / "vocab.json"
    file.write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}))
    return Wav2Vec2CTCTokenizer(str(file), bos_token=None, eos_token=None)


@pytest.fixture
def alphabet(tokenizer):
    return Alphabet(tokenizer, SSLWav2Vec2Config.preset("tiny", vocab_size=len(TOKENS)))


def heard(path: str) -> torch.Tensor:
    """Logits of a model that hears one token a frame; `_` is the blank."""
    ids = [TOKENS.index(token if token != "_" else "<pad>") for token in path]
    return 5.0 * torch.nn.functional.one_hot(torch.tensor(ids), len(TOKENS)).float()


def times(spans):
    return [(span.text, round(span.start, 3), round(span.end, 3)) for span in spans]


def test_a_clear_utterance_is_aligned_frame_by_frame(alphabet):
    transcript = align_text("ab bad", heard("aa_bb__|_bb_aa_d|_"), alphabet)
    assert transcript.text == "ab bad"
    assert times(transcript.words) == [("ab", 0.0, 0.1), ("bad", 0.18, 0.32)]
    assert times(transcript.characters)[1:3] == [("b", 0.06, 0.1), ("b", 0.18, 0.22)]


def test_the_given_text_is_aligned_even_where_something_else_was_heard(alphabet):
    transcript = align_text("abc", heard("_a__d__c_"), alphabet)
    assert transcript.text == "abc"
    a, b, c = transcript.characters
    assert (a.start, c.start) == pytest.approx((0.02, 0.14))
    assert a.end <= b.start and b.end <= c.start


def test_a_path_is_the_likeliest_of_all_that_write_the_text(alphabet):
    logits = torch.randn(6, len(TOKENS))
    log_probabilities = logits.log_softmax(-1)
    a, b = TOKENS.index("a"), TOKENS.index("b")
    best = -torch.inf
    delimiter = TOKENS.index("|")
    for path in torch.cartesian_prod(*[torch.tensor([0, delimiter, a, b])] * 6):
        run = torch.unique_consecutive(path)
        if "".join(TOKENS[token] for token in run if token).strip("|") == "abb":
            best = max(best, log_probabilities.gather(1, path[:, None]).sum().item())
    assert align_text("abb", logits, alphabet).score == pytest.approx(best, rel=1e-5)


def test_what_can_not_be_aligned_is_told_in_words(alphabet):
    with pytest.raises(ValueError, match=r"'caf\u00e9', 'x': characters that the model can't write \(x \u00e9\)"):
        align_text("caf\u00e9 x", heard("_" * 30), alphabet)
    with pytest.raises(ValueError, match="it writes lower case only"):
        align_text("ABBA", heard("_" * 30), alphabet)
    with pytest.raises(ValueError, match="7 characters need 8 frames, but the audio makes 7"):
        align_text("abba ba", heard("_" * 7), alphabet)
    with pytest.raises(ValueError, match="The text is empty"):
        align_text("  ", heard("___"), alphabet)


def test_a_word_that_can_not_be_spelt_leaves_the_others_their_times(alphabet):
    transcript = align_text("ab 1990 bad", heard("ab__|_gg_hh|fe_|_b_ad_"), alphabet)
    assert transcript.text == "ab 1990 bad"
    assert times(transcript.words) == [("ab", 0.0, 0.04), ("1990", 0.12, 0.28), ("bad", 0.34, 0.42)]
    assert times(transcript.characters)[2] == ("1990", 0.12, 0.28)  # as a whole: nobody knows its letters
    assert align_text("ab x1 x2 bad", heard("ab|cc|dd|bad"), alphabet).text == "ab x1 x2 bad"
    first = align_text("1990 ab", heard("_gg_g|__ab"), alphabet)
    assert times(first.words) == [("1990", 0.02, 0.1), ("ab", 0.16, 0.2)]


@pytest.mark.parametrize("silence", ["_____", "|||||", "_|||_", "|__||", "||_||"])
def test_silence_is_rested_on_whether_a_model_learnt_to_write_blanks_or_delimiters_there(alphabet, silence):
    """Pauses before, between and after words never pull their characters along."""
    between = silence if "|" in silence else "__|__"
    transcript = align_text("ab bad", heard(f"{silence}a_b{between}b_a_d{silence}"), alphabet)
    assert times(transcript.words) == [("ab", 0.1, 0.16), ("bad", 0.26, 0.36)]
    assert transcript.score == pytest.approx(heard("a").log_softmax(-1).max().item() * 23, rel=1e-5)


@pytest.fixture
def recognizer(make_tiny, tokenizer):
    model = make_tiny(SSLWav2Vec2ForCTC, vocab_size=len(TOKENS))
    return model, Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=True), tokenizer)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    lengths = [16_000, 8_000, 2_000, 12_000, 399]
    return Dataset.from_dict(
        {
            "name": [f"row {number}" for number in range(5)],
            "num_samples": lengths,
            "samples": [(rng.standard_normal(length) * 3e3).astype(np.int16) for length in lengths],
            "text": ["Bad cab!", "a", "abba abba abba", "zoo", "a"],
            "speaker": list("vwxyz"),
        }
    )


def test_a_dataset_gets_its_times_and_keeps_its_columns(recognizer, rows):
    aligned, report = add_alignment(rows, *recognizer, normalize=lambda text: text.lower().replace("!", ""))
    assert aligned["name"] == ["row 0", "row 1"] and aligned["speaker"] == ["v", "w"]
    assert [word["text"] for word in aligned[0]["words"]] == ["bad", "cab"]
    assert "".join(each["text"] for each in aligned[0]["characters"]) == "badcab"
    for row in aligned:
        ends = [time for span in row["characters"] for time in (span["start"], span["end"])]
        assert ends == sorted(ends) and ends[-1] <= row["num_samples"] / 16_000
    assert report.total == 5 and report.num_skipped == 3
    reasons = {name: reason for reason, names in report.skipped.items() for name in names}
    assert "need 17 frames, but the audio makes 6" in reasons["row 2"]
    assert "'zoo': characters that the model can't write (o z)" in reasons["row 3"]
    assert reasons["row 4"] == "Nothing is heard in it."


def test_aligned_rows_go_through_parquet(recognizer, rows, tmp_path):
    aligned, _ = add_alignment(rows.select([1]), *recognizer)
    aligned.to_parquet(tmp_path / "aligned.parquet")
    back = Dataset.from_parquet(str(tmp_path / "aligned.parquet"), cache_dir=str(tmp_path))
    assert back[0]["words"] == aligned[0]["words"] and back[0]["words"][0]["text"] == "a"


def test_alignment_needs_a_text_column_and_rows_that_fit(recognizer, rows):
    with pytest.raises(ValueError, match=r"expected 'sentence' with the transcripts.*keep="):
        add_alignment(rows, *recognizer, text_column="sentence")
    with pytest.raises(ValueError, match="no words or characters or score yet"):
        add_alignment(rows.rename_column("speaker", "words"), *recognizer)
    with pytest.raises(ValueError, match="No row can be aligned: 1 of 1 rows skipped"):
        add_alignment(rows.select([3]), *recognizer)


def test_a_textgrid_tells_praat_the_same_times(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid", reason="TextGrid files need the extra [textgrid]")
    words = [dict(text="bad", start=0.1, end=0.4), dict(text="cab", start=0.5, end=0.9)]
    write_textgrid({"words": words, "characters": []}, 0.97, tmp_path / "one.TextGrid")
    grid = textgrid.openTextgrid(str(tmp_path / "one.TextGrid"), includeEmptyIntervals=False)
    assert grid.tierNames == ("words", "characters") and grid.maxTimestamp == 0.97
    assert [(each.label, each.start, each.end) for each in grid.getTier("words").entries] == [
        ("bad", 0.1, 0.4),
        ("cab", 0.5, 0.9),
    ]
    everything = textgrid.openTextgrid(str(tmp_path / "one.TextGrid"), includeEmptyIntervals=True)
    assert [each.label for each in everything.getTier("words").entries] == ["", "bad", "", "cab", ""]
    assert len(everything.getTier("characters").entries) == 1


NAMES = ["a/b", "a_b", "A_b", "twice", "twice", "x" * 300, "x" * 300 + "y", "ü" * 200, "e\u0301", "é"]
NAMES += ["q?\n:*", ".b", "plain"]


def test_textgrids_of_any_names_are_files_of_their_own(tmp_path):
    found = file_names(NAMES, range(len(NAMES)), TEXTGRID)
    assert found[-1] == "plain.TextGrid" and found[-2] == "_b.TextGrid" and found[-3] == "q____.TextGrid"
    assert len({name.casefold() for name in found}) == len(NAMES)
    for name in found:
        (tmp_path / name).touch()
    assert len(list(tmp_path.iterdir())) == len(NAMES) and max(len(name.encode()) for name in found) <= 255
    backwards = file_names(NAMES[::-1], range(len(NAMES))[::-1], TEXTGRID)
    assert backwards == found[::-1]


@pytest.mark.parametrize(
    "name",
    ["CON", "con.a", "nul ", "Lpt1", "COM\u00b9.x", "a.", "a ", "..", ".", "", " a", "\ud800", "a\u2028b", "a\x85b",
     "\t", "/etc/passwd", "..\\up", "aux.TextGrid", "a:b"],
)  # fmt: skip
def test_a_name_that_other_systems_forbid_is_changed(name):
    for suffix in (TEXTGRID, ""):
        (found,) = file_names([name], [0], suffix)
        assert (
            not re.search(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\ud800-\udfff\u2028]|^[. ]|[. ]$', found) and found != suffix
        )
        assert found.split(".")[0].strip().casefold() not in {"con", "nul", "aux", "lpt1", "com\u00b9"}
        assert len(found.encode()) <= 255


def test_ids_that_differ_only_in_what_is_changed_keep_files_of_their_own():
    names = ["a.", "a_", "A_", "a\u0307_", "\u0226_", "con", "_con", "\u00df", "ss", "x" * 242, "x" * 400]
    found = file_names(names, range(len(names)), ".flac")
    assert len({name.casefold() for name in found}) == len(names)
    assert file_names(["plain id-7.b"], [0], ".flac") == ["plain id-7.b.flac"]


def test_the_recipe_writes_times_as_parquet_and_textgrids(recognizer, rows, tmp_path, monkeypatch):
    textgrid = pytest.importorskip("praatio.textgrid", reason="TextGrid files need the extra [textgrid]")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    import align

    for part in recognizer:
        part.save_pretrained(tmp_path / "model")
    for number, row in enumerate(rows):
        soundfile.write(tmp_path / f"{number}.wav", np.array(row["samples"], np.int16), 16_000)
    audio = [str(tmp_path / f"{number}.wav") for number in range(5)]
    speech = Dataset.from_dict({"id": rows["name"], "audio": audio, "text": rows["text"]})
    speech.save_to_disk(tmp_path / "speech")
    align.main(
        f"--model {tmp_path}/model --data {tmp_path}/speech --output_dir {tmp_path}/out --textgrids True".split()
    )
    aligned = Dataset.from_parquet(f"{tmp_path}/out/aligned.parquet", cache_dir=str(tmp_path))
    assert aligned["id"] == ["row 0", "row 1"]
    grid = textgrid.openTextgrid(f"{tmp_path}/out/textgrids/row 0.TextGrid", includeEmptyIntervals=False)
    entries = [(each.label, each.start, each.end) for each in grid.getTier("words").entries]
    assert entries == [(word["text"], word["start"], word["end"]) for word in aligned[0]["words"]]
