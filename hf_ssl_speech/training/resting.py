"""Weights that rest in an update, those of dropped layers and of a frozen encoder: several processes as one.

DistributedDataParallel waits for the gradient of every weight. It could search each graph for those that get none, and
ask all processes, which holds up the host in every step. But which weights rest is known beforehand, and the same in
all processes and micro-batches of an update: the graph leads to them too, without a gradient, so nothing is searched.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Reaching(torch.autograd.Function):
    """A loss as it is, whose backward pass arrives at more weights, with no gradient for them."""

    @staticmethod
    def forward(ctx, loss: Tensor, *weights: nn.Parameter) -> Tensor:
        ctx.number = len(weights)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (gradient, *[None] * ctx.number)


def exchange_gradients_of_all(accelerator: Accelerator):
    """Tells DistributedDataParallel that no weight is missed, and that gradients lie where they are exchanged."""
    if accelerator.ddp_handler is not None:
        accelerator.ddp_handler.find_unused_parameters = False
        accelerator.ddp_handler.gradient_as_bucket_view = True


def reaching_all(loss: Tensor, wrapped: nn.Module, model: Any) -> Tensor:
    """The loss, by which DistributedDataParallel also hears of the weights that rest.

    Args:
        wrapped: The model as it was called, in DistributedDataParallel or not.
        model: The same without a wrapper.
    """
    if not isinstance(wrapped, DistributedDataParallel):
        return loss
    return Reaching.apply(loss, *(weight for weight in model.resting_parameters() if weight.requires_grad))


def rest(model: Any):
    """Takes the gradients of zero from the weights that rest: an optimizer leaves out those that have none."""
    for weight in model.resting_parameters():
        weight.grad = None
