"""Which run an output folder holds, and whether this start may go on with it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.trainer_utils import get_last_checkpoint

from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.records import RECORD_FILE, Record, read_record
from hf_ssl_speech.training.arguments import SpeechTrainingArguments
from hf_ssl_speech.training.callbacks import AlreadyComplete, other_recipe
from hf_ssl_speech.training.checkpoints import damage, newest_whole
from hf_ssl_speech.training.recipe import MUST_AGREE, settings_of


def run_identity(
    config: SSLSpeechConfig, fingerprints: dict[str, str], args: SpeechTrainingArguments
) -> dict[str, Any]:
    """What must agree for a run to be continued: model, data and recipe; devices and logging may change."""
    ours = {field.name for field in fields(config)} - {field.name for field in fields(PreTrainedConfig)}
    architecture = {name: getattr(config, name) for name in sorted(ours)}
    recipe = settings_of(args, MUST_AGREE)
    recipe["seconds_per_update"] = round(args.batch_seconds * args.batches_per_update, 1)
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
    """The identity in a record; settings that its version did not compare yet are taken from elsewhere in the record.

    Where the record does not hold a setting at all, that of `ours` is taken: nothing is known against it.
    """
    theirs, recipe = record["identity"], ours.get("recipe", {})
    also_recorded = {name: value for name, value in record["recipe"].items() if name in recipe}
    return {**theirs, "recipe": {**recipe, **also_recorded, **theirs.get("recipe", {})}}


def check_origin(checkpoint: str, identity: dict[str, Any], args: SpeechTrainingArguments):
    """Raises a ValueError if a checkpoint is not of this run: the record beside it tells."""
    for folder in dict.fromkeys([Path(checkpoint).resolve().parent, Path(args.output_dir).resolve()]):
        record = read_record(folder)
        if record is None and folder == Path(checkpoint).resolve().parent:
            raise ValueError(
                f"No {RECORD_FILE} lies beside {checkpoint}, so nothing tells whether it is of this run: put that of "
                f"its run there. {other_recipe(checkpoint)}"
            )
        different = differences(recorded_identity(record, identity), identity) if record else []
        if different:
            raise ValueError(
                f"{checkpoint} cannot be resumed: {folder / RECORD_FILE} is of another run ({'; '.join(different)}). "
                f"{other_recipe(checkpoint)}"
            )


def find_checkpoint(identity: dict[str, Any], args: SpeechTrainingArguments) -> str | None:
    """The checkpoint to go on from, None for a new run.

    A folder that holds the beginning of this very run is continued from its newest whole checkpoint; give
    `resume_from_checkpoint` to name one.

    Raises:
        ValueError: If the output folder holds something else, another run (what differs is named) or this one,
            complete (AlreadyComplete); or if the checkpoint named is damaged or of another run.
    """
    record = read_record(args.output_dir)
    if args.resume_from_checkpoint:
        problem = damage(args.resume_from_checkpoint)
        if problem:
            raise ValueError(f"{args.resume_from_checkpoint} is no whole checkpoint: {problem}.")
        check_origin(args.resume_from_checkpoint, identity, args)
        return args.resume_from_checkpoint
    if record is None and get_last_checkpoint(args.output_dir) is None:
        return None
    if record is None or not record["identity"] or record["status"] is None:
        raise ValueError(f"{args.output_dir} holds something else than a training run: use another output_dir.")
    different = differences(recorded_identity(record, identity), identity)
    if different:
        raise ValueError(
            f"{Path(args.output_dir, RECORD_FILE)} is of another run ({'; '.join(different)}). Use another output_dir, "
            f"or delete that folder if you no longer need it. {other_recipe(get_last_checkpoint(args.output_dir))}"
        )
    if record["status"] == "complete":
        raise AlreadyComplete(
            f"The run in {args.output_dir} is complete ({record['updates']:,} updates). To train longer, start a new "
            f"one with a larger max_steps: --model_name_or_path {args.output_dir} --output_dir ANOTHER_FOLDER."
        )
    return newest_whole(args.output_dir)
