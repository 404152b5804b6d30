"""The run itself, whatever is trained: from a checkpoint or from the start to the saved model and its record."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback

from hf_ssl_speech.training.callbacks import UnhealthyRun
from hf_ssl_speech.training.record_keeper import RecordKeeper
from hf_ssl_speech.training.stopping import Interrupted, LostProcess, RollCall, StopOnSignal
from hf_ssl_speech.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)


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
        UnhealthyRun: If going on would only spoil the run.
    """
    stop, roll_call = StopOnSignal(), RollCall(trainer.args.ddp_timeout)
    trainer.add_callback(roll_call)
    trainer.add_callback(stop)
    trainer.add_callback(SaveModel(trainer, stop))
    keeper = RecordKeeper(trainer, identity, facts, more)
    trainer.add_callback(keeper)
    if checkpoint:
        logger.info(f"Going on from {checkpoint}")
    try:
        with roll_call.naming_the_lost():
            trainer.train(resume_from_checkpoint=checkpoint)
    except (UnhealthyRun, LostProcess) as cause:
        keeper.keep("failed", str(cause))
        raise
    if stop.stopping:
        raise Interrupted(
            f"Stopped by SIGTERM after update {trainer.state.global_step:,}. A checkpoint is saved in "
            f"{trainer.args.output_dir}: started again with the same command, the run goes on."
        )
    logger.info(left_out(facts, trainer.skipped_rows))
    logger.info(f"The model, run.json and training.png are in {trainer.args.output_dir}")


def left_out(facts: dict[str, dict[str, Any]], skipped_rows: dict[str, str]) -> str:
    """The closing line on audio that could not be used: beforehand by the record's facts, and while training."""
    reports = {split: fact["skipped"] for split, fact in facts.items() if "skipped" in fact}
    counts = [f"{report['num_skipped']:,} of {report['total']:,} {split} rows" for split, report in reports.items()]
    while_training = "; ".join(f"{name} ({reason})" for name, reason in sorted(skipped_rows.items()))
    return f"Left out beforehand: {', '.join(counts) or 'not counted'}. While training: {while_training or 'none'}."


class SaveModel(TrainerCallback):
    """Saves the final model, before the record says that the run is complete; none of a run that is to go on."""

    def __init__(self, trainer: SpeechTrainer, stop: StopOnSignal):
        self.trainer = trainer
        self.stop = stop

    def on_train_end(self, args, state, control, **kwargs):
        if not self.stop.stopping:
            self.trainer.save_model()
