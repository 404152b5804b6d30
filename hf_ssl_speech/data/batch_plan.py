"""How the rows of an epoch are cut into batches: sizes that stay the same, filled by rows that are drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hf_ssl_speech.audio import SAMPLE_RATE

# How much longer than its shortest row the longest of a bucket may be: the widest that costs at most this much more
# padding than batches cut from the sorted rows. In wider buckets, batches differ more from epoch to epoch.
BUCKET_WIDTHS = (0.16, 0.12, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01)
PADDING_FOR_VARIETY = 0.01
ENOUGH_ROWS = 500_000  # to find that width for any number of rows


class Epoch(NamedTuple):
    """Batches as a few long arrays: a list of millions of small ones takes minutes and gigabytes.

    Attributes:
        order: Row indices, those of a batch side by side.
        starts: The places in `order` where a batch begins.
        sequence: In which order the batches come.
    """

    order: np.ndarray
    starts: np.ndarray
    sequence: np.ndarray

    def batch(self, index: int) -> np.ndarray:
        """Row indices of a batch; after the last the first comes again."""
        number = self.sequence[index % len(self.sequence)]
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.order)
        return self.order[self.starts[number] : end]

    def sizes(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, longest row and samples of each batch as they come, from the lengths of all rows."""
        in_order = lengths[self.order % len(lengths)]  # further copies of a row are as long
        rows = np.diff(self.starts, append=len(self.order))
        longest = np.maximum.reduceat(in_order, self.starts)
        samples = np.add.reduceat(in_order, self.starts)
        return rows[self.sequence], longest[self.sequence], samples[self.sequence]


class Plan:
    """How sorted rows are cut into batches: the sizes are fixed, the rows that fill them are drawn.

    Attributes:
        order: Row indices, longest first.
        buckets: The places in `order` where a bucket begins, whose rows all cost as much as the first, the longest.
        starts: The places where a batch begins.
    """

    def __init__(
        self, lengths: np.ndarray, batch_seconds: float, equal: bool = False, bucket_width: float | None = None
    ):
        self.order = ordered(-lengths)
        falling = lengths[self.order]
        batch_samples = round(batch_seconds * SAMPLE_RATE)
        if equal:
            self._share_out(falling, bucket_starts(falling, 0), batch_samples)
            return
        if bucket_width is None:
            bucket_width = widest_buckets(falling[:: -(-len(falling) // ENOUGH_ROWS)], batch_seconds)
        self._cut(falling, bucket_starts(falling, bucket_width), batch_samples)

    def _cut(self, falling: np.ndarray, buckets: np.ndarray, batch_samples: int):
        """A batch may go on into the next bucket, but costs what its first row does."""
        parts, place = [], 0
        batch_rows = (batch_samples // falling[buckets]).tolist()
        for rows, end in zip(batch_rows, [*buckets[1:].tolist(), len(falling)]):
            if place < end:
                parts.append(np.arange(place, end, rows))
                place += len(parts[-1]) * rows
        self.buckets, self.starts = buckets, np.concatenate(parts)

    def _share_out(self, falling: np.ndarray, buckets: np.ndarray, batch_samples: int):
        """A batch ends with its bucket. Those of a bucket differ by at most one row, so that no small one is left."""
        rows = np.diff(buckets, append=len(falling))
        batches = -(-rows // (batch_samples // falling[buckets]))
        parts = [
            start + np.arange(number) * count // number
            for start, count, number in zip(buckets.tolist(), rows.tolist(), batches.tolist())
        ]
        self.buckets, self.starts = buckets, np.concatenate(parts)

    def deal(self, rng: np.random.Generator | None = None) -> Epoch:
        """The batches, longest first; with `rng`, rows shuffled inside their buckets and batches among each other."""
        if rng is None:
            return Epoch(self.order, self.starts, np.arange(len(self.starts)))
        drawn, order = rng.random(len(self.order)), np.empty_like(self.order)
        for start, end in zip(self.buckets, [*self.buckets[1:], len(order)]):
            order[start:end] = self.order[start:end][ordered(drawn[start:end])]
        return Epoch(order, self.starts, rng.permutation(len(self.starts)))


def ordered(values: np.ndarray) -> np.ndarray:
    """Places of the values from low to high, the first of equal ones first.

    NumPy's fastest sorting does not keep the order of equal values, nor is it the same on every processor: it sorts
    what is different.
    """
    if values.dtype.kind == "i":
        return np.argsort(values * len(values) + np.arange(len(values)))
    order = np.argsort(values)
    in_order = values[order]
    return np.argsort(values, kind="stable") if (in_order[1:] == in_order[:-1]).any() else order


def widest_buckets(lengths: np.ndarray, batch_seconds: float) -> float:
    """The width of the buckets for rows of these lengths."""

    def padding(width: float, rng: np.random.Generator | None) -> float:
        rows, longest, samples = Plan(lengths, batch_seconds, bucket_width=width).deal(rng).sizes(lengths)
        return float(1 - samples.sum() / (rows * longest).sum())

    most_padding = padding(0, None) + PADDING_FOR_VARIETY
    widths = (width for width in BUCKET_WIDTHS if padding(width, np.random.default_rng(0)) <= most_padding)
    return next(widths, BUCKET_WIDTHS[-1])


def bucket_starts(falling: np.ndarray, width: float) -> np.ndarray:
    """Cuts lengths, longest first, into buckets: the places where one begins. Without width, each has one length."""
    if not width:
        return np.flatnonzero(np.diff(falling, prepend=-1))
    starts, place = [], 0
    rising = falling[::-1]
    while place < len(falling):
        starts.append(place)
        place = len(falling) - int(np.searchsorted(rising, falling[place] / (1 + width), side="left"))
    return np.array(starts)
