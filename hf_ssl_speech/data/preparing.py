"""From rows of encoded audio to rows that can be trained on, and a report of those that can't."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset, Features, IterableDataset, List, Value, concatenate_datasets

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio, count_samples, read_audio

logger = logging.getLogger(__name__)

INT16_SCALE = 32_768
NAMES_SHOWN = 4
ROWS_AT_ONCE = 64
STRING, INTEGER = Value("string"), Value("int64")
MEASURED = {"name": STRING, "problem": STRING, "sample_id": INTEGER, "num_samples": INTEGER}
DECODED = {"samples": List(Value("int16"))}


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
        `num_samples` at 16 kHz; and `audio`, or with `cache` an array `samples` of
        16-bit values.
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
        # Only `samples` becomes an array: as a list of numbers, a row takes 60 times as long. No type is asked for,
        # because `flatten_indices`, `filter` and `add_column` would cast all columns to it.
        prepared = prepared.with_format("numpy", columns=["samples"], output_all_columns=True)
    return prepared, report


def keeping_format(dataset: Dataset, change: Callable[[Dataset], Dataset]) -> Dataset:
    """Changes rows or columns of a dataset without its format having a say in what is written.

    Whatever adds, removes, joins or maps columns goes through here: `datasets` writes what the format gives, so that
    numbers would be written in the type of the format of the audio.

    Args:
        dataset: Rows in any format.
        change: Gives the new dataset. It gets the rows without a format.
    Returns:
        The new dataset in the format of the old one. New columns are formatted if all old ones were, and always shown.
    """
    form, before = dataset.format, dataset.column_names
    changed = change(dataset.with_format(None))
    if form["type"] is None and form["columns"] == before:
        return changed
    columns = None
    if form["columns"] != before:  # else all, those to come as well
        new = [] if form["output_all_columns"] else [name for name in changed.column_names if name not in before]
        columns = [name for name in form["columns"] if name in changed.column_names] + new
    return changed.with_format(form["type"], columns, form["output_all_columns"], **form["format_kwargs"])


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
    name = str(row.get("id") or (audio.get("path") if isinstance(audio, dict) else None) or "")
    return name if name.isprintable() else repr(name)  # a name with a newline would forge a line of the log


def _each_row(rows: dict[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(rows, values)) for values in zip(*rows.values())]


def _check_columns(there: Sequence[str], wanted: Sequence[str]):
    missing = [column for column in wanted if column not in there]
    if missing:
        raise ValueError(f"The dataset has no columns {missing}; there are {list(there)}.")


def split_facts(source: str, dataset, report) -> dict[str, Any]:
    """What the record says of one split: where from, how much, what was left out."""
    samples = dataset.with_format("numpy")["num_samples"][:]
    return {
        "source": source,
        "fingerprint": hashlib.sha256(samples.tobytes() + "\n".join(dataset["name"]).encode()).hexdigest()[:16],
        "rows": len(dataset),
        "hours": float(samples.sum()) / SAMPLE_RATE / 3600,
        "skipped": report.to_dict(),
    }


def stream_facts(source) -> dict[str, Any]:
    """What the record says of a stream, whose rows are not known beforehand."""
    return {"source": source, "fingerprint": "stream of " + " ".join(source), "streaming": True}
