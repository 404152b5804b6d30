"""The help of commands whose arguments are the fields of dataclasses, in groups, our own settings first."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from transformers.hf_argparser import string_to_bool

from hf_ssl_speech.commands.command_parser import program

PACKAGE = __name__.partition(".")[0]
# Settings of Trainer that most runs meet, in our words; `--help-all` shows the others.
OFTEN_SET = {
    "output_dir": "Folder of the run: the model, checkpoints, run.json and training.png.",
    "max_steps": "Number of optimizer updates in the run.",
    "learning_rate": "Peak learning rate of the run.",
    "lr_scheduler_type": "How the learning rate falls: linear, cosine, constant_with_warmup, warmup_stable_decay, ...",
    "warmup_steps": "Number of warm-up updates, or, below 1, their share of all updates.",
    "weight_decay": "Weight decay of AdamW; biases and norms have none.",
    "max_grad_norm": "Gradients with a larger norm are scaled down to this norm; 0: no clipping.",
    "seed": "Random seed for the initial weights, the order, the crops and the masks.",
    "gradient_accumulation_steps": "Batches per device in an update.",
    "gradient_checkpointing": "Compute activations twice, to save memory at the cost of time.",
    "torch_compile": "Compile the model with torch.compile.",
    "use_cpu": "Train on the CPU even if there is an accelerator.",
    "dataloader_num_workers": "Loader processes per device; 0: the training process loads the data.",
    "logging_steps": "Updates between two lines of the log.",
    "eval_strategy": "When validation data is evaluated: no, steps or epoch.",
    "eval_steps": "Updates between two evaluations (default: as many as logging_steps).",
    "save_steps": "Updates between two checkpoints.",
    "save_total_limit": "Number of checkpoints to keep.",
    "resume_from_checkpoint": "Checkpoint to continue from (default: the last one in output_dir).",
    "report_to": "Trackers of the run, such as tensorboard or trackio.",
}
HARDWARE = {
    "batch_seconds", "gradient_accumulation_steps", "gradient_checkpointing", "bf16", "use_cpu", "torch_compile",
    "dataloader_num_workers",
}  # fmt: skip
OUTPUT = {
    "output_dir", "resume_from_checkpoint", "preflight_only", "logging_steps", "eval_strategy", "eval_steps",
    "save_steps", "save_total_limit", "report_to", "examples_shown",
}  # fmt: skip
TRAINER = "transformers' Trainer"
TYPES = {float: "NUMBER", str: "TEXT", string_to_bool: "true|false"}


def help_text(
    kinds: Sequence[type],
    actions: Mapping[str, argparse.Action],
    about: str | None,
    launch: Mapping[str, tuple[str, str]],
    everything: bool = False,
) -> str:
    """What `--help` prints.

    Args:
        kinds: The dataclasses whose fields are the arguments.
        actions: The parser's action of each field, by the field's name.
        about: What the command does.
        launch: Options of the launcher: the placeholder of the value, and what it does.
        everything: Whether to include settings of Trainer that few runs need.
    """
    width = min(shutil.get_terminal_size().columns, 110)
    parts = [f"usage: {program()} [CONFIG] [--name value ...]", (about or "").strip()]
    parts.append(
        "CONFIG is a YAML file that holds any of these arguments, or the name of one that comes with the package\n"
        "(`hf-ssl-speech configs` lists them). Arguments on the command line override it."
    )
    texts = {field.name: help_of(kind, field.name) for kind in kinds for field in dataclasses.fields(kind)}
    for title, names in groups(kinds, everything).items():
        entries = [
            entry(f"--{name} {value_of(actions[name])}", describe(texts[name], actions[name]), width) for name in names
        ]
        parts.append("\n".join([f"{title}:", *entries]))
    if launch:
        entries = [entry(f"--{name} {value}", text, width) for name, (value, text) in launch.items()]
        parts.append("\n".join(["Several devices (Accelerate's launcher starts the processes):", *entries]))
    if not everything and any(settings_of_trainer(kind) for kind in kinds):
        parts.append("`--help-all` shows the remaining settings of transformers' Trainer too.")
    return "\n\n".join(filter(None, parts))


def groups(kinds: Sequence[type], everything: bool) -> dict[str, list[str]]:
    """The names of the arguments in the order of the help, by the title of their group."""
    found: dict[str, list[str]] = {}
    for kind in kinds:
        names = [field.name for field in dataclasses.fields(kind) if field.init]
        rare = settings_of_trainer(kind)
        shown = [name for name in OFTEN_SET if name in names] + [
            name for name in names if name not in {*OFTEN_SET, *rare}
        ]
        if not rare:
            found[title_of(kind)] = names
            continue
        found["Recipe"] = [name for name in shown if name not in HARDWARE | OUTPUT]
        found["Hardware"] = [name for name in shown if name in HARDWARE]
        found["Output, logs and checks"] = [name for name in shown if name in OUTPUT]
        if everything:
            found[TRAINER] = rare
    return found


def settings_of_trainer(kind: type) -> list[str]:
    """Fields of a class that come from transformers and that few runs set, and our fields without help."""
    foreign = [each for each in kind.__mro__ if each is not object and each.__module__.partition(".")[0] != PACKAGE]
    described = {
        name
        for each in kind.__mro__
        if each not in foreign and each is not object
        for name in inspect.get_annotations(each)
        if each.__dataclass_fields__[name].metadata.get("help")
    }
    if not foreign:
        return []
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    return [name for name in names if name not in {*described, *OFTEN_SET}]


def title_of(kind: type) -> str:
    """The first sentence of a class's docstring, as the title of its settings."""
    return inspect.getdoc(kind).partition("\n")[0].rstrip(".")


def help_of(kind: type, name: str) -> str:
    """What a setting does, as the nearest base class tells that has it; in our words if that is Trainer's."""
    for each in kind.__mro__:
        if name in inspect.get_annotations(each) and (text := each.__dataclass_fields__[name].metadata.get("help")):
            ours = each.__module__.partition(".")[0] == PACKAGE
            return text if ours else OFTEN_SET.get(name, text.replace("%%", "%"))
    return ""


def value_of(action: argparse.Action) -> str:
    """The placeholder of an argument's value."""
    if action.choices:
        value = "|".join(map(str, action.choices)) if len(action.choices) <= 4 else "NAME"
    else:
        value = action.metavar or TYPES.get(action.type, "VALUE")
    return f"{value} ..." if action.nargs == "+" else value


def describe(text: str, action: argparse.Action) -> str:
    """What an argument does, and its default."""
    text = " ".join(text.split())
    if action.required:
        return f"{text} (required)"
    default = written(action.default)
    return text if default is None or "(default" in text else f"{text} (default: {default})"


def written(value: Any) -> str | None:
    """A default as it is written on a command line; None where it is nothing."""
    if value is None or value == [] or value == "" or value == {}:
        return None
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else f"{value:g}" if isinstance(value, float) else str(value)


def entry(option: str, text: str, width: int, column: int = 32) -> str:
    """One argument: its name and value left, what it does right."""
    lines = textwrap.wrap(text, width - column) or [""]
    left = f"  {option}"
    if len(left) > column - 2:
        return "\n".join([left, *(" " * column + line for line in lines)])
    return "\n".join([f"{left:<{column}}{lines[0]}", *(" " * column + line for line in lines[1:])])
