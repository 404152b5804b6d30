"""Finds the layer of an encoder with the best units; all layers are computed in one pass over the audio."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from torch import Tensor

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.families import encoder_of, layers_of
from hf_ssl_speech.data.features import ROWS_AT_ONCE, FeatureSource, HiddenFeatures, rows_of
from hf_ssl_speech.data.processes import rank_and_size
from hf_ssl_speech.data.rows import numbers
from hf_ssl_speech.units.embedding import EmbeddingSums
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.quality import UnitQuality, phones_to_frames, unit_agreement
from hf_ssl_speech.units.remembered import Remembered

# How audio is disturbed to see which units stay the same: as much as another microphone or room might do.
NOISE_DECIBELS, GAIN_DECIBELS = 15.0, 6.0


class EveryLayer(HiddenFeatures):
    """All layers of an encoder side by side, the first one first: `(frames, layers * width)`."""

    def __init__(self, model, **settings):
        super().__init__(model, len(layers_of(encoder_of(model))), **settings)
        self.layer_width = self.description.width
        self.description = replace(self.description, width=self.layer_width * self.layer)

    def _hidden(self, inputs: dict[str, Tensor]) -> Tensor:
        states = self.model(**inputs, output_hidden_states=True).hidden_states[1:]
        return torch.cat([state.float() for state in states], dim=-1)


class OneLayer(FeatureSource):
    """One layer of the features of `EveryLayer`.

    Args:
        every: The source of all layers' features, which may be kept in memory.
        layer: The layer, counted from 1.
        width: Number of values in a frame of one layer.
    """

    def __init__(self, every: FeatureSource, layer: int, width: int):
        self.description = replace(every.description, layer=layer, width=width)
        self.device, self.skipped = every.device, every.skipped
        self.every = every
        self.columns = slice((layer - 1) * width, layer * width)

    def features(self, rows: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """The columns of this layer."""
        return [frames[:, self.columns].contiguous() for frames in self.every.features(rows)]


def disturb(waveform: np.ndarray, sample_id: int, seed: int = 0) -> np.ndarray:
    """Adds white noise 15 dB below the speech, then makes the sum louder or softer by up to 6 dB.

    For `SpeechFeatures.with_changed_audio`.

    Args:
        waveform: Float32 `(samples,)`.
        sample_id: The `sample_id` of the waveform's row. Together with `seed` it decides noise and gain.
        seed: Other seeds give other noise and gain.
    Returns:
        Float32 `(samples,)`, clipped to -1 to 1.
    """
    generator = np.random.default_rng((seed, sample_id))
    noise = generator.normal(size=len(waveform)) * np.sqrt(np.square(waveform).mean()) * 10 ** (-NOISE_DECIBELS / 20)
    gain = 10 ** (generator.uniform(-GAIN_DECIBELS, GAIN_DECIBELS) / 20)
    return ((waveform + noise) * gain).clip(-1, 1).astype(np.float32)


def measure_units(
    units: KMeansUnits,
    source: FeatureSource,
    disturbed: FeatureSource,
    dataset: Dataset,
    silence: Collection[str] = (),
) -> dict[str, Any]:
    """The quality of a unit set, and of the features it is made of, on validation rows, over all processes.

    Good units show in two ways. `pnmi`, with the other figures of `UnitQuality`, is how much the units tell about the
    phones, on rows that have phones. `agreement` needs no labels: each utterance gets units twice, as it is and
    disturbed by noise and another loudness, which do not change what is said. It is the normalised mutual information
    of the two, so that, unlike the share of equal units, it stays low for units that hardly ever change.
    `effective_rank` and `davies_bouldin` (see `EmbeddingSums`) need no labels either.

    Args:
        units: Fitted on training rows.
        source, disturbed: The sources of the features of `dataset` and of its disturbed rows.
        dataset: Prepared rows, with a column `phones` if phones are known.
        silence: Labels of silence beyond the usual ones (see `is_silence`).
    Returns:
        The figures. Those that need phones are missing if no row has phones.
    """
    rows = split_dataset_by_node(dataset, *rank_and_size())
    found: list[dict[str, Any]] = []
    sums = EmbeddingSums(units.centroids)
    for batch in rows.iter(ROWS_AT_ONCE):
        batch = rows_of(batch)
        predicted, features = units.predict_frames(batch, source)
        for clean, frames in zip(predicted, features):
            sums.add(frames, torch.from_numpy(clean))
        for row, clean, other in zip(batch, predicted, units.predict_rows(batch, disturbed)):
            phones = row.get("phones")
            labels = phones_to_frames(phones, len(clean), **units.features.times, silence=silence) if phones else []
            found.append({"clean": clean, "disturbed": other, "phones": labels})
    found = [row for row in gather_object(found) if len(row["clean"])]
    if not found:
        raise ValueError("None of the validation rows has usable audio: units can't be measured on them.")
    clean, other = (np.concatenate([row[name] for row in found]) for name in ("clean", "disturbed"))
    sums, *others = gather_object([sums])
    for each in others:
        sums.join(each)
    quality = {"agreement": unit_agreement(clean, other), **sums.measures}
    aligned = [row for row in found if row["phones"]]
    if aligned:
        quality |= UnitQuality().compute(
            predictions=[row["clean"] for row in aligned],
            references=[row["phones"] for row in aligned],
            num_clusters=units.num_units,
        )
    return quality


def compare_layers(
    encoder: HiddenFeatures,
    train: Dataset,
    validation: Dataset,
    num_units: int,
    *,
    seed: int,
    memory_bytes: float,
    silence: Collection[str] = (),
    **kmeans,
) -> list[dict[str, Any]]:
    """Fits units to each layer of an encoder and measures them, with one pass over the audio for all layers.

    Args:
        encoder: The encoder. Its own choice of a layer makes no difference.
        train: Prepared rows to fit on.
        validation: Prepared rows to measure on.
        num_units: Units in each set.
        seed: The seed of k-means.
        memory_bytes: The most memory for features. Those that do not fit are computed again in each pass.
        silence: As for `measure_units`.
        kmeans: More arguments of `KMeansUnits.fit`.
    Returns:
        For each layer from 1 on, its number, the inertia, and the figures of `measure_units`.
    """
    description = encoder.description
    every = EveryLayer(
        encoder.model,
        normalize=encoder.normalize,
        center=description.center,
        encoder=description.encoder,
        extractor=encoder.extractor,
        batch_seconds=encoder.batch_seconds,
        autocast_dtype=encoder.autocast_dtype,
    )
    every.skipped = encoder.skipped  # whoever asks for the comparison learns what was left out
    sources = [Remembered(source, memory_bytes / 3) for source in (every, every, every.with_changed_audio(disturb))]
    layers = []
    for layer in range(1, every.layer + 1):
        fitting, clean, disturbed = (OneLayer(source, layer, every.layer_width) for source in sources)
        units = KMeansUnits.fit(train, fitting, num_units, seed=seed, share=1.0, memory_gb=0, **kmeans)
        quality = measure_units(units, clean, disturbed, validation, silence)
        layers.append({"layer": layer, "inertia": units.facts["inertia"], **quality})
    return layers


def first_hours(dataset: Dataset, hours: float, seed: int) -> Dataset:
    """Random rows of about this many hours together; all rows if there are fewer."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    ends = np.cumsum(numbers(dataset, "num_samples")[order]) / SAMPLE_RATE / 3600
    return dataset.select(np.sort(order[: 1 + np.searchsorted(ends, hours)]))
