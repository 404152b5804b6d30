"""Compares the sizes of a model with those of the weights it is to load, before any memory is taken."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from safetensors import safe_open
from torch import nn

# Every checkpoint of an encoder has weights for all of these layers; one that lacked them would start untrained.
LAYER = re.compile(r"(feature_extractor\.conv_layers|encoder\.layers)\.\d+(?=\.)")
OLD_NAMES = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
SHOWN = 3


class OtherSizes(ValueError, RuntimeError):
    """Weights do not fit a configuration: a wrong value, and the RuntimeError that transformers would raise."""


def stored_shapes(files: Sequence[str | os.PathLike]) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights in safetensors files, by name; only the files' headers are read.

    Raises:
        SafetensorError: If a file is damaged.
    """
    shapes = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 no dict
    return shapes


def check_sizes(model: nn.Module, prefix: str, files: Sequence[str | os.PathLike]):
    """Checks that a model has the sizes of the weights in safetensors files, and no layers that they lack.

    Args:
        model: As its configuration makes it; on the meta device it takes no memory.
        prefix: Name of the encoder inside models with a head, which checkpoints of encoders leave out.
    Raises:
        OtherSizes: If a weight has another shape there, or all of a layer are missing.
        SafetensorError: If a file is damaged.
    """
    stored = {plain_name(name, prefix): shape for name, shape in stored_shapes(files).items()}
    ours = {plain_name(name, prefix): tuple(weight.shape) for name, weight in model.state_dict().items()}
    wrong = [
        f"{name} is {list(shape)} by the config, {list(stored[name])} in the file"
        for name, shape in ours.items()
        if name in stored and stored[name] != shape
    ]
    there = set(_layers(stored))
    wrong += [f"{layer} is not in the file" for layer in _layers(ours) if layer not in there]
    if wrong:
        more = f"; and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
        raise OtherSizes("; ".join(wrong[:SHOWN]) + more + ".")


def plain_name(name: str, prefix: str) -> str:
    """A weight's name without the encoder's prefix, and that of a normalised weight as torch has it today."""
    name = name.removeprefix(f"{prefix}.")
    owner, _, last = name.rpartition(".")
    return f"{owner}.{OLD_NAMES[last]}" if last in OLD_NAMES else name


def _layers(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(layer[0] for layer in map(LAYER.match, names) if layer))
