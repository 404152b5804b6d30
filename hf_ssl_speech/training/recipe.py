"""The settings that make a run: recorded in `run.json`, and compared when a run is to be continued."""

from __future__ import annotations

from typing import Any

from hf_ssl_speech.training.arguments import SpeechTrainingArguments

# Settings that decide which weights come out: they must agree for a run to be continued.
MUST_AGREE = (
    "max_steps",
    "num_train_epochs",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "optim",
    "optim_args",
    "optim_target_modules",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "min_seconds",
    "max_seconds",
    "crop_to_frames",
    "buffer_seconds",
    "weights",
    "mix_by",
    "noise",
    "seed",
    "data_seed",
    "tri_stage",
    "initial_share",
    "final_share",
    "head_learning_rate",
    "freeze_conv_encoder",
    "freeze_transformer_updates",
    "speeds",
    "calibrate_blank",
)
# Settings that follow from the devices, or only decide when to stop: recorded, free to change.
MAY_DIFFER = ("batch_seconds", "gradient_accumulation_steps", "bf16", "fp16", "early_stopping_patience")
RECIPE = (*MUST_AGREE, *MAY_DIFFER)


def settings_of(args: SpeechTrainingArguments, names: tuple[str, ...] = RECIPE) -> dict[str, Any]:
    """The settings with these names that `args` has, by name."""
    return {name: getattr(args, name) for name in names if hasattr(args, name)}
