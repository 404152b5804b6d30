"""A wide grouped convolution over frames, the positional one, as matrix products.

A block of `BLOCK` frames of the output depends on a fixed number of blocks of the input. Side by side, these are a row
of a matrix, and the taps of the kernel, once for each frame of the block and shifted by its place, are another matrix,
padded with zeros to whole blocks: their product is the convolution. CPUs multiply matrices faster than they convolve
groups of so few channels, unless there are too few frames for the work of shifting the taps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hf_ssl_speech.models.precision import at_least_float32, in_autocast
from hf_ssl_speech.models.products import ROWS, batched_product

BLOCK = 4


def pays(frames: Tensor, kernel: int) -> bool:
    """Whether frames `(batch, frames, channels)` are enough: then the products are the faster way on CPUs."""
    return frames.shape[:2].numel() >= 1.5 * kernel


def convolve_in_blocks(frames: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Same as `F.conv1d` with `kernel // 2` zeros on both sides, cut to the number of input frames.

    Args:
        frames: `(batch, frames, channels)`.
        weight: `(channels, channels of a group, kernel)`.
    Returns:
        `(batch, frames, channels)`.
    """
    return BlockConvolution.apply(in_autocast(frames), in_autocast(weight), groups)


class BlockConvolution(torch.autograd.Function):
    """`convolve_in_blocks`, with its gradients."""

    @staticmethod
    def forward(ctx, frames: Tensor, weight: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(frames, weight)
        ctx.groups = groups
        kernel = weight.shape[-1]
        taps = weight.unflatten(0, (groups, -1)).permute(0, 3, 2, 1)
        return convolved(frames, taps, before=kernel // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        frames, weight = ctx.saved_tensors
        kernel, of_frames, of_weight = weight.shape[-1], None, None
        if ctx.needs_input_grad[0]:
            taps = weight.unflatten(0, (ctx.groups, -1)).permute(0, 3, 1, 2).flip(1)
            of_frames = convolved(gradient, taps, before=kernel - 1 - kernel // 2)
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(frames, gradient, kernel, ctx.groups)
        return of_frames, of_weight, None


def convolved(frames: Tensor, taps: Tensor, before: int) -> Tensor:
    """The convolution with `taps`, `(groups, kernel, channels, out channels)`.

    The first tap is for the input frame that is `before` frames before that of the output.
    """
    batch, length, _ = frames.shape
    groups, kernel, channels, out_channels = taps.shape
    rows = blocks_side_by_side(frames, kernel, groups, before)
    # Each frame of a block sees the input later by its place, so its taps stand further down by as much.
    shifted = taps.new_zeros(groups, rows.shape[-1] // channels, channels, BLOCK, out_channels)
    taps = taps.contiguous()
    for place in range(BLOCK):
        shifted[:, place : place + kernel, :, place] = taps
    windows = batched_product(rows, shifted.flatten(1, 2).flatten(2))  # (groups, batch * blocks, BLOCK * out channels)
    return windows.view(groups, batch, -1, out_channels)[:, :, :length].permute(1, 2, 0, 3).flatten(2)


def weight_gradient(frames: Tensor, gradient: Tensor, kernel: int, groups: int) -> Tensor:
    """Gradient of the weight, `(channels, channels of a group, kernel)`."""
    rows = blocks_side_by_side(frames, kernel, groups, kernel // 2)
    blocks = rows.shape[1] // len(frames)
    gradient = F.pad(gradient, (0, 0, 0, blocks * BLOCK - gradient.shape[1]))
    gradient = gradient.reshape(len(frames) * blocks, BLOCK, groups, -1).permute(2, 1, 3, 0).flatten(1, 2)
    found = batched_product(gradient, rows)  # (groups, BLOCK * out channels, frames of the input * channels)
    found = found.unflatten(1, (BLOCK, -1)).unflatten(-1, (-1, gradient.shape[1] // BLOCK))
    # Each frame of a block gives a gradient for every tap, shifted by its place.
    total = sum(at_least_float32(found[:, place, :, place : place + kernel]) for place in range(BLOCK))
    return total.to(gradient.dtype).transpose(2, 3).flatten(0, 1)


def blocks_side_by_side(frames: Tensor, kernel: int, groups: int, before: int) -> Tensor:
    """All that each block of the output depends on, `(groups, batch * blocks, frames * channels of a group)`.

    Blocks are added until lengths are a multiple of `ROWS`, so that few sizes of products are left.
    """
    batch, length, _ = frames.shape
    blocks, seen = -(-length // ROWS) * ROWS // BLOCK, -(-(kernel - 1) // BLOCK) + 1  # seen for each block
    frames = F.pad(frames, (0, 0, before, (blocks + seen - 1) * BLOCK - before - length))
    frames = frames.unflatten(2, (groups, -1)).permute(2, 0, 1, 3).contiguous()  # (groups, batch, frames, channels)
    channels = frames.shape[-1]
    strides = (*frames.stride()[:2], BLOCK * channels, 1)
    return frames.as_strided((groups, batch, blocks, seen * BLOCK * channels), strides).flatten(1, 2)
