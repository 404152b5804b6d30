"""Kaldi-compatible MFCC with their first and second time derivatives: the 39 features of HuBERT's first iteration."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from hf_ssl_speech.audio import SAMPLE_RATE

WINDOW_SAMPLES = SAMPLE_RATE // 40  # 25 ms
HOP_SAMPLES = SAMPLE_RATE // 100  # 10 ms
FFT_SAMPLES = 512
MEL_BANDS = 23
LOWEST_HERTZ = 20.0
COEFFICIENTS = 13
LIFTER = 22.0
PREEMPHASIS = 0.97
MFCC_FEATURES = 3 * COEFFICIENTS

# Frames computed together: few enough for the spectra of a block to stay in a processor's cache.
_BLOCK_FRAMES = 256


def num_mfcc_frames(num_samples: int) -> int:
    """MFCC frames of an audio of `num_samples` at 16 kHz: one per 10 ms, whole 25 ms windows only.

    Raises:
        ValueError: If the audio is shorter than one window.
    """
    if num_samples < WINDOW_SAMPLES:
        raise ValueError(
            f"An audio of {num_samples} samples is too short for MFCC: one window takes {WINDOW_SAMPLES} samples "
            f"(25 ms at {SAMPLE_RATE} Hz). Leave such rows out with a `min_seconds` of 0.025 or more."
        )
    return 1 + (num_samples - WINDOW_SAMPLES) // HOP_SAMPLES


def mfcc_features(waveform: Tensor) -> Tensor:
    """The MFCC on which HuBERT's first k-means is fitted (HuBERT, "Unsupervised Unit Discovery").

    13 coefficients as Kaldi computes them (25 ms Povey windows every 10 ms, whole windows only, no dither, the
    zeroth coefficient rather than the energy), their deltas, and the deltas of those. As in HuBERT's own recipe,
    samples stay in [-1, 1] and are not scaled to the 16-bit range, which Kaldi itself would expect.

    Args:
        waveform: Audio in [-1, 1] at 16 kHz, `(samples,)` or `(batch, samples)`, on any device.
    Returns:
        Float32 features, `(frames, 39)` or `(batch, frames, 39)`: one frame per 10 ms, 98 for the first second.
    Raises:
        ValueError: If the audio is shorter than one window (400 samples, 25 ms), or has another number of dimensions.
    """
    if waveform.dim() not in (1, 2):
        raise ValueError(f"Expected a waveform of (samples,) or (batch, samples), but got {tuple(waveform.shape)}.")
    num_mfcc_frames(waveform.shape[-1])  # raises if too short
    frames = waveform.float().unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES)  # (..., frames, 400)
    with torch.autocast(waveform.device.type, enabled=False):
        coefficients = torch.cat([_cepstra(block) for block in frames.split(_BLOCK_FRAMES, dim=-2)], dim=-2)
    deltas = _deltas(coefficients)
    return torch.cat([coefficients, deltas, _deltas(deltas)], dim=-1)


def _cepstra(frames: Tensor) -> Tensor:
    """Frames of samples `(..., frames, 400)` -> cepstral coefficients `(..., frames, 13)`."""
    window, mel_weights, cosines = _tables(frames.device)
    # In Kaldi's order, although it could be folded into fewer steps: quiet bands sit near float32's rounding error.
    frames = frames - frames.mean(-1, keepdim=True)
    # The Povey window starts with a zero, so a frame's first sample, which has no sample before it, never counts.
    emphasised = torch.cat([frames[..., :1], frames[..., 1:] - PREEMPHASIS * frames[..., :-1]], dim=-1)
    spectrum = torch.fft.rfft(emphasised * window, n=FFT_SAMPLES)  # (..., frames, 257)
    power = torch.view_as_real(spectrum).flatten(-2).square()  # (..., frames, 514): real and imaginary parts
    log_mel = (power @ mel_weights).clamp_min(torch.finfo(torch.float32).eps).log()  # (..., frames, 23)
    return log_mel @ cosines


def _deltas(features: Tensor) -> Tensor:
    """Slope over five frames by least squares, the edge frames repeated: `(..., frames, features)` in and out."""
    num_frames = features.shape[-2]
    positions = torch.arange(-2, num_frames + 2, device=features.device).clamp(0, num_frames - 1)
    two_before, one_before, _, one_after, two_after = (
        features.index_select(-2, positions[shift : shift + num_frames]) for shift in range(5)
    )
    return (one_after - one_before + 2 * (two_after - two_before)) / 10


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # tables made under inference mode could not serve a caller outside of it
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Window `(400,)`, mel weights `(514, 23)` and liftered cosines `(23, 13)` as float32 on `device`."""
    # In float32 throughout, like the features everyone else fits on: log energies far below zero multiply with these.
    window = torch.hann_window(WINDOW_SAMPLES, periodic=False).pow(0.85)

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log(1 + hertz / 700)

    lowest, highest = mel(torch.tensor([LOWEST_HERTZ, SAMPLE_RATE / 2], dtype=torch.float64)).tolist()
    width = (highest - lowest) / (MEL_BANDS + 1)
    edges = lowest + width * torch.arange(MEL_BANDS + 2)  # (25,)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(torch.arange(FFT_SAMPLES // 2 + 1) * (SAMPLE_RATE / FFT_SAMPLES))[:, None]  # (257, 1)
    triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp_min(0)

    band = torch.arange(MEL_BANDS)[:, None] + 0.5
    order = torch.arange(COEFFICIENTS)
    cosines = torch.cos(math.pi / MEL_BANDS * band * order) * math.sqrt(2 / MEL_BANDS)  # (23, 13)
    cosines[:, 0] = math.sqrt(1 / MEL_BANDS)
    lifter = 1 + LIFTER / 2 * torch.sin(math.pi * order / LIFTER)

    tables = (window, triangles.repeat_interleave(2, dim=0), cosines * lifter)
    return tuple(table.to(device) for table in tables)
