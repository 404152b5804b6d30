"""Spans and negatives: the published budget, whole spans, nothing outside the utterance."""

import numpy as np
import pytest

from hf_ssl_speech.data.masking import draw_spans, sample_negatives


def spans(num_frames, seed, probability=0.65, length=10, min_spans=2):
    generator = np.random.default_rng(seed)
    return draw_spans(num_frames, probability=probability, length=length, min_spans=min_spans, generator=generator)


def run_lengths(mask):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_a_budget_of_65_percent_masks_49_percent_of_the_frames():
    share = np.mean([spans(749, seed).mean() for seed in range(300)])
    assert share == pytest.approx(0.49, abs=0.01)


def test_all_spans_are_whole():
    for seed in range(100):
        assert run_lengths(spans(99, seed)).min() >= 10


def test_a_short_utterance_gets_at_least_two_spans_with_different_starts():
    for seed in range(100):
        assert spans(21, seed, probability=0.1).sum() > 10


def test_the_left_over_fraction_of_a_span_is_rounded_up_as_often_as_it_should():
    # 0.5 * 50 / 10 = 2.5 spans of length 1 in length-10 steps: 2 or 3 starts, half the time each.
    starts = [
        draw_spans(50, probability=0.05, length=1, min_spans=0, generator=np.random.default_rng(s)).sum()
        for s in range(2000)
    ]
    assert np.mean(starts) == pytest.approx(2.5, abs=0.05)
    assert set(starts) == {2, 3}


def test_every_frame_but_those_at_the_ends_is_masked_alike_often():
    often = np.mean([spans(200, seed) for seed in range(3000)], axis=0)
    assert often[20:-20].std() < 0.02
    assert often[0] < often[100]


@pytest.mark.parametrize("probability", [0.65, 0.8, 1.0])
def test_at_least_one_frame_of_an_utterance_stays_visible_and_the_rest_is_masked_in_whole_spans(probability):
    for num_frames in range(11, 40):
        for seed in range(50):
            mask = spans(num_frames, seed, probability=probability)
            assert not mask.all()
            assert run_lengths(mask).min() >= 10


def test_an_utterance_no_longer_than_a_span_stays_whole():
    for num_frames in range(11):
        assert not spans(num_frames, 0).any() and len(spans(num_frames, 0)) == num_frames


@pytest.mark.parametrize("num_frames", [50, 99, 749])
def test_where_the_spans_leave_a_frame_they_are_as_drawn(num_frames):
    """The rule for short utterances changes nothing about the masks of the others, not even a random number."""
    left_alone = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        number = max(int(0.65 * num_frames / 10 + generator.random()), 2)
        naive = np.zeros(num_frames, dtype=bool)
        for start in generator.choice(num_frames - 9, number, replace=False):
            naive[start : start + 10] = True
        if not naive.all():
            left_alone += 1
            assert np.array_equal(spans(num_frames, seed), naive)
    assert left_alone == 200


def test_negatives_are_other_masked_frames_and_alike_likely():
    negatives = sample_negatives(8, 20_000, np.random.default_rng(0))
    for frame, others in enumerate(negatives):
        counts = np.bincount(others, minlength=8)
        assert counts[frame] == 0
        assert np.delete(counts, frame) == pytest.approx(20_000 / 7, rel=0.1)


def test_a_single_masked_frame_has_only_itself():
    assert (sample_negatives(1, 5, np.random.default_rng(0)) == 0).all()
    assert sample_negatives(0, 5, np.random.default_rng(0)).shape == (0, 5)
