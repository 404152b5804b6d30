"""Tables that name audio files: CSV, TSV and manifests of JSON lines."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset

from hf_ssl_speech.data.columns import usual_audio_name

TABLE_SUFFIXES = {".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".manifest"}
JSON_SUFFIXES = TABLE_SUFFIXES - {".csv", ".tsv"}
# A field of a TSV is what stands between two tabs, unless a program put it into quotes that it doubled inside.
QUOTED = re.compile(r'"((?:[^"]|"")*)"')
FAIRSEQ_LINE = re.compile(r"([^\t]+)\t(\d+)\s*")  # of a manifest: a path and its samples, below a line with the folder
EXCELS_DELIMITER = re.compile(r'"?sep=.?"?\s*')  # a first line that tells Excel the delimiter
csv.field_size_limit(2**31 - 1)


def load_table(path: str) -> Dataset:
    """The rows of a table, with the columns it has.

    Columns of a CSV or TSV are text, as written: `0012` stays `0012`. A row of a manifest that has an `offset` and a
    `duration`, in seconds, is that part of its audio. Rows without an `id` are named by the path of their audio, as
    written.

    Args:
        path: A .csv, .tsv or .jsonl file (.json and .manifest hold JSON lines, too, or one list). A .tsv may be a
            manifest of fairseq's, with its transcripts beside it.
    Raises:
        ValueError: If it can't be read; the line is named.
    """
    columns = read_table(path)
    if not any(columns.values()):
        raise ValueError(
            f"{path} has no rows; expected a first line with the columns' names, then a line for each audio."
        )
    audio_column = usual_audio_name(columns)
    if audio_column:
        columns = {"id": [name and without_suffix(str(name)) for name in columns[audio_column]]} | columns
    return listed(with_segments(columns))


def with_segments(columns: dict[str, list]) -> dict[str, list]:
    """The columns of a manifest with the part of its audio that each row is, if it says so."""
    if "offset" in columns and "duration" in columns:
        starts = [0.0 if start is None else float(start) for start in columns["offset"]]
        columns["segment_start"] = starts
        columns["segment_end"] = [
            None if seconds is None else start + float(seconds) for start, seconds in zip(starts, columns["duration"])
        ]
    return columns


def without_suffix(name: str) -> str:
    """A file's name or path, with forward slashes and without what tells its format."""
    return Path(name).with_suffix("").as_posix() if Path(name).name else name


def listed(columns: Mapping[str, Sequence]) -> Dataset:
    """A dataset on disk, as `datasets` needs it to cache what is made of its rows."""
    arrays = {name: _as_array(values) for name, values in columns.items()}
    columns = {name: array.to_pylist() for name, array in arrays.items()}
    return Dataset.from_generator(_rows, Dataset(pyarrow.table(arrays)).features, gen_kwargs={"columns": columns})


def _rows(columns: dict[str, list]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values()):
        yield dict(zip(columns, values))


def _as_array(values: Sequence) -> pyarrow.Array:
    """Of the type that all values have; where they have several, or are mappings, as JSON."""
    try:
        array = pyarrow.array(values)
        if not pyarrow.types.is_struct(array.type):
            return array if not pyarrow.types.is_null(array.type) else array.cast(pyarrow.string())
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        pass
    return pyarrow.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pyarrow.string())


def read_table(path: str) -> dict[str, list]:
    """The columns of a table as they are written.

    Raises:
        ValueError: If it can't be read; the line is named.
    """
    text = read_text(path)
    suffix = Path(path).suffix.lower()
    if suffix in JSON_SUFFIXES:
        rows = list(_json_rows(text, path))
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: [row.get(name) for row in rows] for name in names}
        audio_column = usual_audio_name(columns)
        if audio_column:
            columns[audio_column] = [_path(audio, audio_column, path) for audio in columns[audio_column]]
        return columns
    if _is_fairseqs(path):
        return _fairseq_columns(text, path)
    header, rows = table_header(path), []
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise ValueError(f"{path} has several columns {', '.join(map(repr, twice))}: rename all but one of each.")
    for number, fields in _lines(text, suffix, header.delimiter, path):
        if number <= header.number:
            continue
        if len(fields) != len(header):
            raise ValueError(
                f"Line {number:,} of {path} has {len(fields)} fields, but the first line names {len(header)} columns."
            )
        rows.append(fields)
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def _path(audio: Any, column: str, path: str) -> Any:
    """The path in a row of JSON, where it may be one of `{"path": ...}`."""
    if isinstance(audio, dict) and isinstance(audio.get("path"), str):
        return audio["path"]
    if isinstance(audio, (dict, list)):
        raise ValueError(
            f"Column {column!r} of {path} holds {json.dumps(audio)[:80]}; expected the path of an audio file. Of a "
            "manifest of another program, write one with `audio_filepath` and `text`."
        )
    return audio


