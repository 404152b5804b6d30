"""Unit quality against naive loops and scikit-learn."""

import math
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from hf_ssl_speech.units.quality import (
    UnitQuality,
    cluster_purity,
    dead_clusters,
    mean_run_length,
    phone_normalized_mutual_information,
    phone_purity,
    phones_to_frames,
    unit_agreement,
    usage_entropy,
)


@pytest.fixture
def labels():
    """Units that follow phones to some degree, and the phones, frame by frame."""
    rng = np.random.default_rng(0)
    phones = rng.integers(0, 7, 2_000)
    units = np.where(rng.random(2_000) < 0.6, phones * 3 + rng.integers(0, 3, 2_000), rng.integers(0, 30, 2_000))
    return units, np.array(["AA", "B", "IY", "K", "S", "SIL", "T"])[phones]


def naive_purity(units, phones):
    """Frames of the most frequent phone of each unit, counted one by one."""
    pairs = list(zip(units.tolist(), phones.tolist()))
    hits = sum(max(Counter(phone for unit, phone in pairs if unit == one).values()) for one in set(units.tolist()))
    return hits / len(pairs)


def test_purities_are_those_of_counting_frame_by_frame(labels):
    units, phones = labels
    assert phone_purity(units, phones) == pytest.approx(naive_purity(units, phones))
    assert cluster_purity(units, phones) == pytest.approx(naive_purity(phones, units))


def test_pnmi_is_mutual_information_over_the_entropy_of_phones(labels):
    units, phones = labels
    phone_entropy = mutual_info_score(phones, phones)
    expected = mutual_info_score(units, phones) / phone_entropy
    assert phone_normalized_mutual_information(units, phones) == pytest.approx(expected)


def test_units_that_split_phones_cleanly_have_all_the_information_about_them():
    phones = np.repeat(["AA", "B", "SIL"], 40)
    units = np.arange(120) // 10
    assert phone_purity(units, phones) == 1
    assert phone_normalized_mutual_information(units, phones) == pytest.approx(1)
    assert cluster_purity(units, phones) == pytest.approx(0.25)


def test_agreement_is_normalised_mutual_information_and_ignores_numbering(labels):
    units, phones = labels
    renumbered = np.random.default_rng(1).permutation(30)[units]
    assert unit_agreement(units, phones) == pytest.approx(normalized_mutual_info_score(units, phones))
    assert unit_agreement(units, renumbered) == pytest.approx(1)
    assert unit_agreement(np.zeros(9), np.zeros(9)) == 1
    assert unit_agreement(np.zeros(9), np.arange(9)) == 0


def test_evenly_used_units_have_the_entropy_of_their_number():
    assert usage_entropy(np.arange(800) % 8) == pytest.approx(math.log(8))
    assert usage_entropy([3, 3, 3]) == 0


def test_unused_clusters_are_dead_and_unknown_ones_an_error():
    assert dead_clusters([0, 2, 2, 5], num_clusters=6) == 3
    with pytest.raises(ValueError, match="0 to 5"):
        dead_clusters([0, 6], num_clusters=6)


def test_a_run_ends_with_its_utterance():
    assert mean_run_length([[1, 1, 1, 2], [2, 2]]) == 2  # 111 2 | 22: six frames in three runs
    assert mean_run_length([[5] * 10, []]) == 10


def test_a_frame_has_the_phone_at_its_centre():
    phones = [
        {"phone": "SIL", "start": 0.0, "end": 0.0326},
        {"phone": "K", "start": 0.0326, "end": 0.0524},
        {"phone": "AE", "start": 0.0526, "end": 0.0730},
    ]
    # Centres lie at 12.5, 32.5, 52.5, 72.5, 92.5 ms: the third in a gap, the last after the end.
    assert phones_to_frames(phones, 5) == ["SIL", "SIL", "SIL", "AE", "SIL"]
    # Every second MFCC frame lies where an encoder frame does.
    assert phones_to_frames(phones, 10, hop_seconds=0.01)[::2] == phones_to_frames(phones, 5)
    assert phones_to_frames([], 2) == ["SIL", "SIL"]


def test_one_phone_alone_has_no_pnmi():
    with pytest.raises(ValueError, match="two phones"):
        phone_normalized_mutual_information([1, 2], ["SIL", "SIL"])


def test_lists_of_different_length_are_an_error_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        phone_purity([1, 2, 3], ["A", "B"])


@pytest.fixture
def metric(tmp_path):
    return UnitQuality(cache_dir=str(tmp_path))


def test_the_metric_gives_each_measure_of_all_frames(labels, metric):
    units, phones = labels
    unit_rows, phone_rows = np.split(units, [500, 1_200]), np.split(phones, [500, 1_200])
    scores = metric.compute(
        predictions=[row.tolist() for row in unit_rows],
        references=[row.tolist() for row in phone_rows],
        num_clusters=32,
    )
    assert scores == {
        "pnmi": pytest.approx(phone_normalized_mutual_information(units, phones)),
        "phone_purity": phone_purity(units, phones),
        "cluster_purity": cluster_purity(units, phones),
        "unit_entropy": usage_entropy(units),
        "unit_perplexity": pytest.approx(math.exp(usage_entropy(units))),
        "dead_clusters": 32 - len(set(units.tolist())),
        "mean_run_length": mean_run_length(unit_rows),
        "num_frames": 2_000,
        "num_units": len(set(units.tolist())),
        "num_phones": 7,
    }


def test_the_metric_collects_batches_and_starts_afresh_after_computing(labels, metric):
    units, phones = labels
    at_once = metric.compute(predictions=[units[:900], units[900:]], references=[phones[:900], phones[900:]])
    metric.add_batch(predictions=[units[:900]], references=[phones[:900]])
    metric.add_batch(predictions=[units[900:]], references=[phones[900:]])
    assert metric.compute() == at_once


def test_the_metric_names_the_utterance_whose_labels_do_not_pair(metric):
    with pytest.raises(ValueError, match=r"Utterance 1 has 3 units but 2 phone labels.*every second"):
        metric.compute(predictions=[[1, 2], [1, 2, 3]], references=[["A", "B"], ["A", "B"]])
