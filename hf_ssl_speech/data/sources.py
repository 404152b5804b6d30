"""From a file, folder or Hub name to rows of encoded audio."""

from __future__ import annotations

import glob
import hashlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    Split,
    concatenate_datasets,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.data_files import SPLIT_KEYWORDS
from huggingface_hub.errors import HFValidationError

from hf_ssl_speech.data.columns import with_audio, with_text, with_value
from hf_ssl_speech.data.conditions import only_matching, split_conditions
from hf_ssl_speech.data.corpora import Splits, common_voice_splits, kaldi_splits, ljspeech_splits
from hf_ssl_speech.data.folders import AUDIO_SUFFIXES, audio_splits, list_audio, load_tables, table_splits
from hf_ssl_speech.data.mixture_settings import CORPUS, split_name
from hf_ssl_speech.data.shards import is_address, load_shards
from hf_ssl_speech.data.tables import TABLE_SUFFIXES
from hf_ssl_speech.file_names import expanded
from hf_ssl_speech.files import naming_the_file
from hf_ssl_speech.records import HUB_ID

logger = logging.getLogger(__name__)

# No character of it means anything to a pattern, an address or the environment.
PLAIN_PATH = re.compile(r"[\w /.,=+@()-]*")
FILE_SUFFIXES = {".parquet", ".arrow", ".tar", *AUDIO_SUFFIXES, *TABLE_SUFFIXES}


def load_speech(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    split: str = "train",
    name: str | None = None,
    streaming: bool = False,
    audio_column: str = "audio",
    text_column: str = "text",
    need: Sequence[str] = (),
) -> Dataset | IterableDataset:
    """Loads speech from any source, with encoded audio in a column `audio` and transcripts in `text`.

    Args:
        source: Audio files, Parquet files, WebDataset shards (.tar) or tables that name audio files (.csv, .tsv,
            .jsonl), each as paths or globs; the address of a Parquet file or shard (https://...); a folder of any of
            these; a folder in the form of Common Voice, Kaldi, LibriSpeech or LJ Speech, with a `metadata` table, or
            written by `save_to_disk`; or the name of a dataset on the Hub. Or several of these, as a list or with
            whitespace between. `~` and environment variables are expanded. `docs/data.md` shows each form.
            `[column=value]` at the end of a source takes only the rows with this value, or with one of several that `|`
            separates. `NAME=` before a source is the name of its corpus.
        split: The split to take. Files named one by one are a single split, `train`.
        name: The configuration of a Hub dataset or of a folder with a dataset card.
        streaming: Whether to read the rows when they are needed instead of indexing them first.
        audio_column: Where the audio is: an `Audio` column, a struct of bytes and path, paths, or encoded bytes. Where
            nothing is called `audio`, the usual names are tried, and the log says which was taken.
        text_column: Where the transcripts are, found in the same way; rows without any are loaded as well.
        need: Columns that every source must have.
    Returns:
        The rows of all sources in order, with the columns that all sources share. `audio` gives rows with `bytes` and
        `path`: an `Audio(decode=False)` column, or, streamed, a plain struct. Where a row is a part of its audio,
        `segment_start` and `segment_end` tell which, in seconds.
        Where a source has a name, the column `corpus` tells of each row the name of its source.
    Raises:
        ValueError: If nothing is found at a source, a file can't be read, or there is no such split, column or value.
    """
    parts = []
    sources = _each_source(source)
    has_names = any(split_name(each)[0] for each in sources)
    for first, *others in [[each] for each in sources] if has_names else _files_together(sources):
        name_of_corpus, one = split_name(first)
        one, conditions = split_conditions(expanded(one))
        found = [
            with_text(with_audio(part, audio_column, one, folder), text_column, one)
            for part, folder in _load_one(one, others, split, name, streaming)
        ]
        found = only_matching(found, conditions, one)
        lacking = [column for column in need for part in found if column not in part.column_names]
        if lacking:
            raise ValueError(
                f"{one!r} has no column {lacking[0]!r}, which is needed; there are {found[0].column_names}."
            )
        parts += [with_value(part, CORPUS, name_of_corpus or one) for part in found] if has_names else found
    kinds = parts[0].features
    shared = [column for column in kinds if all(part.features.get(column) == kinds[column] for part in parts)]
    left_out = sorted({column for part in parts for column in part.column_names} - set(shared))
    if left_out:
        logger.warning("Left out the columns that the parts of %s do not share in name and type: %s", source, left_out)
    if any("segment_start" in part.column_names for part in parts) and "segment_start" not in shared:
        raise ValueError(f"Only some of the sources {source} name parts of their audio: load those separately.")
    return concatenate_datasets([part.select_columns(shared) for part in parts]) if len(parts) > 1 else parts[0]


