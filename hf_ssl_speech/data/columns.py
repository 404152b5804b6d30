"""Finds the columns with the audio and the transcripts, whatever their names in a dataset."""

from __future__ import annotations

import io
import logging
import os
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pyarrow
import soundfile
from datasets import Audio, Dataset, Features, IterableDataset, List, Value, concatenate_datasets
from datasets import Sequence as SequenceFeature

from hf_ssl_speech.audio import SAMPLE_RATE

logger = logging.getLogger(__name__)

AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)
# What datasets call the two columns, the likeliest first; letter case does not matter.
AUDIO_NAMES = (
    "audio", "file_name", "audio_filepath", "audio_path", "audio_file", "path", "file", "filepath", "file_path",
    "filename", "wav", "wav_path", "wav_filename", "clip", "speech", "recording", "sound",
)  # fmt: skip
TEXT_NAMES = (
    "text", "sentence", "transcription", "transcript", "normalized_text", "normalised_text", "normalized_transcription",
    "normalized_transcript", "raw_transcription", "raw_text", "transcripts", "txt",
)  # fmt: skip
SAMPLES = "samples"  # what `prepare_speech(cache=True)` makes: 16-bit values at 16 kHz
# Arrow's other types for the same values, which pandas and Polars write.
STRINGS = ("string", "large_string", "string_view")
BINARIES = ("binary", "large_binary", "binary_view")
CASTABLE = ("string", "binary", "large_binary")  # those that `datasets` makes an `Audio` column of
AUDIO_STRUCT = {"bytes": Value("binary"), "path": Value("string")}


def with_audio(dataset: AnyDataset, audio_column: str, source: str, folder: str | None = None) -> AnyDataset:
    """Renames the audio column to `audio` and leaves its audio encoded, so that nothing decodes it but this package.

    Args:
        dataset: Rows with an `Audio` column, a struct of bytes and path or of array and sampling rate, paths, or bytes.
        audio_column: The column. Where it is `audio` and there is none, the usual names are tried.
        source: Where the rows come from, for messages.
        folder: What relative paths are relative to, if something is there; else the working directory.
    Returns:
        The rows with `audio` as an `Audio(decode=False)` column, or a struct like that if streamed; arrays stay arrays.
    Raises:
        ValueError: If there is no such column, or it holds no audio.
    """
    if dataset.features is None:  # a streamed JSON or generator: the first rows tell
        dataset = dataset._resolve_features()
    column = audio_column
    if column not in dataset.features and column == "audio":
        column = find_audio_column(dataset.features) or column
        _say_once(column, "audio", source)
    if column not in dataset.features:
        if _is_decoded(dataset.features) and audio_column == "audio":
            return _encoded(dataset)
        raise ValueError(
            f"{source!r} has no column {audio_column!r}. Name the one that holds the audio with `audio_column`; there "
            f"are {dataset.column_names}."
        )
    kind = dataset.features[column]
    if not _may_be_audio(kind):
        raise ValueError(
            f"Column {column!r} of {source!r} holds {kind}; expected an Audio column, a struct of bytes and path or of "
            "array and sampling_rate, paths, or encoded bytes. To bare arrays, add the sampling rate with "
            "`dataset.map(lambda row: {'audio': {'array': row['audio'], 'sampling_rate': 16_000}})`."
        )
    if isinstance(dataset, Dataset) and isinstance(kind, Value) and kind.dtype not in CASTABLE:
        kind = Value("string" if _is_string(kind) else "binary")
        dataset = dataset.cast_column(column, kind)
    others: list[str] = [name for name in dataset.column_names if name not in (column, "audio")]
    if _is_array(kind):
        dataset = dataset.select_columns([*others, column])
        return dataset if column == "audio" else dataset.rename_column(column, "audio")
    if isinstance(dataset, IterableDataset):
        # Streamed, even an undecoded `Audio` column asks for torchcodec once a column is renamed: a struct does not.
        if isinstance(kind, Audio):
            dataset = dataset.cast_column(column, AUDIO_STRUCT)
        features = {name: kind for name, kind in dataset.features.items() if name not in (column, "audio")}
        return dataset.map(
            _as_struct,
            input_columns=column,
            remove_columns=[name for name in (column, "audio") if name in dataset.features],
            features=Features(features | {"audio": AUDIO_STRUCT}),
            fn_kwargs={"folder": folder},
        )
    if column != "audio":
        dataset = dataset.select_columns([*others, column]).rename_column(column, "audio")
    if folder and _is_string(kind):
        paths = dataset.with_format(None)["audio"][:]
        found = Dataset.from_dict({"audio": [path and resolve(path, folder) for path in paths]})
        if found["audio"][:] != paths:
            dataset = concatenate_datasets([dataset.select_columns(others), found], axis=1) if others else found
    return dataset.cast_column("audio", Audio(decode=False))


def with_text(dataset: AnyDataset, text_column: str, source: str) -> AnyDataset:
    """Renames the column with the transcripts to `text`.

    Args:
        text_column: The column, which must be there if it is another than `text`. Where it is `text` and there is none,
            the usual names are tried; a dataset without transcripts stays as it is.
        source: Where the rows come from, for messages.
    Raises:
        ValueError: If there is no such column.
    """
    columns = dataset.column_names
    if text_column not in columns:
        if text_column != "text":
            raise ValueError(
                f"{source!r} has no columns {[text_column]!r}; there are {columns}. Name the one that holds the "
                "transcripts with `text_column`."
            )
        text_column = usual_text_name(text_columns(dataset.features)) or "text"
        _say_once(text_column, "transcripts", source)
    if text_column == "text" or text_column not in columns:
        return dataset
    if "text" in columns:
        dataset = dataset.remove_columns("text")
    if text_column == "id" and isinstance(dataset, Dataset):  # the rows are called by it, too
        return dataset.add_column("text", dataset["id"][:])
    return dataset.rename_column(text_column, "text")


