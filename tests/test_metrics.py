"""Error rates against jiwer and plain statistics."""

import math
import random

import jiwer
import numpy as np
import pytest

from hf_ssl_speech.recognition.metrics import (
    CharacterErrorRate,
    WordErrorRate,
    count_edits,
    percentile_interval,
    resample_rates,
    show_edits,
    summarize_edits,
)

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero"]


@pytest.fixture
def word_error_rate(tmp_path):
    return WordErrorRate(cache_dir=str(tmp_path))


@pytest.fixture
def character_error_rate(tmp_path):
    return CharacterErrorRate(cache_dir=str(tmp_path))


@pytest.fixture
def corpus():
    """References, and predictions with words left out, put in and exchanged; the speaker of each."""
    draw = random.Random(0)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(60)]
    edits = [lambda word: word] * 6 + [lambda word: "", lambda word: f"{word} um", lambda word: draw.choice(WORDS)]
    predictions = [" ".join(draw.choice(edits)(word) for word in text.split()) for text in references]
    return predictions, references, [f"speaker {row % 3}" for row in range(60)]


def test_word_error_rate_is_jiwers_on_the_whole_corpus(corpus, word_error_rate):
    predictions, references, _ = corpus
    scores = word_error_rate.compute(predictions=predictions, references=references)
    expected = jiwer.process_words(references, predictions)
    assert scores["wer"] == pytest.approx(expected.wer)
    for kind in ("hits", "substitutions", "deletions", "insertions"):
        assert scores[kind] == getattr(expected, kind) > 0
    assert scores["reference_length"] == sum(len(text.split()) for text in references)


def test_character_error_rate_is_jiwers_and_counts_the_spaces_between_words(corpus, character_error_rate):
    predictions, references, _ = corpus
    scores = character_error_rate.compute(predictions=predictions, references=references)
    assert scores["cer"] == pytest.approx(jiwer.cer(references, predictions))
    assert scores["reference_length"] == sum(map(len, references))


def test_a_group_has_the_scores_of_its_utterances_alone(corpus, word_error_rate):
    predictions, references, speakers = corpus
    groups = word_error_rate.compute(predictions=predictions, references=references, groups=speakers)["groups"]
    assert list(groups) == ["speaker 0", "speaker 1", "speaker 2"]
    for number, group in enumerate(groups):
        alone = word_error_rate.compute(predictions=predictions[number::3], references=references[number::3])
        assert groups[group] == alone


def test_batches_add_up_to_the_whole(corpus, word_error_rate):
    predictions, references, _ = corpus
    at_once = word_error_rate.compute(predictions=predictions, references=references)
    word_error_rate.add_batch(predictions=predictions[:20], references=references[:20])
    word_error_rate.add_batch(predictions=predictions[20:], references=references[20:])
    assert word_error_rate.compute() == at_once


def test_an_empty_reference_adds_its_insertions_to_the_errors_and_nothing_to_the_length(word_error_rate):
    scores = word_error_rate.compute(predictions=["a b", "oh well", ""], references=["a b", "", "c d"])
    assert (scores["insertions"], scores["deletions"], scores["reference_length"]) == (2, 2, 4)
    assert scores["wer"] == 1


def test_a_group_without_any_reference_has_no_rate(word_error_rate):
    scores = word_error_rate.compute(predictions=["a", "noise"], references=["a", ""], groups=["speech", "silence"])
    silence = scores["groups"]["silence"]
    assert (silence["wer"], silence["low"], silence["high"], silence["insertions"]) == (None, None, None, 1)


@pytest.mark.parametrize("references", [[], [""], [" ", ""]])
def test_references_without_a_word_are_an_error_in_words(references, word_error_rate):
    with pytest.raises(ValueError, match=f"None of {len(references)} references has any words"):
        word_error_rate.compute(predictions=["a"] * len(references), references=references)


def test_an_interval_covers_the_true_rate_as_often_as_it_says():
    # One word an utterance, each wrong with the same chance: errors are binomial, and 1,000 such test sets are drawn.
    chance, num_utterances = 0.3, 300
    errors = (np.random.default_rng(0).random((1_000, num_utterances)) < chance).astype(np.int64)
    low, high = percentile_interval(resample_rates(errors, np.ones(num_utterances, np.int64)), 0.9)
    assert 0.87 < ((low <= chance) & (chance <= high)).mean() < 0.93
    expected_width = 2 * 1.645 * math.sqrt(chance * (1 - chance) / num_utterances)
    assert (high - low).mean() == pytest.approx(expected_width, rel=0.05)


def test_a_seed_decides_the_interval_and_more_confidence_widens_it(corpus, word_error_rate):
    predictions, references, _ = corpus
    texts = {"predictions": predictions, "references": references}
    narrow, wide = (word_error_rate.compute(**texts, confidence=confidence) for confidence in (0.5, 0.99))
    assert wide["low"] < narrow["low"] < narrow["wer"] < narrow["high"] < wide["high"]
    assert word_error_rate.compute(**texts, confidence=0.5) == narrow
    assert word_error_rate.compute(**texts, confidence=0.5, seed=1) != narrow


def test_draws_taken_in_portions_are_those_taken_at_once(monkeypatch):
    errors, lengths = np.arange(40).reshape(2, 20), np.arange(1, 21)
    at_once = resample_rates(errors, lengths, bootstrap=50)
    monkeypatch.setattr("hf_ssl_speech.recognition.metrics.DRAWS_AT_ONCE", 7 * 20)
    assert (resample_rates(errors, lengths, bootstrap=50) == at_once).all()


def test_one_system_twice_does_not_differ_from_itself_in_any_draw(corpus):
    counts = count_edits(*corpus[:2])
    rates = resample_rates(np.stack([counts.errors, counts.errors]), counts.reference_length)
    assert np.ptp(rates[:, 0]) > 0
    assert (rates[:, 0] == rates[:, 1]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 95}, "confidence is 95.*between 0 and 1"),
        ({"bootstrap": 0}, "bootstrap is 0"),
        ({"groups": ["a"]}, "Got groups for 1 utterances; expected one for each of 2"),
    ],
)
def test_settings_without_sense_are_errors_in_words(settings, message, word_error_rate):
    with pytest.raises(ValueError, match=message):
        word_error_rate.compute(predictions=["a", "b"], references=["a", "c"], **settings)


def test_lists_of_different_length_are_an_error():
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        count_edits(["a"], ["a", "b"])


def test_white_space_of_any_kind_stands_between_words():
    for space in "\u00a0\u2009\u202f\u3000\t\n\u2028":
        heard = f"one{space}two"
        for unit in ("words", "characters"):
            assert count_edits([heard, "one two"], ["one two", heard], unit).errors.sum() == 0
        assert "S" not in show_edits("one two", heard)


def test_a_single_utterance_has_no_interval():
    one = summarize_edits(count_edits(["a"], ["a b"]), "wer")
    assert (one["wer"], one["low"], one["high"]) == (0.5, None, None)
    two = summarize_edits(count_edits(["a", "a"], ["a b", "a"]), "wer")
    assert two["low"] < two["wer"] < two["high"]
