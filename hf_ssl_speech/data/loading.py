"""From a file, folder or Hub name to rows that can be trained on, and a report of those that can't."""

from __future__ import annotations

import glob
import hashlib
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from datasets import (
    Audio,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from huggingface_hub.errors import HFValidationError

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio, count_samples, read_audio

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = {".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav"}
INT16_SCALE = 32_768
NAMES_SHOWN = 4
ROWS_AT_ONCE = 64
STRING, INTEGER = Value("string"), Value("int64")
MEASURED = {"name": STRING, "problem": STRING, "sample_id": INTEGER, "num_samples": INTEGER}
AUDIO_STRUCT = {"bytes": Value("binary"), "path": STRING}
DECODED = {"samples": List(Value("int16"))}


def load_speech(
    source: str | Sequence[str],
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
        _with_audio(part, audio_column, one)
        for one in _each_source(source)
        for part in _load_one(one, split, name, streaming)
    ]
    kinds = parts[0].features
    shared = [column for column in kinds if all(part.features.get(column) == kinds[column] for part in parts)]
    left_out = sorted({column for part in parts for column in part.column_names} - set(shared))
    if left_out:
        logger.warning("Left out the columns that the parts of %s do not share in name and type: %s", source, left_out)
    return concatenate_datasets([part.select_columns(shared) for part in parts]) if len(parts) > 1 else parts[0]


def _each_source(source: str | Sequence[str]) -> list[str]:
    if isinstance(source, str):
        source = [source] if os.path.exists(_expand(source)) else source.split()
    if not source:
        raise ValueError("No source of speech was given; expected a file, a glob, a folder or a Hub dataset's name.")
    return [_expand(one) for one in source]


def _expand(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def _load_one(source: str, split: str, name: str | None, streaming: bool) -> list[Dataset | IterableDataset]:
    """Loads one source, as one dataset for each schema in it."""
    if os.path.isdir(source):
        return _load_folder(Path(source), split, name, streaming)
    if os.path.isfile(source) or glob.has_magic(source) or Path(source).suffix.lower() in {".parquet", *AUDIO_SUFFIXES}:
        files = [source] if os.path.isfile(source) else sorted(glob.glob(source, recursive=True))
        return _load_files(_in_split(split, {"train": files}, source), source, streaming)
    try:
        return [load_dataset(source, name, split=split, streaming=streaming)]
    except (FileNotFoundError, ConnectionError, HFValidationError) as error:
        raise ValueError(
            f"Nothing found at {source!r}: neither a file, glob or folder here, nor a dataset to be had from the Hub. "
            f"Check the spelling ({error})."
        ) from error


def _load_folder(folder: Path, split: str, name: str | None, streaming: bool) -> list[Dataset | IterableDataset]:
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        saved = load_from_disk(folder)
        splits = saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
        dataset = _in_split(split, splits, folder)
        return [dataset.to_iterable_dataset(num_shards=max(1, len(dataset.cache_files))) if streaming else dataset]
    if any(folder.rglob("*.parquet")):
        splits = load_dataset_builder(str(folder), name).config.data_files
        return _load_files(_in_split(split, splits, folder), folder, streaming)
    root = folder / split if (folder / split).is_dir() else folder
    files = sorted(str(file) for file in root.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
    return _load_files(_in_split(split, {"train" if root == folder else split: files}, folder), folder, streaming)


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
        return [
            load_dataset("parquet", data_files=list(group), split="train", streaming=streaming) for _, group in groups
        ]
    if suffixes <= AUDIO_SUFFIXES:
        dataset = _list_audio(files)
        return [dataset.to_iterable_dataset(num_shards=min(len(dataset), 64)) if streaming else dataset]
    raise ValueError(f"Got files {sorted(suffixes)} at {str(source)!r}; expected Parquet only or audio only.")


def _list_audio(files: Sequence[str]) -> Dataset:
    """A row for each file, named by its path. (The `audiofolder` builder of `datasets` needs torchcodec for this.)"""
    files = [os.path.abspath(file) for file in files]
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    # The times go into the fingerprint, so that a file that changed is not taken from a cache.
    changed = [os.stat(file).st_mtime_ns for file in files]
    features = Features({"id": STRING, "audio": STRING})
    return Dataset.from_generator(_audio_rows, features, gen_kwargs={"files": files, "root": root, "changed": changed})


def _audio_rows(files: Sequence[str], root: str, changed: Sequence[int]):
    for file in files:
        yield {"id": Path(file).relative_to(root).with_suffix("").as_posix(), "audio": file}


def _with_audio(dataset: Dataset | IterableDataset, audio_column: str, source: str) -> Dataset | IterableDataset:
    """Renames the audio column to `audio` and makes it `Audio(decode=False)`, or a struct like that if streamed."""
    if dataset.features is None:  # a streamed JSON or generator: the first rows tell
        dataset = dataset._resolve_features()
    if audio_column not in dataset.features:
        raise ValueError(
            f"{source!r} has no column {audio_column!r}. Name the one that holds the audio with `audio_column`; there "
            f"are {dataset.column_names}."
        )
    kind = dataset.features[audio_column]
    if not (
        isinstance(kind, Audio)
        or (isinstance(kind, dict) and {"bytes", "path"} & set(kind))
        or getattr(kind, "dtype", None) in ("string", "binary", "large_binary")
    ):
        raise ValueError(
            f"Column {audio_column!r} of {source!r} holds {kind}; expected an Audio column, a struct of bytes "
            "and path, paths, or encoded bytes."
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


@dataclass
class SkipReport:
    """Which of a dataset's rows can't be used, and why."""

    total: int
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """The names of the rows (`id`, else path, else row number) for each reason."""

    @property
    def num_skipped(self) -> int:
        """Rows that can't be used."""
        return sum(len(names) for names in self.skipped.values())

    def add(self, name: str, reason: str):
        """Notes one more row, such as one whose damage only its decoding shows. A row counts once for a reason."""
        names = self.skipped.setdefault(reason, [])
        if name not in names:
            names.append(name)

    def to_dict(self) -> dict[str, Any]:
        """The report for a run's record, ready for JSON."""
        return {"total": self.total, "num_skipped": self.num_skipped, "skipped": self.skipped}

    def __str__(self) -> str:
        reasons = []
        for reason, names in sorted(self.skipped.items(), key=lambda item: -len(item[1])):
            more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
            reasons.append(f"{len(names):,} {reason}: {', '.join(names[:NAMES_SHOWN])}{more}")
        return f"{self.num_skipped:,} of {self.total:,} rows skipped" + (": " if reasons else "") + "; ".join(reasons)


def prepare_speech(
    dataset: Dataset,
    *,
    min_seconds: float,
    cache: bool = False,
    num_proc: int | None = None,
    keep: Sequence[str] = (),
) -> tuple[Dataset, SkipReport]:
    """Measures every row of a dataset and leaves out those that can't be used.

    Args:
        dataset: Rows with encoded audio, as `load_speech` gives them.
        min_seconds: Shorter audio is left out.
        cache: Whether to decode everything now, once, into 16-bit samples on disk (115 MB an hour), which later runs
            find again; values beyond [-1, 1] are clipped. Otherwise only headers are read, audio stays encoded, and
            what only decoding shows is met by `row_waveform`.
        num_proc: Processes to measure or decode with.
        keep: Columns to keep beside the new ones, such as `text`.
    Returns:
        The usable rows and the report of the others. The rows have `name` (their `id`, else path, else number), for
        people; `sample_id`, their index in the given dataset, which stays however they are filtered or shuffled;
        `num_samples` at 16 kHz; and `audio`, or with `cache` an int16 array `samples`.
    Raises:
        ValueError: If a column is missing or no row can be used.
    """
    _check_columns(dataset.column_names, ["audio", *keep])
    if len(dataset) == 0:
        raise ValueError("The dataset has no rows to prepare; check its source and split.")
    named_audio = dataset.select_columns([column for column in ("id", "audio") if column in dataset.column_names])
    measured = named_audio.map(
        _measure_rows,
        fn_kwargs={"decode": cache},
        with_indices=True,
        batched=True,
        batch_size=ROWS_AT_ONCE,
        writer_batch_size=ROWS_AT_ONCE,
        remove_columns=named_audio.column_names,
        features=Features(MEASURED | DECODED if cache else MEASURED),
        num_proc=num_proc,
        desc="Decoding audio" if cache else "Reading audio headers",
    )
    usable, report = _find_usable(measured, min_seconds)
    if not usable:
        raise ValueError(f"No row can be used: {report}. Check the audio column, or lower `min_seconds`.")
    prepared = measured.remove_columns("problem")
    kept = [*keep] if cache else ["audio", *keep]
    if kept:
        prepared = concatenate_datasets([prepared, dataset.select_columns(kept)], axis=1)
    prepared = prepared.select(usable)
    if cache:
        # Only `samples` becomes an array, and keeps its type: as a list of numbers, a row takes 60 times as long.
        prepared = prepared.with_format("numpy", columns=["samples"], output_all_columns=True, dtype="int16")
    return prepared, report


def _measure_rows(rows: dict[str, list], indices: list[int], decode: bool) -> dict[str, list]:
    measured = [
        {"name": _row_name(row) or f"row {index}", "sample_id": index} | _measure(row["audio"], decode)
        for index, row in zip(indices, _each_row(rows))
    ]
    return {column: [row[column] for row in measured] for column in measured[0]}


def _measure(audio: Any, decode: bool) -> dict[str, Any]:
    try:
        samples = _read_int16(audio) if decode else None
        measured = {"problem": None, "num_samples": len(samples) if decode else count_samples(audio)}
    except BadAudio as error:
        samples = np.zeros(0, np.int16)
        measured = {"problem": str(error), "num_samples": 0}
    return measured | ({"samples": samples} if decode else {})


def _read_int16(audio: Any) -> np.ndarray:
    samples = np.rint(read_audio(audio) * INT16_SCALE).clip(-INT16_SCALE, INT16_SCALE - 1).astype(np.int16)
    if samples.min() == samples.max():
        raise BadAudio("silent: all samples are equal")
    return samples


def _find_usable(measured: Dataset, min_seconds: float) -> tuple[list[int], SkipReport]:
    usable, report = [], SkipReport(total=len(measured))
    table = measured.select_columns(["name", "problem", "num_samples"]).to_dict()
    for index, (name, problem, num_samples) in enumerate(zip(*table.values())):
        problem = problem or _too_short(num_samples, min_seconds)
        if problem:
            report.skipped.setdefault(problem, []).append(name)
        else:
            usable.append(index)
    return usable, report


def _too_short(num_samples: int, min_seconds: float) -> str | None:
    return f"too short (under {min_seconds:.2f} s)" if num_samples < min_seconds * SAMPLE_RATE else None


def row_waveform(row: dict[str, Any]) -> np.ndarray:
    """The waveform of a prepared row, from its int16 `samples` or its encoded `audio`.

    Returns:
        float32 at 16 kHz, `(samples,)`.
    Raises:
        BadAudio: If the audio is still encoded and turns out to be unusable.
    """
    if "samples" in row:
        return np.asarray(row["samples"], dtype=np.float32) / INT16_SCALE
    return read_audio(row["audio"])


def prepare_stream(dataset: IterableDataset, *, min_seconds: float, keep: Sequence[str] = ()) -> IterableDataset:
    """Decodes the rows of a streamed dataset as they come by, leaving out those that can't be used.

    A row left out is named in a logged warning, once in each process.

    Args:
        dataset: Streamed rows with encoded audio, as `load_speech` gives them.
        min_seconds: Shorter audio is left out.
        keep: Columns to keep beside the new ones, such as `text`.
    Returns:
        Rows with `name`; `sample_id`, a hash that is the same in every run, of the row's `id`, else its path, else its
        audio; `num_samples` at 16 kHz; and int16 `samples`.
    Raises:
        ValueError: If a column is missing.
    """
    _check_columns(dataset.column_names, ["audio", *keep])
    return dataset.map(
        _prepare_streamed,
        batched=True,  # only a batch may come back with fewer rows
        batch_size=1,
        remove_columns=dataset.column_names,
        fn_kwargs={"min_seconds": min_seconds, "keep": tuple(keep), "warned": set()},
    )


def _prepare_streamed(rows: dict[str, list], min_seconds: float, keep: tuple[str, ...], warned: set[str]) -> dict:
    row = _each_row(rows)[0]
    measured = _measure(row["audio"], decode=True)
    name = _row_name(row)
    problem = measured.pop("problem") or _too_short(measured["num_samples"], min_seconds)
    if problem and name not in warned:
        warned.add(name)
        logger.warning("Skipped %s: %s", name or "an audio without id or path", problem)
    identity = name.encode() if name else measured["samples"].tobytes()
    # 63 bits: ids travel as int64 and seed random generators, which take no negative numbers.
    sample_id = int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little") >> 1
    prepared = {"name": name or f"audio {sample_id:016x}", "sample_id": sample_id, **measured} | {
        column: row[column] for column in keep
    }
    return {column: [] if problem else [value] for column, value in prepared.items()}


def _row_name(row: dict[str, Any]) -> str:
    audio = row["audio"]
    return str(row.get("id") or (audio.get("path") if isinstance(audio, dict) else None) or "")


def _each_row(rows: dict[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(rows, values)) for values in zip(*rows.values())]


def _check_columns(there: Sequence[str], wanted: Sequence[str]):
    missing = [column for column in wanted if column not in there]
    if missing:
        raise ValueError(f"The dataset has no columns {missing}; there are {list(there)}.")
