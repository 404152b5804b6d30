"""Mel bands as the first layer of the conv encoder, in place of learned filters."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.precision import at_least_float32

SAMPLE_RATE = 16_000  # of all input; this floor imports nothing from below
LOWEST_HERTZ = 20.0
FLOOR = 1e-5  # of the mean power of a recording: what is more than 50 dB below counts as silence
# Mean and deviation of these logarithms in English recordings. They are fixed: those of a band over its own recording
# differ between a word and a sentence, and scaling by them amplifies rounding noise above the limit of a telephone.
MEAN, DEVIATION = -6.0, 4.0


class MelBands(nn.Module):
    """Log powers in mel bands, relative to the mean power of the recording, about zero in speech.

    There is nothing to learn, and the scale of the waveform does not matter. Windows are a stride longer than the
    kernel, half a stride on either side, with zeros beyond the ends, so that frames are where those of a convolution
    with this kernel would be: 25 ms every 10 ms, for a kernel of 240 and a stride of 160 samples.

    Raises:
        ValueError: If the windows are too short for so many bands.
    """

    def __init__(self, config: SSLSpeechConfig):
        super().__init__()
        self.num_bands, self.kernel, self.stride = config.conv_dim[0], *config.conv_layers[0]
        mel_filters(self.kernel + self.stride, self.num_bands)

    def forward(self, waveforms: Tensor, mask: Tensor | None = None) -> Tensor:
        """Bands of waveforms.

        Args:
            waveforms: `(batch, samples, 1)`, zero beyond their ends.
            mask: True on the real frames, `(batch, frames)`; None where nothing is padded.
        Returns:
            `(batch, frames, bands)`, in at least float32.
        """
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            powers = self.powers(at_least_float32(waveforms[..., 0]))
            real = powers.new_ones(powers.shape[:2]) if mask is None else mask.to(powers.dtype)
            powers = powers * real[..., None]  # only real frames count in the mean
            frames = real.sum(1)[:, None, None].clamp(min=1)
            mean_power = powers.mean(2, keepdim=True).sum(1, keepdim=True) / frames
            bands = (powers / mean_power.clamp(min=torch.finfo(powers.dtype).tiny) + FLOOR).log()
            return (bands - MEAN) / DEVIATION

    def powers(self, waveforms: Tensor) -> Tensor:
        """Powers in mel bands, `(batch, frames, bands)`, of `(batch, samples)`."""
        # Tables that are made while a graph is traced belong to the graph.
        tables = _tables.__wrapped__ if torch.compiler.is_compiling() else _tables
        window, filters = tables(self.kernel + self.stride, self.num_bands, waveforms.device, waveforms.dtype)
        reach = self.stride // 2
        windows = nn.functional.pad(waveforms, (reach, self.stride - reach)).unfold(-1, len(window), self.stride)
        spectrum = torch.fft.rfft(windows * window, n=fft_samples(len(window)))
        return torch.view_as_real(spectrum).flatten(-2).square() @ filters


def fft_samples(window: int) -> int:
    """The power of two that holds a window: 512 for 25 ms."""
    return 2 ** (window - 1).bit_length()


@lru_cache(maxsize=8)
def mel_filters(window: int, num_bands: int) -> Any:
    """Triangles over the spectrum of a window, a NumPy array `(bins, bands)`.

    Raises:
        ValueError: If some bands lie between the bins.
    """
    with warnings.catch_warnings(action="ignore"):  # of what is refused below
        filters = mel_filter_bank(fft_samples(window) // 2 + 1, num_bands, LOWEST_HERTZ, SAMPLE_RATE / 2, SAMPLE_RATE)
    empty = int((filters.sum(0) == 0).sum())
    if empty:
        raise ValueError(
            f"{empty} of {num_bands} mel bands (conv_dim[0]) would be empty in windows of {window} samples "
            "(conv_kernel[0] + conv_stride[0]): the preset tiny-mel has 80 bands, a kernel of 240 and a stride of 160."
        )
    return filters


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # tables made under inference mode could not serve a caller outside of it
def _tables(length: int, num_bands: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A Hann window `(length,)` and mel filters `(2 * bins, bands)`, for real and imaginary parts side by side."""
    filters = mel_filters(length, num_bands)
    window = torch.hann_window(length, periodic=False, dtype=torch.float64)
    return window.to(device, dtype), torch.from_numpy(filters).repeat_interleave(2, dim=0).to(device, dtype)
