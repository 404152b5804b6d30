"""How the learning rate changes over a run, and what of it a longer run would share."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from hf_ssl_speech.training.trainer_settings import default_of

if TYPE_CHECKING:
    from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments, SpeechTrainingArguments


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
    from transformers import get_scheduler  # takes half a second, which `--help` need not wait for

    return get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(max_steps),
        num_training_steps=max_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )


def updates_of_share(updates: float, max_steps: int) -> int:
    """A number of updates that may be given as a share, below 1, of all `max_steps`; rounded up, as Trainer does."""
    return int(updates) if updates >= 1 else math.ceil(updates * max_steps)


def decide_length(args: SpeechTrainingArguments):
    """Sets the length of the run, in updates or epochs: transformers ignores epochs if max_steps has a default.

    Raises:
        ValueError: If there are two lengths, or one that can't be meant.
    """
    if args.num_train_epochs < 0 or args.max_steps == 0:
        raise ValueError(
            f"max_steps is {args.max_steps} and num_train_epochs {args.num_train_epochs:g}: give the length of the run "
            "as a number of updates above 0 (max_steps), or of epochs (num_train_epochs)."
        )
    if args.num_train_epochs and args.max_steps > 0:
        if args.max_steps != type(args).max_steps:
            raise ValueError(
                f"max_steps={args.max_steps:,} and num_train_epochs={args.num_train_epochs:g} both set the length of "
                "the run: leave one of them out. If a configuration sets max_steps, add `--max_steps -1`."
            )
        args.max_steps = -1
    if args.max_steps < 0 and not args.num_train_epochs:
        args.num_train_epochs = TrainingArguments.num_train_epochs


def check_schedule_settings(args: SpeechTrainingArguments):
    """Raises a ValueError if no schedule can be made of the settings."""
    try:
        make_schedule(args, torch.optim.SGD([torch.zeros(1)], lr=1.0), max(args.max_steps, 100))
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"No schedule can be made of lr_scheduler_type={SchedulerType(args.lr_scheduler_type).value} with "
            f"lr_scheduler_kwargs={args.lr_scheduler_kwargs}: {error}. Add what is missing to lr_scheduler_kwargs, or "
            "use another lr_scheduler_type."
        ) from error


def check_three_stages(args: SpeechCTCTrainingArguments):
    """Raises a ValueError if the settings of fine-tuning's three stages contradict each other or other settings."""
    stages, shares = args.tri_stage, (args.initial_share, args.final_share)
    if len(stages) != 3 or min(stages) < 0:
        raise ValueError(f"tri_stage is {stages}: give three stages, as shares or updates.")
    if args.stages_are_shares and sum(stages) > 1 + 1e-6:
        raise ValueError(
            f"tri_stage is {stages}, shares of the run that add up to {sum(stages):g}: give shares that add up to 1, "
            "or all three in updates."
        )
    if not args.stages_are_shares and any(stage % 1 for stage in stages):
        raise ValueError(f"tri_stage is {stages}: give all three as shares, or all three in whole updates.")
    if not (0 <= args.initial_share <= 1 and 0 < args.final_share <= 1):
        raise ValueError(
            f"initial_share and final_share are {shares[0]:g} and {shares[1]:g}, but they are shares of the peak's "
            "learning rate: give 0 to 1; the last one above 0, which no exponential decay reaches."
        )
    defaults = {field.name: default_of(field) for field in fields(args)}
    if args.lr_scheduler_type != "warmup_stable_decay":
        own = ("tri_stage", "initial_share", "final_share")
        unused = [f"{name}={getattr(args, name)}" for name in own if getattr(args, name) != defaults[name]]
        if unused:
            raise ValueError(
                f"{', '.join(unused)} would not be used with lr_scheduler_type="
                f"{SchedulerType(args.lr_scheduler_type).value}: leave it out, or take warmup_stable_decay."
            )
        return
    if args.warmup_steps:
        raise ValueError(
            f"warmup_steps is {args.warmup_steps:g}, but the first stage of tri_stage is the warm-up: set that, or "
            "another lr_scheduler_type."
        )
    if args.lr_scheduler_kwargs:
        raise ValueError(
            f"lr_scheduler_kwargs is {args.lr_scheduler_kwargs}, but tri_stage, initial_share and final_share say what "
            "warmup_stable_decay does in fine-tuning: leave it out, or take another lr_scheduler_type."
        )


def shares_of_peak(args: SpeechTrainingArguments, max_steps: int) -> tuple[float, float]:
    """The highest and the last learning rate of a run of `max_steps` updates, as shares of the peak's.

    Of a schedule that follows what is measured in the run, which nobody knows beforehand, 1 and 1.
    """
    schedule = make_schedule(args, torch.optim.SGD([torch.zeros(1)], lr=1.0), max_steps)
    if not isinstance(schedule, LambdaLR):
        return 1.0, 1.0
    share = schedule.lr_lambdas[0]
    places = {*range(0, max_steps, math.ceil(max_steps / 100)), min(args.get_warmup_steps(max_steps), max_steps - 1)}
    last = share(max_steps - 1)
    return max(last, *map(share, places)), last


def keeps_rates(args: SpeechTrainingArguments, lengths: tuple[int, int], updates: int) -> bool:
    """Whether runs of two lengths have the same learning rates in their first updates and in the one that follows.

    Args:
        lengths: `max_steps` of the two runs.
        updates: How many updates have been done. The next one is compared too, since a checkpoint stores its learning
            rate.
    """
    schedules = [make_schedule(args, torch.optim.SGD([torch.zeros(1)], lr=1.0), length) for length in lengths]
    if not all(isinstance(schedule, LambdaLR) for schedule in schedules):
        return False  # it follows what was measured in the run
    ours, theirs = (schedule.lr_lambdas[0] for schedule in schedules)
    return all(ours(update) == theirs(update) for update in range(updates + 1))
