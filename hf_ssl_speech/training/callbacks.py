"""What happens beside the steps: schedules, counts, the progress line."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import ExportableState, TrainerState

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.collators import SpeechCollator

if TYPE_CHECKING:
    from hf_ssl_speech.training.trainer import SpeechTrainer


logger = logging.getLogger(__name__)

INTERVALS = ("logging_steps", "eval_steps", "save_steps")


def other_recipe(checkpoint: str | None) -> str:
    """A sentence on how to start a run with another recipe from a checkpoint's weights, or from none."""
    if checkpoint is None:
        return "There is no checkpoint to start from: start again in another output_dir."
    return (
        f"To go on from its weights with another recipe, start a new run: --model_name_or_path {checkpoint} "
        "--output_dir ANOTHER_FOLDER, with the settings that change."
    )


def only_weights(checkpoint: str) -> str:
    """Why a checkpoint without optimizer and schedule can't be resumed, and what to do instead."""
    return (
        f"{checkpoint} holds the weights without optimizer and schedule (save_only_model): no run can be "
        f"continued from it. {other_recipe(checkpoint)}"
    )


class Schedules(TrainerCallback):
    """Tells the model which update comes next, and the collator and sampler which epoch."""

    def __init__(self, collator: SpeechCollator):
        self.collator = collator

    def on_train_begin(self, args, state, control, **kwargs):
        # Going on, the state is that of the checkpoint, with the intervals of the earlier start.
        earlier = {name: getattr(state, name) for name in INTERVALS}
        state.compute_steps(args, state.max_steps)
        changed = [f"{name} is {getattr(state, name):,} (before: {earlier[name]:,})" for name in INTERVALS
                   if getattr(state, name) != earlier[name]]  # fmt: skip
        if state.global_step and changed:
            logger.info(f"From update {state.global_step:,} on, {', '.join(changed)}.")

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        epoch = int(state.epoch)
        self.collator.set_epoch(epoch)
        if train_dataloader.batch_sampler is not None:  # a stream counts its epochs itself
            train_dataloader.batch_sampler.set_epoch(epoch)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        model.set_update(state.global_step)


class Tally(TrainerCallback, ExportableState):
    """What has been counted so far, kept in every checkpoint: audio, rows left out, losses, and all since the last log.

    So a resumed run logs the same values as an uninterrupted one.

    Args:
        trainer: The trainer, which has collected the counts of all ranks when it saves.
    """

    def __init__(self, trainer: SpeechTrainer):
        self.trainer = trainer
        self.samples_seen = 0
        self.samples_of: Counter[str] = Counter()  # each part of the data
        self.earlier_loss_sum = 0.0  # of the updates before this start

    @property
    def hours_seen(self) -> float:
        """Hours of audio that all ranks have trained on, repeats included."""
        return self.samples_seen / SAMPLE_RATE / 3600

    @property
    def hours_of(self) -> dict[str, float]:
        """The same of each part of the data, as far as it has parts."""
        return {name: samples / SAMPLE_RATE / 3600 for name, samples in sorted(self.samples_of.items())}

    def state(self) -> dict:
        """What a checkpoint keeps."""
        trainer = self.trainer
        attributes = {"samples_seen": self.samples_seen, "skipped_rows": trainer.skipped_rows}
        attributes |= {"samples_of": dict(self.samples_of)} if self.samples_of else {}
        if trainer.loss_since_log is not None:
            attributes |= {
                "loss_sum": trainer.loss_sum,
                "loss_since_log": trainer.loss_since_log,
                "last_log": trainer._globalstep_last_logged,
                "window": {name: value.tolist() for name, value in trainer.window.items()},
                "window_samples": trainer.window_samples,
            }
        return {"args": {}, "attributes": attributes}

    def on_train_begin(self, args, state, control, **kwargs):
        saved, trainer = saved_attributes(self, state), self.trainer
        self.samples_seen = saved.get("samples_seen", self.samples_seen)
        self.samples_of.update(saved.get("samples_of", {}))
        trainer.skipped_rows.update(saved.get("skipped_rows", {}))
        if state.global_step and "loss_sum" in saved:
            self.earlier_loss_sum = saved["loss_sum"]
            trainer._tr_loss += saved["loss_since_log"]
            trainer._globalstep_last_logged = saved["last_log"]
            trainer.window = {name: as_sums(value) for name, value in saved["window"].items()}
            trainer.window_samples = saved["window_samples"]


class Patience(EarlyStoppingCallback):
    """Early stopping that remembers, across a resume, how many evaluations brought no improvement."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        for name, value in saved_attributes(self, state).items():
            setattr(self, name, value)

    @property
    def exhausted(self) -> bool:
        """Whether the run was stopped for good."""
        return self.early_stopping_patience_counter >= self.early_stopping_patience


def as_sums(values: Any) -> torch.Tensor:
    """Sums that were written to JSON, as the trainer holds them: in float64 or int64."""
    return torch.from_numpy(np.asarray(values))


def saved_attributes(callback: TrainerCallback, state: TrainerState) -> dict:
    """A callback's state in the checkpoint from which a run is resumed."""
    saved = state.stateful_callbacks.get(type(callback).__name__)
    return saved["attributes"] if isinstance(saved, dict) else {}


class ProgressLine(ProgressCallback):
    """The usual progress bar, with one short line per log of the most important values; the record has all."""

    SHOWN = ("loss", "accuracy", "chance", "wer", "cer", "infinite_losses")
    PARTS = ("contrastive_loss", "diversity_loss", "masked_loss", "unmasked_accuracy")  # of the loss, which is shown

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Writes the line above the bar."""
        if not state.is_world_process_zero or self.training_bar is None or "train_runtime" in logs:
            return
        kind = "eval  " if any(name.startswith("eval_") for name in logs) else "update"
        shown = {
            name.removeprefix("eval_"): value
            for name, value in logs.items()
            if name.endswith(self.SHOWN) and not name.endswith(self.PARTS)
        }
        line = f"{kind} {state.global_step:>7,} | " + "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        if "hours_seen" in logs:
            line += f" | {logs['hours_seen']:.2f} h seen, {logs['audio_seconds_per_second']:.0f} audio-s/s"
        self.training_bar.write(line)
