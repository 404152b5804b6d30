"""How well units match phones (HuBERT, "Metrics of Target Quality"), how evenly they are used, how two sets agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from hf_ssl_speech.units.phones import SILENCE, check_end, in_order, is_silence


def phones_to_frames(
    phones: Sequence[Mapping[str, Any]],
    num_frames: int,
    hop_seconds: float = 0.02,
    window_seconds: float = 0.025,
    silence: Collection[str] = (),
) -> list[str]:
    """The phone at the centre of each frame.

    Args:
        phones: `{"phone", "start", "end"}` in seconds, as an alignment gives them. Where some overlap, the one that
            started last counts.
        num_frames: Frames to label.
        hop_seconds: Time from one frame to the next: 0.02 in the encoder, and for every second MFCC frame.
        window_seconds: Audio that a frame sees, from `frame * hop_seconds` on.
        silence: Labels of silence beyond the usual ones (see `is_silence`).
    Returns:
        One label per frame; `SIL` where no phone is, however silence is spelt there.
    Raises:
        ValueError: If the phones go on after the frames, or a time is missing.
    """
    phones = in_order(phones)
    if num_frames:
        check_end(phones, num_frames * hop_seconds + window_seconds, "Audio of these frames")
    labels = [SILENCE] * num_frames
    centres = np.arange(num_frames) * hop_seconds + window_seconds / 2
    for phone in phones:
        first, end = np.searchsorted(centres, (phone["start"], phone["end"])).tolist()
        name = SILENCE if is_silence(phone["phone"], silence) else phone["phone"]
        labels[first:end] = [name] * (end - first)
    return labels


def phone_purity(units: ArrayLike, phones: ArrayLike) -> float:
    """Share of frames that would be labelled correctly if every unit stood for its most frequent phone.

    Args:
        units: Unit of each frame, `(frames,)`.
        phones: Phone of each frame, `(frames,)`, strings or numbers.
    """
    counts = _joint_counts(units, phones)
    return float(counts.max(1).sum() / counts.sum())


def cluster_purity(units: ArrayLike, phones: ArrayLike) -> float:
    """`phone_purity` the other way round, a unit for each phone: the more units there are, the lower it is."""
    return phone_purity(phones, units)


def phone_normalized_mutual_information(units: ArrayLike, phones: ArrayLike) -> float:
    """PNMI: the share of the phones' entropy that is gone once the units are known, from 0 to 1.

    Raises:
        ValueError: If all frames have the same phone, whose entropy is zero.
    """
    counts = _joint_counts(units, phones)
    phone_entropy = _entropy(counts.sum(0))
    if phone_entropy == 0:
        raise ValueError("PNMI needs frames of at least two phones, but all came with one. Give more utterances.")
    return (_entropy(counts.sum(1)) + phone_entropy - _entropy(counts)) / phone_entropy


def unit_agreement(units: ArrayLike, other_units: ArrayLike) -> float:
    """Normalised mutual information of two unit sets over the same frames: 1 if they differ in numbering only, 0 if
    one says nothing about the other. The norm is the mean of the two entropies."""
    counts = _joint_counts(units, other_units)
    entropy, other_entropy = _entropy(counts.sum(1)), _entropy(counts.sum(0))
    if entropy + other_entropy == 0:
        return 1.0  # both have a single unit
    return 2 * (entropy + other_entropy - _entropy(counts)) / (entropy + other_entropy)


def usage_entropy(units: ArrayLike) -> float:
    """Entropy of the units' frequencies in nats. Its exponential, the perplexity, is the number of evenly used units
    that would have this entropy."""
    return _entropy(np.unique(np.asarray(units), return_counts=True)[1])


def dead_clusters(units: ArrayLike, num_clusters: int) -> int:
    """Clusters of `num_clusters` that no frame belongs to.

    Raises:
        ValueError: If a unit lies outside of 0 to `num_clusters - 1`.
    """
    used = np.unique(np.asarray(units))
    if used.size and not 0 <= used[0] <= used[-1] < num_clusters:
        raise ValueError(
            f"Units from {used[0]} to {used[-1]} came, but {num_clusters} clusters have 0 to {num_clusters - 1}."
        )
    return num_clusters - len(used)


def mean_run_length(utterances: Sequence[ArrayLike]) -> float:
    """Mean number of frames before the unit changes. Every utterance starts a new run.

    Args:
        utterances: Units of each utterance, `(frames,)` each.
    """
    lengths = [len(np.asarray(units)) for units in utterances]
    num_runs = [1 + np.count_nonzero(np.diff(units)) for units, length in zip(utterances, lengths) if length]
    return float(sum(lengths) / sum(num_runs))


class UnitQuality(evaluate.Metric):
    """All of these measures at once, as a metric of the `evaluate` library that works offline.

    `predictions` are the units of each utterance, `references` the phones of its frames (see `phones_to_frames`).
    `add_batch` collects utterances; `compute` takes `num_clusters`, of which unused ones count as dead (by default
    the highest unit and those below it), and returns `pnmi`, `phone_purity`, `cluster_purity`, `unit_entropy`,
    `unit_perplexity`, `dead_clusters`, `mean_run_length` (frames), `num_frames`, `num_units` and `num_phones`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="How well discrete speech units follow phones and how evenly they are used.",
            citation="Hsu et al., HuBERT, 2021, arXiv:2106.07447",
            inputs_description="\npredictions: units of each utterance; references: phones of the same frames.",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(
        self, predictions: list[list[int]], references: list[list[str]], num_clusters: int | None = None
    ) -> dict[str, float | int]:
        for row, (units, phones) in enumerate(zip(predictions, references)):
            if len(units) != len(phones):
                raise ValueError(
                    f"Utterance {row} has {len(units)} units but {len(phones)} phone labels. Units from MFCC come "
                    "every 10 ms: keep every second one, or label phones with `hop_seconds=0.01`."
                )
        if not any(map(len, predictions)):
            raise ValueError("No frames came: unit quality needs at least one utterance with units and phones.")
        units = np.concatenate([np.asarray(row, dtype=np.int64) for row in predictions])
        phone_names, phones = np.unique(
            np.concatenate([np.asarray(row, dtype=str) for row in references]), return_inverse=True
        )
        entropy = usage_entropy(units)
        return {
            "pnmi": phone_normalized_mutual_information(units, phones),
            "phone_purity": phone_purity(units, phones),
            "cluster_purity": cluster_purity(units, phones),
            "unit_entropy": entropy,
            "unit_perplexity": float(np.exp(entropy)),
            "dead_clusters": dead_clusters(units, num_clusters or int(units.max()) + 1),
            "mean_run_length": mean_run_length(predictions),
            "num_frames": len(units),
            "num_units": len(np.unique(units)),
            "num_phones": len(phone_names),
        }


def _joint_counts(rows: ArrayLike, columns: ArrayLike) -> np.ndarray:
    """How often each value of the one meets each of the other: `(values of rows, values of columns)`."""
    rows, columns = np.asarray(rows), np.asarray(columns)
    if rows.shape != columns.shape or rows.ndim != 1 or not rows.size:
        raise ValueError(
            f"Expected two lists of labels for the same frames, but got shapes {rows.shape} and {columns.shape}. Join "
            "the frames of all utterances first."
        )
    row_values, rows = np.unique(rows, return_inverse=True)
    column_values, columns = np.unique(columns, return_inverse=True)
    shape = (len(row_values), len(column_values))
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _entropy(counts: np.ndarray) -> float:
    probabilities = counts[counts > 0] / counts.sum()
    return float(-(probabilities * np.log(probabilities)).sum())
