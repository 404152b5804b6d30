"""From rows of encoded audio to rows for training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Features, IterableDataset, List, Value, concatenate_datasets

from hf_ssl_speech.audio import (
    INT16_SCALE,
    SAMPLE_RATE,
    BadAudio,
    count_samples,
    read_audio,
    read_blocks,
    silence,
    to_int16,
)
from hf_ssl_speech.data.data_facts import SkipReport
from hf_ssl_speech.data.pieces import PIECE_ID, cut_at_pauses, is_recording, piece_name, with_pieces
from hf_ssl_speech.data.rows import (
    TOLD,
    TOO_SHORT,
    StreamedRows,
    as_prepared,
    check_part,
    columns_of,
    each_row,
    has_parts,
    last_changes,
    part_of,
    row_name,
    undecoded,
    with_distinct_names,
)

ROWS_AT_ONCE, DECODED_AT_ONCE = 64, 8  # a row may last hours
STRING, INTEGER = Value("string"), Value("int64")
MEASURED = {"name": STRING, "problem": STRING, "sample_id": INTEGER, "num_samples": INTEGER}
DECODED = {"samples": List(Value("int16"))}
PART = {"start": INTEGER, "channel": INTEGER}


def prepare_speech(
    dataset: Dataset,
    *,
    min_seconds: float,
    max_seconds: float | None = None,
    cache: bool = False,
    num_proc: int | None = None,
    keep: Sequence[str] = (),
    of_recordings: Sequence[str] = (),
    channel: int | None = None,
) -> tuple[Dataset, SkipReport]:
    """Measures every row of a dataset and leaves out those that can't be used.

    Args:
        dataset: Rows with encoded audio, as `load_speech` gives them, or with any `Audio` column called `audio`. Where
            they have `segment_start` and `segment_end`, in seconds, a row is that part of its audio.
        min_seconds: Shorter audio is left out.
        max_seconds: Recordings, which are longer than 40 s and than twice this, are cut at pauses into pieces no longer
            than this, each a row of its own (see `cut_at_pauses`). By default no row is cut.
        cache: Whether to decode everything now, once, into 16-bit samples on disk (115 MB an hour), which later runs
            find again if they ask for the same `max_seconds`. Otherwise only headers are read (recordings that are cut
            are decoded once), audio stays encoded, and what only decoding shows is met by `row_waveform`.
        num_proc: Processes to measure or decode with.
        keep: Columns to keep beside the new ones, such as `text`.
        of_recordings: Columns to keep that tell something of a whole recording, and so of each of its pieces, such as
            `language`.
        channel: The channel of the audio to take, counted from 1; by default the mean of all.
    Returns:
        The usable rows and the report of the others. The rows have `name` (their `id`, else path, else number), for
        people, with the row's number where names repeat; `sample_id`, their index in the given dataset, which stays
        however they are filtered or shuffled; `num_samples` at 16 kHz; and `audio`, or with `cache` an array `samples`
        of 16-bit values. Beside `audio`, `start` is the first sample of a row that is a part of it, and `channel` the
        one to take. A piece tells in its name where it begins and has a `sample_id` of its own. Its `audio` is the
        whole file, and `start` its first sample at 16 kHz; or, where a file can't be read from the middle, as inside a
        Parquet file, the piece itself as 16-bit FLAC in the cache.
    Raises:
        ValueError: If a column is missing, no row can be used, or rows are to be cut whose columns are kept: what those
            tell is of the whole row.
    """
    _check_columns(dataset.column_names, ["audio", *keep, *of_recordings])
    if len(dataset) == 0:
        raise ValueError("The dataset has no rows to prepare; check its source and split.")
    dataset = undecoded(dataset)
    if max_seconds and keep:
        raise ValueError(f"Columns {list(keep)} tell of whole rows: leave out `max_seconds`, or don't keep them.")
    longest = round(max_seconds * SAMPLE_RATE) if max_seconds else None
    named_audio = dataset.select_columns([column for column in TOLD if column in dataset.column_names])
    settings = {"channel": channel, "changed": last_changes(dataset)}
    measures = MEASURED | (DECODED if cache else PART if has_parts(dataset, channel) else {})
    measured = named_audio.map(
        _decode_rows if cache else _measure_rows,
        fn_kwargs=settings | {"longest": longest} if cache else settings,
        with_indices=True,
        batched=True,
        batch_size=DECODED_AT_ONCE if cache else ROWS_AT_ONCE,
        writer_batch_size=ROWS_AT_ONCE,
        remove_columns=named_audio.column_names,
        features=Features(measures),
        num_proc=num_proc,
        desc="Decoding audio" if cache else "Reading audio headers",
    )
    kept = [*keep] if cache else ["audio", *keep, *of_recordings]
    if kept:
        measured = concatenate_datasets([measured, dataset.select_columns(kept)], axis=1)
    if cache and of_recordings:
        rows = np.array(measured["sample_id"]) % PIECE_ID
        told = dataset.select_columns([*of_recordings]).with_format(None).select(rows).flatten_indices()
        measured = concatenate_datasets([measured, told], axis=1)
    if longest and not cache:
        measured = with_pieces(measured, longest, num_proc)
    measured = with_distinct_names(measured)
    usable, report = _find_usable(measured, min_seconds)
    if not usable:
        raise ValueError(f"No row can be used: {report}. Check the audio column, or lower `min_seconds`.")
    prepared = measured.remove_columns("problem").select(usable)
    if cache:
        prepared = as_prepared(prepared)
    return prepared, report


def keeping_format(dataset: Dataset, change: Callable[[Dataset], Dataset]) -> Dataset:
    """Changes rows or columns of a dataset independently of its format.

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


