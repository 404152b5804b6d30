"""Initial values as the originals draw them.

Whoever owns weights says how they start: a module with a method `set_initial_values` in that method, torch's own layers
here, and linear layers and norms as everywhere in transformers (N(0, initializer_range), identity). One rule fits
training from scratch and checkpoints that lack some weights: those are made of raw memory, and the functions of
`transformers.initialization` write to them but leave loaded ones alone.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from transformers import initialization as init

from hf_ssl_speech.models.products import Linear


class UniformLinear(Linear):
    """A linear layer that starts as torch's own does, uniform in 1 / sqrt(inputs); the transformer's are N(0, .02)."""

    def set_initial_values(self):
        """Weight and bias uniform within 1 / sqrt(inputs)."""
        bound = 1 / math.sqrt(self.in_features)
        init.uniform_(self.weight, -bound, bound)
        init.uniform_(self.bias, -bound, bound)


class XavierLinear(nn.Linear):
    """A linear layer that starts as Xavier has it (Glorot and Bengio 2010): fairseq's CTC heads do."""

    def set_initial_values(self):
        """Weight uniform within sqrt(6 / (inputs + outputs)), bias zero."""
        init.xavier_uniform_(self.weight)
        init.zeros_(self.bias)


def initialize(module: nn.Module) -> bool:
    """Sets the weights that a module owns itself, not those of its children, if they start in a way of their own.

    Returns:
        False if the module starts as transformers has it.
    """
    if hasattr(module, "set_initial_values"):
        module.set_initial_values()
    elif isinstance(module, ParametrizationList):
        _set_positional_weight(module)
    elif isinstance(module, nn.Conv1d):
        _set_convolution(module)
    else:
        return False
    return True


def _set_positional_weight(weight: ParametrizationList):
    """The positional conv's: Gaussian directions, and norms that leave them as they are.

    Writing to the conv's `.weight` would change nothing: the norm and the direction are stored.
    """
    norm, direction = weight.original0, weight.original1
    channels, _, kernel = direction.shape
    init.normal_(direction, std=math.sqrt(4 / (kernel * channels)))
    init.copy_(norm, torch.norm_except_dim(direction, dim=2))


def _set_convolution(conv: nn.Conv1d):
    """Kaiming weights and torch's bias in the conv encoder; the positional conv, whose weight is apart, has bias 0."""
    if "weight" not in conv._parameters:
        init.zeros_(conv.bias)
        return
    init.kaiming_normal_(conv.weight)
    if conv.bias is not None:
        bound = math.sqrt(conv.groups / (conv.in_channels * conv.kernel_size[0]))
        init.uniform_(conv.bias, -bound, bound)
