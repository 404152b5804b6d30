"""Which splits a source of speech has."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from pathlib import Path

from datasets import get_dataset_split_names, load_dataset_builder, load_from_disk
from huggingface_hub.errors import HFValidationError

from hf_ssl_speech.data.sources import AUDIO_SUFFIXES, _each_source

FOLDER_SPLITS = ("train", "validation", "valid", "dev", "eval", "test")


def available_splits(source: str | Sequence[str], name: str | None = None) -> list[str]:
    """The splits that all of the sources have, in the order of the first one; `source` and `name` as `load_speech`'s.

    Raises:
        ValueError: If nothing is found at a source.
    """
    splits = [_splits_of(one, name) for one in _each_source(source)]
    return [split for split in splits[0] if all(split in others for others in splits)]


def _splits_of(source: str, name: str | None) -> list[str]:
    folder = Path(source)
    if folder.is_dir():
        if (folder / "dataset_dict.json").exists():
            return list(json.loads((folder / "dataset_dict.json").read_text())["splits"])
        if (folder / "state.json").exists():
            return [str(load_from_disk(folder).split or "train")]
        if any(folder.rglob("*.parquet")):
            return [str(split) for split in load_dataset_builder(str(folder), name).config.data_files]
        # Folders of audio are splits only if they are called so: others may be speakers.
        return [split for split in FOLDER_SPLITS if (folder / split).is_dir()] or ["train"]
    if folder.is_file() or glob.has_magic(source) or folder.suffix.lower() in {".parquet", *AUDIO_SUFFIXES}:
        return ["train"]
    try:
        return get_dataset_split_names(source, name)
    except (FileNotFoundError, ConnectionError, HFValidationError) as error:
        raise ValueError(f"Nothing found at {source!r}: check the spelling ({error}).") from error
