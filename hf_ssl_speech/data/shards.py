"""Parquet files at URLs, and WebDataset shards (tar files), local or at URLs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

from datasets import Audio, Dataset, Features, IterableDataset, Value, concatenate_datasets, load_dataset

from hf_ssl_speech.data.columns import text_columns, usual_text_name

AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)
KEY, FACTS = "__key__", "json"  # columns of WebDataset: the name of a row, and what a JSON file beside its audio holds


def is_address(source: str) -> bool:
    """Whether a source is a URL, such as https://host/shard.tar, and not a path."""
    return "://" in source


def load_shards(files: Sequence[str], streaming: bool) -> Dataset | IterableDataset:
    """The rows of Parquet files or WebDataset shards, all of one kind.

    Args:
        files: Paths or addresses.
        streaming: Whether to read the rows when they are needed, instead of downloading the files first.
    Raises:
        ValueError: If they are neither, or Parquet files are to be streamed from a server that gives no parts of them.
        OSError: If one can't be read.
    """
    suffixes = {PurePosixPath(urlsplit(file).path if is_address(file) else file).suffix.lower() for file in files}
    if len(suffixes) != 1 or not suffixes <= {".parquet", ".tar"}:
        raise ValueError(
            f"Got files {sorted(suffixes)} at {', '.join(files)}; expected Parquet files or WebDataset shards (.tar)."
        )
    settings = {"data_files": {"train": list(files)}, "split": "train"}
    if suffixes == {".parquet"}:
        try:
            rows = load_dataset("parquet", streaming=streaming, **settings)
            if streaming:  # with the types known from an earlier fetch, nothing would have been read yet
                next(iter(rows), None)
            return rows if rows.features else rows._resolve_features()
        except ValueError as error:
            if "range requests" not in str(error):  # fsspec has no kind of its own for it
                raise
            raise ValueError(
                f"{', '.join(files)} can't be streamed: Parquet is read in parts, and the server gives whole files "
                "only. Load without streaming."
            ) from error
    found = load_dataset("webdataset", streaming=True, **settings).features
    audio = [name for name, kind in found.items() if isinstance(kind, Audio)]
    # As an `Audio` column, `datasets` would ask for torchcodec.
    features = Features(found | {name: Value("binary") for name in audio})
    rows = load_dataset("webdataset", streaming=streaming, features=features, **settings)
    return with_usual_names(rows, audio)


def with_usual_names(rows: AnyDataset, audio: list[str]) -> AnyDataset:
    """Rows of shards, whose columns are called by the suffixes of their files, with `id`, `audio` and `text`.

    The transcript comes from a text file or a field of a JSON file, under any of its usual names.

    Args:
        audio: The columns with audio; several keep their names.
    """
    if len(audio) == 1 and audio != ["audio"]:
        rows = rows.rename_column(audio[0], "audio")
    if "id" not in rows.features:
        rows = rows.rename_column(KEY, "id")
    facts = rows.features.get(FACTS)
    text = usual_text_name(text_columns(facts)) if isinstance(facts, dict) else None
    if text is None or usual_text_name(text_columns(rows.features)):
        return rows
    if isinstance(rows, IterableDataset):
        features = Features(rows.features | {"text": Value("string")})
        return rows.map(_text_of, fn_kwargs={"text": text}, features=features)
    told = rows.select_columns([FACTS]).map(_text_of, fn_kwargs={"text": text}, remove_columns=[FACTS])
    return concatenate_datasets([rows, told], axis=1)


def _text_of(row: dict, text: str) -> dict[str, str | None]:
    return {"text": (row[FACTS] or {}).get(text)}