def available_splits(source: str | os.PathLike | Sequence[str | os.PathLike], name: str | None = None) -> list[str]:
    """The splits that all of the sources have, in the order of the first one; `source` and `name` as for `load_speech`.

    Raises:
        ValueError: If nothing is found at a source.
    """
    places = [split_conditions(expanded(split_name(one)[1]))[0] for one in _each_source(source)]
    splits = [_splits_of(place, name) for place in places]
    return [split for split in splits[0] if all(split in others for others in splits)]


def _splits_of(source: str, name: str | None) -> list[str]:
    if is_address(source):
        return ["train"]
    if os.path.isdir(source):
        return list(_folder_splits(Path(source), name, False))
    if _names_files(source):
        return ["train"]
    with _hub_errors(source):
        return get_dataset_split_names(source, name)


def _each_source(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    if isinstance(source, os.PathLike):  # one, whatever its name holds
        source = [source]
    elif isinstance(source, str):
        source = (
            [source]
            if os.path.exists(source) or os.path.exists(os.path.expandvars(os.path.expanduser(source)))
            else source.split()
        )
    if not source:
        raise ValueError("No source of speech was given; expected a file, a glob, a folder or a Hub dataset's name.")
    return [expanded(os.fspath(one)) for one in source]


def _files_together(sources: list[str]) -> Iterator[list[str]]:
    """Each source by itself, but audio files in a row as one: a dataset for each of a thousand takes minutes."""
    for are_audio, group in itertools.groupby(sources, _is_audio_file):
        together = list(group)
        yield from [together] if are_audio else [[source] for source in together]


def _is_audio_file(source: str) -> bool:
    return Path(source).suffix.lower() in AUDIO_SUFFIXES and os.path.isfile(source)


def _load_one(
    source: str, others: list[str], split: str, name: str | None, streaming: bool
) -> Iterator[tuple[Any, str | None]]:
    """Loads one source, or an audio file together with others.

    Yields one dataset for each schema in it, with the folder that relative paths are meant in.
    """
    splits: dict[str, Callable[[], list[Any]]]
    if is_address(source):
        splits = {"train": partial(_load_addresses, source, streaming)}
    elif os.path.isdir(source):
        splits = _folder_splits(Path(source), name, streaming)
    elif _names_files(source):
        splits = {"train": partial(_load_files, [*_glob(source), *others], source, streaming)}
    else:
        with _hub_errors(source):
            yield load_dataset(source, name, split=split, streaming=streaming), None
        return
    if split not in splits:
        raise ValueError(f"{source!r} has no split {split!r}; expected one of {sorted(map(str, splits))}.")
    found = splits[split]()
    if not found:
        raise ValueError(f"Nothing found at {source!r}; expected Parquet or audio files, or tables that name some.")
    for part in found:
        dataset, folder = part if isinstance(part, tuple) else (part, None)
        if streaming and isinstance(dataset, Dataset):
            dataset = dataset.to_iterable_dataset(num_shards=max(1, min(len(dataset), 64)))
        yield dataset, folder


def _names_files(source: str) -> bool:
    """Whether a source, which is no folder, is a file or a pattern of files, and not the name of a dataset."""
    suffix = Path(source).suffix.lower()
    known = FILE_SUFFIXES - {".arrow"}
    return os.path.isfile(source) or glob.has_magic(source) or suffix in known


def _glob(source: str) -> list[str]:
    """The files that a source names. Brackets that match nothing as a pattern stand for themselves."""
    if os.path.isfile(source):
        return [source]
    found = glob.glob(source, recursive=True) or glob.glob(source.replace("[", "[[]"), recursive=True)
    return sorted(file for file in found if os.path.isfile(file))


def _load_addresses(source: str, streaming: bool) -> list[Any]:
    try:
        with naming_the_file(source, "Parquet files or WebDataset shards"):
            return [load_shards([source], streaming)]
    except OSError as error:
        raise ValueError(f"Nothing can be loaded from {source} ({type(error).__name__}: {error}).") from error


@contextmanager
def _hub_errors(source: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ConnectionError, HFValidationError) as error:
        raise ValueError(
            f"Nothing found at {source!r}: neither a local file, glob or folder, nor a dataset on the Hub. "
            f"Check the spelling ({error})."
        ) from error


def _folder_splits(folder: Path, name: str | None, streaming: bool) -> Splits:
    """The splits of a folder in whichever form it is, and how each is loaded."""
    return (
        saved_splits(folder)
        or kaldi_splits(folder)
        or parquet_splits(folder, name, streaming)
        or common_voice_splits(folder)
        or ljspeech_splits(folder)
        or table_splits(folder)
        or shard_splits(folder, streaming)
        or audio_splits(folder)
    )


def saved_splits(folder: Path) -> Splits:
    """The splits that `save_to_disk` wrote into a folder; none if it did not."""
    if not ((folder / "state.json").exists() or (folder / "dataset_dict.json").exists()):
        return {}
    with naming_the_file(folder, "what save_to_disk writes"):
        saved = load_from_disk(folder)
    splits = saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
    return {split: partial(list, [dataset]) for split, dataset in splits.items()}


def parquet_splits(folder: Path, name: str | None, streaming: bool) -> Splits:
    """The Parquet files below a folder, by split; none if there are none."""
    if not any(folder.rglob("*.parquet")):
        return {}
    files: dict[Any, list[str]]
    path = str(folder.resolve())  # a relative one may be the name of a builder or on the Hub
    if PLAIN_PATH.fullmatch(path):
        files = load_dataset_builder(path, name).config.data_files
    elif name:
        raise ValueError(f"No configuration can be found in {path!r} because of the characters in its name: rename it.")
    else:
        files = by_split(folder, ".parquet")
    return {str(split): partial(_load_parquet, list(found), streaming) for split, found in files.items() if found}


def shard_splits(folder: Path, streaming: bool) -> Splits:
    """The WebDataset shards below a folder, by split; none where audio lies beside, which is what such a file held."""
    splits = by_split(folder, ".tar")
    if splits and any(path.suffix.lower() in AUDIO_SUFFIXES for path in folder.rglob("*")):
        return {}
    return {split: partial(_load_files, files, str(folder), streaming) for split, files in splits.items()}


def by_split(folder: Path, suffix: str) -> dict[str, list[str]]:
    """The files below a folder with this suffix, by the split that a word in their names tells, else `train`."""
    files: dict[str, list[str]] = {str(split): [] for split in SPLIT_KEYWORDS}
    for file in sorted(folder.rglob(f"*{suffix}")):
        words = set(re.split(r"[^a-z]+", str(file.relative_to(folder)).lower()))
        split = next((split for split, names in SPLIT_KEYWORDS.items() if words.intersection(names)), Split.TRAIN)
        files[str(split)].append(str(file))
    return {split: found for split, found in files.items() if found}


def _plain(folder: Path) -> str:
    """A folder's path; if `datasets` would take a part of it for a pattern or an address, that of a link to it."""
    path = str(folder.resolve())
    if PLAIN_PATH.fullmatch(path):
        return path
    link = Path(datasets.config.HF_DATASETS_CACHE, "linked", hashlib.sha256(os.fsencode(path)).hexdigest()[:16])
    link.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(path, target_is_directory=True)
    return str(link)


def _as_pattern(file: str) -> str:
    """The pattern that means this file alone."""
    return os.path.join(_plain(Path(file).parent), glob.escape(os.path.basename(file)))


def _load_parquet(files: Sequence[str], streaming: bool) -> list[tuple[Any, str]]:
    # One builder call takes files of one schema only.
    def kind(file: str) -> tuple[Any, str]:
        return pyarrow.parquet.read_schema(file).remove_metadata(), os.path.dirname(os.path.abspath(file))

    files = [file for file in files if pyarrow.parquet.read_metadata(file).num_rows]
    groups = []
    for (_, folder), group in itertools.groupby(files, kind):
        names = [_as_pattern(file) for file in group]
        groups.append((load_dataset("parquet", data_files=names, split="train", streaming=streaming), folder))
    return groups


def _load_files(files: Sequence[str], source: str, streaming: bool) -> list[Any]:
    suffixes = {Path(file).suffix.lower() for file in files}
    if not files:
        return []
    if suffixes == {".parquet"}:
        return _load_parquet(files, streaming)
    if suffixes == {".tar"}:
        with naming_the_file(source, "WebDataset shards"):
            return [load_shards([_as_pattern(file) for file in files], streaming)]
    if suffixes <= AUDIO_SUFFIXES:
        return [list_audio(files)]
    if suffixes <= TABLE_SUFFIXES:
        return load_tables(files)
    raise ValueError(
        f"Got files {sorted(suffixes)} at {source!r}; expected Parquet only or audio only, or tables that name audio."
    )


def is_hub_id(name: Any) -> bool:
    """Whether a name has the form `owner/name` of a repository, and is nothing on a disk.

    Records tell what was read from a disk by its whole path (see `as_path`); where older ones don't, a name that ends
    like a file's is one.
    """
    has_form = isinstance(name, str) and HUB_ID.fullmatch(name) is not None
    return has_form and Path(name).suffix.lower() not in FILE_SUFFIXES and not Path(name).exists()
