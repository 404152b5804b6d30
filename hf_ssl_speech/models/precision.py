"""Keeps in at least float32 what lower precision would spoil, whatever the model or autocast computes in."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is if it is more precise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def in_autocast(tensor: Tensor) -> Tensor:
    """The tensor in the precision in which autocast computes products, if it is on."""
    device = tensor.device.type
    if not torch.is_autocast_enabled(device) or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


def in_float32(function):
    """Runs a function of tensors outside autocast, with its first argument in at least float32.

    A cosine similarity is divided by a temperature of 0.1, so rounding errors would grow tenfold.
    """

    @functools.wraps(function)
    def wrapper(first: Tensor, *args, **kwargs):
        with torch.autocast(first.device.type, enabled=False):
            return function(at_least_float32(first), *args, **kwargs)

    return wrapper
