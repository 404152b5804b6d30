"""From a file, folder or Hub name to rows of encoded audio."""

from __future__ import annotations

import glob
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets import (
    Audio,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.data_files import DataFilesDict, get_data_patterns
from huggingface_hub.errors import HFValidationError

from hf_ssl_speech.records import naming_the_file

logger = logging.getLogger(__name__)

DECODED_SUFFIXES = {".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav"}
# Only PyAV decodes these: without it they become rows all the same, so that the report of what was skipped names them.
OTHER_SUFFIXES = {".3gp", ".aac", ".ac3", ".amr", ".ape", ".m4a", ".m4b", ".mka", ".mp4", ".webm", ".wma"}
AUDIO_SUFFIXES = DECODED_SUFFIXES | OTHER_SUFFIXES
# Folders of audio with these names are splits; others may be speakers.
FOLDER_SPLITS = ("train", "validation", "valid", "dev", "eval", "test")
AUDIO_STRUCT = {"bytes": Value("binary"), "path": Value("string")}


def load_speech(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    split: str = "train",
    name: str | None = None,
    streaming: bool = False,
    audio_column: str = "audio",
) -> Dataset | IterableDataset:
    """Loads speech from wherever it lies, with its audio left encoded in a column `audio`.

    Args:
        source: Parquet or audio files (paths or globs), a folder of them, a folder written by `save_to_disk`, or the
            name of a dataset on the Hub; or several of these, as a list or with whitespace between. `~` and
            environment variables are expanded.
        split: The split to take. Files named one by one are a single split, `train`.
        name: The configuration of a Hub dataset or of a folder with a dataset card.
        streaming: Whether to read the rows as they are needed instead of indexing them first.
        audio_column: Where the audio is: an `Audio` column, a struct of bytes and path, paths, or encoded bytes.
    Returns:
        The rows of all sources in order, with the columns that all sources share. `audio` gives rows with `bytes` and
        `path`: an `Audio(decode=False)` column, or, streamed, a plain struct.
    Raises:
        ValueError: If nothing is found at a source, or it has no such split or audio column.
    """
    parts = [
        with_audio(part, audio_column, one)
        for one in _each_source(source)
        for part in _load_one(one, split, name, streaming)
    ]
    kinds = parts[0].features
    shared = [column for column in kinds if all(part.features.get(column) == kinds[column] for part in parts)]
    left_out = sorted({column for part in parts for column in part.column_names} - set(shared))
    if left_out:
        logger.warning("Left out the columns that the parts of %s do not share in name and type: %s", source, left_out)
    return concatenate_datasets([part.select_columns(shared) for part in parts]) if len(parts) > 1 else parts[0]


def available_splits(source: str | os.PathLike | Sequence[str | os.PathLike], name: str | None = None) -> list[str]:
    """The splits that all of the sources have, in the order of the first one; `source` and `name` as for `load_speech`.

    Raises:
        ValueError: If nothing is found at a source.
    """
    splits = [_splits_of(one, name) for one in _each_source(source)]
    return [split for split in splits[0] if all(split in others for others in splits)]


def _splits_of(source: str, name: str | None) -> list[str]:
    folder = Path(source)
    if folder.is_dir():
        splits = _saved_splits(folder) or _parquet_splits(folder, name)
        return list(map(str, splits)) or [split for split in FOLDER_SPLITS if (folder / split).is_dir()] or ["train"]
    if _names_files(source):
        return ["train"]
    with _hub_errors(source):
        return get_dataset_split_names(source, name)


def _each_source(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    if isinstance(source, os.PathLike):  # one, whatever its name holds
        source = [source]
    elif isinstance(source, str):
        source = [source] if os.path.exists(_expand(source)) else source.split()
    if not source:
        raise ValueError("No source of speech was given; expected a file, a glob, a folder or a Hub dataset's name.")
    return [_expand(os.fspath(one)) for one in source]


def _expand(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def _load_one(source: str, split: str, name: str | None, streaming: bool) -> list[Dataset | IterableDataset]:
    """Loads one source, as one dataset for each schema in it."""
    if os.path.isdir(source):
        return _load_folder(Path(source), split, name, streaming)
    if _names_files(source):
        files = [source] if os.path.isfile(source) else sorted(glob.glob(source, recursive=True))
        return _load_files(_in_split(split, {"train": files}, source), source, streaming)
    with _hub_errors(source):
        return [load_dataset(source, name, split=split, streaming=streaming)]


def _names_files(source: str) -> bool:
    """Whether a source, which is no folder, is a file or a pattern of files, and not the name of a dataset."""
    suffix = Path(source).suffix.lower()
    return os.path.isfile(source) or glob.has_magic(source) or suffix in {".parquet", *AUDIO_SUFFIXES}


@contextmanager
def _hub_errors(source: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ConnectionError, HFValidationError) as error:
        raise ValueError(
            f"Nothing found at {source!r}: neither a file, glob or folder here, nor a dataset to be had from the Hub. "
            f"Check the spelling ({error})."
        ) from error


def _load_folder(folder: Path, split: str, name: str | None, streaming: bool) -> list[Dataset | IterableDataset]:
    if saved := _saved_splits(folder):
        dataset = _in_split(split, saved, folder)
        return [dataset.to_iterable_dataset(num_shards=max(1, len(dataset.cache_files))) if streaming else dataset]
    if splits := _parquet_splits(folder, name):
        return _load_files(_in_split(split, splits, folder), folder, streaming)
    root = folder / split if (folder / split).is_dir() else folder
    files = _find_audio(root)
    return _load_files(_in_split(split, {"train" if root == folder else split: files}, folder), folder, streaming)


def _saved_splits(folder: Path) -> dict[str, Dataset]:
    """The splits that `save_to_disk` wrote into a folder; none if it did not."""
    if not ((folder / "state.json").exists() or (folder / "dataset_dict.json").exists()):
        return {}
    with naming_the_file(folder, "what save_to_disk writes"):
        saved = load_from_disk(folder)
    return saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}


def _parquet_splits(folder: Path, name: str | None) -> dict[str, Sequence[str]]:
    """The Parquet files below a folder, by split; none if there are none."""
    if not any(folder.rglob("*.parquet")):
        return {}
    if not glob.has_magic(str(folder)):
        return load_dataset_builder(str(folder), name).config.data_files
    if name:
        raise ValueError(f"{str(folder)!r} has brackets in its name, so that no configuration is found: rename it.")
    escaped = glob.escape(str(folder.resolve()))  # a builder would take the brackets for a pattern
    return DataFilesDict.from_patterns(get_data_patterns(escaped), escaped, allowed_extensions=[".parquet"])


def _find_audio(root: Path) -> list[str]:
    """The audio files below a folder, in linked folders too, each folder once."""
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above, or a second one to the same
            folders.clear()
            continue
        seen.add(real)
        found += [os.path.join(folder, name) for name in names if Path(name).suffix.lower() in AUDIO_SUFFIXES]
    return sorted(found)


def _in_split(split: str, splits: dict[str, Any], source: str | Path) -> Any:
    if split not in splits:
        raise ValueError(f"{str(source)!r} has no split {split!r}; expected one of {sorted(map(str, splits))}.")
    return splits[split]


def _load_files(files: Sequence[str], source: str | Path, streaming: bool) -> list[Dataset | IterableDataset]:
    suffixes = {Path(file).suffix.lower() for file in files}
    if not files:
        raise ValueError(f"Nothing found at {str(source)!r}; expected Parquet or audio files.")
    if suffixes == {".parquet"}:
        # One builder call takes files of one schema only.
        groups = itertools.groupby(files, lambda file: pyarrow.parquet.read_schema(file).remove_metadata())
        parts = [[glob.escape(file) for file in group] for _, group in groups]
        return [load_dataset("parquet", data_files=part, split="train", streaming=streaming) for part in parts]
    if suffixes <= AUDIO_SUFFIXES:
        dataset = _list_audio(files)
        return [dataset.to_iterable_dataset(num_shards=min(len(dataset), 64)) if streaming else dataset]
    raise ValueError(f"Got files {sorted(suffixes)} at {str(source)!r}; expected Parquet only or audio only.")


def _list_audio(files: Sequence[str]) -> Dataset:
    """A row for each file, named by its path. (The `audiofolder` builder of `datasets` needs torchcodec for this.)"""
    files = [os.path.abspath(file) for file in files]
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    # The times go into the fingerprint, so that a file that changed is not taken from a cache.
    changed = [(os.stat(file) if os.path.exists(file) else os.lstat(file)).st_mtime_ns for file in files]
    features = Features({"id": Value("string"), "audio": Value("string")})
    return Dataset.from_generator(_audio_rows, features, gen_kwargs={"files": files, "root": root, "changed": changed})


def _audio_rows(files: Sequence[str], root: str, changed: Sequence[int]):
    for file in files:
        yield {"id": Path(file).relative_to(root).with_suffix("").as_posix(), "audio": file}


def with_audio(dataset: Dataset | IterableDataset, audio_column: str, source: str) -> Dataset | IterableDataset:
    """Renames the audio column to `audio` and leaves its audio encoded, so that nothing decodes it but this package.

    Args:
        dataset: Rows with an `Audio` column, a struct of bytes and path or of array and sampling rate, paths, or bytes.
        audio_column: Which column that is.
        source: What the error calls the dataset.
    Returns:
        The rows with `audio` as an `Audio(decode=False)` column, or a struct like that if streamed; arrays stay arrays.
    Raises:
        ValueError: If there is no such column, or it holds something else.
    """
    if dataset.features is None:  # a streamed JSON or generator: the first rows tell
        dataset = dataset._resolve_features()
    if audio_column not in dataset.features:
        raise ValueError(
            f"{source!r} has no column {audio_column!r}. Name the one that holds the audio with `audio_column`; there "
            f"are {dataset.column_names}."
        )
    kind = dataset.features[audio_column]
    if isinstance(kind, dict) and {"array", "sampling_rate"} <= set(kind):
        columns = [column for column in dataset.column_names if column not in (audio_column, "audio")]
        dataset = dataset.select_columns([*columns, audio_column])
        return dataset if audio_column == "audio" else dataset.rename_column(audio_column, "audio")
    if not (
        isinstance(kind, Audio)
        or (isinstance(kind, dict) and {"bytes", "path"} & set(kind))
        or getattr(kind, "dtype", None) in ("string", "binary", "large_binary")
    ):
        raise ValueError(
            f"Column {audio_column!r} of {source!r} holds {kind}; expected an Audio column, a struct of bytes "
            "and path or of array and sampling_rate, paths, or encoded bytes. To arrays alone, add their rate with "
            "`dataset.map(lambda row: {'audio': {'array': row['audio'], 'sampling_rate': 16_000}})`."
        )
    if isinstance(dataset, IterableDataset):
        # Streamed, even an undecoded `Audio` column asks for torchcodec once a column is renamed: a struct does not.
        if isinstance(kind, Audio):
            dataset = dataset.cast_column(audio_column, AUDIO_STRUCT)
        features = {column: kind for column, kind in dataset.features.items() if column != audio_column}
        features = Features(features | {"audio": AUDIO_STRUCT})
        return dataset.map(_as_struct, input_columns=audio_column, remove_columns=audio_column, features=features)
    if audio_column != "audio":
        others = [column for column in dataset.column_names if column != "audio"]
        dataset = dataset.select_columns(others).rename_column(audio_column, "audio")
    return dataset.cast_column("audio", Audio(decode=False))


def _as_struct(audio: dict[str, Any] | str | bytes) -> dict[str, Any]:
    if isinstance(audio, str):
        audio = {"bytes": None, "path": audio}
    elif isinstance(audio, bytes):
        audio = {"bytes": audio, "path": None}
    return {"audio": audio}