def _measure_rows(rows: dict[str, list], indices: list[int], channel: int | None, changed: str) -> dict[str, list]:
    """Counts samples by headers. `changed` only tells `datasets` whether these are the files of the cache."""
    measured = []
    for index, row in zip(indices, each_row(rows)):
        start, stop = part_of(row)
        try:
            num_samples = count_samples(row["audio"])
            if start or stop is not None:
                check_part(num_samples, start, stop)
            found: dict[str, Any] = {"problem": None, "num_samples": min(num_samples, stop or num_samples) - start}
        except BadAudio as error:
            found = {"problem": str(error), "num_samples": 0}
        part = {"start": start if start or stop is not None else None, "channel": channel}
        part = part if channel is not None or "segment_start" in row else {}
        measured.append({"name": row_name(row) or f"row {index}", "sample_id": index, **found, **part})
    return columns_of(measured)


def _decode_rows(
    rows: dict[str, list], indices: list[int], longest: int | None, channel: int | None, changed: str
) -> dict[str, list]:
    measured = []
    for index, row in zip(indices, each_row(rows)):
        name = row_name(row) or f"row {index}"
        for number, piece in enumerate(_decode(row, longest, channel)):
            start = piece.pop("start")
            measured.append({"name": piece_name(name, start), "sample_id": number * PIECE_ID + index, **piece})
    return columns_of(measured)


def _decode(row: dict[str, Any], longest: int | None, channel: int | None) -> list[dict[str, Any]]:
    """The 16-bit samples of a row, with what is measured; of a long recording, those of each piece."""
    first, stop = part_of(row)
    try:
        blocks = read_blocks(row["audio"], first, stop, channel)
        parts = [to_int16(part) for part in (cut_at_pauses(blocks, longest) if longest else blocks)]
        if first or stop is not None:
            check_part(first + sum(map(len, parts)), first, stop)
    except BadAudio as error:
        return [{"problem": str(error), "num_samples": 0, "samples": np.zeros(0, np.int16), "start": None}]
    cut = longest is not None and is_recording(sum(map(len, parts)), longest)
    pieces, start = [], first
    for samples in parts if cut else [np.concatenate([np.zeros(0, np.int16), *parts])]:
        problem = silence(samples)
        pieces.append(
            {
                "problem": problem,
                "num_samples": len(samples),
                "samples": samples[:0] if problem else samples,
                "start": start if cut else None,
            }
        )
        start += len(samples)
    return pieces


def _find_usable(measured: Dataset, min_seconds: float) -> tuple[list[int], SkipReport]:
    usable, report = [], SkipReport(total=len(measured))
    names, problems, ids, lengths = (measured[column][:] for column in MEASURED)
    for index, (name, problem, num_samples) in enumerate(zip(names, problems, lengths)):
        problem = problem or _too_short(num_samples, min_seconds)
        if problem:
            report.skipped.setdefault(problem, []).append(name)
        else:
            usable.append(index)
    rows, lengths = np.array(ids) % PIECE_ID, np.array(lengths)
    recordings = np.unique(rows[np.array(ids) >= PIECE_ID])
    pieces = np.isin(rows, recordings)
    if len(recordings):
        used = lengths[usable][pieces[usable]].sum() / lengths[pieces].sum()
        report.cut = {"recordings": len(recordings), "pieces": int(pieces.sum()), "share_used": float(used)}
    return usable, report


def _too_short(num_samples: int, min_seconds: float) -> str | None:
    return f"{TOO_SHORT} (under {min_seconds:.2f} s)" if num_samples < min_seconds * SAMPLE_RATE else None


