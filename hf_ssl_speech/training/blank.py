"""Calibration of the blank of a CTC head, which is too likely after few labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback

from hf_ssl_speech.training.lora import bare_model

if TYPE_CHECKING:
    from hf_ssl_speech.training.ctc_trainer import SpeechCTCTrainer

logger = logging.getLogger(__name__)

# Taken from the blank's logit; with 3, any other token is 20 times as likely beside it.
BLANK_COSTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)


def cheapest(edits: Sequence[int]) -> int:
    """Index of the fewest edits, the first if there are several."""
    return min(range(len(edits)), key=edits.__getitem__)


def with_cost(values: Tensor, token: int, cost: float) -> Tensor:
    """Logits `(..., vocabulary)`, or a bias, with a cost taken from one token."""
    if not cost:
        return values
    values = values.clone()
    values[..., token] -= cost
    return values


class CalibrateBlank(TrainerCallback):
    """At the end of training, moves into the head's bias the cost at which the kept weights made the fewest errors."""

    def __init__(self, trainer: SpeechCTCTrainer):
        self.trainer = trainer

    def on_train_end(self, args, state, control, **kwargs):
        if not self.trainer.is_complete:
            return
        part, _, _ = (args.metric_for_best_model or "").removeprefix("eval_").rpartition("_")
        name, kept = f"eval_{part}_blank_cost" if part else "eval_blank_cost", self.trainer.kept_update
        found = [entry[name] for entry in state.log_history if entry["step"] == kept and name in entry]
        if not found:
            logger.warning(f"The blank is not calibrated: no evaluation has told {name} after update {kept:,}.")
            return
        model = bare_model(self.trainer.model)
        take_cost(model.lm_head.bias, model.config.pad_token_id, found[-1])
        self.trainer.blank_costs = (0.0,)  # whatever is evaluated from now on chooses nothing


@torch.no_grad()
def take_cost(bias: Tensor, token: int, cost: float):
    """Changes a head's bias, which may be split among processes, by `with_cost`."""
    change = with_cost(torch.zeros(bias.shape, dtype=bias.dtype, device=bias.device), token, cost)
    bias.add_(distribute_tensor(change, bias.device_mesh, bias.placements) if isinstance(bias, DTensor) else change)
