"""What a page tells of units: which there are, which phones they stand for, and a map of their frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.manifold import TSNE
from torch import Tensor

from hf_ssl_speech.data.features import FeatureSource, rows_of
from hf_ssl_speech.units.kmeans import fit_kmeans
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.nearest import assign
from hf_ssl_speech.units.phones import SILENCE
from hf_ssl_speech.units.quality import phone_normalized_mutual_information, phone_purity, phones_to_frames

MAP_METHOD = "t-SNE (van der Maaten and Hinton, 2008), perplexity 30, started from the principal components"
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Measured:
    """Features of some rows.

    Attributes:
        features: One `(frames, width)` for each row.
        phones: The phone of each frame, a list for each row.
        hop: Seconds from a frame to the next.
    """

    features: list[Tensor]
    phones: list[list[str]]
    hop: float

    @property
    def all_features(self) -> Tensor:
        """`(frames of all rows, width)`."""
        return torch.cat(self.features)

    @property
    def all_phones(self) -> list[str]:
        """The phone of each of these frames."""
        return [phone for row in self.phones for phone in row]


def measure_rows(dataset: Dataset, source: FeatureSource) -> Measured:
    """Features of all rows, which must have phones."""
    times = source.description.times
    features, phones = [], []
    for batch in dataset.iter(ROWS_AT_ONCE):
        rows = rows_of(batch)
        for row, frames in zip(rows, source.features(rows)):
            features.append(frames)
            phones.append(phones_to_frames(row["phones"], len(frames), **times))
    return Measured(features, phones, times["hop_seconds"])


def fitted_sets(fit_on: Tensor, measured: Measured, sizes: Sequence[int], seed: int) -> dict[str, Any]:
    """Units of several sizes, fitted on some frames and measured on others: quality, and units of each row."""
    sets = {}
    for size in sizes:
        centroids = fit_kmeans(fit_on, size, seed=seed, restarts=1, iterations=20, progress=False).centroids
        rows = [assign(frames, centroids)[0].numpy() for frames in measured.features]
        sets[str(size)] = {**quality(np.concatenate(rows), measured.all_phones), "rows": [row.tolist() for row in rows]}
    return sets


def quality(units: np.ndarray, phones: Sequence[str]) -> dict[str, Any]:
    """PNMI, phone purity, and P(phone | unit) in whole percents, units sorted by the phone that they mostly mean.

    Silence is no phone here: the frames of silence, many and easy, are left out of all three.
    """
    speech = np.array([phone != SILENCE for phone in phones])
    units, phones = units[speech], np.asarray(phones)[speech]
    names, places, frequencies = np.unique(phones, return_inverse=True, return_counts=True)
    numbers, columns = np.unique(units, return_inverse=True)
    counts = np.zeros((len(names), len(numbers)))
    np.add.at(counts, (places, columns), 1)
    by_frequency = np.argsort(-frequencies, kind="stable")
    shares = (counts / counts.sum(0))[by_frequency]
    order = np.lexsort((-shares.max(0), shares.argmax(0)))
    return {
        "pnmi": round(phone_normalized_mutual_information(units, phones), 4),
        "purity": round(phone_purity(units, phones), 4),
        "frames": len(units),
        "phones": names[by_frequency].tolist(),
        "units": numbers[order].tolist(),
        "shares": np.rint(100 * shares[:, order]).astype(int).tolist(),
    }


def map_places(measured: Measured, points: int, seed: int) -> list[tuple[int, float]]:
    """Frames of speech, silence left out, drawn for a map: the row of each, and the second at which it begins."""
    frames = [
        (row, frame * measured.hop)
        for row, phones in enumerate(measured.phones)
        for frame, phone in enumerate(phones)
        if phone != SILENCE
    ]
    return [frames[place] for place in sorted(np.random.default_rng(seed).permutation(len(frames))[:points])]


def frame_map(measured: Measured, places: Sequence[tuple[int, float]], seed: int) -> dict[str, Any]:
    """The frames at some places in two dimensions, so that near ones sound alike to the model."""
    frames = [(row, min(round(second / measured.hop), len(measured.phones[row]) - 1)) for row, second in places]
    values = torch.stack([measured.features[row][frame] for row, frame in frames]).numpy()
    perplexity = min(30, len(values) / 4)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500).fit_transform(values)
    points = (points - points.min(0)) / np.ptp(points, axis=0)
    return {"points": points.round(3).tolist(), "phones": [measured.phones[row][frame] for row, frame in frames]}


def stage(
    name: str, units: KMeansUnits, measured: Measured, places: Sequence[tuple[int, float]], seed: int
) -> dict[str, Any]:
    """One of HuBERT's iterations: its units beside phones, and the map of the frames that they were made from."""
    predicted = units.predict(measured.all_features).numpy()
    described = {"name": name, "features": str(units.features), "num_units": units.num_units}
    return described | quality(predicted, measured.all_phones) | {"map": frame_map(measured, places, seed)}
