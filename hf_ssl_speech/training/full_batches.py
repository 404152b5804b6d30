"""`batch_seconds: auto`: batches as large as the memory allows, found by dry steps before the first update.

An update stays the same: it holds `hours_per_update` in fewer, larger batches. Which utterances meet in an update does
depend on their size, so a run keeps the size that it began with, on all processes and after every interruption.
"""

from __future__ import annotations

import copy
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from accelerate.utils import broadcast_object_list, gather_object

from hf_ssl_speech.data.processes import failing_together
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training.arguments import SpeechTrainingArguments
from hf_ssl_speech.training.checkpoints import newest_whole
from hf_ssl_speech.training.dry_step import MOST_MEMORY, dry_step, longest_rows, memory_of, ran_out_of_memory

if TYPE_CHECKING:
    from hf_ssl_speech.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)

# On a CPU larger batches are no faster: they would only take the memory of others.
MOST_SECONDS_ON_A_CPU = 100.0


def settle_batches(trainer: SpeechTrainer):
    """Puts a number in place of `auto`: that of an interrupted run, else the largest that fits on every process.

    Raises:
        ValueError: If the weights are split among processes only later, so that nothing can be measured.
    """
    if not trainer.args.fills_memory:
        return
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "batch_seconds is 'auto', but how much fits is not known before the weights are split among the processes: "
            "give batch_seconds as a number."
        )
    trainer.args = args = copy.copy(trainer.args)  # the caller's object is not changed
    args.fills_memory = False
    kept = [recorded_seconds(args)]
    broadcast_object_list(kept)  # of the main process, which writes the record
    if kept[0] is not None:
        args.share_out(kept[0])
        return
    with failing_together():
        batches = fewest_batches(trainer)
    args.share_out(args.seconds_per_rank / max(gather_object([batches])))
    logger.info(
        f"Batches of {args.batch_seconds:.1f} s fit into the memory; each process has "
        f"{args.gradient_accumulation_steps} of them in an update."
    )


def recorded_seconds(args: SpeechTrainingArguments) -> float | None:
    """The size of the batches in the run that goes on; None for a new run."""
    checkpoint = args.resume_from_checkpoint or newest_whole(args.output_dir, to_resume=True)
    record = read_record(Path(checkpoint).parent) if checkpoint else None
    return record["recipe"].get("batch_seconds") if record else None


def fewest_batches(trainer: SpeechTrainer) -> int:
    """The number of batches in an update of this process, as few and large as fit.

    Begins with the smallest, which hold one utterance, takes them twice as large until they do not fit, and then halves
    what lies between. Where not even the smallest fit, the check of the memory will tell.
    """
    args, device = trainer.args, trainer.args.device
    is_cpu, limit, base = device.type == "cpu", memory_limit(device), float(psutil.Process().memory_info().rss)
    whole, cap = args.seconds_per_rank, MOST_SECONDS_ON_A_CPU if is_cpu else math.inf
    most, used, held = max(1, int(whole // args.max_seconds)), 0.0, 0
    fits, fails, number = most + 1, max(0, math.ceil(whole / max(cap, args.max_seconds)) - 1), most
    while fits - fails > 1:
        args.share_out(whole / number)
        rows = longest_rows(trainer)
        # On a CPU, to try what is too much could end this process, or another one.
        expected = base + (used - base) * len(rows) / held if is_cpu and used else 0.0
        peak = math.inf if expected > limit else peak_of(trainer, rows)
        if peak > limit:
            fails = number
        else:
            fits, used, held = number, peak, len(rows)
        number = (fits + fails) // 2
    return min(fits, most)


def peak_of(trainer: SpeechTrainer, rows: list[dict[str, Any]]) -> float:
    """Bytes that a step on these rows takes; infinite if it runs out of memory, 0 if the system does not tell."""
    try:
        return dry_step(trainer, rows) or 0.0
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        return math.inf


def memory_limit(device: torch.device) -> float:
    """What a step may take, in bytes: nearly all of a GPU; of the machine, this process's share of what is free."""
    if device.type != "cpu":
        return MOST_MEMORY * memory_of(device)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return psutil.Process().memory_info().rss + MOST_MEMORY * psutil.virtual_memory().available / processes
