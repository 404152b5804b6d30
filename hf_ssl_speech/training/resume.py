"""Which run an output folder holds, and whether this start may go on with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import (
    SchedulerType,
    compare_trainer_and_checkpoint_args,
    get_last_checkpoint,
    sort_checkpoints,
)

from hf_ssl_speech.data.data_facts import STREAM
from hf_ssl_speech.files import read_json
from hf_ssl_speech.models.classes import config_class_of
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.records import RECORD_FILE, Record, read_record
from hf_ssl_speech.training.arguments import SpeechTrainingArguments
from hf_ssl_speech.training.callbacks import only_weights, other_recipe
from hf_ssl_speech.training.checkpoints import damage, holds_weights_alone, newest_whole
from hf_ssl_speech.training.outcomes import AlreadyComplete
from hf_ssl_speech.training.recipe import MUST_AGREE, settings_of
from hf_ssl_speech.training.schedules import keeps_rates

logger = logging.getLogger(__name__)


def run_identity(
    config: SSLSpeechConfig, fingerprints: dict[str, str], args: SpeechTrainingArguments
) -> dict[str, Any]:
    """What must agree for a run to be continued: model, data and recipe; devices and logging may change.

    Of a stream, the processes and their workers share out the rows, so their numbers must agree as well.
    """
    ours = {field.name for field in fields(config)} - {field.name for field in fields(PreTrainedConfig)}
    architecture = {name: getattr(config, name) for name in sorted(ours)}
    recipe = settings_of(args, MUST_AGREE)
    recipe["seconds_per_update"] = round(args.batch_seconds * args.batches_per_update, 1)
    if any(fingerprint.startswith(STREAM) for fingerprint in fingerprints.values() if isinstance(fingerprint, str)):
        recipe |= {"processes": args.world_size, "dataloader_num_workers": args.dataloader_num_workers}
    return {
        "model_type": config.model_type,
        "config": {name: list(value) if isinstance(value, tuple) else value for name, value in architecture.items()},
        "data": fingerprints,
        "recipe": recipe,
    }


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """In words, where a recorded identity and the one of this start disagree."""
    theirs, ours = flat(theirs), flat(json.loads(json.dumps(ours, default=str)))
    return [
        f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    entries: dict[str, Any] = {}
    for name, value in nested.items():
        entries |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return entries


def recorded_identity(record: Record, ours: dict[str, Any]) -> dict[str, Any]:
    """The identity in a record; settings that its version did not compare are taken from other parts of the record.

    A setting that is nowhere in the record is taken from `ours`, so that it counts as equal. Of what later versions
    brought, fields of the configuration and the calibration of blanks, the default was meant.
    """
    theirs, recipe = record["identity"], ours.get("recipe", {})
    also_recorded = {name: value for name, value in record["recipe"].items() if name in recipe}
    known = {"start": ours["start"], **theirs} if "start" in ours else theirs  # pretraining did not record it once
    later = {"calibrate_blank": False} if "calibrate_blank" in recipe else {}
    merged = {**recipe, **later, **also_recorded, **theirs.get("recipe", {})}
    if merged.get("max_steps", -1) > 0:  # where updates are counted, the number of epochs once stood there without use
        merged["num_train_epochs"] = recipe.get("num_train_epochs")
    config_class = config_class_of(ours.get("model_type", ""))
    defaults = {field.name: field.default for field in fields(config_class)} if config_class else {}
    new = {name: defaults[name] for name in ours.get("config", {}) if name in defaults}
    return {**known, "recipe": merged, "config": {**new, **theirs.get("config", {})}}


def disagreement(
    record: dict[str, Any], identity: dict[str, Any], args: SpeechTrainingArguments, checkpoint: str | None
) -> str:
    """In words, why a run with these settings can't be continued from a checkpoint; empty if it can.

    `max_steps` may be larger than recorded if the schedule leaves the learning rates of past updates the same: the run
    then ends as if it had been started with the larger number.

    Args:
        checkpoint: None if there is none that a longer run could go on from.
    """
    theirs = recorded_identity(record, identity)
    before, updates = recorded_length(record), updates_of(checkpoint) if checkpoint else 0
    is_longer = 0 < before < args.max_steps
    if is_longer and checkpoint and keeps_rates(args, (before, args.max_steps), updates):
        theirs["recipe"]["max_steps"] = args.max_steps
        is_longer = False
    different = "; ".join(differences(theirs, identity))
    if is_longer and checkpoint:
        schedule = SchedulerType(args.lr_scheduler_type).value
        different += (
            f". max_steps can be raised if the learning rates of past updates stay the same, but with "
            f"lr_scheduler_type={schedule} a run of {args.max_steps:,} updates has others in its first {updates:,} "
            f"than one of {before:,}"
        )
    elif is_longer:
        different += ". A longer run continues only from the newest whole checkpoint of its own folder"
    return different


def check_recipe(checkpoint: str | bool | None, identity: dict[str, Any], args: SpeechTrainingArguments):
    """Raises a ValueError if the record beside a checkpoint, if there is one, has another recipe.

    A checkpoint brings its optimizer and schedule, so other settings of these would be ignored.

    Args:
        checkpoint: As `Trainer.train` takes it: True stands for the last one in the output folder.
    """
    checkpoint = get_last_checkpoint(args.output_dir) if checkpoint is True else checkpoint
    record = read_record(Path(checkpoint).parent) if checkpoint else None
    if record and record["identity"].get("recipe"):
        theirs = {**record, "identity": {"recipe": record["identity"]["recipe"]}}
        different = disagreement(theirs, {"recipe": identity["recipe"]}, args, checkpoint)
        if different:
            raise ValueError(
                f"{checkpoint} cannot be resumed: it belongs to a run with another recipe ({different}). "
                f"{other_recipe(checkpoint)}"
            )


def recorded_length(record: dict[str, Any]) -> int:
    """The `max_steps` that a run was asked for; 0 where its record does not tell."""
    return record["identity"].get("recipe", {}).get("max_steps", 0)


def updates_of(checkpoint: str) -> int:
    """Updates that a whole checkpoint has behind it."""
    return read_json(Path(checkpoint, TRAINER_STATE_NAME), "the state of a training")["global_step"]


def check_origin(checkpoint: str, identity: dict[str, Any], args: SpeechTrainingArguments):
    """Raises a ValueError if a checkpoint is not of this run: the record beside it tells."""
    output = Path(args.output_dir).resolve()
    newest = [Path(each).resolve() for each in sort_checkpoints(args.output_dir)[-1:]]
    for folder in dict.fromkeys([Path(checkpoint).resolve().parent, output]):
        record = read_record(folder)
        if record is None and folder == Path(checkpoint).resolve().parent:
            raise ValueError(
                f"There is no {RECORD_FILE} beside {checkpoint}, so it is unknown whether it belongs to this run: put "
                f"its run's {RECORD_FILE} there. {other_recipe(checkpoint)}"
            )
        # Newer checkpoints beside it, of the shorter run, would pass for those of the longer one.
        is_newest = folder != output or newest in ([], [Path(checkpoint).resolve()])
        different = disagreement(record, identity, args, checkpoint if is_newest else None) if record else ""
        if different:
            raise ValueError(
                f"{checkpoint} cannot be resumed: {folder / RECORD_FILE} is of another run ({different}). "
                f"{other_recipe(checkpoint)}"
            )


def find_checkpoint(identity: dict[str, Any], args: SpeechTrainingArguments) -> str | None:
    """The checkpoint to go on from, None for a new run.

    If the folder holds the beginning of this run, or a complete shorter run that equals its beginning, the run is
    continued from the newest whole checkpoint; to name another one, give `resume_from_checkpoint`.

    Raises:
        ValueError: If the output folder holds something else, another run (what differs is named) or this one,
            complete (AlreadyComplete); if its checkpoints hold weights alone; or if the checkpoint named is damaged or
            of another run.
    """
    record = read_record(args.output_dir)
    if args.resume_from_checkpoint:
        problem = damage(args.resume_from_checkpoint)
        if problem:
            raise ValueError(f"{args.resume_from_checkpoint} is no whole checkpoint: {problem}.")
        if holds_weights_alone(args.resume_from_checkpoint):
            raise ValueError(only_weights(args.resume_from_checkpoint))
        check_origin(args.resume_from_checkpoint, identity, args)
        return args.resume_from_checkpoint
    if record is None and get_last_checkpoint(args.output_dir) is None:
        return None
    if record is None or not record["identity"] or record["status"] is None:
        raise ValueError(f"{args.output_dir} holds something else than a training run: use another output_dir.")
    checkpoint = newest_whole(args.output_dir, to_resume=True)
    different = disagreement(record, identity, args, checkpoint)
    if different:
        raise ValueError(
            f"{Path(args.output_dir, RECORD_FILE)} is of another run ({different}). Use another output_dir, "
            f"or delete that folder if you no longer need it. {other_recipe(get_last_checkpoint(args.output_dir))}"
        )
    if record["status"] == "complete" and not 0 < recorded_length(record) < args.max_steps:
        raise AlreadyComplete(
            f"The run in {args.output_dir} is complete ({record['updates']:,} updates). To train longer, raise "
            "max_steps, if the learning rates of past updates stay the same with this schedule, or start a new run: "
            f"--model_name_or_path {args.output_dir} --output_dir ANOTHER_FOLDER."
        )
    if checkpoint is None:
        checkpoints = sort_checkpoints(args.output_dir)
        weights = [each for each in checkpoints if holds_weights_alone(each) and not damage(each)]
        if weights:
            raise ValueError(only_weights(weights[-1]))
        if checkpoints:
            logger.warning("No checkpoint in %s is whole: the run begins anew.", args.output_dir)
    return checkpoint


@contextmanager
def without_stock_notice() -> Iterator[None]:
    """Keeps transformers from telling that intervals differ from the checkpoint's.

    It takes a share that was given both times for a change, and does not say which holds; `Schedules` tells both.
    """
    stock = logging.getLogger(compare_trainer_and_checkpoint_args.__module__)

    def is_another(record: logging.LogRecord) -> bool:
        return "do not match the ones in the `trainer_state.json`" not in record.getMessage()

    stock.addFilter(is_another)
    try:
        yield
    finally:
        stock.removeFilter(is_another)