def find_audio_column(features: Features | dict[str, Any]) -> str | None:
    """The column that must hold the audio: an `Audio` column if there is just one, else by its name."""
    typed = [name for name, kind in features.items() if isinstance(kind, Audio)]
    if len(typed) == 1:
        return typed[0]
    return usual_audio_name([name for name, kind in features.items() if _may_be_audio(kind)])


def usual_audio_name(columns: Iterable[str]) -> str | None:
    """The column with the likeliest name for an audio column."""
    return _first_called(AUDIO_NAMES, columns)


def text_columns(features: Features | dict[str, Any]) -> list[str]:
    """The columns that hold text."""
    return [name for name, kind in features.items() if _is_string(kind)]


def usual_text_name(columns: Iterable[str]) -> str | None:
    """The column with the likeliest name for transcripts."""
    return _first_called(TEXT_NAMES, columns)


def resolve(path: str, folder: str) -> str:
    """A path that a file names, as one that can be opened: relative to the folder of that file.

    If it is not there but in the working directory, that file is taken. Tables from Windows may have
    backslashes for slashes, or spaces around a name, and names from macOS their accents as letters of their own.
    """
    if "://" in path or os.path.isabs(path):
        return path
    slashes = path.replace("\\", "/")
    spellings = (path, path.strip(), slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")))
    beside, *others = (os.path.join(folder, name) for name in spellings)
    return next((name for name in (beside, path, *others) if os.path.exists(name)), beside)


def with_value(dataset: AnyDataset, column: str, value: str) -> AnyDataset:
    """Rows with the same text in a column of their own, which takes the place of one with its name."""
    if column in dataset.column_names:
        logger.warning("The column %r of the data gives way to the names of its sources.", column)
        dataset = dataset.remove_columns(column)
    if isinstance(dataset, IterableDataset):
        features = dataset.features and Features(dataset.features | {column: Value("string")})
        return dataset.map(_adding, fn_kwargs={"column": column, "value": value}, features=features)
    values = Dataset(pyarrow.table({column: pyarrow.repeat(pyarrow.scalar(value), len(dataset))}))
    return concatenate_datasets([dataset, values], axis=1)


def _adding(row: dict[str, Any], column: str, value: str) -> dict[str, Any]:
    return row | {column: value}


@lru_cache(maxsize=1_000)
def _say_once(column: str, what: str, source: str):
    if column not in ("audio", "text"):
        logger.info("%s: the column %r is taken for the %s; another can be named.", source, column, what)


def _first_called(names: Sequence[str], columns: Iterable[str]) -> str | None:
    by_name = {column.lower(): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _is_string(kind: Any) -> bool:
    return getattr(kind, "dtype", None) in STRINGS


def _is_binary(kind: Any) -> bool:
    name = str(getattr(kind, "dtype", None))
    return name in BINARIES or name.startswith("fixed_size_binary")


def _is_array(kind: Any) -> bool:
    return isinstance(kind, dict) and {"array", "sampling_rate"} <= set(kind)


def _may_be_audio(kind: Any) -> bool:
    return (
        isinstance(kind, Audio)
        or _is_array(kind)
        or (isinstance(kind, dict) and bool({"bytes", "path"} & set(kind)))
        or _is_string(kind)
        or _is_binary(kind)
    )


def _is_decoded(features: Features) -> bool:
    kind = features.get(SAMPLES)
    return isinstance(kind, (List, SequenceFeature)) and getattr(kind.feature, "dtype", None) == "int16"


def _encoded(dataset: AnyDataset) -> AnyDataset:
    """Rows of `prepare_speech(cache=True)` with their samples as WAV bytes, and their `name` as `id`."""
    made = [name for name in ("id", "name", "sample_id", "num_samples", SAMPLES) if name in dataset.features]
    kept = {name: kind for name, kind in dataset.features.items() if name not in made}
    features = Features({"id": Value("string"), "audio": AUDIO_STRUCT} | kept)
    dataset = dataset.with_format(None)
    name = "name" if "name" in dataset.features else None
    dataset = dataset.map(_as_wav, fn_kwargs={"name": name}, remove_columns=made, features=features)
    return dataset if isinstance(dataset, IterableDataset) else dataset.cast_column("audio", Audio(decode=False))


def _as_wav(row: dict[str, Any], name: str | None) -> dict[str, Any]:
    file = io.BytesIO()
    soundfile.write(file, np.asarray(row[SAMPLES], np.int16), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return {"id": row[name] if name else None, "audio": {"bytes": file.getvalue(), "path": None}}


def _as_struct(audio: dict[str, Any] | str | bytes, folder: str | None) -> dict[str, Any]:
    if isinstance(audio, str):
        audio = {"bytes": None, "path": resolve(audio, folder) if folder else audio}
    elif isinstance(audio, bytes):
        audio = {"bytes": audio, "path": None}
    return {"audio": audio}
