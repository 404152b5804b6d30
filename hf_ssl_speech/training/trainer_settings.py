"""The effect of each setting of transformers' TrainingArguments: it works, is decided here, or is refused.

`docs/training_arguments.md` shows these tables; a test fails when transformers brings a setting that is in none.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from accelerate.utils import DynamoBackend
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.training_args import OptimizerNames

from hf_ssl_speech.files import read_json
from hf_ssl_speech.markdown import table

_EVALUATION = "an evaluation adds up sums over batches and ranks and keeps no predictions"
_UPLOAD = "the card needs the finished run: use `push_to_hub(folder, repo_id)` or `examples/push_to_hub.py` afterwards"
_BATCHES = "batches are filled by duration: set `batch_seconds`"

# Values other than the default are an error, which gives the reason.
REFUSED = {
    "per_device_train_batch_size": _BATCHES,
    "per_device_eval_batch_size": _BATCHES,
    "auto_find_batch_size": f"{_BATCHES}; the checks before a run test whether it fits into memory",
    "train_sampling_strategy": "batches are made of rows of similar length, in random order",
    "length_column_name": "lengths are measured, in the column `num_samples`",
    "dataloader_drop_last": "every batch is used, and none is incomplete",
    "dataloader_in_order": "batches that come in another order could not be resumed exactly",
    "dataloader_multiprocessing_context": "the loader's workers are started as torch does",
    "remove_unused_columns": "the collators need the columns",
    "label_names": "the collators decide what the labels are called",
    "label_smoothing_factor": "the losses are those of the papers, without smoothing",
    "average_tokens_across_devices": "a loss is divided by all predictions of the update, on all devices",
    "neftune_noise_alpha": "there are no token embeddings to add noise to",
    "use_cache": "nothing is generated token by token",
    "use_liger_kernel": "Liger has no kernels for these models",
    "liger_kernel_config": "Liger has no kernels for these models",
    "bf16_full_eval": "evaluation computes as training does: set `bf16`",
    "fp16_full_eval": "evaluation computes as training does: set `fp16`",
    "prediction_loss_only": _EVALUATION,
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": _EVALUATION,
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "include_num_input_tokens_seen": "audio has no tokens: `hours_seen` is counted",
    "debug": "its hooks can't read masks; the health checks stop a run whose loss or weights are not finite",
    "do_predict": "a run trains and evaluates: call `predict` of the trainer afterwards",
    "parallelism_config": "each process trains on its own batches: models can be split by FSDP only",
    "enable_jit_checkpoint": "a checkpoint is saved at SIGTERM in any case",
    "restore_callback_states_from_checkpoint": "the state of the callbacks is always restored",
    "push_to_hub": _UPLOAD,
    "hub_token": _UPLOAD,
    "hub_private_repo": _UPLOAD,
    "hub_model_id": _UPLOAD,
    "hub_strategy": _UPLOAD,
    "hub_always_push": _UPLOAD,
    "hub_revision": _UPLOAD,
}

DECIDED = {
    "gradient_accumulation_steps": "follows from `hours_per_update` if that is given",
    "dataloader_persistent_workers": "off if there are no workers",
    "ddp_find_unused_parameters": "off: which weights rest in an update is known beforehand",
    "do_train": "a run always trains",
    "do_eval": "a run evaluates as `eval_strategy` says; refused if that is `no`",
    "local_rank": "set by the launcher",
}

WORKS = {
    "output_dir": "also a `Path`",
    "num_train_epochs": "instead of `max_steps`: both together are refused",
    "max_steps": "",
    "learning_rate": "",
    "lr_scheduler_type": "in fine-tuning, `warmup_stable_decay` has the paper's three stages",
    "lr_scheduler_kwargs": "",
    "warmup_steps": "a share below 1, 0.08 in pretraining; in fine-tuning with three stages, `tri_stage` sets it",
    "optim": "",
    "optim_args": "refused if the optimizer does not use them",
    "optim_target_modules": "refused with optimizers other than GaLore and APOLLO",
    "weight_decay": "",
    "adam_beta1": "",
    "adam_beta2": "0.98, as in the papers",
    "adam_epsilon": "",
    "max_grad_norm": "0, no clipping, as in the papers",
    "bf16": "also `auto`; if neither `bf16` nor `fp16` is set, the precision of Accelerate's launcher is used",
    "fp16": "",
    "tf32": "",
    "activation_checkpointing": "in newer versions of transformers",
    "activation_checkpointing_kwargs": "in newer versions of transformers; reentrant or not: the same gradients",
    "gradient_checkpointing": "",
    "gradient_checkpointing_kwargs": "reentrant or not: the same gradients",
    "torch_compile": "conv layers, transformer layers and heads each by themselves, in training only",
    "torch_compile_backend": "",
    "torch_compile_mode": "",
    "torch_empty_cache_steps": "",
    "logging_strategy": "",
    "logging_steps": "",
    "logging_first_step": "on",
    "log_on_each_node": "",
    "logging_nan_inf_filter": "off: a loss that is not finite must stop the run, not vanish from the curve",
    "log_level": "",
    "log_level_replica": "",
    "disable_tqdm": "",
    "report_to": "",
    "run_name": "",
    "project": "",
    "trackio_space_id": "",
    "trackio_bucket_id": "",
    "trackio_static_space_id": "",
    "eval_strategy": "with `no`, fine-tuning keeps the last model and never stops early",
    "eval_steps": "",
    "eval_delay": "",
    "eval_on_start": "",
    "save_only_model": "",
    "save_strategy": "",
    "save_steps": "",
    "save_on_each_node": "",
    "save_total_limit": "",
    "load_best_model_at_end": "",
    "metric_for_best_model": "with several validation sets, `eval_NAME_METRIC`",
    "greater_is_better": "",
    "ignore_data_skip": "",
    "full_determinism": "",
    "seed": "",
    "data_seed": "decides order, crops and masks",
    "use_cpu": "",
    "accelerator_config": "except for its settings of data loaders, which are refused",
    "dataloader_num_workers": "",
    "dataloader_pin_memory": "on a GPU",
    "dataloader_prefetch_factor": "",
    "ddp_bucket_cap_mb": "",
    "ddp_broadcast_buffers": "",
    "ddp_static_graph": "",
    "ddp_backend": "",
    "ddp_timeout": "also how long the run waits for a lost process",
    "fsdp": "",
    "fsdp_config": "",
    "deepspeed": 'passed to Accelerate; ZeRO stage 2 with `"auto"` on one process is tested (docs/clients.md)',
    "skip_memory_metrics": "",
    "resume_from_checkpoint": "",
}

AT_LEAST = {
    "learning_rate": 0, "weight_decay": 0, "max_grad_norm": 0, "gradient_accumulation_steps": 1, "save_total_limit": 1,
    "min_seconds": 0, "freeze_transformer_updates": 0, "early_stopping_patience": 1, "examples_shown": 0,
    "dataloader_num_workers": 0, "eval_delay": 0, "ddp_timeout": 1, "seed": 0, "data_seed": 0,
}  # fmt: skip
ABOVE_ZERO = (
    "batch_seconds", "max_seconds", "buffer_seconds", "hours_per_update", "head_learning_rate", "adam_epsilon",
    "save_steps", "eval_steps",
)  # fmt: skip

_TORCHS_ADAM = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)
_LOADER_SETTINGS = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler")


def default_of(field: dataclasses.Field):
    """The default of a dataclass's field."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _is_default(field: dataclasses.Field, value: Any) -> bool:
    default = default_of(field)
    empty = not value and not default  # a command line makes None of an empty text
    return value == default or empty or (default == "no" and value is False)  # and that of "no"


