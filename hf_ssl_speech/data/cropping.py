"""How long a row is once it is cropped: asked by what makes the batches and by what fills them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.models.frames import ConvLayer, hop_samples, num_frames, window_samples

# Frames from one length to the next where rows are cropped to few lengths: 98.7% of audio like LibriSpeech is kept.
LENGTH_STEP = 16


def cropped_samples(
    num_samples: Sequence[int] | np.ndarray,
    max_seconds: float | None,
    conv_layers: Sequence[ConvLayer] | None = None,
) -> np.ndarray:
    """Lengths of rows after cropping, each by itself, whatever other rows there are.

    Args:
        num_samples: Lengths in samples at 16 kHz.
        max_seconds: The longest that a row stays.
        conv_layers: Of the model: rows keep a multiple of 16 frames, and not a sample more. Rows that have fewer keep
            all their frames, and those too short for one stay as they are.
    """
    lengths = np.asarray(num_samples, dtype=np.int64)
    if max_seconds is not None:
        lengths = np.minimum(lengths, round(max_seconds * SAMPLE_RATE))
    if conv_layers is None:
        return lengths
    frames = num_frames(lengths, conv_layers)
    frames = np.where(frames < LENGTH_STEP, frames, frames // LENGTH_STEP * LENGTH_STEP)
    return np.where(frames > 0, (frames - 1) * hop_samples(conv_layers) + window_samples(conv_layers), lengths)
