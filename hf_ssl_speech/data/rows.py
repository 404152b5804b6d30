"""Facts about rows of encoded audio: their names, the parts of audio that they are, and changes of their files."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute
from datasets import Audio, Dataset, IterableDataset, concatenate_datasets

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio
from hf_ssl_speech.data.pieces import PIECE_ID

logger = logging.getLogger(__name__)

TOO_SHORT = "too short"  # how the reason of a row that is shorter than min_seconds begins
FEWEST_ROWS = 100  # a share is taken of at least so many: in a small folder one broken file is a large share

TOLD = ("id", "audio", "segment_start", "segment_end")  # the columns that are read here


def undecoded(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The same with its audio left encoded, so that nothing asks for torchcodec."""
    if isinstance((dataset.features or {}).get("audio"), Audio):
        return dataset.cast_column("audio", Audio(decode=False))
    return dataset


def numbers(dataset: Dataset, column: str) -> np.ndarray:
    """The numbers in a column, by way of Arrow: tens of millions in an instant, where NumPy's format takes seconds."""
    return dataset.select_columns([column]).with_format("arrow")[:][column].to_numpy()


def most_unusable(total: int, max_share: float) -> float:
    """How many of `total` rows may be unusable: the share of `total` or of 100 rows, if more, but at most half."""
    return max(max_share * total, min(max_share * FEWEST_ROWS, total / 2))


def share_with_short(max_share: float) -> float:
    """The share of the rows that may be left out where those shorter than `min_seconds` count too.

    Settings that leave short rows out are no damage, and many a corpus has a tenth of them; but a run should not
    begin on less than half of its data by accident. A `max_share` of 0 allows none of either.
    """
    return max(max_share, 0.5) if max_share else 0.0


class StreamedRows:
    """Counts the rows of a stream, names those that can't be used, and ends it once there are too many of these.

    The length of the stream is unknown, so the lost share must exceed the limit by three standard deviations, after at
    least 100 rows. Each process counts the rows that it reads.

    Args:
        max_share: The setting `max_skipped_share`; None for no limit.
    """

    def __init__(self, max_share: float | None):
        self.max_share = max_share
        self.total = 0
        self.reasons: Counter[str] = Counter()
        self.named: set[str] = set()

    def count(self, name: str, problem: str | None):
        """Counts a row; says, once, why it can't be used.

        Raises:
            ValueError: If too many can't be.
        """
        self.total += 1
        if problem:
            self.reasons[problem] += 1
            if name not in self.named:
                self.named.add(name)
                logger.warning("Skipped %s: %s", name or "an audio without id or path", problem)
        if self.max_share is None or self.total < FEWEST_ROWS:
            return
        damaged = sum(count for reason, count in self.reasons.items() if not reason.startswith(TOO_SHORT))
        if self._exceeds(damaged, self.max_share) or self._exceeds(
            self.reasons.total(), share_with_short(self.max_share)
        ):
            causes = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
            lost = self.reasons.total() / self.total
            raise ValueError(
                f"{lost:.1%} of the first {self.total:,} rows of the stream can't be used, more than "
                f"max_skipped_share={self.max_share:.1%} allows: {causes}. Correct the data or the settings, or raise "
                "max_skipped_share."
            )

    def _exceeds(self, lost: int, share: float) -> bool:
        expected = share * self.total
        return lost > expected + 3 * math.sqrt(expected * (1 - share))


def as_prepared(dataset: Dataset) -> Dataset:
    """Rows in the format that `prepare_speech` gives them, whatever theirs is: `samples` as arrays, all else plain."""
    if "samples" not in dataset.column_names:
        return dataset.with_format(None)
    # Only `samples` becomes an array: as a list of numbers, a row takes 60 times as long. `flatten_indices` and others
    # write all columns through this format: dtype=None keeps the type of each.
    return dataset.with_format("numpy", columns=["samples"], output_all_columns=True, dtype=None)


def has_parts(dataset: Dataset, channel: int | None) -> bool:
    """Whether rows are a part of their audio: a segment, or one of its channels."""
    return channel is not None or "segment_start" in dataset.column_names


def last_changes(dataset: Dataset) -> str:
    """A hash of the sizes and times of the files that rows name: what is in the cache of others is not theirs."""
    audio = dataset.data.column("audio")
    if pyarrow.types.is_struct(audio.type):
        fields = [audio.type.field(place).name for place in range(audio.type.num_fields)]
        if "path" not in fields:
            return ""
        paths = pyarrow.compute.struct_field(audio, "path")
        if "bytes" in fields:
            embedded = pyarrow.compute.is_valid(pyarrow.compute.struct_field(audio, "bytes"))
            paths = pyarrow.compute.if_else(embedded, pyarrow.scalar(None, paths.type), paths)
    elif pyarrow.types.is_string(audio.type) or pyarrow.types.is_large_string(audio.type):
        paths = audio
    else:
        return ""
    if dataset._indices is not None:
        paths = paths.take(dataset._indices.column(0))
    digest = hashlib.sha256()
    for path in paths.to_pylist():
        if path is None:
            continue
        try:
            state = os.stat(path)
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}".encode(errors="surrogateescape"))
        except (OSError, ValueError):  # a NUL in it, an address, or nothing there
            digest.update(f"{path} missing".encode(errors="surrogateescape"))
    return digest.hexdigest()


def with_distinct_names(measured: Dataset) -> Dataset:
    """Adds the row's number to names that several rows have, so that each name means one row."""
    names, met = measured["name"][:], Counter(measured["name"])
    if len(met) == len(names):
        return measured
    numbers = np.array(measured["sample_id"]) % PIECE_ID
    distinct = [f"{name} (row {number})" if met[name] > 1 else name for name, number in zip(names, numbers)]
    return concatenate_datasets([Dataset.from_dict({"name": distinct}), measured.remove_columns("name")], axis=1)


def part_of(row: dict[str, Any]) -> tuple[int, int | None]:
    """First and last sample, at 16 kHz, of the part of its audio that a row is; (0, None) for all of it."""
    start, end = row.get("segment_start"), row.get("segment_end")
    return round((start or 0) * SAMPLE_RATE), None if end is None else round(end * SAMPLE_RATE)


def check_part(num_samples: int, start: int, stop: int | None):
    """Refuses a part that lies outside an audio of this many samples, or ends half a second or more after it."""
    if start < 0 or (stop is not None and stop <= start):
        raise BadAudio("its segment begins before the audio, or ends before it begins")
    if num_samples <= start or (stop is not None and num_samples < stop - SAMPLE_RATE // 2):
        raise BadAudio("cut short: its segment ends after the audio")


def row_name(row: dict[str, Any]) -> str:
    """A row's `id`, else the path of its audio, fit for one line of a log; empty if it has neither."""
    audio = row["audio"]
    name = row.get("id")
    if name is None or name == "":  # 0 is an id
        name = (audio.get("path") if isinstance(audio, dict) else None) or ""
    name = str(name)
    return name if name.isprintable() else repr(name)  # a name with a newline would forge a line of the log


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list]:
    """Rows as columns."""
    return {column: [row[column] for row in rows] for column in rows[0]}


def each_row(rows: dict[str, list]) -> list[dict[str, Any]]:
    """Columns as rows."""
    return [dict(zip(rows, values)) for values in zip(*rows.values())]