def refuse_settings(args: TrainingArguments):
    """Raises a ValueError if a setting is given that would have no effect; all such settings are named."""
    found = [
        f"{field.name}={getattr(args, field.name)!r} ({REFUSED[field.name]})"
        for field in dataclasses.fields(args)
        if field.name in REFUSED and not _is_default(field, getattr(args, field.name))
    ]
    if args.do_eval and args.eval_strategy == "no":
        found.append("do_eval=True without an eval_strategy (say when to evaluate)")
    if args.save_strategy == "best" and args.eval_strategy == "no":
        found.append("save_strategy='best' without an eval_strategy (nothing would be saved: say when to evaluate)")
    if args.optim_target_modules and not any(name in str(args.optim) for name in ("galore", "apollo")):
        found.append(f"optim_target_modules={args.optim_target_modules!r} (only GaLore and APOLLO read it)")
    given = _as_dict(args.accelerator_config)
    known = {field.name for field in dataclasses.fields(AcceleratorConfig)}
    found += [f"accelerator_config.{name} (Accelerate has no such setting)" for name in given if name not in known]
    if (given.get("gradient_accumulation_kwargs") or {}).get("num_steps", 1) != 1:
        found.append("accelerator_config.gradient_accumulation_kwargs.num_steps (set `gradient_accumulation_steps`)")
    found += [
        f"accelerator_config.{name}={given[name]!r} (the batches of the ranks are shared out by the sampler)"
        for name in _LOADER_SETTINGS
        if name in given and given[name] != getattr(AcceleratorConfig(), name)
    ]
    if found:
        raise ValueError(f"These settings of Trainer are not supported by this package: {'; '.join(found)}.")


def refuse_values(args: TrainingArguments):
    """Raises a ValueError if a number is too small to make sense; all such settings are named."""
    given = {name: getattr(args, name, None) for name in (*AT_LEAST, *ABOVE_ZERO)}
    given = {name: value for name, value in given.items() if value is not None}
    found = [
        f"{name} is {given[name]:g}: give {low} or more" for name, low in AT_LEAST.items() if given.get(name, low) < low
    ]
    found += [f"{name} is {given[name]:g}: give more than 0" for name in ABOVE_ZERO if given.get(name, 1) <= 0]
    if found:
        raise ValueError(f"{'; '.join(found)}.")


