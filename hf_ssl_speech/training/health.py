"""The health of a run: a run that has gone wrong is stopped before it wastes time; suspicious signs are warned of.

Every rule reads the logs, which are kept in checkpoints, so that a resumed run is judged like an uninterrupted one. A
sign that may disappear (a model that still predicts only blanks, or one unit for all frames) must last: it must be in
every log or evaluation during `GRACE` of the run's updates, counted from when the warm-up is over and all weights
learn. After half of that time there is a warning.

Thresholds, in one place:

- `GRACE`: the share of all updates that such a sign must last; at least `FEWEST_UPDATES`, so that short trials are not
  judged, and `FEWEST_LOGS` logs or evaluations.
- `COLLAPSED_LOGS`: wav2vec 2.0: this many logs in a row with fewer than `FEWEST_IN_USE` codebook entries in use.
- `FEWEST_IN_USE`: HuBERT: a lower perplexity of the predictions means one unit for all frames.
- `ALL_BLANK`: CTC: if the blank is most likely in a larger share of the frames, the model predicts only blanks.
- `WRONG`: CTC: above this character error rate, transcripts that never change are a bad sign.
- `PLATEAU_FALL`, `PLATEAU_LOSS`: CTC: the loss is on a plateau if, over `GRACE` of the run, its mean fell by less than
  `PLATEAU_FALL` from the first half to the second, and the loss per token is above `PLATEAU_LOSS` times that of uniform
  guessing. A loss that has converged is far below that. A plateau only causes a warning.
- `SKIPS`: with fp16, this many logs in a row whose gradient norm is not finite.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from hf_ssl_speech.training.arguments import SpeechTrainingArguments
from hf_ssl_speech.training.callbacks import other_recipe
from hf_ssl_speech.training.outcomes import UnhealthyRun

logger = logging.getLogger(__name__)

GRACE = 0.2
FEWEST_UPDATES = 100
FEWEST_LOGS = 3
COLLAPSED_LOGS = 5
FEWEST_IN_USE = 2
ALL_BLANK = 0.999
WRONG = 0.5
PLATEAU_FALL = 0.02
PLATEAU_LOSS = 0.5
SKIPS = 20

NUMBERS = ("loss", "grad_norm")


@dataclass(frozen=True)
class Sign:
    """A sign that, if it lasts, the model learns nothing.

    Attributes:
        what: The problem, as a clause.
        is_seen: Whether a log shows it; None if the log has no such value.
        way_out: What to do, as a sentence.
    """

    what: str
    is_seen: Callable[[dict[str, Any]], bool | None]
    way_out: str


def _compare(name: str, is_bad: Callable[[float], bool]) -> Callable[[dict[str, Any]], bool | None]:
    return lambda log: is_bad(log[name]) if name in log else None


def _predicts_one_unit(log: dict[str, Any]) -> bool | None:
    used = [value for name, value in log.items() if name.startswith("unit_perplexity")]
    return min(used) < FEWEST_IN_USE if used else None


def _is_wrong_and_unchanged(log: dict[str, Any]) -> bool | None:
    return log["eval_changed"] == 0 and log["eval_cer"] > WRONG if "eval_changed" in log else None


SIGNS = (
    Sign(
        "one unit is predicted for all hidden frames",
        _predicts_one_unit,
        "Lower learning_rate or lengthen the warm-up, and look at the units: if there are few, or if they depend on "
        "loudness and channel, one unit may be the best guess everywhere.",
    ),
    Sign(
        "the model predicts only blanks",
        _compare("blank_share", lambda share: share >= ALL_BLANK),
        "Check that the transcripts belong to the audio, start from a pretrained encoder, raise learning_rate or "
        "max_steps, or lower mask_time_prob.",
    ),
    Sign(
        "the evaluation predicts the same text for all rows",
        _compare("eval_variety", lambda variety: variety == 0),
        "Check that the transcripts belong to the audio and that the audio is speech, and start from a pretrained "
        "encoder.",
    ),
    Sign(
        "no predicted transcript of the evaluation changes any more although most are wrong",
        _is_wrong_and_unchanged,
        "Raise learning_rate, and check that not too many weights are frozen.",
    ),
)


class HealthCheck(TrainerCallback):
    """Stops a run that diverges, collapses or learns nothing, before it overwrites the last good checkpoint.

    With fp16 a gradient norm that is not finite is an update that the loss scaler skips, halving its scale: normal at
    the start and occasionally later. The scale falls from 65,536 to 1 in 16 halvings, so only `SKIPS` such logs in a
    row mean that the model itself overflows.
    """

    def __init__(self):
        self.collapsed_logs = 0
        self.skipped_logs = 0
        self.warned: set[str] = set()

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        """Raises UnhealthyRun, with the cause and what to do."""
        self.check_numbers(args, state, logs)
        self.check_codebook(args, state, logs)
        for sign in SIGNS:
            self.check_sign(sign, args, state)
        if "blank_share" in logs:
            self.check_plateau(args, state, PLATEAU_LOSS * math.log(model.config.vocab_size))

    def check_numbers(self, args: SpeechTrainingArguments, state: TrainerState, logs: dict[str, Any]):
        """Stops a run whose loss, in training or in evaluation, or gradient is not finite."""
        finite = {name: math.isfinite(value) for name, value in logs.items() if name in NUMBERS or is_eval_loss(name)}
        if args.fp16 and "grad_norm" in finite:
            self.skipped_logs = 0 if finite["grad_norm"] else self.skipped_logs + 1
            finite["grad_norm"] = self.skipped_logs < SKIPS
        for name in finite:
            if not finite[name]:
                raise unhealthy(
                    args,
                    f"{name} is {logs[name]} at update {state.global_step}: the run diverged. A lower learning_rate, a "
                    "longer warm-up or gradient clipping (max_grad_norm) helps.",
                )

    def check_codebook(self, args: SpeechTrainingArguments, state: TrainerState, logs: dict[str, Any]):
        """Stops a run in which a group of the codebook has collapsed."""
        perplexities = [value for name, value in logs.items() if name.startswith("hard_perplexity")]
        if perplexities:
            self.collapsed_logs = self.collapsed_logs + 1 if min(perplexities) < FEWEST_IN_USE else 0
        if self.collapsed_logs >= COLLAPSED_LOGS:
            raise unhealthy(
                args,
                f"A codebook group used fewer than two entries in the last {COLLAPSED_LOGS} logs up to update "
                f"{state.global_step}: the codebook collapsed. Raise diversity_loss_weight or lower learning_rate.",
            )

    def check_sign(self, sign: Sign, args: SpeechTrainingArguments, state: TrainerState):
        """Stops a run in which a sign has lasted, and warns after half of that time."""
        patience = updates_of_grace(state)
        seen = [(log["step"], sign.is_seen(log)) for log in learning_logs(args, state)]
        seen = [(step, is_seen) for step, is_seen in seen if is_seen is not None]
        for time, act in ((patience, self.stop), (patience / 2, self.warn)):
            recent = [is_seen for step, is_seen in seen if step > state.global_step - time]
            recent = recent if len(recent) >= FEWEST_LOGS else [is_seen for _, is_seen in seen[-FEWEST_LOGS:]]
            past = state.global_step - args.updates_until_learning(state.max_steps)
            if past >= time and len(recent) >= FEWEST_LOGS and all(recent):
                return act(sign, args, state, past)

    def stop(self, sign: Sign, args: SpeechTrainingArguments, state: TrainerState, past: int):
        """Raises UnhealthyRun because of a sign."""
        raise unhealthy(
            args,
            f"At update {state.global_step}, {past:,} updates after all weights began to learn at the full rate, "
            f"{sign.what}, as for the last {updates_of_grace(state):,} updates. {sign.way_out}",
        )

    def warn(self, sign: Sign, args: SpeechTrainingArguments, state: TrainerState, past: int):
        """Tells of a sign, once."""
        if sign.what not in self.warned:
            self.warned.add(sign.what)
            logger.warning(f"At update {state.global_step} {sign.what}. If that lasts, the run stops. {sign.way_out}")

    def check_plateau(self, args: SpeechTrainingArguments, state: TrainerState, high: float):
        """Warns, once, of a loss that does not fall although it is above `high`, per token."""
        time = updates_of_grace(state)
        logs = [log for log in learning_logs(args, state) if "loss" in log and log["step"] > state.global_step - time]
        enough = state.global_step - args.updates_until_learning(state.max_steps) >= time
        if not enough or len(logs) < 2 * FEWEST_LOGS or "plateau" in self.warned:
            return
        losses = np.array([log["loss"] for log in logs])
        earlier, later = losses[: len(losses) // 2].mean(), losses[len(losses) // 2 :].mean()
        if later > high and later > (1 - PLATEAU_FALL) * earlier:
            self.warned.add("plateau")
            logger.warning(
                f"The loss stands at {later:.2f} for each token: over the last {time:,} updates up to "
                f"{state.global_step} it fell by less than {PLATEAU_FALL:.0%}, and little of the transcripts is learnt "
                "yet. Raise learning_rate or max_steps, or start from a better encoder."
            )


def is_eval_loss(name: str) -> bool:
    """Whether a logged value is the loss of an evaluation, of whichever validation set."""
    return name.startswith("eval_") and name.endswith("loss")


def updates_of_grace(state: TrainerState) -> int:
    """Updates for which a sign must last."""
    return max(math.ceil(GRACE * state.max_steps), FEWEST_UPDATES)


def learning_logs(args: SpeechTrainingArguments, state: TrainerState) -> list[dict[str, Any]]:
    """The logs since all weights began to learn at the peak learning rate."""
    start = args.updates_until_learning(state.max_steps)
    return [log for log in state.log_history if log["step"] > start]


def unhealthy(args: SpeechTrainingArguments, cause: str) -> UnhealthyRun:
    """The error that stops a run; it names the checkpoint to continue from."""
    return UnhealthyRun(f"{cause} {other_recipe(get_last_checkpoint(args.output_dir))}")
