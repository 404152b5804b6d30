"""Forced alignment: a known transcript gets the times it was said at, as columns and as TextGrid."""

import json
import math
import re
import tracemalloc
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hf_ssl_speech import SSLWav2Vec2Config, SSLWav2Vec2ForCTC
from hf_ssl_speech.file_names import file_names
from hf_ssl_speech.recognition import alignment
from hf_ssl_speech.recognition.alignment import TEXTGRID, add_alignment, align_text, describe_scores, write_textgrid
from hf_ssl_speech.recognition.decoding import WILDCARD_COST, align_tokens
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


def test_an_aligner_that_rests_on_blanks_is_misled_by_delimiters_in_pauses(alphabet, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    blank_starts = pytest.importorskip("final_delimiter").blank_starts
    assert blank_starts("ab bad", heard("aa_bb__|_bb_aa_d__"), alphabet) == pytest.approx([0.0, 0.18])
    misled = heard("||||||aa_bb__|_bb_aa_d")
    (first, _), ours = blank_starts("ab bad", misled, alphabet), align_text("ab bad", misled, alphabet)
    assert first < 0.12 and ours.words[0].start == pytest.approx(0.12)


def test_the_given_text_is_aligned_even_where_something_else_was_heard(alphabet):
    transcript = align_text("abc", heard("_a__d__c_"), alphabet)
    assert transcript.text == "abc"
    a, b, c = transcript.characters
    assert (a.start, c.start) == pytest.approx((0.02, 0.14))
    assert a.end <= b.start and b.end <= c.start


def likeliest(log_probabilities, ids, alphabet) -> float:
    """The score of the best path, found by trying all of them."""
    tokens = [alphabet.blank] * (2 * len(ids) + 1)
    tokens[1::2] = ids
    around = [alphabet.delimiter, *ids, alphabet.delimiter]
    beside = {place for place, pair in enumerate(pairwise(around)) if alphabet.delimiter in pair}

    def emission(frame, state):
        if tokens[state] == alphabet.wildcard:
            return max(log_probabilities[frame]) - WILDCARD_COST
        others = [alphabet.delimiter] if alphabet.delimiter and state % 2 == 0 and state // 2 in beside else []
        return max(log_probabilities[frame][token] for token in [tokens[state], *others])

    def onwards(frame, state):
        score = emission(frame, state)
        if frame == len(log_probabilities) - 1:
            return score if state >= len(tokens) - 2 else -math.inf
        may_skip = state % 2 == 1 and state + 2 < len(tokens) and tokens[state] != tokens[state + 2]
        ways = [state, *([state + 1] if state + 1 < len(tokens) else []), *([state + 2] if may_skip else [])]
        return score + max(onwards(frame + 1, way) for way in ways)

    return max(onwards(0, state) for state in range(min(2, len(tokens))))


def test_the_likeliest_path_is_found_in_thousands_of_cases_with_ties():
    """Small whole numbers tie all the time; with equal neighbours, delimiters and wild cards among the tokens."""
    rng, tried = np.random.default_rng(0), 0
    for _ in range(3_000):
        frames, outputs = int(rng.integers(1, 7)), int(rng.integers(3, 5))
        delimiter = 2 if rng.random() < 0.4 else None
        alphabet = SimpleNamespace(blank=0, delimiter=delimiter, wildcard=outputs)
        logs = -rng.integers(0, 4, (frames, outputs)).astype(float)
        ids = rng.integers(1, outputs + (rng.random() < 0.3), rng.integers(0, min(frames, 4) + 1)).tolist()
        if frames < len(ids) + sum(one == other for one, other in pairwise(ids)):
            continue
        path, scores = align_tokens(torch.tensor(logs), ids, alphabet)
        tried += 1
        assert scores.sum().item() == pytest.approx(likeliest(logs.tolist(), ids, alphabet), abs=1e-9)
        assert [token for token in torch.unique_consecutive(path).tolist() if token] == ids
    assert tried > 2_000


def test_a_tie_that_once_was_missed_is_won():
    alphabet = SimpleNamespace(blank=0, delimiter=None, wildcard=3)
    _, scores = align_tokens(torch.tensor([[-1.0, -1, -3], [0, 0, -3], [-2, -1, -3]]), [1, 2], alphabet)
    assert scores.sum() == -4


def test_a_text_that_the_logits_rule_out_gets_no_other_path():
    alphabet = SimpleNamespace(blank=0, delimiter=None, wildcard=3)
    logs = torch.zeros(4, 3)
    logs[:, 2] = -float("inf")
    assert torch.unique_consecutive(align_tokens(logs, [1], alphabet)[0]).tolist().count(1) == 1
    for ids in ([1, 2], [2]):
        with pytest.raises(ValueError, match="rule out a character of it"):
            align_tokens(logs, ids, alphabet)


def test_an_alignment_needs_far_less_memory_than_a_step_for_each_token_and_frame(alphabet):
    frames, tokens = 4_000, 1_000
    logits = torch.zeros(frames, len(TOKENS)).log_softmax(-1)
    align_tokens(logits[:50], [3, 4] * 5, alphabet)
    tracemalloc.start()
    align_tokens(logits, [3, 4] * (tokens // 2), alphabet)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < frames * (2 * tokens + 1) / 2  # bytes


def test_words_and_characters_get_the_mean_probability_of_their_frames_as_in_torchaudio(alphabet):
    functional = pytest.importorskip("torchaudio.functional")
    logits = torch.randn(40, len(TOKENS), dtype=torch.float64)
    logits[:, TOKENS.index("|")] = -40  # torchaudio knows no other silence than the blank
    logs = logits.float().log_softmax(-1)
    ids = torch.tensor([alphabet.spell("badcab")])
    path, scores = functional.forced_align(logs[None], ids, blank=0)
    spans = functional.merge_tokens(path[0], scores[0].exp())
    ours = align_text("badcab", logits, alphabet)
    for span, character in zip(spans, ours.characters, strict=True):
        assert (span.start, span.end) == (round(character.start / 0.02), round(character.end / 0.02))
        assert character.score == pytest.approx(span.score, rel=1e-5)
    frames = sum(len(span) for span in spans)
    (word,) = ours.words
    assert word.score == pytest.approx(sum(span.score * len(span) for span in spans) / frames, rel=1e-5)


def test_a_row_is_as_sure_as_its_worst_stretch_of_30_frames_as_in_ctc_segmentation(alphabet):
    logits = torch.randn(200, len(TOKENS), dtype=torch.float64)
    transcript = align_text("bad cab a dab", logits, alphabet)
    _, scores = align_tokens(logits.float().log_softmax(-1), alphabet.spell("bad cab a dab"), alphabet)
    lowest = min(scores[start : start + 30].mean().item() for start in range(171))
    assert transcript.confidence == pytest.approx(math.exp(lowest), rel=1e-5)
    short = align_text("a", heard("_aa_"), alphabet)
    assert short.confidence == pytest.approx(heard("a").softmax(-1).max().item(), rel=1e-5)
    assert align_text("b 1990", heard("_bb|ff_"), alphabet).words[1].score is None


def test_bad_transcripts_have_the_lowest_scores_and_are_named(recognizer, monkeypatch):
    said = ["bad_cab", "a_dab", "ha_had", "gab_bag", "beach", "a_bad_bag", "face", "cage"]
    written = [text.replace("_", " ") for text in said]
    written[2], written[5] = "cabbage", "a bad face"
    paths = [heard("".join(f"_{each}_" if each != "_" else "||" for each in text)) for text in said]
    logits = torch.nn.utils.rnn.pad_sequence(paths, batch_first=True)
    logits += torch.randn(logits.shape) * 0.5
    lengths = torch.tensor([len(path) for path in paths])
    monkeypatch.setattr(alignment, "compute_logits", lambda *_: [(list(range(8)), logits, lengths)])
    columns = {"name": list("stuvwxyz"), "num_samples": [32_000] * 8, "text": written}
    aligned, _ = add_alignment(Dataset.from_dict(columns), *recognizer)
    order = np.argsort(aligned["score"])
    assert set(order[:2].tolist()) == {2, 5}
    text = describe_scores(aligned).splitlines()
    assert [line.split()[1] for line in text[1:3]] == [f"{aligned['name'][place]}," for place in order[:2]]
    assert "worst word 'cabbage' at" in "".join(text[1:3]) and "worst word 'face' at" in "".join(text[1:3])
    good = aligned[7]["words"][0]
    assert good["score"] > 0.5 and len(text) == 6


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
    assert reasons["row 4"] == "There is no usable audio in it."


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
