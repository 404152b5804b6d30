"""What happens beside the steps: schedules, counts, health."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.collators import SpeechCollator

if TYPE_CHECKING:
    from hf_ssl_speech.training.trainer import SpeechTrainer


class UnhealthyRun(RuntimeError):
    """A run was stopped because going on would only spoil it. The message names the cause and the way out."""


class AlreadyComplete(ValueError):
    """What was asked for is there already, finished with the same settings: nothing is left to do."""


def other_recipe(checkpoint: str | None) -> str:
    """How to go on from a checkpoint's weights with another recipe, in a sentence; of None, how to start again."""
    if checkpoint is None:
        return "There is no checkpoint to start from: begin anew in another output_dir."
    return (
        f"To go on from its weights with another recipe, start a new run: --model_name_or_path {checkpoint} "
        "--output_dir ANOTHER_FOLDER, with the settings that change."
    )


class Schedules(TrainerCallback):
    """Tells the model which update comes next, and the collator and sampler which epoch."""

    def __init__(self, collator: SpeechCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        epoch = int(state.epoch)
        self.collator.set_epoch(epoch)
        if train_dataloader.batch_sampler is not None:  # a stream counts its epochs itself
            train_dataloader.batch_sampler.set_epoch(epoch)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        model.set_update(state.global_step)


class Tally(TrainerCallback, ExportableState):
    """What has been counted so far, kept in every checkpoint: audio seen, losses, and all since the last log.

    So a run that goes on logs what it would have logged without the interruption.

    Args:
        trainer: Who counts; it has collected from all ranks when it saves.
    """

    def __init__(self, trainer: SpeechTrainer):
        self.trainer = trainer
        self.samples_seen = 0
        self.earlier_loss_sum = 0.0  # of the updates before this start

    @property
    def hours_seen(self) -> float:
        """Hours of audio that all ranks have trained on, repeats included."""
        return self.samples_seen / SAMPLE_RATE / 3600

    def state(self) -> dict:
        """What a checkpoint keeps."""
        trainer = self.trainer
        attributes = {"samples_seen": self.samples_seen}
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
        if state.global_step and "loss_sum" in saved:
            self.earlier_loss_sum = saved["loss_sum"]
            trainer._tr_loss += saved["loss_since_log"]
            trainer._globalstep_last_logged = saved["last_log"]
            trainer.window = {name: as_sums(value) for name, value in saved["window"].items()}
            trainer.window_samples = saved["window_samples"]


class Patience(EarlyStoppingCallback):
    """Early stopping that remembers, across a resume, how many evaluations brought nothing better."""

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
    """What the checkpoint that a run goes on from kept of a callback."""
    saved = state.stateful_callbacks.get(type(callback).__name__)
    return saved["attributes"] if isinstance(saved, dict) else {}


class HealthCheck(TrainerCallback):
    """Stops a run that diverges or whose codebook collapses, before it overwrites the last good checkpoint.

    With fp16 a gradient norm that is not finite is an update that the loss scaler skips, halving its scale: normal at
    the start and now and then later. From its first scale, 65,536, it gets to 1 in 16 halvings, so only `skips` such
    logs in a row mean that the model itself overflows.

    Args:
        patience: A codebook group counts as collapsed after so many logs in a row with under two entries in use.
        skips: With fp16, the run counts as diverged after so many logs in a row whose gradient norm is not finite.
    """

    def __init__(self, patience: int = 5, skips: int = 20):
        self.patience = patience
        self.skips = skips
        self.collapsed_logs = 0
        self.skipped_logs = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Raises UnhealthyRun, with the cause."""
        finite = {name: math.isfinite(logs[name]) for name in ("loss", "grad_norm") if name in logs}
        if args.fp16 and "grad_norm" in finite:
            self.skipped_logs = 0 if finite["grad_norm"] else self.skipped_logs + 1
            finite["grad_norm"] = self.skipped_logs < self.skips
        for name in finite:
            if not finite[name]:
                raise UnhealthyRun(
                    f"{name} is {logs[name]} at update {state.global_step}: the run diverged. A lower learning_rate, a "
                    "longer warm-up or a max_grad_norm keeps it from that. "
                    f"{other_recipe(get_last_checkpoint(args.output_dir))}"
                )
        perplexities = [value for name, value in logs.items() if name.startswith("hard_perplexity")]
        if perplexities:
            self.collapsed_logs = self.collapsed_logs + 1 if min(perplexities) < 2 else 0
        if self.collapsed_logs >= self.patience:
            raise UnhealthyRun(
                f"A codebook group used fewer than two entries in the last {self.patience} logs up to update "
                f"{state.global_step}: the codebook collapsed. Raise diversity_loss_weight or lower learning_rate."
            )


class ProgressLine(ProgressCallback):
    """The usual progress bar, with one short line per log instead of a dictionary."""

    HIDDEN = ("epoch", "learning_rate", "total_flos", "hours_seen", "audio_seconds_per_second", "masked_share")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Writes the line above the bar."""
        if not state.is_world_process_zero or self.training_bar is None or "train_runtime" in logs:
            return
        kind = "eval  " if any(name.startswith("eval_") for name in logs) else "update"
        shown = {
            name.removeprefix("eval_"): value
            for name, value in logs.items()
            if name not in self.HIDDEN and not name.endswith(("_runtime", "_per_second", "eval_masked_share"))
        }
        line = f"{kind} {state.global_step:>7,} | " + "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        if "hours_seen" in logs:
            line += f" | {logs['hours_seen']:.2f} h seen, {logs['audio_seconds_per_second']:.0f} audio-s/s"
        self.training_bar.write(line)
