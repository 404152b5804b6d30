"""Whether a folder's result can be kept: it must be complete, and made with the settings that are asked for."""

from __future__ import annotations

import os
from typing import Any

from hf_ssl_speech.records import read_record
from hf_ssl_speech.training.resume import differences


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
