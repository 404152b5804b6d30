"""Keeps the record of a training up to date, and the picture of its curves."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from transformers import TrainerCallback

from hf_ssl_speech.records import Record, as_record, new_record, now, read_record, write_record
from hf_ssl_speech.training.recipe import settings_of
from hf_ssl_speech.training.resume import differences, recorded_identity

if TYPE_CHECKING:
    from hf_ssl_speech.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)

PICTURE_FILE = "training.png"
PICTURE_SECONDS = 60.0  # at least, between two pictures of a run that goes on: to draw one takes a second


class RecordKeeper(TrainerCallback):
    """Keeps `run.json` up to date at every evaluation, save and end, and `training.png` once a minute and at the end.

    Args:
        trainer: The trainer of the run.
        identity: What identifies the run (see `resume.run_identity`).
        data: Facts of each split: source, rows, hours, fingerprint, skipped rows.
        more: Further entries of the record.
    """

    def __init__(
        self,
        trainer: SpeechTrainer,
        identity: dict[str, Any],
        data: dict[str, Any],
        more: dict[str, Any] | None = None,
    ):
        self.trainer = trainer
        self.identity = identity
        self.data = data
        self.more = more or {}
        self.start = time.time()
        self.has_warned = False
        self.last_picture, self.points_drawn = -PICTURE_SECONDS, 0
        self.pen = threading.Lock()  # a watch that has lost a loader worker writes from a thread of its own
        previous = read_record(trainer.args.output_dir) or as_record({})
        if not previous["identity"] or differences(recorded_identity(previous, identity), identity):
            previous = as_record({})  # of another run, whose place this one takes
        self.earlier_seconds = previous["seconds"] or 0.0
        self.first_start = previous["started"] or now()

    def record(self, status: str) -> Record:
        """All that is known of the run now."""
        trainer, args, state = self.trainer, self.trainer.args, self.trainer.state
        hours = trainer.tally.hours_seen
        return new_record(
            status,
            self.identity,
            seconds=self.earlier_seconds + time.time() - self.start,
            device=args.device,
            processes=args.world_size,
            started=self.first_start,
            parameters=trainer.model.num_parameters(),
            data=self.data | {"train": self.data.get("train", {}) | self.corpora},
            recipe=settings_of(args) | self.used_by_optimizer,
            updates=state.global_step,
            kept_update=trainer.kept_update,
            hours_seen=hours,
            seconds_per_update=hours * 3600 / max(state.global_step, 1),
            skipped_while_training=trainer.skipped_rows,
            curves=state.log_history,
            **self.more,
        )

    @property
    def corpora(self) -> dict[str, Any]:
        """Of each part of the training data: rows, hours, share of an epoch, hours seen, how often it was repeated."""
        parts = self.trainer.parts.facts() if self.trainer.parts else {}
        for name, seen in self.trainer.tally.hours_of.items():
            part = parts.setdefault(name, {})
            part |= {"hours_seen": seen} | ({"repeats": seen / part["hours"]} if part else {})
        return {"corpora": parts} if parts else {}

    @property
    def used_by_optimizer(self) -> dict[str, Any]:
        """The optimizer's real settings: those of Adam, or the class of one that was given in Python."""
        trainer = self.trainer
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # inside Accelerate's
        if optimizer is None:
            return {}
        group = optimizer.param_groups[0]
        (beta1, beta2), epsilon = group.get("betas", (None, None)), group.get("eps")
        used = {"adam_beta1": beta1, "adam_beta2": beta2, "adam_epsilon": None if beta1 is None else epsilon}
        if type(optimizer) is not trainer.get_optimizer_cls_and_kwargs(trainer.args)[0]:
            used |= {"optim": type(optimizer).__name__, "learning_rate": group.get("initial_lr", group["lr"])}
        return used

    def keep(self, status: str, cause: str | None = None, missing: Sequence[int] = ()):
        """Writes record and picture, on the first process that is left.

        Where they can't be written, as on a full disk, that is no reason to lose a training: a warning tells it once,
        and the next record holds all that this one would have.

        Args:
            status: `running`, `complete`, `stopped` or `failed`.
            cause: Why the run failed.
            missing: Ranks of processes that are gone.
        """
        try:
            self.write(status, cause, missing)
        except OSError as error:
            if not self.has_warned:
                logger.warning(f"The run's record can't be written ({error}). The training goes on without it.")
            self.has_warned = True

    def write(self, status: str, cause: str | None = None, missing: Sequence[int] = ()):
        """`keep` where the record must be there.

        Raises:
            OSError: If record or picture can't be written.
        """
        args = self.trainer.args
        gone = set(missing) - {args.process_index}
        if args.process_index == min(set(range(args.world_size)) - gone):
            with self.pen:
                record = self.record(status) | ({"cause": cause} if cause else {})
                write_record(record, args.output_dir)
                self.draw(record)

    def draw(self, record: Record):
        """Draws the curves if there are new ones and, while the run goes on, the last picture is a minute old."""
        goes_on, now_drawn = record["status"] == "running", len(record["curves"])
        if now_drawn == self.points_drawn or (goes_on and time.monotonic() - self.last_picture < PICTURE_SECONDS):
            return
        draw_training(record, Path(self.trainer.args.output_dir, PICTURE_FILE))
        self.last_picture, self.points_drawn = time.monotonic(), now_drawn

    def on_train_begin(self, args, state, control, **kwargs):
        self.write("running")

    def on_save(self, args, state, control, **kwargs):
        self.keep("running")

    def on_evaluate(self, args, state, control, **kwargs):
        self.keep("running")

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.collect()
        self.write("complete" if self.trainer.is_complete else "stopped")


