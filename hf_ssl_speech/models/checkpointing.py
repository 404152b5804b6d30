"""Gradient checkpointing that loses no gradient, reentrant or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer


class CheckpointedLayer(GradientCheckpointingLayer):
    """A layer whose activations can be computed again in the backward pass.

    Reentrant checkpointing gives no gradient to the weights of a layer none of whose inputs requires one: those of the
    conv encoder, which is given waveforms, would stay as they are, and nobody would notice. (transformers offers
    `enable_input_require_grads` for models that begin with an embedding.)
    """

    def __call__(self, frames: Tensor, *args: Any, **kwargs: Any):
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled() and not frames.requires_grad:
            reentrant = self._gradient_checkpointing_func.keywords.get("use_reentrant", True)
            if reentrant and any(weight.requires_grad for weight in self.parameters()):
                frames = frames.detach().requires_grad_()  # the caller's tensor is not changed
        return super().__call__(frames, *args, **kwargs)
