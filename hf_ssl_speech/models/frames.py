"""From samples to frames: the only conv arithmetic of the package."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple, overload

import torch
from torch import Tensor


class ConvLayer(NamedTuple):
    """Kernel and stride of one conv layer, in frames of the layer below (samples for the first)."""

    kernel: int
    stride: int


@overload
def num_frames(num_samples: int, conv_layers: Sequence[ConvLayer]) -> int: ...


@overload
def num_frames(num_samples: Tensor, conv_layers: Sequence[ConvLayer]) -> Tensor: ...


def num_frames(num_samples: int | Tensor, conv_layers: Sequence[ConvLayer]) -> int | Tensor:
    """Frames the conv encoder makes from raw audio (wav2vec 2.0, section 2); not positive if it is too short for one.

    Args:
        num_samples: Audio lengths in samples at 16 kHz, an int or a tensor (or array) of any shape.
    Returns:
        Lengths in frames, in the same form. One second gives 49 with the papers' conv stack: only whole windows count.
    """
    for kernel, stride in conv_layers:
        num_samples = (num_samples - kernel) // stride + 1
    return num_samples


def window_samples(conv_layers: Sequence[ConvLayer]) -> int:
    """Samples in the window of one frame: 400 (25 ms) with the papers' conv stack."""
    window = 1
    for kernel, stride in reversed(conv_layers):
        window = (window - 1) * stride + kernel
    return window


def hop_samples(conv_layers: Sequence[ConvLayer]) -> int:
    """Samples from one frame to the next: 320 (20 ms) with the papers' conv stack."""
    return prod(layer.stride for layer in conv_layers)


def frame_mask(lengths: Tensor, max_frames: int) -> Tensor:
    """Which frames (or samples) are real: True there, False on padding.

    Args:
        lengths: Real frames of each row, `(batch,)`.
    Returns:
        `(batch, max_frames)` bool.
    """
    return torch.arange(max_frames, device=lengths.device) < lengths[:, None]
