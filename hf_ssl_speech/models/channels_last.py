"""Convolutions over frames with contiguous channels, `(batch, frames, channels)`: the fastest layout on CPUs.

oneDNN's kernels for channels-last images need no copies between layers, norms and activations read memory in order, and
the gradient of the weight is a matrix product of overlapping views.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_ssl_speech.models.precision import at_least_float32, in_autocast
from hf_ssl_speech.models.products import product


def conv_frames(frames: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """`F.conv1d` on frames.

    Args:
        frames: `(batch, frames, channels)`.
        weight: `(out channels, channels, kernel)`.
        bias: `(out channels,)`.
    Returns:
        `(batch, windows, out channels)`.
    """
    frames, weight = in_autocast(frames), in_autocast(weight)
    windows = ConvFrames.apply(frames.contiguous(), weight, stride)
    return windows if bias is None else windows + bias.to(windows.dtype)


def convolved(frames: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The convolution without bias of contiguous frames."""
    return F.conv2d(as_image(frames), as_kernel(weight), stride=(1, stride))[:, :, 0].transpose(1, 2)


def gradient_of_frames(gradient: Tensor, frames: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Gradient of what was convolved; `gradient`, that of the output, is contiguous."""
    return torch.ops.aten.convolution_backward(
        as_image(gradient), as_image(frames), as_kernel(weight), None,
        (1, stride), (0, 0), (1, 1), False, (0, 0), 1, (True, False, False),
    )[0][:, :, 0].transpose(1, 2)  # fmt: skip


class ConvFrames(torch.autograd.Function):
    """`convolved`, with its gradients."""

    @staticmethod
    def forward(ctx, frames: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(frames, weight)
        ctx.stride = stride
        return convolved(frames, weight, stride)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        frames, weight = ctx.saved_tensors
        gradient, of_frames, of_weight = gradient.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            of_frames = gradient_of_frames(gradient, frames, weight, ctx.stride)
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(frames, gradient, weight.shape[-1], ctx.stride)
        return of_frames, of_weight, None


def as_image(frames: Tensor) -> Tensor:
    """`(batch, channels, 1, frames)`, a channels-last image of height 1; a view."""
    return frames.transpose(1, 2)[:, :, None]


def as_kernel(weight: Tensor) -> Tensor:
    """`(out channels, channels, 1, kernel)`, channels last."""
    return weight[:, :, None].contiguous(memory_format=torch.channels_last)


def weight_gradient(frames: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """Gradient of a convolution's weight, `(out channels, channels, kernel)`, by matrix products without copies.

    Taps less than a stride apart lie side by side in windows that do not overlap, so that they are one matrix.
    """
    batch, length, channels = frames.shape
    parts = []
    for first in range(0, kernel, stride):
        taps = min(stride, kernel - first)
        windows = frames.as_strided(
            (batch, gradient.shape[1], taps * channels),
            (length * channels, stride * channels, 1),
            frames.storage_offset() + first * channels,
        )
        # Row by row: batched products of strided bf16 matrices copy them first.
        products = [product(row.T, matrix) for row, matrix in zip(gradient, windows)]
        part = torch.stack(products).sum(0)  # (out channels, taps * channels)
        parts.append(part.unflatten(1, (taps, channels)))
    return torch.cat(parts, 1).transpose(1, 2)


def conv_and_norm(
    waveforms: Tensor, weight: Tensor, stride: int, gain: Tensor, shift: Tensor, eps: float, mask: Tensor | None
) -> Tensor:
    """The first layer: a convolution without bias and the norm of each channel over time, in one matrix product.

    Mean and variance of the convolution's output follow from those of the few samples in its window, so the norm is
    folded into the weight, and what lies between the two is never made.

    Args:
        waveforms: `(batch, samples)`, which get no gradient.
        weight: `(channels, 1, kernel)`.
        gain, shift: Of the norm, `(channels,)`.
        eps: Of the norm.
        mask: True on the windows that the statistics see, `(batch, windows)`; None for all.
    Returns:
        `(batch, windows, channels)`.
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        windows = at_least_float32(waveforms.detach()).unfold(1, weight.shape[-1], stride)  # (batch, windows, kernel)
        seen = windows.new_ones(windows.shape[:2]) if mask is None else mask.to(windows.dtype)
        seen = (seen / seen.sum(1, keepdim=True).clamp(min=1))[..., None]
        windows = windows - (windows * seen).sum(1, keepdim=True)
        covariance = windows.mT @ (windows * seen)  # (batch, kernel, kernel)
        taps = at_least_float32(weight[:, 0])  # (channels, kernel)
        variance = ((taps @ covariance) * taps).sum(-1)  # (batch, channels)
        taps = taps * (gain * torch.rsqrt(variance + eps))[..., None]  # (batch, channels, kernel)
        # The shift is the weight of an input that is always 1.
        taps = torch.cat([taps, shift[:, None].expand(len(taps), -1, -1)], -1)
        windows = torch.cat([windows, torch.ones_like(seen)], -1)
    dtype = in_autocast(weight[:0]).dtype
    return windows.to(dtype) @ taps.to(dtype).mT
