"""From dataset rows to batches: decode, normalise, crop, mask, label, pad.

Everything random about an utterance is drawn from (seed, epoch, sample id), so it does not matter in which batch, on
which rank or after how many interruptions the utterance is met.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2FeatureExtractor

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio
from hf_ssl_speech.data.distortion import Distortion
from hf_ssl_speech.data.masking import draw_spans, sample_negatives
from hf_ssl_speech.data.mixing import COPY, part_name
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.models.configuration import (
    SSLDistilHubertConfig,
    SSLHubertConfig,
    SSLSpeechConfig,
    SSLWav2Vec2Config,
)
from hf_ssl_speech.models.frames import ConvLayer, hop_samples, num_frames, window_samples


class Utterance(NamedTuple):
    """One row, cropped: waveform `(samples,)` float32, mask `(frames,)` bool, labels `(frames, ...)` int64.

    `clean` is the waveform without what is heard beside it; None if nothing is.
    """

    waveform: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    generator: np.random.Generator
    clean: np.ndarray | None = None


class SpeechCollator:
    """What all collators share: decoding, normalisation, padding, and a generator for each utterance.

    Args:
        config: Of the model the batches are for: conv stack and masks.
        normalize: Whether each utterance gets zero mean and unit variance, as the feature extractor's `do_normalize`.
        seed: With the epoch and the row's `sample_id` it decides all that is random.
        evaluation: If true, nothing changes with the epoch.
        levels: Columns by whose values a batch tells its samples, in `samples_of`.
    """

    crop_lengths: Callable[[np.ndarray], np.ndarray] | None = None  # what makes rows equally long, if they shall be

    def __init__(
        self,
        config: SSLSpeechConfig,
        *,
        normalize: bool,
        seed: int = 0,
        evaluation: bool = False,
        levels: Sequence[str] = (),
    ):
        self.config = config
        self.levels = tuple(levels)
        self.normalize = normalize
        self.seed = seed
        self.evaluation = evaluation
        # In shared memory: persistent worker processes see a new epoch too.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of rows."""
        raise TypeError("Use the collator of an objective.")

    def set_epoch(self, epoch: int):
        """Masks, crops and negatives of this epoch from now on."""
        if not self.evaluation:
            self.epoch.fill_(epoch)

    def generator(self, row: Mapping[str, Any]) -> np.random.Generator:
        """Of a row in this epoch."""
        return np.random.default_rng(self.key(row))

    def key(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        """Seed, epoch and sample id, and of a copy its number: they decide all that is drawn for a row."""
        key = (self.seed, row.get("epoch", int(self.epoch)), row["sample_id"])  # a stream counts its epochs itself
        return (*key, row[COPY]) if row.get(COPY) else key

    def samples_of(self, rows: Sequence[Mapping[str, Any]], waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
        """`samples_of`: how many samples of a batch come from each part of the data; nothing without `levels`."""
        counts: Counter[str] = Counter()
        for row, waveform in zip(rows, waveforms):
            if self.levels and row.get(self.levels[0]) is not None:
                counts[part_name(row, self.levels)] += len(waveform)
        return {"samples_of": dict(counts)} if self.levels else {}

    def waveform(self, row: Mapping[str, Any]) -> np.ndarray:
        """The normalised waveform of a row, `(samples,)` float32.

        Raises:
            BadAudio: If it turns out to be unusable.
        """
        return self.normalized(row_waveform(row))

    def normalized(self, waveform: np.ndarray) -> np.ndarray:
        """A waveform as the model takes it."""
        if self.normalize:
            (waveform,) = Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm([waveform], None)  # type: ignore[arg-type]
        return waveform

    @staticmethod
    def skipped_before(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
        """Names and reasons of rows of a stream that were left out on the way to this batch."""
        return [pair for row in rows for pair in row.get("skipped_before", ())]

    @staticmethod
    def pad_waveforms(waveforms: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_values` `(batch, samples)`, and `attention_mask` if a row is padded."""
        batch = {"input_values": pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], True)}
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        if lengths.min() < lengths.max():
            batch["attention_mask"] = torch.arange(int(lengths.max())) < lengths[:, None]
        return batch


def cropped_to_frames(num_samples: np.ndarray, multiple: int, conv_layers: Sequence[ConvLayer]) -> np.ndarray:
    """How many samples of each row are kept, so that rows of nearly equal length become equally long.

    Args:
        num_samples: Lengths in samples at 16 kHz.
        multiple: Of so many frames a row keeps the largest multiple that it has; a shorter row is kept whole.
    Returns:
        Lengths in samples that make exactly these frames.
    """
    frames = num_frames(torch.from_numpy(num_samples), conv_layers).numpy() // multiple * multiple
    kept = (frames - 1) * hop_samples(conv_layers) + window_samples(conv_layers)
    return np.where(frames > 0, kept, num_samples)


class PretrainingCollator(SpeechCollator):
    """What the collators of both objectives share.

    Args:
        max_seconds: Longer utterances are cropped, at a random place (from the start in `evaluation`).
        crop_to_frames: All utterances are cropped to a multiple of so many frames, at a random place too; 0 and in
            `evaluation` they are not.
        distortion: What is heard beside the speech; nothing in `evaluation`. Masks and labels don't depend on it.
        settings: As every `SpeechCollator` takes them.

    A batch holds `input_values` `(batch, samples)`, `attention_mask` (only if a row is padded), `mask_time_indices`
    `(batch, frames)`, `masked_positions` `(batch, masked)` filled up with -1, and `labels`. A row whose audio turns out
    unusable, or no longer than a mask span, becomes silence in which nothing is predicted; `skipped_rows` names it with
    the reason, and those that a stream has left out before.
    """

    def __init__(
        self,
        config: SSLSpeechConfig,
        *,
        max_seconds: float | None = None,
        crop_to_frames: int = 0,
        distortion: Distortion | None = None,
        **settings,
    ):
        super().__init__(config, **settings)
        self.distortion = None if self.evaluation else distortion
        self.max_samples = None if max_seconds is None else round(max_seconds * SAMPLE_RATE)
        if crop_to_frames and not self.evaluation:
            self.crop_lengths = partial(
                cropped_to_frames, multiple=crop_to_frames, conv_layers=tuple(config.conv_layers)
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        skipped = self.skipped_before(rows)
        utterances = [self.utterance(row, skipped) for row in rows]
        utterances = [self.distorted(utterance, row, rows) for utterance, row in zip(utterances, rows)]
        masks = [torch.from_numpy(utterance.mask) for utterance in utterances]
        batch: dict[str, Any] = {
            **self.pad_waveforms([utterance.waveform for utterance in utterances]),
            "mask_time_indices": pad_sequence(masks, True),
            "masked_positions": pad_sequence([mask.nonzero()[:, 0] for mask in masks], True, -1),
            "labels": pad_sequence([torch.from_numpy(utterance.labels) for utterance in utterances], True, -100),
            "skipped_rows": skipped,
            **self.samples_of(rows, [utterance.waveform for utterance in utterances]),
        }
        return batch | self.objective_inputs(utterances)

    def utterance(self, row: Mapping[str, Any], skipped: list[tuple[str, str]]) -> Utterance:
        """Decodes, crops, masks and labels a row."""
        generator = self.generator(row)
        try:
            waveform, first_frame = self.crop(self.waveform(row), generator)
            mask = self.draw_mask(num_frames(len(waveform), self.config.conv_layers), generator)
        except BadAudio as reason:
            skipped.append((row["name"], str(reason)))
            length = self.kept_samples(row["num_samples"])
            frames = num_frames(length, self.config.conv_layers)
            mask = np.zeros(frames, dtype=bool)
            return Utterance(np.zeros(length, np.float32), mask, self.labels(row, 0, mask), generator)
        return Utterance(waveform, mask, self.labels(row, first_frame, mask), generator)

    def draw_mask(self, frames: int, generator: np.random.Generator) -> np.ndarray:
        """Which frames are hidden, `(frames,)` bool.

        Raises:
            BadAudio: If there are too few.
        """
        span = self.config.mask_time_length
        if frames <= span:
            raise BadAudio(f"too short to be masked: {frames} frames, no more than the {span} of a span")
        return draw_spans(
            frames,
            probability=self.config.mask_time_prob,
            length=span,
            min_spans=self.config.mask_time_min_masks,
            generator=generator,
        )

    def distorted(self, utterance: Utterance, row: Mapping[str, Any], batch: Sequence[Mapping[str, Any]]) -> Utterance:
        """The same utterance, as it is heard; what turned out unusable stays silent."""
        clean = utterance.waveform
        heard = self.distortion(clean, row, self.key(row), batch) if self.distortion and clean.any() else clean
        return utterance if heard is clean else utterance._replace(waveform=self.normalized(heard), clean=clean)

    def crop(self, waveform: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        """What is kept of the waveform, from a frame's start, and that frame's number."""
        kept = self.kept_samples(len(waveform))
        if kept == len(waveform):
            return waveform, 0
        hop = self.config.inputs_to_logits_ratio
        first_frame = 0 if self.evaluation else int(generator.integers(0, (len(waveform) - kept) // hop + 1))
        return waveform[first_frame * hop :][:kept], first_frame

    def kept_samples(self, num_samples: int) -> int:
        """How long a row of so many samples is when it is cropped."""
        kept = num_samples if self.max_samples is None else min(num_samples, self.max_samples)
        return kept if self.crop_lengths is None else int(self.crop_lengths(np.array([kept]))[0])

    def labels(self, row: Mapping[str, Any], first_frame: int, mask: np.ndarray) -> np.ndarray:
        """What is to be predicted in each frame of the crop that starts at `first_frame`; -100 for nothing."""
        raise TypeError("Use Wav2Vec2PretrainingCollator or HubertPretrainingCollator.")

    def objective_inputs(self, utterances: list[Utterance]) -> dict[str, Tensor]:
        """What else the objective's model needs."""
        return {}


class Wav2Vec2PretrainingCollator(PretrainingCollator):
    """Batches for `SSLWav2Vec2ForPreTraining`: labels are 0 on masked frames; negatives and noise seeds come along."""

    config: SSLWav2Vec2Config

    def labels(self, row: Mapping[str, Any], first_frame: int, mask: np.ndarray) -> np.ndarray:
        """0 where masked."""
        return np.where(mask, 0, -100)

    def objective_inputs(self, utterances: list[Utterance]) -> dict[str, Tensor]:
        """`sampled_negative_indices` `(batch, masked, negatives)` and `gumbel_seeds` `(batch,)`."""
        negatives = [
            sample_negatives(int(utterance.mask.sum()), self.config.num_negatives, utterance.generator)
            for utterance in utterances
        ]
        return {
            "sampled_negative_indices": pad_sequence([torch.from_numpy(indices) for indices in negatives], True),
            "gumbel_seeds": torch.tensor([int(utterance.generator.integers(2**32)) for utterance in utterances]),
        }


class HubertPretrainingCollator(PretrainingCollator):
    """Batches for `SSLHubertForPreTraining`: labels are the units of masked frames (of all, if those have a weight).

    Args:
        unit_columns: The columns that `add_units` made, one per entry of `config.num_units`.
    """

    config: SSLHubertConfig

    def __init__(self, config: SSLHubertConfig, *, unit_columns: Sequence[str] = ("units",), **settings):
        super().__init__(config, **settings)
        if len(unit_columns) != len(config.num_units):
            raise ValueError(
                f"config.num_units names {len(config.num_units)} unit sets, but there are {len(unit_columns)} "
                f"({', '.join(unit_columns)}): give one number for each."
            )
        self.unit_columns = tuple(unit_columns)

    def labels(self, row: Mapping[str, Any], first_frame: int, mask: np.ndarray) -> np.ndarray:
        """The units `(frames,)`, or `(frames, unit sets)` for several sets."""
        labels = self.units(row)[first_frame : first_frame + len(mask)]
        if self.config.unmasked_loss_weight and mask.any():
            return labels
        return np.where(mask if labels.ndim == 1 else mask[:, None], labels, -100)

    def units(self, row: Mapping[str, Any]) -> np.ndarray:
        """The units of a whole row, `(frames,)`, or `(frames, unit sets)` for several sets.

        Raises:
            ValueError: If they are not one integer for each frame, or the model has no class for one.
        """
        frames, sets = num_frames(row["num_samples"], self.config.conv_layers), []
        for column, num_units in zip(self.unit_columns, self.config.num_units):
            units = np.asarray(() if row[column] is None else row[column])
            if units.ndim != 1 or (units.size and units.dtype.kind not in "iu"):
                found = f"{row[column]!r:.50}"
                raise ValueError(f"Row {row['name']} has {found} in {column!r}; expected a list of integers.")
            if len(units) != frames:
                raise ValueError(
                    f"Row {row['name']} has {len(units)} units in {column!r}, but its audio makes {frames} frames: "
                    "make the units at the model's frame rate. Units from MFCC come every 10 ms: keep every second one."
                )
            beyond = (units < 0) | (units >= num_units)
            if beyond.any():
                raise ValueError(
                    f"Row {row['name']} has the unit {units[beyond][0]} in {column!r}, but the model predicts "
                    f"{num_units}: 0 to {num_units - 1}. Set num_units in `config` to the size of the unit set."
                )
            sets.append(units.astype(np.int64))
        return sets[0] if len(sets) == 1 else np.stack(sets, axis=-1)


class DistillationCollator(PretrainingCollator):
    """Batches for `SSLHubertForDistillation`: labels are 0 on all frames, and nothing is hidden.

    With noise, `clean_values` `(batch, samples)` is what the teacher hears.
    """

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        batch["mask_time_indices"].zero_()
        return batch

    def draw_mask(self, frames: int, generator: np.random.Generator) -> np.ndarray:
        """All frames: they are predicted, although `__call__` hides none."""
        return np.ones(frames, dtype=bool)

    def labels(self, row: Mapping[str, Any], first_frame: int, mask: np.ndarray) -> np.ndarray:
        """0 where predicted."""
        return np.where(mask, 0, -100)

    def objective_inputs(self, utterances: list[Utterance]) -> dict[str, Tensor]:
        """`clean_values`, where the student hears more than the teacher."""
        if self.distortion is None:
            return {}
        clean = [each.waveform if each.clean is None else each.clean for each in utterances]
        return {"clean_values": pad_sequence([torch.from_numpy(waveform) for waveform in clean], True)}


def pretraining_collator(config: SSLSpeechConfig, **settings) -> PretrainingCollator:
    """The collator of the config's objective."""
    collators: dict[type, type] = {
        SSLWav2Vec2Config: Wav2Vec2PretrainingCollator,
        SSLHubertConfig: HubertPretrainingCollator,
        SSLDistilHubertConfig: DistillationCollator,
    }
    return collators[type(config)](config, **settings)