def refuse_optimizer(args: TrainingArguments):
    """Raises a ValueError if `optim_args` are given that the optimizer would pass over, which Trainer does in silence.

    Raises:
        ImportError: If the optimizer belongs to a package that is not installed.
    """
    if args.optim_target_modules or (args.optim in _TORCHS_ADAM and not args.optim_args):
        return
    from transformers import Trainer  # which only this has to wait for

    without = copy.copy(args)
    without.optim_args = None
    plain = Trainer.get_optimizer_cls_and_kwargs(without)  # asks for its package
    if not args.optim_args:
        return
    try:
        is_unread = Trainer.get_optimizer_cls_and_kwargs(args) == plain
    except ValueError as error:
        raise ValueError(f"optim_args is {args.optim_args!r}: write it as name=value,name=value ({error}).") from error
    if is_unread:
        raise ValueError(
            f"optim_args is {args.optim_args!r}, which the optimizer {OptimizerNames(args.optim).value} does not read: "
            "leave it out, or use another optim."
        )


def refuse_metric(args: TrainingArguments, metrics: Sequence[str], evaluated: Any = None):
    """Raises a ValueError if no evaluation tells the metric that says which model is the best.

    Args:
        metrics: What every evaluation of the model tells, by name.
        evaluated: The validation set, or several by name.
    """
    asked, names = args.metric_for_best_model, list(evaluated) if isinstance(evaluated, dict) else []
    if asked is None or args.eval_strategy == "no":
        return
    known = [f"{name}_{metric}" for name in names for metric in metrics] if names else metrics
    if asked.removeprefix("eval_") not in known:
        expected = f"take one of {', '.join(metrics)}"
        if names:
            expected = (
                f"say of which of the validation sets {', '.join(names)} it is, as in eval_{names[0]}_{metrics[0]}"
            )
        raise ValueError(f"metric_for_best_model is {asked!r}, which no evaluation here tells: {expected}.")


def refuse_compilation(args: TrainingArguments):
    """Raises a ValueError if there is no such backend of compilation, or no such mode."""
    if not args.torch_compile:
        return
    from torch._inductor import list_mode_options  # a second that only this has to wait for

    known = {
        "torch_compile_backend": [backend.value.lower() for backend in DynamoBackend],
        "torch_compile_mode": list(list_mode_options()),
    }
    for name, values in known.items():
        asked = getattr(args, name)
        if asked is not None and asked.lower() not in values:
            raise ValueError(f"{name} is {asked!r}: take one of {', '.join(values)}.")


def refuse_reports(args: TrainingArguments):
    """Raises a ValueError if logs are to go to something that is unknown, or not installed."""
    if not args.report_to:
        return
    from transformers import integrations  # which only this has to wait for

    integrations.get_reporting_integration_callbacks(args.report_to)  # refuses what is unknown
    there = integrations.get_available_reporting_integrations()
    missing = [name for name in args.report_to if name not in there and name != "flyte"]  # of which nothing is told
    if missing:
        raise ValueError(
            f"report_to is {', '.join(args.report_to)}, but {', '.join(missing)} can't be used here: install the "
            f"package, or take one of {', '.join(there) or 'those that can'}; `none` leaves it at the run's record."
        )


def refuse_arguments(arguments: dict[str, Any]):
    """Raises a ValueError if an argument of Trainer's constructor is given that would not work; all are named."""
    way_out = "extend `evaluation_step`, `metrics` and `own_metrics`"
    reasons = {
        "compute_metrics": f"metrics are sums over all batches and ranks: {way_out}",
        "preprocess_logits_for_metrics": f"no logits are kept: {way_out}",
        "compute_loss_func": "the loss is the model's own: extend its `forward`",
        "model_init": "each model needs its own run: make a trainer for it, with its own `output_dir`",
    }
    given = [f"{name} ({reason})" for name, reason in reasons.items() if arguments.get(name) is not None]
    if given:
        raise ValueError(f"The trainers of this package do not take {'; '.join(given)}.")


def _as_dict(config: Any) -> dict[str, Any]:
    """Accelerate's settings, given as a dict, JSON, a JSON file, an object or None."""
    if isinstance(config, str):
        return json.loads(config) if config.lstrip().startswith("{") else read_json(config, "Accelerate's settings")
    return config if isinstance(config, dict) else vars(config) if config else {}


def settings_table() -> str:
    """All settings and their effects, as a Markdown table in the order of transformers."""
    rows = []
    for field in dataclasses.fields(TrainingArguments):
        name = field.name
        for kind, entries in (("works", WORKS), ("decided by this package", DECIDED), ("refused", REFUSED)):
            if name in entries:
                rows.append([f"`{name}`", kind, entries[name]])
    return table(["setting", "", ""], rows)