def _is_fairseqs(path: str) -> bool:
    """Whether a TSV is a manifest of fairseq's: a line with a folder, then paths with numbers of samples."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return "\t" not in file.readline(2**20) and bool(FAIRSEQ_LINE.fullmatch(file.readline(2**20)))


def _fairseq_columns(text: str, path: str) -> dict[str, list]:
    """The paths of fairseq's manifest, and the words in the `.wrd` or letters in the `.ltr` file beside it."""
    folder, *lines = text.rstrip().split("\n")
    found = [FAIRSEQ_LINE.fullmatch(line) for line in lines]
    if not all(found):
        raise ValueError(f"Line {found.index(None) + 2:,} of {path} is no path and number of samples.")
    columns = {"file_name": [str(Path(folder.strip(), match[1])) for match in found if match]}
    for suffix in (".wrd", ".ltr"):
        beside = Path(path).with_suffix(suffix)
        if beside.is_file():
            texts = read_text(str(beside)).rstrip("\n").split("\n")
            if len(texts) != len(lines):
                raise ValueError(f"{beside} has {len(texts):,} lines for the {len(lines):,} recordings of {path}.")
            letters = suffix == ".ltr"  # as in "H I | Y O U |"
            texts = ["".join(text.split()).replace("|", " ") if letters else text for text in texts]
            return columns | {"text": [text.strip() for text in texts]}
    return columns


class Header(list):
    """The names of a table's columns, the delimiter between them, and the number of the line that they stand in."""

    delimiter, number = ",", 1


def table_header(path: str) -> Header:
    """The columns that the first line, or first row, of a table names; none if it is no table."""
    suffix = Path(path).suffix.lower()
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first, header = file.readline(2**20), Header()
        if EXCELS_DELIMITER.fullmatch(first):
            first, header.number = file.readline(2**20), 2
    if suffix in JSON_SUFFIXES:
        try:
            row = json.loads(first)
        except json.JSONDecodeError:
            row = next(_json_rows(read_text(path), path), {}) if first.lstrip().startswith("[") else {}
        header.extend(row if isinstance(row, dict) else (row[0] if isinstance(row, list) and row else {}))
        return header
    if suffix == ".tsv" and _is_fairseqs(path):
        header.append("file_name")
        return header
    header.delimiter = "\t" if suffix == ".tsv" else max(",;\t|", key=first.count)
    names = next(csv.reader([first.rstrip("\r\n")], delimiter=header.delimiter, skipinitialspace=True), [])
    header.extend(name.strip() for name in names)
    return header


def read_text(path: str) -> str:
    """The text of a file in UTF-8.

    Raises:
        ValueError: If it is written in another encoding.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not written in UTF-8 (byte {error.start:,}): convert it, with iconv.") from error


def _json_rows(text: str, path: str) -> Iterator[dict[str, Any]]:
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text, parse_constant=_missing, object_pairs_hook=partial(_once, path))
            _check_characters(rows, path)
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError(f"{path} holds a list whose entries are not rows (JSON objects).")
            yield from rows
            return
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                where = f"Line {number:,} of {path}"
                row = json.loads(line, parse_constant=_missing, object_pairs_hook=partial(_once, where))
                _check_characters(row, where)
                if not isinstance(row, dict):
                    raise ValueError(f"Line {number:,} of {path} is not a JSON object: {line[:80]!r}.")
                yield row
    except json.JSONDecodeError as error:
        if is_json(text):
            raise ValueError(
                f"{path} holds one JSON value: write an object for each row, in lines or a list."
            ) from error
        number = error.lineno if text.lstrip().startswith("[") else number
        raise ValueError(f"Line {number:,} of {path} is not JSON: {error.msg}.") from error


def is_json(text: str) -> bool:
    """Whether a text is JSON as a whole."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def _check_characters(parsed: Any, where: str):
    """Refuses halves of characters, such as \\ud83d alone, that JSON can write and UTF-8 can't."""
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ValueError(f"{where} holds half a character, {half}: write both halves, or none.") from error


def _once(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; Python would keep the last of several values with one name."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{where} has several values of {twice!r}: keep one.")
    return row


def _missing(constant: str) -> None:
    """What NaN in JSON says, which pandas writes for a missing value: a transcript would become the word "nan"."""


def _lines(text: str, suffix: str, delimiter: str, path: str) -> Iterator[tuple[int, list[str]]]:
    if suffix == ".tsv":
        for number, line in enumerate(text.split("\n"), 1):
            fields = line.removesuffix("\r").split("\t")
            if fields != [""]:
                whole = [QUOTED.fullmatch(field) for field in fields]
                yield number, [m[1].replace('""', '"') if m else field for m, field in zip(whole, fields)]
        return
    # Without newlines of its own, `splitlines(True)` would cut at characters that a transcript may hold.
    reader = csv.reader((line + "\n" for line in text.split("\n")), delimiter=delimiter, strict=True)
    started = 1
    try:
        for fields in reader:
            if fields:
                yield started, fields
            started = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"Line {started:,} of {path} is no CSV: {error}.") from error
