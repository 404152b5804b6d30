"""Folders of audio files, with their transcripts where a `metadata` table, `*.trans.txt` or text files hold some."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_ssl_speech.data.columns import resolve, usual_audio_name
from hf_ssl_speech.data.corpora import Splits
from hf_ssl_speech.data.tables import (
    TABLE_SUFFIXES,
    listed,
    load_table,
    read_table,
    read_text,
    table_header,
    with_segments,
)

logger = logging.getLogger(__name__)

# Read by libsndfile. `.mat` and `.raw`, which it reads as well, are seldom audio, or don't tell their rate.
DECODED_SUFFIXES = {
    ".8svx", ".aif", ".aifc", ".aiff", ".au", ".avr", ".bwf", ".caf", ".flac", ".htk", ".iff", ".ircam", ".mp1", ".mp2",
    ".mp3", ".mpga", ".nist", ".oga", ".ogg", ".opus", ".paf", ".pvf", ".rf64", ".sds", ".sf", ".snd", ".sph", ".svx",
    ".voc", ".w64", ".wav", ".wave", ".wve",
}  # fmt: skip
# Only PyAV decodes these: without it they become rows all the same, so that the report of what was skipped names them.
OTHER_SUFFIXES = {
    ".3g2", ".3gp", ".aac", ".ac3", ".amr", ".ape", ".avi", ".flv", ".m4a", ".m4b", ".m4r", ".mka", ".mkv", ".mov",
    ".mp4", ".oga", ".ogv", ".ra", ".spx", ".tta", ".weba", ".webm", ".wma", ".wv",
}  # fmt: skip
AUDIO_SUFFIXES = DECODED_SUFFIXES | OTHER_SUFFIXES
# Folders of audio with these names are splits; others may be speakers. So are `train-clean-100` and `dev_other`.
FOLDER_SPLITS = ("train", "validation", "valid", "dev", "eval", "test")
SPLIT_NAME = re.compile(rf"({'|'.join(FOLDER_SPLITS)})(?:[-_.].*)?", re.IGNORECASE)
METADATA = {"metadata.csv", "metadata.tsv", "metadata.jsonl"}
TRANSCRIPTS = ".trans.txt"
# Documentation that comes with published corpora; it is skipped without a message.
COMPANIONS = re.compile(
    r"\..*|metadata\..*|.*\.trans\.txt|readme.*|licen[cs]e.*|copying.*|changelog.*|citation.*|(speakers|books|chapters)\."
    r"txt|dataset_infos\.json|thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)


def audio_splits(folder: Path) -> Splits:
    """The splits of a folder of audio: subfolders with the name of a split, else `train`, which is all of it.

    Several folders of a split, such as `train-clean-100` and `train-other-500`, are one, and each is a split as well.
    """
    named = sorted(each for each in folder.iterdir() if each.is_dir() and SPLIT_NAME.fullmatch(each.name))
    if not named:
        return {"train": partial(_load_audio, folder, [folder])}
    groups: dict[str, list[Path]] = {split: [] for split in FOLDER_SPLITS}
    for each in named:
        groups[SPLIT_NAME.fullmatch(each.name)[1].lower()].append(each)
    groups = {split: roots for split, roots in groups.items() if roots} | {each.name: [each] for each in named}
    return {split: partial(_load_audio, folder, roots) for split, roots in groups.items()}


def table_splits(folder: Path) -> Splits:
    """The tables in a folder that name audio, by split, as their names say; empty if there are none.

    `train_manifest.jsonl` is of the split `train`. A table whose name tells no split is one of that name, or `train` if
    it is alone.
    """
    tables = [
        each
        for each in sorted(folder.iterdir())
        if each.suffix.lower() in TABLE_SUFFIXES
        and each.name.lower() not in METADATA
        and usual_audio_name(table_header(str(each)))
    ]
    splits: dict[str, list[Path]] = {}
    for table in tables:
        words = re.split(r"[-_. ]", table.stem.lower())
        split = next((split for split in FOLDER_SPLITS if split in words), table.stem)
        splits.setdefault(split, []).append(table)
    if len(tables) == 1 and set(splits).isdisjoint(FOLDER_SPLITS):
        splits = {"train": tables}
    return {split: partial(load_tables, found) for split, found in splits.items()}


def load_tables(tables: Sequence[str | Path]) -> list[tuple[Dataset, str]]:
    """The rows of tables, each with the folder that its relative paths are meant in."""
    logger.info("The rows come from %s; other audio in the folder is not read.", ", ".join(map(str, tables)))
    return [(load_table(str(table)), os.path.dirname(os.path.abspath(table))) for table in tables]


def list_audio(files: Sequence[str], facts: Mapping[str, Mapping[str, Any]] | None = None) -> Dataset:
    """A row for each file, called by its path. (The `audiofolder` builder of `datasets` needs torchcodec for this.)

    Args:
        files: Paths; names are relative to the folder that they have in common.
        facts: Of a file, by its absolute path, the other columns.
    """
    files, facts = [os.path.abspath(file) for file in files], facts or {}
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    ids = [Path(os.path.relpath(file, root)).with_suffix("").as_posix() for file in files]
    names = dict.fromkeys(name for fact in facts.values() for name in fact)
    return listed(
        {"id": ids, "audio": files} | {name: [facts.get(file, {}).get(name) for file in files] for name in names}
    )


def _load_audio(folder: Path, roots: Sequence[Path]) -> list[Dataset]:
    """The audio in some folders and their subfolders, each file once, with the facts from tables and transcripts."""
    files, companions, others = [], [], []
    for root in roots:
        for file in _walk(root):
            name = os.path.basename(file)
            if name.lower() in METADATA or name.endswith(TRANSCRIPTS):
                companions.append(file)
            elif Path(file).suffix.lower() in AUDIO_SUFFIXES and not name.startswith("."):
                files.append(file)
            elif not COMPANIONS.fullmatch(name):
                others.append(file)
    texts = _texts_beside(files, others)
    passed_over = Counter(Path(file).suffix.lower() or "without a suffix" for file in {*others} - {*texts.values()})
    if passed_over:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in passed_over.most_common())
        logger.warning("Skipped in %s, since these types are not known as audio: %s files.", folder, kinds)
    if roots != [folder]:
        companions += [str(folder / name) for name in METADATA if (folder / name).is_file()]
    facts = {os.path.abspath(file): {"text": read_text(text).strip()} for file, text in texts.items()}
    facts |= _facts(sorted(companions), folder, [os.path.abspath(str(each)) for each in roots])
    everything = sorted({os.path.abspath(file) for file in files} | facts.keys())
    if not everything:
        return []
    without = sum(file not in facts for file in everything)
    if facts and without:
        logger.warning("%s: %s of %s files have no transcript.", folder, f"{without:,}", f"{len(everything):,}")
    return [list_audio(everything, facts)]


def _texts_beside(files: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Of audio files, the text file of the same name, which holds the transcript."""
    texts = {os.path.splitext(other)[0]: other for other in others if other.lower().endswith(".txt")}
    return {file: texts[stem] for file in files if (stem := os.path.splitext(file)[0]) in texts}


