"""The settings of a run, with the papers' as defaults."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from hf_ssl_speech.data.mixture_settings import MIX_BY_HELP, WEIGHTS_HELP, as_settings, levels_of
from hf_ssl_speech.data.noise_settings import NoiseSettings
from hf_ssl_speech.file_names import expanded
from hf_ssl_speech.training.precision import decide_precision
from hf_ssl_speech.training.schedules import (
    check_schedule_settings,
    check_three_stages,
    decide_length,
    updates_of_share,
)
from hf_ssl_speech.training.trainer_settings import (
    refuse_compilation,
    refuse_optimizer,
    refuse_reports,
    refuse_settings,
    refuse_values,
)


@dataclass
class SpeechTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with batches counted in seconds.

    A device holds at most `batch_seconds` of (padded) audio at a time. Give `hours_per_update` to keep an update the
    same on any number of devices: gradient accumulation follows from it. Settings of transformers that would have no
    effect are refused by name (see `training/trainer_settings.py`).
    """

    batch_seconds: float = field(
        default=87.5,
        metadata={
            "help": "Largest batch of one device in seconds of audio, padding included; or auto: as much as fits into "
            "its memory, with hours_per_update, found before the run."
        },
    )
    hours_per_update: float | None = field(
        default=None,
        metadata={
            "help": "Audio per optimizer update over all devices, in hours. Sets gradient_accumulation_steps, and "
            "lowers batch_seconds so that the update comes out right."
        },
    )
    min_seconds: float = field(default=2.0, metadata={"help": "Shorter audio is skipped, named and counted."})
    max_seconds: float = field(
        default=15.6,
        metadata={
            "help": "Longer audio is cropped at a random place; recordings of more than 40 s and more than twice this "
            "are cut into pieces. Transcribed audio that is longer is skipped."
        },
    )
    buffer_seconds: float = field(
        default=3600.0, metadata={"help": "Streaming: seconds of audio in the buffer that is sorted and shuffled."}
    )

    weights: list[str] = field(default_factory=list, metadata={"help": WEIGHTS_HELP})
    mix_by: list[str] = field(default_factory=list, metadata={"help": MIX_BY_HELP})

    preflight_only: bool = field(
        default=False,
        metadata={
            "help": "Only check data, masks, recipe, disk, memory and, in fine-tuning, that a few rows can be "
            "overfitted; print the results, and end. Only caches are written; the exit code is 0 if the run can begin."
        },
    )
    bf16: bool | str = field(
        default=False,
        metadata={"help": "Compute in bfloat16, with float32 weights: true, false, or auto (if it is faster)."},
    )

    keep_failed_step: bool | None = field(
        default=None,
        metadata={
            "help": "Look at the gradient before every update; one that is not finite is kept in `failed-step`, for "
            "`hf-ssl-speech replay`. By default on a CPU: other devices would wait for the host."
        },
    )

    num_train_epochs: float = field(
        default=0.0,
        metadata={"help": "Length of the run in epochs, instead of max_steps; 0 to use max_steps."},
    )
    adam_beta2: float = 0.98
    max_grad_norm: float = 0.0
    logging_steps: float = 100
    logging_first_step: bool = True
    save_total_limit: int | None = 2
    dataloader_num_workers: int = 2
    dataloader_persistent_workers: bool = True
    remove_unused_columns: bool = False
    # A NaN must stop the run (HealthCheck), not vanish from the curve.
    logging_nan_inf_filter: bool = False

    fills_memory = False  # whether `batch_seconds` was `auto`, and is still to be found

    def __post_init__(self):
        if self.batch_seconds == "auto":
            if self.hours_per_update is None:
                raise ValueError("batch_seconds is 'auto': set hours_per_update too, which keeps an update the same.")
            self.fills_memory, self.batch_seconds = True, 3600 * self.hours_per_update
        refuse_settings(self)
        refuse_values(self)
        self.output_dir = self.output_dir and expanded(str(self.output_dir))
        self.weights, self.mix_by = as_settings(self.weights, self.mix_by)
        decide_length(self)
        decide_precision(self)
        super().__post_init__()
        check_schedule_settings(self)
        refuse_optimizer(self)
        refuse_compilation(self)
        refuse_reports(self)
        if self.max_seconds > self.batch_seconds:
            raise ValueError(
                f"max_seconds is {self.max_seconds:g} but a batch holds {self.batch_seconds:g} s: raise batch_seconds, "
                "or lower max_seconds."
            )
        if self.n_gpu > 1:
            raise ValueError(
                f"One process sees {self.n_gpu} GPUs. DataParallel, which Trainer would take, is slower and trains "
                f"another model: start one process for each GPU with `accelerate launch --num_processes {self.n_gpu} "
                "SCRIPT ...`, or show this one a single GPU with CUDA_VISIBLE_DEVICES=0."
            )
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} is above max_seconds {self.max_seconds:g}.")
        if self.hours_per_update is not None:
            if self.seconds_per_rank < self.max_seconds:
                raise ValueError(
                    f"{self.hours_per_update:g} hours per update leave {self.seconds_per_rank:.1f} s for each of "
                    f"{self.world_size} devices, less than one utterance of {self.max_seconds:g} s: use fewer devices, "
                    "more hours per update, or lower max_seconds."
                )
            self.share_out(self.batch_seconds)
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False

    @property
    def seconds_per_rank(self) -> float:
        """Audio of one device in an update, as `hours_per_update` says."""
        return 3600 * (self.hours_per_update or 0.0) / self.world_size

    def share_out(self, batch_seconds: float):
        """Makes `hours_per_update` of equal batches of at most so many seconds."""
        # Published hours are rounded: a thousandth too much shall not halve the batches.
        self.gradient_accumulation_steps = math.ceil(0.999 * self.seconds_per_rank / batch_seconds)
        self.batch_seconds = max(self.seconds_per_rank / self.gradient_accumulation_steps, self.max_seconds)

    @property
    def should_save(self) -> bool:
        """Whether this process writes to the disk."""
        return super().should_save and not self.preflight_only

    @property
    def batches_per_update(self) -> int:
        """Batches in one optimizer update: ranks times accumulation."""
        return self.world_size * self.gradient_accumulation_steps

    def updates_until_learning(self, max_steps: int) -> int:
        """Updates of a run of `max_steps` before all weights learn at the peak learning rate: the warm-up."""
        return self.get_warmup_steps(max_steps)

    @property
    def levels(self) -> list[str]:
        """The columns by which the training rows are mixed, from the outermost."""
        return levels_of(self.weights, self.mix_by)

    @property
    def order_seed(self) -> int:
        """What decides order, crops and masks: `data_seed` if there is one, else `seed`."""
        return self.seed if self.data_seed is None else self.data_seed


