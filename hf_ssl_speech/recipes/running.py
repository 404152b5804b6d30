"""The run itself, for every kind of model: from a checkpoint or from the start to the saved model and its record."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from hf_ssl_speech.data.processes import failing_together
from hf_ssl_speech.models.pretraining import SSLSpeechForPreTraining
from hf_ssl_speech.training.arguments import SpeechTrainingArguments
from hf_ssl_speech.training.checks import (
    check_batches,
    check_disk,
    check_evaluations,
    check_masks,
    check_precision,
    check_rows,
    check_schedule,
    run_size,
)
from hf_ssl_speech.training.dry_step import check_memory
from hf_ssl_speech.training.findings import Finding, of_all_ranks, of_level, table
from hf_ssl_speech.training.full_batches import settle_batches
from hf_ssl_speech.training.lock import hold
from hf_ssl_speech.training.outcomes import AlreadyComplete, Interrupted, LostProcess, UnhealthyRun
from hf_ssl_speech.training.overfit import check_overfit
from hf_ssl_speech.training.paper_settings import published_seconds_per_update
from hf_ssl_speech.training.record_keeper import RecordKeeper
from hf_ssl_speech.training.resume import find_checkpoint
from hf_ssl_speech.training.stopping import RollCall, StopOnSignal
from hf_ssl_speech.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)


def take_folder(identity: dict[str, Any], args: SpeechTrainingArguments) -> tuple[str | None, Finding]:
    """The checkpoint from which this start continues (None for a new run), and a finding that says so.

    The output folder is this run's from now on; with `preflight_only` it is looked at, no more, and what
    `find_checkpoint` raises is told as a finding.
    """
    if args.preflight_only:
        return None, look_at_folder(identity, args)
    hold(args.output_dir)
    checkpoint = find_checkpoint(identity, args)
    return checkpoint, Finding("output folder", f"goes on from {checkpoint}" if checkpoint else "a new run")


def look_at_folder(identity: dict[str, Any], args: SpeechTrainingArguments) -> Finding:
    """What a start with these settings would find in the output folder."""
    if not Path(args.output_dir).exists() and not args.resume_from_checkpoint:
        return Finding("output folder", f"a new run in {args.output_dir}")
    try:
        checkpoint = find_checkpoint(identity, args)
    except AlreadyComplete as message:
        return Finding("output folder", str(message))
    except ValueError as error:
        return Finding("output folder", str(error), "error")
    return Finding("output folder", f"goes on from {checkpoint}" if checkpoint else f"a new run in {args.output_dir}")


def preflight(trainer: SpeechTrainer, record: dict[str, Any], findings: Sequence[Finding] = ()):
    """All checks before a run, on all processes; with `preflight_only` a table of them is printed.

    Args:
        trainer: The trainer of the run; it is not changed, but that its batches are settled.
        record: What is known of the run: `identity`, `data` (facts of each split) and `task`, as `run.json` has them.
        findings: What was found before.
    Raises:
        ValueError: If a check fails; all failures are named.
    """
    settle_batches(trainer)
    args, rows, model = trainer.args, trainer.train_dataset, trainer.model
    sampler, lengths = None, None
    with failing_together():
        if isinstance(rows, Dataset):
            sampler = trainer.training_sampler()
            lengths = sampler.lengths
        size = run_size(args, sampler)
        found = [
            *(check_rows(part, facts) for part, facts in record["data"].items()),
            *findings,
            check_masks(model.config, args, lengths, isinstance(model, SSLSpeechForPreTraining)),
            check_schedule(args, size.updates),
            check_evaluations(args, size.updates),
            check_batches(args, size, published_seconds_per_update(record)),
            check_precision(args),
            check_disk(model, args, size.updates),
        ]
    found = of_all_ranks(found)
    if not of_level(found, "error"):
        with failing_together():
            steps = [check_memory(trainer)]
            if args.preflight_only and record.get("task") == "ctc":
                steps.append(check_overfit(trainer))
        found += of_all_ranks(steps)
    tell(found, args)


def tell(findings: Sequence[Finding], args: SpeechTrainingArguments):
    """Prints all findings as a table if nothing else was asked for; else the warnings go to the log.

    Raises:
        ValueError: If a finding is an error; all errors are named.
    """
    if args.preflight_only and args.process_index == 0:
        print(table(findings))
    if not args.preflight_only:
        for finding in of_level(findings, "warning"):
            logger.warning(str(finding))
    errors = of_level(findings, "error")
    if errors:
        raise ValueError("\n".join(["The checks before the run found problems:", *map(str, errors)]))


def train_and_record(
    trainer: SpeechTrainer,
    checkpoint: str | None,
    identity: dict[str, Any],
    facts: dict[str, dict[str, Any]],
    more: dict[str, Any] | None = None,
):
    """Trains from a checkpoint or from the start, and saves model and record.

    Args:
        identity, facts, more: As `RecordKeeper` takes them; `facts` are those of the splits.
    Raises:
        Interrupted: If SIGTERM has stopped the run; a checkpoint is saved.
        LostProcess: If one of the run's processes died or does not answer.
        UnhealthyRun: If the run has gone wrong.

    Whatever ends the training, the record says so: `complete`, `stopped`, or `failed` with the cause.
    """
    keeper = RecordKeeper(trainer, identity, facts, more)
    stop, roll_call = StopOnSignal(), RollCall(trainer.args.ddp_timeout, partial(record_failure, keeper))
    for callback in (roll_call, stop, SaveModel(trainer, stop), keeper):
        trainer.add_callback(callback)
    if checkpoint:
        logger.info(f"Going on from {checkpoint}")
    try:
        with roll_call.naming_the_lost():
            trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        keeper.keep("stopped", "interrupted from the keyboard")
        raise
    except Exception as error:
        record_failure(keeper, error)
        raise
    if stop.stopping:
        raise Interrupted(
            f"Stopped by SIGTERM after update {trainer.state.global_step:,}. A checkpoint is saved in "
            f"{trainer.args.output_dir}: the same command continues the run."
        )
    logger.info(left_out(facts, trainer.skipped_rows))
    if keeper.corpora:
        logger.info(corpora_seen(keeper.corpora["corpora"]))
    logger.info(f"The model, run.json and training.png are in {trainer.args.output_dir}")


def record_failure(keeper: RecordKeeper, error: Exception):
    """Leaves in the record that the run failed, and why."""
    tells_all = isinstance(error, UnhealthyRun | LostProcess)
    cause = str(error) if tells_all else f"{type(error).__name__}: {error}"
    keeper.keep("failed", cause, getattr(error, "missing", ()))


def left_out(facts: dict[str, dict[str, Any]], skipped_rows: dict[str, str]) -> str:
    """The closing line about unusable audio: found before training (from the record), and while training."""
    reports = {split: fact["skipped"] for split, fact in facts.items() if "skipped" in fact}
    counts = [f"{report['num_skipped']:,} of {report['total']:,} {split} rows" for split, report in reports.items()]
    while_training = "; ".join(f"{name} ({reason})" for name, reason in sorted(skipped_rows.items()))
    return f"Left out beforehand: {', '.join(counts) or 'not counted'}. While training: {while_training or 'none'}."


def corpora_seen(corpora: dict[str, dict[str, float]]) -> str:
    """The closing line about the audio of each corpus."""
    told = [
        f"{name} {facts.get('hours_seen', 0):,.2f} hours"
        + (f" ({facts.get('repeats', 0):.2f} times all of it)" if "hours" in facts else "")
        for name, facts in corpora.items()
    ]
    return f"Audio seen: {'; '.join(told)}."


class SaveModel(TrainerCallback):
    """Saves the final model, before the record says that the run is complete; none of a run that is to go on."""

    def __init__(self, trainer: SpeechTrainer, stop: StopOnSignal):
        self.trainer = trainer
        self.stop = stop

    def on_train_end(self, args, state, control, **kwargs):
        if not self.stop.stopping:
            self.trainer.save_model()
