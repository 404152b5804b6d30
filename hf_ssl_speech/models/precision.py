"""The precision that losses, norms' statistics and the codebook are computed in."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is wider: a model in float64 computes in float64 throughout."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def in_full_precision(function):
    """Runs a function out of autocast, its first tensor in at least float32.

    A cosine similarity at temperature 0.1 has no bits to spare.
    """

    @functools.wraps(function)
    def wrapper(first: Tensor, *args, **kwargs):
        with torch.autocast(first.device.type, enabled=False):
            return function(at_least_float32(first), *args, **kwargs)

    return wrapper
