"""Batches by duration: as many rows as fit into so many seconds, of nearly equal length, grouped anew in each epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, Sampler, get_worker_info
from transformers import PreTrainedConfig

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.batch_plan import Epoch, Plan
from hf_ssl_speech.data.families import hearing_of
from hf_ssl_speech.data.mixing import Mixture


class DurationBatchSampler(Sampler[list[int]]):
    """Batches of row indices for `DataLoader(batch_sampler=...)`, the same for any number of processes.

    Rows are sorted by length and cut into buckets of nearly equal length. A row costs as much as the longest of its
    bucket, so the cut into batches stays the same whichever rows of a bucket fill it: each epoch shuffles the rows
    inside the buckets and the order of the batches, and all epochs have equally many batches. The list of an epoch's
    batches depends on the lengths, the seed and the epoch alone; rank r of n takes every n-th batch from the r-th on.

    Args:
        num_samples: Length of each row in samples at 16 kHz.
        batch_seconds: The most seconds that a batch may hold, padding included (rows x longest row).
        max_seconds: Rows are cropped to this when they are collated, so they count no longer.
        crop: What is left of each length in samples when rows are cropped further. A batch then holds rows of one
            length only, without padding.
        seed: For the order; the same on all ranks.
        shuffle: If false, the batches are the same in every epoch, longest rows first, and none is repeated, so the
            ranks may differ by one batch.
        num_replicas: Number of ranks.
        rank: The rank of this process.
        batches_per_update: Batches that make an update, over all ranks and accumulation steps; by default one a rank.
            With `shuffle` the first batches of an epoch are repeated at its end, until its last update is complete.
        mixture: What an epoch draws from each corpus, instead of every row once. Each epoch then has other rows, and so
            batches of its own, of which it takes as many as the first epoch has. A row that the mixture draws in its
            n-th pass has the index `n * len(num_samples) + row`: see `MixedRows`.
    Raises:
        ValueError: If there are no rows, the longest does not fit into a batch, or the ranks don't fit together.
    """

    def __init__(
        self,
        num_samples: Sequence[int] | np.ndarray,
        *,
        batch_seconds: float,
        max_seconds: float | None = None,
        crop: Callable[[np.ndarray], np.ndarray] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        num_replicas: int = 1,
        rank: int = 0,
        batches_per_update: int | None = None,
        mixture: Mixture | None = None,
    ):
        batches_per_update = batches_per_update or num_replicas
        if not 0 <= rank < num_replicas or batches_per_update % num_replicas:
            raise ValueError(
                f"Got rank {rank} of {num_replicas} with {batches_per_update} batches per update; expected a rank "
                f"from 0 to {num_replicas - 1} and a multiple of the number of ranks."
            )
        self.lengths = _cropped(num_samples, batch_seconds, max_seconds, crop)
        self.batch_seconds = batch_seconds
        self.equal = crop is not None
        whole = _cropped(num_samples, batch_seconds, max_seconds, None) if self.equal else self.lengths
        self.kept = float(self.lengths.sum() / whole.sum())
        self.seed = seed
        self.shuffle = shuffle
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self.mixture = mixture
        self._places = self._drawn(0)
        self._plan = Plan(self._lengths_at(self._places), batch_seconds, self.equal)
        per_update = batches_per_update if shuffle else 1
        self._num_batches = -(-len(self._plan.starts) // per_update) * per_update  # of all ranks
        self._start = self._position = 0  # in batches of all ranks: where to begin, and how many are handed out

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self._deal()
        start, self._start = self._start, 0
        for index in range(start + self.rank, self._num_batches, self.num_replicas):
            self._position = index - self.rank + self.num_replicas
            yield epoch.batch(index).tolist()

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        return len(range(self.rank, self._num_batches, self.num_replicas))

    def _deal(self) -> Epoch:
        """All ranks' batches of this epoch."""
        places, plan = self._places, self._plan
        if self.mixture is not None and self.epoch:
            places = self._drawn(self.epoch)
            plan = Plan(self._lengths_at(places), self.batch_seconds, self.equal)
        epoch = plan.deal(np.random.default_rng((self.seed, self.epoch)) if self.shuffle else None)
        return epoch if places is None else epoch._replace(order=places[epoch.order])

    def _drawn(self, epoch: int) -> np.ndarray | None:
        """The indices of an epoch's rows; None for each row once."""
        if self.mixture is None:
            return None
        rows, passes = self.mixture.draw(epoch, self.seed)
        return passes * len(self.lengths) + rows

    def _lengths_at(self, places: np.ndarray | None) -> np.ndarray:
        return self.lengths if places is None else self.lengths[places % len(self.lengths)]

    def set_epoch(self, epoch: int):
        """Takes the order of another epoch, from its start. The same epoch again changes nothing."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._start = self._position = 0

    def state_dict(self) -> dict[str, int]:
        """The state of this epoch: the number of batches handed out on all ranks, if all are at the same step.

        A DataLoader with workers takes batches ahead of the training loop; those count as handed out.
        """
        return {"epoch": self.epoch, "batches": self._position}

    def load_state_dict(self, state: dict[str, int]):
        """Makes the next iteration continue after the batches handed out, on however many ranks there are now."""
        self.epoch = state["epoch"]
        self._start = self._position = state["batches"]

    @property
    def batches_of_all(self) -> int:
        """Different batches of all ranks in an epoch: those that come again at its end are not counted."""
        return len(self._plan.starts)

    @property
    def mean_seconds(self) -> float:
        """Audio in a batch, padding not counted, in the mean over an epoch."""
        return float(self._lengths_at(self._places).sum()) / SAMPLE_RATE / self.batches_of_all

    def largest_batch(self) -> list[int]:
        """Row indices of the batch with most samples, padding included; of several the one with the longest rows."""
        plan = self._plan if self.mixture is None else Plan(self.lengths, self.batch_seconds, self.equal)
        epoch = plan.deal()
        rows, longest, _ = epoch.sizes(self.lengths)
        return epoch.batch(int(np.argmax(rows * longest))).tolist()  # the longest rows come first

    @property
    def waste(self) -> float:
        """The share of this epoch's samples that is padding."""
        rows, longest, samples = self._sizes()
        return float(1 - samples.sum() / (rows * longest).sum())

    def __str__(self) -> str:
        rows, longest, samples = self._sizes()
        told = (
            f"{len(rows):,} batches of at most {self.batch_seconds:.1f} s (mean {samples.mean() / SAMPLE_RATE:.1f} s, "
            f"{rows.mean():.1f} rows), {self.waste:.1%} padding"
        )
        if not self.equal:
            return told
        shapes = {*zip(rows.tolist(), longest.tolist())}
        return f"{told}, {len(shapes):,} shapes, {self.kept:.1%} of the audio kept"

    def _sizes(self) -> tuple[np.ndarray, ...]:
        """Rows, longest row and samples of each batch, those too that come again at the end of the epoch."""
        epoch = self._deal()
        sizes = epoch.sizes(self.lengths)
        places = np.arange(self._num_batches) % len(epoch.sequence)
        return tuple(size[places] for size in sizes)


