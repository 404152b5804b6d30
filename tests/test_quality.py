"""Unit quality against naive loops and scikit-learn."""

import math
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from hf_ssl_speech.units.abx import _triphones
from hf_ssl_speech.units.phones import SILENCE, check_phones, is_silence
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


def test_silence_and_noise_are_known_in_the_spellings_of_other_corpora():
    silent = ["", " ", "sil", "SIL", "<sil>", "sp", "spn", "SPN_S", "SIL_B", "NSN", "h#", "pau", "epi", "<p:>",
              "VOCNOISE", "{B_TRANS}", "<EXCLUDE-name>", "IVER", "+BREATH+", "#", "_", "<eps>", "LAUGH",
              "[noise]", "<SPOKEN_NOISE>", "<unk>", "<v-noise>", "<oov>", None]  # fmt: skip
    assert not [label for label in silent if not is_silence(label)]
    phones = ["S", "SH", "S_B", "AA1_I", "p", "P_E", "n", "q", "bcl", "ax-h", "eh", "N", "ʔ", "s", "i_B", "NG", "ER0"]
    assert not [label for label in phones if is_silence(label)]
    assert is_silence("QQ", ["QQ"]) and not is_silence("QQ")
    said = [{"phone": name, "start": 0.02 * place, "end": 0.02 * place + 0.02} for place, name in enumerate(silent)]
    assert set(phones_to_frames(said, len(silent))) == {SILENCE}
    assert phones_to_frames([{"phone": "QQ", "start": 0, "end": 0.1}], 5, silence=["QQ"]) == [SILENCE] * 5


def test_vowels_of_x_sampa_and_long_consonants_are_no_silence_for_their_brackets_or_colons():
    """{ is the vowel of cat, } one of Swedish, p: the middle of Finnish pappa; <p:> is WebMAUS's pause."""
    for phone in ("{", "}", "{:", "p:", "s", "~", "-", "h-", "(n)"):
        assert not is_silence(phone), phone
    for label in ("<p:>", "<s>", "</s>", "<LAUGH-yeah>", "IVER-LAUGH", "<VOCNOISE-cough>", "SIL-2", "<EXCLUDE-name>"):
        assert is_silence(label), label
    cat = [{"phone": "k", "start": 0, "end": 0.04}, {"phone": "{", "start": 0.04, "end": 0.1}]
    assert phones_to_frames(cat, 5) == ["k", "k", "{", "{", "{"]


def test_a_measure_of_nothing_is_told_in_words():
    for nothing in ([], [[], []]):
        with pytest.raises(ValueError, match="No frames came: unit quality needs at least one utterance"):
            UnitQuality().compute(predictions=nothing, references=nothing, num_clusters=4)


@pytest.mark.parametrize(
    ("phones", "labels"),
    [
        ([("A", 0, 0.1), ("B", 0.02, 0.04)], "A B A A A"),
        ([("B", 0.02, 0.04), ("A", 0, 0.1)], "A B A A A"),
        ([("C", 0, 0), ("A", 0, 0.1)], "A A A A A"),
        ([("A", 0, 0.1), ("C", 0, 0), ("C", 0.06, 0.06)], "A A A A A"),
        ([("A", 0, 0.06), ("B", 0.04, 0.1)], "A A B B B"),
        ([("A", 0, 0.1), ("B", 0, 0.02)], "B A A A A"),
        ([("A", -0.01, 0.02), ("B", 0.08, 0.11)], "A SIL SIL SIL B"),
    ],
)
def test_phones_that_overlap_lie_unsorted_or_last_no_time_blot_out_no_others(phones, labels):
    rows = [dict(zip(("phone", "start", "end"), phone)) for phone in phones]
    assert phones_to_frames(rows, 5) == labels.split()


@pytest.mark.parametrize(("per_second", "hint"), [(50, "frames of 20 ms"), (1000, "milliseconds"), (16_000, "samples")])
def test_times_that_are_not_in_seconds_are_refused(per_second, hint):
    rows = [{"phone": "A", "start": 0.0, "end": 1.0}, {"phone": "B", "start": 1.0, "end": 2.0}]
    assert check_phones(["one"], [rows], [2.0]).phones == 2
    other = [phone | {"start": phone["start"] * per_second, "end": phone["end"] * per_second} for phone in rows]
    with pytest.raises(ValueError, match=f"one lasts 2.00 s, but its phones end at .*Are they {hint}"):
        check_phones(["one"], [other], [2.0])
    with pytest.raises(ValueError, match="expected in seconds"):
        phones_to_frames(other, 99)


@pytest.mark.parametrize("times", [(0.2, 0.1), (float("nan"), 0.1), (0.0, float("inf")), (0.0, None)])
def test_what_is_no_time_is_refused(times):
    rows = [{"phone": "A", "start": times[0], "end": times[1]}]
    with pytest.raises(ValueError, match="one: The phone 'A' lasts from"):
        check_phones(["one"], [rows], [2.0])
    with pytest.raises(ValueError, match="The phone 'A' lasts from"):
        phones_to_frames(rows, 5)


def test_the_report_of_phones_counts_gaps_and_overlaps_and_names_what_was_taken():
    rows = [("sil", 0, 0.1), ("A", 0.1, 0.3), ("B", 0.2, 0.4), ("spn", 0.6, 0.7), ("C", 0.7, 0.7)]
    phones = [dict(zip(("phone", "start", "end"), row)) for row in rows]
    report = check_phones(["one", "two", "three"], [phones, None, []], [0.7, 1, 1])
    assert (report.utterances, report.phones, report.gaps, report.overlaps) == (1, 5, 1, 1)
    assert "Taken as silence or noise: 'sil' (1), 'spn' (1)." in str(report)
    assert "Without duration, and left out: 'C' at 0.7 s of one." in str(report)
    assert report.to_dict()["silence"] == {"sil": 1, "spn": 1}


def test_abx_takes_no_triphone_with_silence_or_two_phones_at_once():
    def of(*names: str) -> int:
        rows = [{"phone": name, "start": 0.1 * place, "end": 0.1 * place + 0.1} for place, name in enumerate(names)]
        return len(list(_triphones(rows[::-1], 0.02)))

    assert of("SIL", "T", "AA", "K", "SIL") == of("sil", "T", "AA", "K", "") == of("h#", "T", "AA", "K", "spn") == 1
    assert of("T", "AA", "K", "S") == 2
    rows = [{"phone": name, "start": 0.1 * place, "end": 0.5} for place, name in enumerate("ABC")]
    assert not list(_triphones(rows, 0.02))
