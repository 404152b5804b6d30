"""Features for units: frames of MFCC, or of a layer of an encoder."""

from __future__ import annotations

import copy
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModel, FeatureExtractionMixin, PreTrainedModel

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio
from hf_ssl_speech.data.batching import inference_batches, seconds_at_once
from hf_ssl_speech.data.families import encoder_of, extractor_of, hearing_of, layers_of
from hf_ssl_speech.data.feature_description import FeatureDescription
from hf_ssl_speech.data.feature_extractor import check_rate
from hf_ssl_speech.data.hidden_states import hidden_state, in_eval_mode, weights_hash
from hf_ssl_speech.data.mfcc import HOP_SAMPLES, MFCC_FEATURES, WINDOW_SAMPLES, mfcc_features
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.data.processes import rank_and_size
from hf_ssl_speech.models.classes import load_config
from hf_ssl_speech.models.frames import hop_samples, window_samples
from hf_ssl_speech.records import as_path

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 64
# Threads that decode audio while features are computed. An hour of FLAC takes a core less than a second.
DECODING_THREADS = 8

# A waveform `(samples,)`, float32, and its row's `sample_id` -> a waveform of the same length.
ChangeOfAudio = Callable[[np.ndarray, int], np.ndarray]


class FeatureSource(ABC):
    """Computes the features that a description describes.

    Attributes:
        description: Of the frames.
        device: Where they are computed, and where they stay.
        skipped: Names of the rows without usable audio met so far, and the reasons.
    """

    description: FeatureDescription
    device: torch.device
    skipped: dict[str, str]

    @abstractmethod
    def features(self, rows: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """The features of prepared rows.

        Args:
            rows: As `prepare_speech` or `prepare_stream` gives them.
        Returns:
            Float32 `(frames, width)` for each row, exactly `description.num_frames(row["num_samples"])` frames. None
            (zero frames) for a row whose audio turns out to be unusable; a warning names it once.
        Raises:
            ValueError: If rows are not prepared, shorter than a frame, or of another length than their `num_samples`.
        """


class SpeechFeatures(FeatureSource):
    """Computes features from waveforms: of the rows' own audio, or of audio that is changed before."""

    def __init__(self, description: FeatureDescription, device: torch.device | str):
        self.description = description
        self.device = torch.device(device)
        self.skipped: dict[str, str] = {}
        self.change: ChangeOfAudio | None = None

    @abstractmethod
    def compute(self, waveforms: list[Tensor]) -> list[Tensor]:
        """Waveforms `(samples,)` to features `(frames, width)` on the source's device, each as if alone."""

    def with_changed_audio(self, change: ChangeOfAudio) -> SpeechFeatures:
        """The same source, but for audio that is changed before features are computed, as noise does.

        Args:
            change: Gets a waveform and its row's `sample_id`, and returns a waveform of the same length. It never gets
                the audio of rows that turn out to be unusable.
        Returns:
            A new source, which shares the model, and the names of skipped rows, with this one.
        """
        changed = copy.copy(self)
        changed.change = change
        return changed

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which waveforms are computed together, by their lengths in samples: places of each batch, in this order."""
        return [[place] for place in range(len(lengths))]

    @torch.no_grad()
    def features(self, rows: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """The features of prepared rows, as `FeatureSource` says; audio is decoded while features are computed."""
        for row in rows:
            if "num_samples" not in row:
                raise ValueError(
                    f"Rows have only {sorted(row)}: pass them through prepare_speech or prepare_stream first."
                )
        batches = self.batches([row["num_samples"] for row in rows])
        unheard = set(range(len(rows))).difference(*batches)  # rows without samples, which the skipped ones may be
        batches += [[place] for place in sorted(unheard)]
        found: dict[int, Tensor] = {}
        with ThreadPoolExecutor(_decoding_threads()) as threads:
            decoding = [[(place, threads.submit(self._waveform, rows[place])) for place in batch] for batch in batches]
            for batch in decoding:
                waveforms = {}
                for place, waveform in batch:
                    try:
                        waveforms[place] = waveform.result()
                    except BadAudio as reason:
                        self._skip(rows[place]["name"], str(reason))
                found |= zip(waveforms, self.compute(list(waveforms.values())))
        if self.description.center:
            found = {place: frames - frames.mean(0) for place, frames in found.items()}
        nothing = torch.empty(0, self.description.width, device=self.device)
        return [found.get(place, nothing) for place in range(len(rows))]

    def _skip(self, name: str, reason: str):
        if name not in self.skipped:
            self.skipped[name] = reason
            logger.warning("Skipped %s: %s", name, reason)

    def _waveform(self, row: Mapping[str, Any]) -> Tensor:
        """The audio that features are computed from.

        Raises:
            BadAudio: If it is unusable.
        """
        waveform = row_waveform(row)
        self._check_length(row, len(waveform))
        return torch.from_numpy(self.change(waveform, row["sample_id"]) if self.change else waveform)

    def _check_length(self, row: Mapping[str, Any], num_samples: int):
        expected, found = map(self.description.num_frames, (row["num_samples"], num_samples))
        if found != expected:
            raise ValueError(
                f"Row {row['name']} should make {expected} frames by its num_samples ({row['num_samples']:,}), but its "
                f"audio has {num_samples:,} samples and makes {found}. Prepare the dataset again with cache=True: then "
                "every row is decoded and counted."
            )
        if expected < 1:
            raise ValueError(
                f"Row {row['name']} has {num_samples} samples, fewer than the {self.description.window_samples} of one "
                "frame: leave such rows out with a larger min_seconds."
            )


class MfccFeatures(SpeechFeatures):
    """The 39 MFCC values, as in HuBERT's first iteration ("Unsupervised Unit Discovery").

    Args:
        every: Take every n-th 10 ms frame, beginning with the first. 2 gives one frame every 20 ms, always the same
            number as the encoder's: 49 of the first second's 98.
        center: Subtract each utterance's mean from its frames.
        device: Where to compute.
    """

    def __init__(self, every: int = 2, *, center: bool = False, device: torch.device | str = "cpu"):
        if every < 1:
            raise ValueError(f"`every` is {every}; expected 1 (every 10 ms), 2 (every 20 ms), or more.")
        self.every = every
        hop = every * HOP_SAMPLES
        super().__init__(FeatureDescription("mfcc", MFCC_FEATURES, hop, WINDOW_SAMPLES, center=center), device)

    def compute(self, waveforms: list[Tensor]) -> list[Tensor]:
        """One waveform at a time, which is faster than batches."""
        return [mfcc_features(waveform.to(self.device))[:: self.every] for waveform in waveforms]


class HiddenFeatures(SpeechFeatures):
    """A hidden layer of an encoder, as in HuBERT's later iterations ("Unsupervised Unit Discovery").

    Args:
        model: The encoder, or a model with it inside, on the device to compute on: ours, or one of the families of
            `docs/families.md`. It is run in eval mode.
        layer: `hidden_states[layer]` are the features; 0 is the transformer's input.
        normalize: Whether waveforms get zero mean and unit variance, the feature extractor's `do_normalize`. Models
            that take spectra ignore it.
        center: Subtract each utterance's mean from its frames.
        encoder: Folder or Hub id of the encoder; by default where it was loaded from.
        batch_seconds: The most seconds in a batch, padding included (rows x longest row); a longer row goes alone.
            By default 120, and on a CPU 12, which fits into its cache and is three times as fast.
        autocast_dtype: Run in this precision, such as torch.bfloat16; features are float32 all the same.
        extractor: The model's feature extractor; by default the one that its family has.
    Raises:
        ValueError: If there is no such layer, or features are not supported for the model's family.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layer: int,
        *,
        normalize: bool,
        center: bool = False,
        encoder: str | None = None,
        batch_seconds: float | None = None,
        autocast_dtype: torch.dtype | None = None,
        extractor: FeatureExtractionMixin | None = None,
    ):
        self.hearing = hearing_of(model.config)
        self.model = encoder_of(model)
        self.num_layers = len(layers_of(self.model))
        if not 0 <= layer <= self.num_layers:
            raise ValueError(
                f"There is no layer {layer}: this encoder has {self.num_layers}, counted from 1; 0 is the input of "
                "the first."
            )
        self.extractor = extractor or extractor_of(model.config, normalize=normalize)
        check_rate(self.extractor, str(encoder or "The encoder"))
        self.layer = layer
        self.normalize = normalize
        self.batch_seconds = batch_seconds or seconds_at_once(model.device, 120.0)
        self.autocast_dtype = autocast_dtype
        description = FeatureDescription(
            "hidden",
            model.config.hidden_size,
            hop_samples(self.hearing.frame_layers),
            window_samples(self.hearing.frame_layers),
            layer,
            normalize,
            weights_hash(self.model),
            as_path(encoder or model.name_or_path or type(model).__name__),
            center,
        )
        super().__init__(description, model.device)

    @classmethod
    def from_pretrained(
        cls, encoder: str | os.PathLike, layer: int, *, device: torch.device | str | None = None, **settings
    ) -> HiddenFeatures:
        """Loads the encoder in float32, on a GPU where there is one.

        Args:
            encoder: Folder or Hub id with a model that AutoModel knows and the feature extractor's file.
            layer: As for the class.
            device: Where to compute, if not on the GPU.
            settings: More arguments of the class.
        Raises:
            ValueError: If nothing can be loaded, there is no such layer, or the model has another sampling rate.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            hearing_of(load_config(encoder))
            model = AutoModel.from_pretrained(encoder, dtype=torch.float32).to(device)
        except OSError as error:
            raise ValueError(f"No encoder can be loaded from {encoder}: {error}") from error
        try:
            extractor = AutoFeatureExtractor.from_pretrained(encoder)
        except OSError as error:
            raise ValueError(
                f"{encoder} has no preprocessor_config.json, which tells whether waveforms are normalised: save the "
                "model's feature extractor there, or load the model and say so: HiddenFeatures(model, layer, "
                "normalize=...)."
            ) from error
        normalize = getattr(extractor, "do_normalize", False)
        return cls(model, layer, normalize=normalize, encoder=str(encoder), extractor=extractor, **settings)

    def compute(self, waveforms: list[Tensor]) -> list[Tensor]:
        """In batches of rows of nearly equal length."""
        found: dict[int, Tensor] = {}
        with in_eval_mode(self.model):
            for batch in self.batches([len(each) for each in waveforms]):
                found |= zip(batch, self._run([waveforms[place] for place in batch]))
        return [found[place] for place in range(len(waveforms))]

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Batches of `batch_seconds`, the longest rows first."""
        return list(inference_batches(lengths, self.model.config, self.batch_seconds))

    def _check_length(self, row: Mapping[str, Any], num_samples: int):
        super()._check_length(row, num_samples)
        longest = self.hearing.longest_samples
        if longest and num_samples > longest:
            raise ValueError(
                f"Row {row['name']} has {num_samples / SAMPLE_RATE:.1f} s, but {self.hearing.family.name} hears "
                f"{longest / SAMPLE_RATE:g} s at most: prepare the data with a max_seconds of that."
            )

    def _run(self, waveforms: list[Tensor]) -> list[Tensor]:
        inputs = self.hearing.inputs(self.extractor, [waveform.numpy() for waveform in waveforms])
        inputs = {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            hidden = self._hidden(inputs).float()  # (batch, frames, width)
        frames = [self.description.num_frames(len(waveform)) for waveform in waveforms]
        return [row[:length] for row, length in zip(hidden, frames)]

    def _hidden(self, inputs: dict[str, Tensor]) -> Tensor:
        """The features of a batch, `(batch, frames, width)`."""
        return hidden_state(self.model, self.layer, inputs)


def open_features(
    description: FeatureDescription, *, device: torch.device | str | None = None, **of_encoder
) -> SpeechFeatures:
    """The source of features that fit a description.

    Args:
        description: For a hidden layer, the encoder is loaded from where it says.
        device: Where to compute; by default on the CPU, and an encoder on a GPU where there is one.
        of_encoder: More arguments of `HiddenFeatures.from_pretrained`, which MFCC have no need of.
    Raises:
        ValueError: If the encoder can't be loaded, or has other weights by now.
    """
    center = description.center
    if description.kind == "mfcc":
        every = description.hop_samples // HOP_SAMPLES
        source: SpeechFeatures = MfccFeatures(every, center=center, device=device or "cpu")
    else:
        source = HiddenFeatures.from_pretrained(
            description.encoder, description.layer, device=device, center=center, **of_encoder
        )
    differences = description.differences(source.description)
    if differences:
        raise ValueError(
            f"{source.description} is not the encoder of the units: {'; '.join(differences)}. Put the right one "
            "there, or build HiddenFeatures from a copy of it."
        )
    return source


class FeatureStream:
    """All features of a dataset, computed anew in each pass: what `fit_kmeans` takes as `batches`.

    Where torch.distributed is initialised, every process streams its own part of the rows.

    Args:
        dataset: Prepared rows, also streamed ones.
        source: What computes the features.

    Attributes:
        utterances: Usable rows in the last pass of this process.
    """

    def __init__(self, dataset: Dataset | IterableDataset, source: FeatureSource):
        self.dataset = split_dataset_by_node(dataset, *rank_and_size())
        self.source = source
        self.utterances = 0

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Starts a pass over the frames of some dozens of rows at a time.

        Returns:
            Batches of features `(frames, width)` and their ids, int64 `(frames, 2)`: the row's `sample_id`, and the
            number of the frame in the row.
        """
        self.utterances = 0
        for batch in self.dataset.iter(ROWS_AT_ONCE):
            features = self.source.features(rows_of(batch))
            self.utterances += sum(len(frames) > 0 for frames in features)
            lengths = torch.tensor([len(frames) for frames in features])
            rows = torch.tensor(batch["sample_id"], dtype=torch.int64).repeat_interleave(lengths)
            places = torch.cat([torch.arange(length) for length in lengths])
            yield torch.cat(features), torch.stack([rows, places], dim=1)


def rows_of(batch: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    """A batch of columns as rows."""
    return [dict(zip(batch.keys(), values)) for values in zip(*batch.values())]


def _decoding_threads() -> int:
    """As many threads as there are cores for each process of this machine, but no more than are of use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(DECODING_THREADS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