@dataclass
class SpeechPreTrainingArguments(SpeechTrainingArguments):
    """Settings of a pretraining run; the defaults are those of wav2vec 2.0 BASE (section 4.2)."""

    keep_hours: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Keep the model after so many hours of audio seen, as in `--keep_hours 5 20 100`: in `hours-5` and "
            "so on, beside the checkpoints, which save_total_limit does not count."
        },
    )

    crop_to_frames: int = field(
        default=0,
        metadata={
            "help": "Crop each utterance to a multiple of so many frames, as in `--crop_to_frames 16`, and fill each "
            "batch with utterances of one length: nothing is padded, and steps are faster. 0 to pad batches instead."
        },
    )
    noise: dict | str | None = field(
        default=None,
        metadata={
            "help": "Noise, other utterances, rooms and gain in what the model hears, as JSON: "
            '\'{"data": ["musan/noise"], "share": 0.2}\'. See docs/noise.md.'
        },
    )

    learning_rate: float = 5e-4
    max_steps: int = 400_000
    warmup_steps: float = 0.08  # 32,000 of 400,000
    weight_decay: float = 0.01
    adam_epsilon: float = 1e-6

    def __post_init__(self):
        if self.noise:
            given = fields_of(self.noise, "noise") if isinstance(self.noise, str) else self.noise
            self.noise = NoiseSettings.of(given).to_dict()
        if self.crop_to_frames < 0:
            raise ValueError(f"crop_to_frames is {self.crop_to_frames}: give a number of frames, or 0 to pad.")
        super().__post_init__()