def _walk(root: Path) -> Iterator[str]:
    """The files below a folder, in linked folders too, each folder once; hidden ones hold what programs put there."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if real in seen:  # a link to a folder above, or a second one to the same
            folders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(folder, name) for name in sorted(names))


def _facts(companions: Sequence[str], whole: Path, roots: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What metadata tables and LibriSpeech's transcripts say of the files below some folders of a whole, by path."""
    facts: dict[str, dict[str, Any]] = {}
    for companion in companions:
        folder = os.path.dirname(os.path.abspath(companion))
        if companion.endswith(TRANSCRIPTS):
            rows = _transcripts(companion, folder)
        else:
            columns = read_table(companion)
            audio_column = usual_audio_name(columns)
            if audio_column is None:
                raise ValueError(f"{companion} has no column `file_name`; there are {list(columns)}.")
            files = [resolve(str(name), folder) for name in columns.pop(audio_column)]
            columns = with_segments(columns)
            rows = {file: dict(zip(columns, values)) for file, *values in zip(files, *columns.values())}
            if len(rows) < len(files):
                raise ValueError(f"{companion} names {len(files) - len(rows):,} files more than once.")
        below = {os.path.normpath(file): row for file, row in rows.items()}
        outside = sum(not file.startswith(os.path.abspath(whole) + os.sep) for file in below)
        if outside:
            logger.warning(
                "%s names %s files outside of %s, which are not read: name the table to read them, too.",
                companion,
                f"{outside:,}",
                whole,
            )
        found = {file: row for file, row in below.items() if any(file.startswith(root + os.sep) for root in roots)}
        contradicted = [
            file
            for file, row in found.items()
            if any(facts.get(file, row).get(name, row[name]) != row[name] for name in row)
        ]
        if contradicted:
            raise ValueError(
                f"{companion} and another table of its folder say different things of {len(contradicted):,} files, as "
                f"of {contradicted[0]}: keep one of the tables."
            )
        facts |= {file: facts.get(file, {}) | row for file, row in found.items()}
    return facts


def _transcripts(path: str, folder: str) -> dict[str, dict[str, str]]:
    """The lines of a `*.trans.txt`: the name of an audio file in its folder, and the words."""
    files = {Path(name).stem: name for name in os.listdir(folder) if Path(name).suffix.lower() in AUDIO_SUFFIXES}
    rows = {}
    for line in Path(path).read_text(encoding="utf-8-sig").split("\n"):
        name, _, text = line.strip().partition(" ")
        if name:
            rows[os.path.join(folder, files.get(name, f"{name}.flac"))] = {"text": text}
    return rows
