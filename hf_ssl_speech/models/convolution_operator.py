"""Convolutions over frames as one operator for compilers, which compile those of torch anew for every length.

Nothing is looked into, so each length takes the same graph; norms, activations and casts around it are fused as ever.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_ssl_speech.models.channels_last import convolved, gradient_of_frames, weight_gradient


@torch.library.custom_op("hf_ssl_speech::convolve", mutates_args=())
def convolve(frames: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    """`F.conv1d` without bias on `(batch, frames, channels)`."""
    if is_plain(frames, padding, groups):
        return convolved(frames.contiguous(), weight, stride).contiguous()
    return F.conv1d(frames.transpose(1, 2), weight, None, stride, padding, 1, groups).transpose(1, 2).contiguous()


@convolve.register_fake
def _(frames: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    windows = (frames.shape[1] + 2 * padding - weight.shape[-1]) // stride + 1
    return frames.new_empty(frames.shape[0], windows, weight.shape[0])


@torch.library.custom_op("hf_ssl_speech::convolve_backward", mutates_args=())
def convolve_backward(
    gradient: Tensor, frames: Tensor, weight: Tensor, stride: int, padding: int, groups: int, of_frames: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of frames (an empty tensor unless they are asked for) and weight."""
    if is_plain(frames, padding, groups):
        gradient, frames = gradient.contiguous(), frames.contiguous()
        one = gradient_of_frames(gradient, frames, weight, stride) if of_frames else frames.new_empty(0)
        return one.contiguous(), weight_gradient(frames, gradient, weight.shape[-1], stride).contiguous()
    one, other, _ = torch.ops.aten.convolution_backward(
        gradient.transpose(1, 2), frames.transpose(1, 2), weight, None,
        (stride,), (padding,), (1,), False, (0,), groups, (of_frames, True, False),
    )  # fmt: skip
    return one.transpose(1, 2).contiguous() if of_frames else frames.new_empty(0), other.contiguous()


@convolve_backward.register_fake
def _(
    gradient: Tensor, frames: Tensor, weight: Tensor, stride: int, padding: int, groups: int, of_frames: bool
) -> tuple[Tensor, Tensor]:
    return frames.new_empty(frames.shape if of_frames else 0), weight.new_empty(weight.shape)


def is_plain(frames: Tensor, padding: int, groups: int) -> bool:
    """Whether the ways of `channels_last` serve, which were measured on CPUs only."""
    return frames.device.type == "cpu" and groups == 1 and not padding


def _remember(ctx, inputs, output):
    frames, weight, *ctx.settings = inputs
    ctx.save_for_backward(frames, weight)


def _gradients(ctx, gradient: Tensor):
    frames, weight = ctx.saved_tensors
    of_frames, of_weight = convolve_backward(gradient, frames, weight, *ctx.settings, ctx.needs_input_grad[0])
    return of_frames if ctx.needs_input_grad[0] else None, of_weight, None, None, None


convolve.register_autograd(_gradients, setup_context=_remember)