@contextmanager
def recorded(
    trainer: SpeechTrainer, identity: dict[str, Any], data: dict[str, Any], more: dict[str, Any]
) -> Iterator[None]:
    """Keeps a record of the training inside, unless the caller already does; arguments as for the class.

    An exception that ends the training is recorded as the cause.
    """
    if any(isinstance(callback, RecordKeeper) for callback in trainer.callback_handler.callbacks):
        yield
        return
    keeper = RecordKeeper(trainer, identity, data, more)
    trainer.add_callback(keeper)
    try:
        yield
    except Exception as cause:
        keeper.keep("failed", str(cause))
        raise
    finally:
        trainer.remove_callback(keeper)


PANELS = {
    "Error rate": ("wer", "cer"),
    "Loss": ("loss", "contrastive_loss", "masked_loss", "unmasked_loss"),
    "Accuracy": ("accuracy", "chance", "masked_accuracy", "unmasked_accuracy"),
    "Codebook entries in use (perplexity)": tuple(
        f"{kind}_perplexity_{group}" for kind in ("soft", "hard") for group in (1, 2)
    ),
    "Effective rank of the last layer": ("effective_rank",),
    "Gradient norm": ("grad_norm",),
    "Learning rate": ("learning_rate", "head_learning_rate"),
    "Audio seconds per second": ("audio_seconds_per_second",),
}


def panels_of(curves: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The panels of the picture, and the curves in each: from training, from evaluation, or both."""
    known = {name.removeprefix("eval_") for point in curves for name in point}
    panels = {title: [name for name in names if name in known] for title, names in PANELS.items()}
    return {title: names for title, names in panels.items() if names}


def draw_training(record: Record, path: str | os.PathLike):
    """Draws the curves of a record over updates: training thin, evaluation with dots."""
    curves = record["curves"]
    panels = panels_of(curves)
    if not panels:
        return
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(15, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, names) in zip(axes.flat, panels.items()):
        for color, name in enumerate(names):
            for key, style in ((name, "-"), (f"eval_{name}", "o-")):
                points = [(point["step"], point[key]) for point in curves if key in point]
                if points:
                    axis.plot(*zip(*points), style, color=f"C{color}", label=key, lw=1, markersize=4, alpha=0.9)
        axis.set(title=title, xlabel="update")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    model = record["identity"]["model_type"]
    figure.suptitle(
        f"{model}, {record['parameters'] / 1e6:.1f} M parameters: {record['updates']:,} updates, "
        f"{record['hours_seen']:.2f} hours of audio seen"
    )
    figure.savefig(path, dpi=100)
