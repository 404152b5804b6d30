"""The features that probes use, computed once for each split: all layers of an encoder, or features not learnt."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torchaudio.compliance.kaldi import fbank
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_ssl_speech.data.feature_description import FeatureDescription
from hf_ssl_speech.data.features import ROWS_AT_ONCE, FeatureSource, HiddenFeatures, SpeechFeatures, rows_of
from hf_ssl_speech.data.mfcc import HOP_SAMPLES, WINDOW_SAMPLES

MEL_BANDS = 80
KALDI_SCALE = 2.0**15  # Kaldi's samples are 16-bit numbers
LARGEST_FLOAT16 = 65504.0


class MelFeatures(SpeechFeatures):
    """Logarithms of 80 mel bands every 10 ms, as Kaldi computes them: the usual features of earlier recognisers.

    Args:
        device: The device that computes them.
    """

    def __init__(self, *, device: torch.device | str = "cpu"):
        super().__init__(FeatureDescription("mel", MEL_BANDS, HOP_SAMPLES, WINDOW_SAMPLES), device)

    def compute(self, waveforms: list[Tensor]) -> list[Tensor]:
        """One waveform at a time."""
        scaled = (KALDI_SCALE * waveform[None].to(self.device) for waveform in waveforms)
        return [fbank(waveform, num_mel_bins=MEL_BANDS, dither=0.0) for waveform in scaled]


class EveryHiddenState(HiddenFeatures):
    """All hidden states side by side, the transformer's input first: `(frames, (layers + 1) * hidden)`.

    Args:
        model, settings: As for `HiddenFeatures`; the choice of a `layer` makes no difference.
    """

    def __init__(self, model: PreTrainedModel, layer: int = 0, **settings):
        super().__init__(model, model.config.num_hidden_layers, **settings)
        width = self.description.width * (self.layer + 1)
        self.description = replace(self.description, layer=None, width=width)

    def _hidden(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.cat(self.model(**inputs, output_hidden_states=True).hidden_states, dim=-1)


@dataclass
class Frames:
    """The features of some rows, in memory or in a memory-mapped file.

    Attributes:
        values: Frames of all rows one after the other, `(frames, layers, width)`.
        ends: Number of the first frame after each row, `(rows,)`.
        places: Numbers of these rows in the data; rows whose audio can't be read are missing.
    """

    values: np.ndarray
    ends: np.ndarray
    places: list[int]

    def __len__(self) -> int:
        return len(self.ends)

    def lengths(self) -> np.ndarray:
        """Frames of each row."""
        return np.diff(self.ends, prepend=0)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Some rows, padded: float32 `(batch, layers, frames, width)`, and a mask of real frames, `(batch, frames)`."""
        lengths = self.lengths()[rows]
        padded = np.zeros((len(rows), int(lengths.max()), *self.values.shape[1:]), np.float32)
        for place, (row, length) in enumerate(zip(rows, lengths)):
            padded[place, :length] = self.values[self.ends[row] - length : self.ends[row]]
        mask = torch.arange(padded.shape[1]) < torch.from_numpy(lengths)[:, None]
        return torch.from_numpy(padded).transpose(1, 2), mask

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means and deviations that normalise the features.

        Returns:
            The mean of each value in each layer, `(layers, width)`; the standard deviation of each layer around it,
            `(layers,)`; and, after division by that, the deviation of each value over all layers, `(width,)`.
        """
        total, squares = 0.0, 0.0
        for block in np.array_split(self.values, max(1, len(self.values) // 20_000)):
            block = np.asarray(block, np.float64)
            total, squares = total + block.sum(0), squares + np.square(block).sum(0)
        mean = total / len(self.values)
        variance = np.maximum(squares / len(self.values) - np.square(mean), 1e-10)
        scale = np.sqrt(variance.mean(1))
        deviation = np.sqrt((variance / np.square(scale)[:, None]).mean(0))
        mean, scale, deviation = (torch.from_numpy(each).float() for each in (mean, scale, deviation))
        return mean, scale, deviation


def collect_frames(
    rows: Dataset, source: FeatureSource, layers: int, *, averaged: bool, folder: str | os.PathLike, progress: bool
) -> Frames:
    """Computes the features of rows, once.

    Args:
        rows: Prepared rows.
        source: The source of features, with `layers` layers side by side.
        averaged: Whether only the mean over each row's frames is kept, in float32 and in memory. A linear classifier of
            mean-pooled frames needs no more. Otherwise all frames are written to a file in float16.
        folder: The folder for that file, which is gone once the features are no longer needed.
        progress: Whether to show a bar.
    Raises:
        ValueError: If no row has usable audio.
    """
    width = source.description.width // layers
    kept, lengths, places = [], [], []
    with tempfile.TemporaryFile(dir=folder) as file:
        with tqdm(total=len(rows), unit="row", desc=str(source.description), disable=not progress) as bar:
            for start in range(0, len(rows), ROWS_AT_ONCE):
                batch = rows_of(rows[start : start + ROWS_AT_ONCE])
                for place, frames in enumerate(source.features(batch), start):
                    if len(frames):
                        places.append(place)
                        lengths.append(1 if averaged else len(frames))
                        if averaged:
                            kept.append(frames.mean(0, keepdim=True).cpu().numpy())
                        else:
                            file.write(_as_float16(frames).tobytes())
                bar.update(len(batch))
        if not places:
            raise ValueError("None of the rows has audio that can be read.")
        file.flush()
        shape = (sum(lengths), layers, width)
        values = np.concatenate(kept).reshape(shape) if averaged else np.memmap(file, np.float16, "r", shape=shape)
    return Frames(values, np.cumsum(lengths), places)


def _as_float16(frames: Tensor) -> np.ndarray:
    return frames.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16).half().cpu().numpy()