class SamplerOfParts(Sampler[list[int]]):
    """The batches of several samplers, each for some rows of a dataset: no batch holds rows of two of them.

    Args:
        parts: Places of the rows of each part, and what makes batches of them.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray, DurationBatchSampler]]):
        self.parts = parts

    def __iter__(self) -> Iterator[list[int]]:
        for rows, sampler in self.parts:
            for batch in sampler:
                yield rows[batch].tolist()

    def __len__(self) -> int:
        return sum(len(sampler) for _, sampler in self.parts)


class DurationBatchedStream(IterableDataset):
    """Endless batches of a stream of prepared rows, for `DataLoader(batch_size=None, collate_fn=...)`.

    Gathers rows until they make `buffer_seconds`, batches them as `DurationBatchSampler` does, hands out all the
    batches in random order and gathers again. At the end of the stream the remaining rows are batched too, and the
    stream starts over; every row has its `epoch`. Each worker of a DataLoader has its own buffer and its own shards of
    the stream. Rows marked as unusable take no place: the first row of the buffer's first batch names them, with the
    reasons, in `skipped_before`, from which the collators report them.

    Args:
        dataset: Gives rows with `num_samples`, and with a `problem` where they can't be used (see `prepare_stream`).
        batch_seconds: The most seconds that a batch may hold, padding included (rows x longest row).
        max_seconds, crop: As `DurationBatchSampler` has them.
        buffer_seconds: Seconds to gather; an hour of int16 samples takes 115 MB. More means less padding and better
            shuffling.
        seed: For the order.
    Raises:
        ValueError: If the buffer is smaller than a batch, or, when it comes by, if a row does not fit into a batch or
            the stream has no row at all.
    """

    def __init__(
        self,
        dataset: Iterable[dict[str, Any]],
        *,
        batch_seconds: float,
        max_seconds: float | None = None,
        crop: Callable[[np.ndarray], np.ndarray] | None = None,
        buffer_seconds: float = 1_800.0,
        seed: int = 0,
    ):
        if buffer_seconds < batch_seconds:
            raise ValueError(
                f"A buffer of {buffer_seconds:.1f} s can't fill a batch of {batch_seconds:.1f} s; expected some tens "
                "of batches. Raise `buffer_seconds`."
            )
        self.dataset = dataset
        self.batch_seconds = batch_seconds
        self.max_seconds = max_seconds
        self.crop = crop
        self.buffer_seconds = buffer_seconds
        self.seed = seed

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        worker = get_worker_info()
        skipped: list[tuple[str, str]] = []
        for epoch in itertools.count():
            if hasattr(self.dataset, "set_epoch"):
                self.dataset.set_epoch(epoch)
            rng = np.random.default_rng((self.seed, epoch, worker.id if worker else 0))
            rows, missing, empty = [], self.buffer_seconds * SAMPLE_RATE, True
            for row in self.dataset:
                if row.get("problem"):
                    skipped.append((row["name"], row["problem"]))
                    continue
                empty = False
                rows.append({**row, "epoch": epoch})
                missing -= row["num_samples"]
                if missing <= 0:
                    yield from self._batches(rows, rng, skipped)
                    rows, missing, skipped = [], self.buffer_seconds * SAMPLE_RATE, []
            if rows:
                yield from self._batches(rows, rng, skipped)
                skipped = []
            if empty and (worker is None or worker.id == 0):
                raise ValueError("The stream has no usable row: look at the warnings above, or lower `min_seconds`.")
            if empty:  # more workers than the stream has shards
                return

    def _batches(
        self, rows: list[dict[str, Any]], rng: np.random.Generator, skipped: list[tuple[str, str]]
    ) -> Iterator[list[dict[str, Any]]]:
        lengths = _cropped([row["num_samples"] for row in rows], self.batch_seconds, self.max_seconds, self.crop)
        epoch = Plan(lengths, self.batch_seconds, self.crop is not None).deal(rng)
        first, *others = map(epoch.batch, range(len(epoch.starts)))
        if skipped:
            rows[first[0]]["skipped_before"] = skipped
        for batch in (first, *others):
            yield [rows[index] for index in batch]


def seconds_at_once(device: torch.device, elsewhere: float = 60.0) -> float:
    """Audio that a model gets at a time when it only runs; on a CPU no more than fits into its cache."""
    return 12.0 if device.type == "cpu" else elsewhere


def inference_batches(lengths: Sequence[int], config: PreTrainedConfig, batch_seconds: float) -> Iterator[list[int]]:
    """Places of the rows of each batch for a model that runs over them once, ours or stock, the longest rows first.

    Args:
        lengths: Of the rows, in samples at 16 kHz; one without samples is in no batch.
        config: Of the model.
        batch_seconds: The most seconds in a batch, padding included (rows x longest row); a longer row goes alone.
    """
    hearing = hearing_of(config)
    samples = np.asarray(lengths)
    if hearing.longest_samples:
        samples = np.where(samples > 0, hearing.longest_samples, 0)  # whatever there is, is padded to this
    batch: list[int] = []
    for place in np.argsort(-samples, kind="stable")[: np.count_nonzero(samples)].tolist():
        longest = samples[batch[0]] if batch else 0
        is_full = (len(batch) + 1) * longest > batch_seconds * SAMPLE_RATE
        if batch and (is_full or (not hearing.leaves_padding_out and samples[place] != longest)):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _cropped(
    num_samples: Sequence[int] | np.ndarray,
    batch_seconds: float,
    max_seconds: float | None,
    crop: Callable[[np.ndarray], np.ndarray] | None,
) -> np.ndarray:
    lengths = np.asarray(num_samples, dtype=np.int64)
    if lengths.size == 0 or lengths.min() <= 0:
        raise ValueError(
            f"Got {lengths.size} rows, {(lengths <= 0).sum()} of them without samples; expected at least one row, and "
            "audio in each. `prepare_speech` leaves out empty rows."
        )
    if max_seconds is not None:
        lengths = np.minimum(lengths, round(max_seconds * SAMPLE_RATE))
    if crop is not None:
        lengths = crop(lengths)
    if lengths.max() > round(batch_seconds * SAMPLE_RATE):
        raise ValueError(
            f"A row of {lengths.max() / SAMPLE_RATE:.1f} s does not fit into a batch of {batch_seconds:.1f} s. Raise "
            "`batch_seconds`, or crop rows with `max_seconds`."
        )
    return lengths
