"""Compilation block by block: conv layers, transformer layers and heads become graphs, what lies between stays Python.

A whole model as one graph takes minutes to compile, and again for each new kind of batch. Blocks of one kind share a
graph, which serves all lengths, and layer drop leaves out blocks without any graph noticing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Settings = tuple[tuple[str, Any], ...]


def block(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method of a module a block: once `compile_blocks` was called, it is compiled in training."""

    @functools.wraps(method)
    def call(self: nn.Module, *inputs: Any, **named: Any):
        settings: Settings | None = getattr(self, "compilation", None)
        if settings is None or not self.training or torch.compiler.is_compiling():
            return method(self, *inputs, **named)
        return _compiled(method, settings)(self, *inputs, **named)

    return call


@functools.cache
def _compiled(method: Callable[..., Any], settings: Settings) -> Callable[..., Any]:
    """One for all modules of a class, so that they share their graphs."""
    return torch.compile(method, dynamic=True, **dict(settings))


def compile_blocks(model: nn.Module, **settings: Any):
    """Compiles the blocks of a model from now on, in training.

    Args:
        settings: As `torch.compile` takes them, such as `backend` and `mode`.
    """
    for module in model.modules():
        module.compilation = tuple(sorted(settings.items()))