@dataclass
class SpeechCTCTrainingArguments(SpeechTrainingArguments):
    """Settings of fine-tuning with CTC; the defaults are those of BASE with 100 hours of transcripts (section 4.3).

    With `lr_scheduler_type` `warmup_stable_decay` the learning rate has the paper's three stages, whose lengths are
    `tri_stage`: it rises, stays, and falls exponentially.
    """

    tri_stage: list[float] = field(
        default_factory=lambda: [0.1, 0.4, 0.5],
        metadata={
            "help": "Warm-up, hold and decay, as shares of max_steps that add up to at most 1, or as numbers of "
            "updates if one of them is above 1."
        },
    )
    initial_share: float = field(default=0.01, metadata={"help": "First learning rate, as a share of the peak."})
    final_share: float = field(default=0.05, metadata={"help": "Last learning rate, as a share of the peak."})
    head_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak learning rate of the CTC head, with the same schedule; by default learning_rate."},
    )
    freeze_conv_encoder: bool = field(default=True, metadata={"help": "Keep the conv encoder frozen."})
    freeze_transformer_updates: float = field(
        default=0,
        metadata={
            "help": "Number of updates in which only the new head is trained and the encoder is frozen, or, below 1, "
            "their share of all updates."
        },
    )
    speeds: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Play each utterance at one of these speeds, drawn anew in each epoch, as in `--speeds 0.9 1 1.1`; "
            "by default as it is."
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations in a row without an improvement."}
    )
    calibrate_blank: bool = field(
        default=False,
        metadata={
            "help": "Lower the blank's logit by what gives the fewest errors on validation_data: characters if "
            "metric_for_best_model is a CER, else words. Evaluations tell the errors at this cost and the cost "
            "(blank_cost), and the saved head has it in its bias. For few labels, after which blanks are too likely."
        },
    )
    examples_shown: int = field(default=3, metadata={"help": "Number of transcripts in the log after each evaluation."})

    batch_seconds: float = 200.0
    min_seconds: float = 0.1
    max_seconds: float = 36.0
    learning_rate: float = 3e-5
    max_steps: int = 80_000
    lr_scheduler_type: str = "warmup_stable_decay"
    adam_epsilon: float = 1e-8
    eval_strategy: str = "steps"
    eval_steps: float = 1000
    save_steps: float = 1000
    load_best_model_at_end: bool = True
    metric_for_best_model: str = "wer"
    greater_is_better: bool = False

    def __post_init__(self):
        check_three_stages(self)
        if any(not 0.5 <= speed <= 2 for speed in self.speeds):
            raise ValueError(f"speeds is {self.speeds}: give numbers from 0.5 to 2, where 1 is as it was said.")
        if self.freeze_transformer_updates % 1 == 0:  # a number of updates, and no share
            self.freeze_transformer_updates = int(self.freeze_transformer_updates)
        if self.eval_strategy == "no":  # nothing tells which model is the best: the last one is kept
            self.load_best_model_at_end, self.early_stopping_patience = False, None
            self.calibrate_blank = False
        super().__post_init__()

    @property
    def stages_are_shares(self) -> bool:
        """Whether `tri_stage` counts in shares of the run, and not in updates."""
        return max(self.tri_stage) <= 1

    def stages(self, max_steps: int) -> tuple[int, int, int]:
        """Updates of warm-up, hold and decay in a run of `max_steps` updates."""
        whole = max_steps if self.stages_are_shares else 1
        warmup, hold, decay = (int(stage * whole) for stage in self.tri_stage)
        return warmup, hold, decay

    def frozen_updates(self, max_steps: int) -> int:
        """Updates of a run of `max_steps` in which only the head is trained."""
        return updates_of_share(self.freeze_transformer_updates, max_steps)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Updates of the warm-up."""
        if self.lr_scheduler_type == "warmup_stable_decay":
            return self.stages(num_training_steps)[0]
        return super().get_warmup_steps(num_training_steps)

    def updates_until_learning(self, max_steps: int) -> int:
        """Updates before all weights learn at the peak learning rate: the warm-up, or those with a frozen encoder."""
        return max(super().updates_until_learning(max_steps), self.frozen_updates(max_steps))


def fields_of(text: str, setting: str = "config") -> dict[str, Any]:
    """The fields that a command line gives as JSON, of a model's config or another `setting`.

    Raises:
        ValueError: If it is not JSON, or not an object.
    """
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("not names with values")
    except ValueError as error:
        raise ValueError(
            f"{setting} is {text!r}, not a JSON object ({error}): write it like --{setting} '{{\"name\": 192}}'."
        ) from error
    return fields
