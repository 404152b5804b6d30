"""Models kept at given hours of audio seen: folders of their own, which no rotation of checkpoints deletes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from hf_ssl_speech.records import RECORD_FILE, write_record
from hf_ssl_speech.training.record_keeper import RecordKeeper

if TYPE_CHECKING:
    from hf_ssl_speech.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)


class Milestones(TrainerCallback):
    """Saves the model, with its record, in `hours-N` once N hours of audio have been seen.

    Hours are counted over all ranks whenever a log is written, so a model is kept at the first log after its hours. The
    folder holds no optimizer: it is a start for other runs, not a checkpoint to resume.

    Args:
        trainer: The trainer of the run.
        hours: When to keep a model.
    """

    def __init__(self, trainer: SpeechTrainer, hours: list[float]):
        self.trainer = trainer
        self.folders = {each: Path(trainer.args.output_dir, f"hours-{each:g}") for each in sorted(hours)}
        self.kept: set[float] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        self.kept = {hours for hours, folder in self.folders.items() if (folder / RECORD_FILE).exists()}
        # No process looks again while another one writes: all go on from the same set.
        self.trainer.accelerator.wait_for_everyone()

    def on_log(self, args, state, control, logs=None, **kwargs):
        seen = (logs or {}).get("hours_seen", 0.0)
        for hours in [each for each in self.folders if each <= seen and each not in self.kept]:
            self.kept.add(hours)
            self.keep(self.folders[hours])

    def keep(self, folder: Path):
        """Saves a healthy model; its record comes last, and tells that it is whole."""
        trainer = self.trainer
        trainer.check_health()
        trainer.save_model(str(folder))
        if trainer.args.should_save:
            keepers = (each for each in trainer.callback_handler.callbacks if isinstance(each, RecordKeeper))
            record = next(keepers).record("running") | {"kept_update": trainer.state.global_step}
            write_record(record, folder)
            logger.info(f"The model after {record['hours_seen']:.1f} hours of audio is kept in {folder}")
