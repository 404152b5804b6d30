"""Results in folders: kept if they are complete and made with the settings that are asked for, made otherwise."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hf_ssl_speech.records import Record, new_record, read_record, write_record
from hf_ssl_speech.training.resume import differences

logger = logging.getLogger(__name__)


def is_complete(folder: str | os.PathLike, identity: dict[str, Any]) -> bool:
    """Whether a result is complete.

    Args:
        folder: The result's folder. Its record, `run.json`, holds the settings that the result was made with.
        identity: All settings that decide the result.
    Raises:
        ValueError: If the folder holds a result, complete or not, made with other settings, which are named.
    """
    record = read_record(folder)
    if record is None:
        return False
    if not record["identity"]:
        raise ValueError(
            f"The record in {folder} does not say with which settings its result was made. Use another output_dir, or "
            "delete that folder."
        )
    different = differences(record["identity"], identity)
    if different:
        raise ValueError(
            f"The result in {folder} was made with other settings ({'; '.join(different)}). Use another output_dir, or "
            "delete that folder and everything made from it."
        )
    return record["status"] == "complete"


def run_stage(
    folder: Path, identity: dict[str, Any], device: torch.device, work: Callable[[Path], dict[str, Any]]
) -> Record:
    """The record of a stage, which is run first if it is not complete; all processes share the work.

    Args:
        folder: Of the stage; its name is what the log calls the stage.
        identity: All settings that decide the result.
        device: Where the work is done, for the record.
        work: Does it, and returns what the record tells of it.
    Raises:
        ValueError: If the folder holds a result made with other settings.
    """
    if is_complete(folder, identity):
        logger.info(f"{folder.name} is complete")
        return read_record(folder)
    started = time.perf_counter()
    found = work(folder)
    record = new_record(
        "complete",
        identity,
        seconds=time.perf_counter() - started,
        device=device,
        processes=PartialState().num_processes,
        **found,
    )
    if PartialState().is_main_process:
        write_record(record, folder)
    PartialState().wait_for_everyone()
    return record
