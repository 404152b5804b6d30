"""Cuts long recordings into pieces, at pauses."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import soundfile
from datasets import Audio, Dataset, Features, Value, concatenate_datasets

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio, can_seek, read_blocks, silence, to_int16

# An utterance is no longer than this: if it is too long for a run, each epoch takes another part of it, as in the
# papers. A recording is longer, and more than so many times as long as the longest piece.
UTTERANCE_SECONDS, LONG = 40, 2
# A cut falls in the last sixth of what a piece may hold, into the middle of the quietest tenth of a second.
SEARCHED_SHARE = 6
HOP_SAMPLES, PAUSE_HOPS = 160, 10
# Piece k of row i has the sample id k * PIECE_ID + i: distinct, and the row's own where it is not cut.
PIECE_ID = 2**40
PIECES_AT_ONCE = 64


def is_recording(num_samples: int | np.ndarray, longest: int) -> bool | np.ndarray:
    """Whether an audio of this many samples is cut into pieces of at most `longest`; elementwise for arrays."""
    return num_samples > max(UTTERANCE_SECONDS * SAMPLE_RATE, LONG * longest)


def cut_at_pauses(blocks: Iterable[np.ndarray], longest: int) -> Iterator[np.ndarray]:
    """Cuts a waveform where it is quietest; no sample is lost or repeated.

    A piece is as long as the search allows, but what is left at the end is cut in halves: no piece of a waveform that
    is cut is shorter than 5/12 of `longest`. Where there is no pause, the quietest place is taken all the same.

    Args:
        blocks: The waveform at 16 kHz, float32, in parts of any length `(samples,)`. The pieces don't depend on where
            they end, and no more than a part and two pieces are held at a time.
        longest: The most samples of a piece.
    Returns:
        The pieces in order, `(samples,)`.
    """
    searched = max(1, longest // SEARCHED_SHARE)
    waiting = np.zeros(0, np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        while len(waiting) >= 2 * longest:
            cut = _quietest(waiting, longest - searched, longest)
            yield waiting[:cut]
            waiting = waiting[cut:]
    while len(waiting) > longest:
        end = min(longest, (len(waiting) + searched) // 2)
        cut = _quietest(waiting, end - searched, end)
        yield waiting[:cut]
        waiting = waiting[cut:]
    if len(waiting):
        yield waiting


def piece_name(name: str, start: int | None) -> str:
    """The name of the piece of a recording that begins at a sample; of the whole if `start` is None."""
    return name if start is None else f"{name} at {start / SAMPLE_RATE:.2f} s"


def recording_name(name: str) -> str:
    """The name of the recording that a row's name tells of, whether it is a piece or the whole."""
    return re.sub(r" at \d+\.\d\d s$", "", name)


def with_pieces(measured: Dataset, longest: int, num_proc: int | None = None) -> Dataset:
    """Measured rows, with pieces instead of recordings. No encoded audio is copied where a file can be sought.

    Args:
        measured: Rows with `name`, `problem`, `sample_id`, `num_samples` and encoded `audio`.
        longest: The most samples of a piece.
        num_proc: Processes to decode with.
    Returns:
        The rows in order; if any was cut, with the column `start`: the first sample of a piece in its audio, or None
        where the audio is all there is.
    """
    long = is_recording(np.array(measured["num_samples"]), longest)
    if not long.any():
        return measured
    measured = measured.cast_column("audio", Audio(decode=False))  # whichever form it had
    if "start" not in measured.column_names:
        starts = Dataset.from_dict({"start": [None] * len(measured)}, features=Features({"start": Value("int64")}))
        measured = concatenate_datasets([measured, starts], axis=1)
    pieces = measured.select(np.flatnonzero(long)).map(
        _cut_rows,
        fn_kwargs={"longest": longest},
        batched=True,
        batch_size=1,
        writer_batch_size=PIECES_AT_ONCE,
        features=measured.features,
        num_proc=num_proc,
        desc="Cutting long recordings",
    )
    together = concatenate_datasets([measured.select(np.flatnonzero(~long)), pieces])
    ids = np.array(together["sample_id"])
    return together.select(np.lexsort((ids // PIECE_ID, ids % PIECE_ID)))


def _cut_rows(rows: dict[str, list], longest: int) -> dict[str, list]:
    row = {column: value for column, (value,) in rows.items()}
    try:
        pieces = list(_cut(row, longest))
    except BadAudio as error:
        pieces = [row | {"problem": str(error), "num_samples": 0}]
    return {column: [piece[column] for piece in pieces] for column in row}


def _cut(row: dict[str, Any], longest: int) -> Iterator[dict[str, Any]]:
    seekable, start = can_seek(row["audio"]), row["start"] or 0
    stop = None if row["start"] is None else start + row["num_samples"]
    blocks = read_blocks(row["audio"], start, stop, row.get("channel"))
    for number, piece in enumerate(cut_at_pauses(blocks, longest)):
        place = {"audio": row["audio"], "start": start}
        if not seekable:  # the piece itself, which has one channel
            place = {"audio": {"bytes": as_flac(piece), "path": None}, "start": None}
            place |= {"channel": None} if "channel" in row else {}
        yield {
            **row,
            "name": piece_name(row["name"], start),
            "problem": silence(piece),
            "sample_id": row["sample_id"] + number * PIECE_ID,
            "num_samples": len(piece),
            **place,
        }
        start += len(piece)


def as_flac(waveform: np.ndarray) -> bytes:
    """A waveform as a FLAC file of 16-bit samples."""
    file = io.BytesIO()
    soundfile.write(file, to_int16(waveform), SAMPLE_RATE, format="FLAC")
    return file.getvalue()


def _quietest(waveform: np.ndarray, start: int, end: int) -> int:
    """The middle of the tenth of a second from `start` to `end` that has the least power; the first of several."""
    hop = min(HOP_SAMPLES, end - start)
    hops = (end - start) // hop
    power = np.square(waveform[start : start + hops * hop], dtype=np.float64).reshape(hops, hop).sum(axis=1)
    width = min(PAUSE_HOPS, hops)
    sums = np.lib.stride_tricks.sliding_window_view(power, width).sum(axis=1)
    return start + int(sums.argmin()) * hop + width * hop // 2