def row_waveform(row: Mapping[str, Any]) -> np.ndarray:
    """The waveform of a prepared row, from its int16 `samples` or its encoded `audio`.

    Returns:
        float32 at 16 kHz, `(samples,)`, in [-1, 1]: what is beyond is clipped, as in 16-bit samples.
    Raises:
        BadAudio: If the row is marked as unusable, or its audio is still encoded and turns out to be.
    """
    if row.get("problem"):
        raise BadAudio(row["problem"])
    if "samples" in row:
        return np.asarray(row["samples"], dtype=np.float32) / INT16_SCALE
    start, channel = row.get("start"), row.get("channel")
    if start is None:
        return read_audio(row["audio"], channel=channel).clip(-1, 1)
    waveform = read_audio(row["audio"], start, start + row["num_samples"], channel).clip(-1, 1)
    if len(waveform) != row["num_samples"]:
        raise BadAudio("cut short since it was prepared: the file ends within this piece")
    return waveform


def prepare_stream(
    dataset: IterableDataset,
    *,
    min_seconds: float,
    max_seconds: float | None = None,
    keep: Sequence[str] = (),
    of_recordings: Sequence[str] = (),
    channel: int | None = None,
    mark_unusable: bool = False,
    max_skipped_share: float | None = None,
) -> IterableDataset:
    """Decodes the rows of a streamed dataset when they are read, leaving out those that can't be used.

    A row left out is named in a logged warning, once in each process.

    Args:
        dataset: Streamed rows with encoded audio, as `load_speech` gives them.
        min_seconds: Shorter audio is left out.
        max_seconds: Recordings are cut into pieces no longer than this, as `prepare_speech` does.
        keep: Columns to keep beside the new ones, such as `text`.
        of_recordings: Columns to keep of each piece too, as for `prepare_speech`.
        channel: As for `prepare_speech`.
        mark_unusable: Whether rows that can't be used come by too, without samples, so that a training can report them.
            Each row then tells its `problem`, None for those that can be used.
        max_skipped_share: Ends the stream in a ValueError once a larger share can't be used (see `StreamedRows`).
    Returns:
        Rows with `name`; `sample_id`, a hash that is the same in every run, of the row's `id`, else its path, else its
        audio, and of a piece's number; `num_samples` at 16 kHz; and int16 `samples`.
    Raises:
        ValueError: If a column is missing, or rows are to be cut whose columns are kept.
    """
    _check_columns(dataset.column_names, ["audio", *keep, *of_recordings])
    if max_seconds and keep:
        raise ValueError(f"Columns {list(keep)} tell of whole rows: leave out `max_seconds`, or don't keep them.")
    longest = round(max_seconds * SAMPLE_RATE) if max_seconds else None
    kept = (*keep, *of_recordings)
    settings = {"min_seconds": min_seconds, "longest": longest, "keep": kept, "channel": channel}
    return undecoded(dataset).map(
        _prepare_streamed,
        batched=True,  # only a batch may come back with fewer rows, or more
        batch_size=1,
        remove_columns=dataset.column_names,
        fn_kwargs=settings | {"mark_unusable": mark_unusable, "streamed": StreamedRows(max_skipped_share)},
    )


def _prepare_streamed(
    rows: dict[str, list],
    min_seconds: float,
    longest: int | None,
    keep: tuple[str, ...],
    channel: int | None,
    mark_unusable: bool,
    streamed: StreamedRows,
) -> dict:
    (row,) = each_row(rows)
    columns = ("name", "sample_id", "num_samples", "samples", *(("problem",) if mark_unusable else ()), *keep)
    prepared: dict[str, list] = {column: [] for column in columns}
    for number, piece in enumerate(_decode(row, longest, channel)):
        problem, start = piece.pop("problem") or _too_short(piece["num_samples"], min_seconds), piece.pop("start")
        name = row_name(row) and piece_name(row_name(row), start)
        streamed.count(name, problem)
        if problem and not mark_unusable:
            continue
        identity = row_name(row).encode() or piece["samples"].tobytes() or _encoded(row)
        identity += f" piece {number}".encode() if number else b""
        # 63 bits: ids travel as int64 and seed random generators, which take no negative numbers.
        sample_id = int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little") >> 1
        made = {"name": name or f"audio {sample_id:016x}", "sample_id": sample_id, **piece}
        if problem:
            made["samples"] = piece["samples"][:0]
        made |= {"problem": problem} | {column: row[column] for column in keep}
        for column in columns:
            prepared[column].append(made[column])
    return prepared


def _encoded(row: dict[str, Any]) -> bytes:
    audio = row["audio"]
    return (audio.get("bytes") if isinstance(audio, dict) else None) or b""


def _check_columns(there: Sequence[str], wanted: Sequence[str]):
    missing = [column for column in wanted if column not in there]
    if missing:
        raise ValueError(f"The dataset has no columns {missing}; there are {list(there)}.")
