"""The run itself, whatever is trained: from a checkpoint or from the start to the saved model and its record."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback

from hf_ssl_speech.training.callbacks import UnhealthyRun
from hf_ssl_speech.training.record_keeper import RecordKeeper
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
    """
    trainer.add_callback(SaveModel(trainer))
    keeper = RecordKeeper(trainer, identity, facts, more)
    trainer.add_callback(keeper)
    if checkpoint:
        logger.info(f"Going on from {checkpoint}")
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except UnhealthyRun as cause:
        keeper.keep("failed", str(cause))
        raise
    logger.info(left_out(facts, trainer.skipped_rows))
    logger.info(f"The model, run.json and training.png are in {trainer.args.output_dir}")


def left_out(facts: dict[str, dict[str, Any]], skipped_rows: dict[str, str]) -> str:
    """The closing line on audio that could not be used: beforehand by the record's facts, and while training."""
    reports = {split: fact["skipped"] for split, fact in facts.items() if "skipped" in fact}
    counts = [f"{report['num_skipped']:,} of {report['total']:,} {split} rows" for split, report in reports.items()]
    while_training = "; ".join(f"{name} ({reason})" for name, reason in sorted(skipped_rows.items()))
    return f"Left out beforehand: {', '.join(counts) or 'not counted'}. While training: {while_training or 'none'}."


class SaveModel(TrainerCallback):
    """Saves the final model, before the record says that the run is complete."""

    def __init__(self, trainer: SpeechTrainer):
        self.trainer = trainer

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.save_model()
