"""Corpora in special forms: Common Voice releases, Kaldi's data directories, and LJ Speech."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from datasets import Dataset

from hf_ssl_speech.data.columns import resolve
from hf_ssl_speech.data.tables import listed, read_table, table_header, without_suffix

logger = logging.getLogger(__name__)

# Common Voice's own splits; `validated` holds all of these.
OWN_SPLITS = ("train", "dev", "test")
Splits = dict[str, Callable[[], list[Dataset]]]


def common_voice_splits(folder: Path) -> Splits:
    """The splits of a Common Voice release, a folder with TSV files beside `clips`; none if it is none.

    Raises:
        ValueError: If the folder holds the releases of several languages.
    """
    if not (folder / "clips").is_dir():
        releases = [clips.parent for clips in folder.glob("*/clips") if any(clips.parent.glob("*.tsv"))]
        if len(releases) > 1:
            named = ", ".join(sorted(str(release) for release in releases))
            raise ValueError(f"{str(folder)!r} holds several releases: name one of {named}, or several in a list.")
        return common_voice_splits(releases[0]) if releases else {}
    tables = {table.stem: table for table in folder.glob("*.tsv") if {"path", "sentence"} <= set(table_header(table))}
    names = [name for name in OWN_SPLITS if name in tables] + sorted(set(tables) - set(OWN_SPLITS))
    return {name: partial(_load_common_voice, tables[name], folder / "clips", set(tables)) for name in names}


def _load_common_voice(table: Path, clips: Path, names: set[str]) -> list[Dataset]:
    shared = names.intersection(OWN_SPLITS) - {"train"}
    if table.stem == "validated" and shared:
        logger.warning("%s also holds the clips of %s: do not score on these.", table, " and ".join(sorted(shared)))
    columns = read_table(str(table))
    paths = [path if Path(path).suffix else f"{path}.mp3" for path in columns.pop("path")]  # old releases: no suffix
    ids = [without_suffix(path) for path in paths]
    return [listed({"id": ids, "audio": [os.path.join(clips.resolve(), path) for path in paths]} | columns)]


def kaldi_splits(folder: Path) -> Splits:
    """A Kaldi data directory, which has a `wav.scp`, as the split `train`, or a folder of several, by their names."""
    if (folder / "wav.scp").is_file():
        return {"train": partial(_load_kaldi, folder)}
    return {scp.parent.name: partial(_load_kaldi, scp.parent) for scp in sorted(folder.glob("*/wav.scp"))}


def _load_kaldi(folder: Path) -> list[Dataset]:
    recordings = {name: _recording(name, where, folder) for name, where in _entries(folder / "wav.scp").items()}
    if (folder / "segments").is_file():
        segments = {name: _segment(name, line, folder) for name, line in _entries(folder / "segments").items()}
    else:
        segments = {name: (name, None, None) for name in recordings}
    unknown = [name for name, (recording, _, _) in segments.items() if recording not in recordings]
    if unknown:
        raise ValueError(
            f"{folder}/segments cuts {unknown[0]} out of {segments[unknown[0]][0]}, which wav.scp does not have; "
            f"{len(unknown):,} such lines."
        )
    columns = {"id": list(segments), "audio": [recordings[recording] for recording, _, _ in segments.values()]}
    if any(start is not None for _, start, _ in segments.values()):
        columns["segment_start"] = [start for _, start, _ in segments.values()]
        columns["segment_end"] = [end for _, _, end in segments.values()]
    for column, file in (("text", "text"), ("speaker", "utt2spk")):
        if (folder / file).is_file():
            values = _entries(folder / file)
            columns[column] = [values.get(name) for name in segments]
            strange = len(values.keys() - segments.keys())
            if strange:
                logger.warning("%s: %s lines are of utterances that have no audio.", folder / file, f"{strange:,}")
    return [listed(columns)]


def _entries(path: Path) -> dict[str, str]:
    """The lines of one of Kaldi's files: a name, white space, and the rest."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n"))
    entries = [line.split(maxsplit=1) for line in lines if line]
    found = {entry[0]: entry[1] if len(entry) > 1 else "" for entry in entries}
    if len(found) < len(entries):
        raise ValueError(f"{path} has {len(entries) - len(found):,} names more than once: run fix_data_dir.sh.")
    return found


def _recording(name: str, where: str, folder: Path) -> str:
    """The path of a recording. Kaldi runs a line that ends in a pipe as a command: nothing here does."""
    if where.endswith("|") or where.startswith("|"):
        raise ValueError(
            f"{folder}/wav.scp makes {name} with a command, which is not run: {where[:200]}. Write its output to a "
            "file and name that; if the command only decodes a file that is read here, such as FLAC, name that file."
        )
    return resolve(where, str(folder.resolve()))


def _segment(name: str, line: str, folder: Path) -> tuple[str, float, float]:
    try:
        recording, start, end = line.split()[:3]
        if not 0 <= float(start) < float(end):
            raise ValueError
        return recording, float(start), float(end)
    except ValueError:
        raise ValueError(
            f"{folder}/segments says {line!r} of {name}; expected a recording, a start and a later end in seconds."
        ) from None


def ljspeech_splits(folder: Path) -> Splits:
    """A corpus in LJ Speech's form as the split `train`: `wavs`, and a `metadata.csv` without a line of names."""
    table = folder / "metadata.csv"
    if not ((folder / "wavs").is_dir() and table.is_file()):
        return {}
    with open(table, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(2**20).split("|")
    return {"train": partial(_load_ljspeech, table)} if len(first) in (2, 3) and first[0] != "file_name" else {}


def _load_ljspeech(table: Path) -> list[Dataset]:
    lines = [line.split("|") for line in table.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    wrong = next((line for line in lines if len(line) < 2), None)
    if wrong:
        raise ValueError(f"{table} has the line {wrong[0][:80]!r}; expected a file's name, | and its transcript.")
    files = [str(table.parent.resolve() / "wavs" / f"{without_suffix(line[0])}.wav") for line in lines]
    # The third field is the text with numbers and abbreviations written out.
    return [listed({"id": [line[0] for line in lines], "audio": files, "text": [line[-1].strip() for line in lines]})]
