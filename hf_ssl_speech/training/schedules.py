"""How the learning rate changes over a run, and what of it a longer run would share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

if TYPE_CHECKING:
    from hf_ssl_speech.training.arguments import SpeechTrainingArguments


def tri_stage(update: int, stages: tuple[int, int, int], initial: float, final: float) -> float:
    """The learning rate of an update as a share of the peak's (wav2vec 2.0, section 4.3).

    Args:
        update: Counted from 0.
        stages: Updates of linear warm-up, of hold, and of exponential decay.
        initial, final: Shares at the beginning and at the end.
    """
    warmup, hold, decay = stages
    if update < warmup:
        return initial + (1 - initial) * update / warmup
    if update < warmup + hold:
        return 1.0
    if update < warmup + hold + decay:
        return math.exp(math.log(final) * (update - warmup - hold) / decay)
    return final


def make_schedule(args: SpeechTrainingArguments, optimizer: torch.optim.Optimizer, max_steps: int) -> LRScheduler:
    """The schedule that the arguments name, for a run of `max_steps` updates.

    In fine-tuning `warmup_stable_decay` has the paper's three stages: transformers' own neither starts at one share and
    ends at another nor decays exponentially.
    """
    if hasattr(args, "tri_stage") and args.lr_scheduler_type == "warmup_stable_decay":
        stages, ends = args.stages(max_steps), (args.initial_share, args.final_share)
        return LambdaLR(optimizer, lambda update: tri_stage(update, stages, *ends))
    return get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(max_steps),
        num_training_steps=max_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )


def keeps_rates(args: SpeechTrainingArguments, lengths: tuple[int, int], updates: int) -> bool:
    """Whether runs of two lengths have the very same learning rates in their first updates and the one that follows.

    Args:
        lengths: `max_steps` of the two runs.
        updates: How many updates have been done. That the next one has the same rate too is asked because a checkpoint
            holds it.
    """
    schedules = [make_schedule(args, torch.optim.SGD([torch.zeros(1)], lr=1.0), length) for length in lengths]
    if not all(isinstance(schedule, LambdaLR) for schedule in schedules):
        return False  # it follows what was measured in the run
    ours, theirs = (schedule.lr_lambdas[0] for schedule in schedules)
    return all(ours(update) == theirs(update) for update in range(updates + 1))
