"""Several corpora in one training: how much of an epoch each of them fills, and which of its rows come in which epoch.

An epoch holds as much audio as all corpora together. A corpus with a larger share than its size is gone through several
times in an epoch, one with a smaller share takes several epochs for a pass; no row is taken once more before all
others of its corpus have been.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from datasets import Dataset, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.batch_plan import ordered
from hf_ssl_speech.data.mixture_settings import CORPUS, as_pairs
from hf_ssl_speech.data.rows import numbers

COPY = "copy"  # the column of a stream that counts the passes over a corpus
UNKNOWN = "unknown"
SHOWN = 8


class Part(NamedTuple):
    """A part of a mixture: a corpus, or the rows of a corpus with one value in the columns that are mixed by.

    Attributes:
        name: `english`, or `many/ru`.
        rows: Places of its rows.
        samples: Of its rows, as an epoch uses them.
        share: Share of an epoch's audio that it fills.
    """

    name: str
    rows: np.ndarray
    samples: int
    share: float


class Mixture:
    """What an epoch draws from each part of the data.

    Args:
        lengths: Of all rows, in samples, as they are after cropping.
        columns: For each level of the mixture, from the outermost, the value of each row as codes, and their names.
        rules: For each level, the weight of each value, or the exponent of the values' hours: with 1 the shares are
            those of the hours, with 0 they are equal.
    Raises:
        ValueError: If there are weights for other values than there are, or nothing is left to draw from.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        columns: Mapping[str, tuple[np.ndarray, Sequence[str]]],
        rules: Mapping[str, Mapping[str, float] | float],
    ):
        self.lengths = lengths
        sizes = [len(columns[level][1]) for level in rules]
        codes = np.ravel_multi_index([columns[level][0] for level in rules], sizes)
        order = ordered(codes)
        groups = np.flatnonzero(np.diff(codes[order], prepend=-1))
        rows = np.split(order, groups[1:])
        keys = np.transpose(np.unravel_index(codes[order[groups]], sizes))
        names = [tuple(columns[level][1][code] for level, code in zip(rules, key)) for key in keys]
        samples = [int(lengths[members].sum()) for members in rows]
        shares = _shares(dict(zip(names, samples)), list(rules.items()))
        # Whatever the order of the levels, the corpus is told first.
        places = sorted(range(len(rules)), key=lambda place: list(rules)[place] != CORPUS)
        self.parts = [
            Part("/".join(name[place] for place in places), members, size, shares[name])
            for name, members, size in zip(names, rows, samples)
        ]
        self.samples = sum(samples)

    def draw(self, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of an epoch, in order, and for each how often it came before: the number of the pass over its part.

        The passes over a part make one long sequence, each in an order of its own, and an epoch is a stretch of it.
        """
        drawn = [pair for part in self.parts for pair in self._stretch(part, epoch, seed)]
        rows, passes = map(np.concatenate, zip(*drawn))
        most = passes.max() + 1
        return np.divmod(np.sort(rows * most + passes), most)  # each pair is one number, and comes once

    def _stretch(self, part: Part, epoch: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        wanted = round(part.share * self.samples)
        first, last = epoch * wanted, (epoch + 1) * wanted
        lengths = self.lengths[part.rows]
        for number in range(first // part.samples, -(-last // part.samples)):
            generator = np.random.default_rng((seed, zlib.crc32(part.name.encode()), number))
            order = generator.permutation(len(lengths))
            starts = number * part.samples + np.cumsum(lengths[order]) - lengths[order]
            rows = part.rows[order[(starts >= first) & (starts < last)]]
            yield rows, np.full(len(rows), number)

    def repeats(self) -> np.ndarray:
        """How often an epoch takes each row, in the mean over epochs."""
        repeats = np.zeros(len(self.lengths))
        for part in self.parts:
            repeats[part.rows] = self._repeats_of(part)
        return repeats

    def _repeats_of(self, part: Part) -> float:
        return part.share * self.samples / part.samples

    def facts(self) -> dict[str, dict[str, float]]:
        """Of each part its rows and hours, its share of an epoch, and how often an epoch repeats it."""
        return {
            part.name: {
                "rows": len(part.rows),
                "hours": part.samples / SAMPLE_RATE / 3600,
                "share": part.share,
                "repeats_each_epoch": self._repeats_of(part),
            }
            for part in self.parts
        }

    def __str__(self) -> str:
        shown = sorted(self.facts().items(), key=lambda each: -each[1]["share"])
        told = [
            f"{name}: {part['share']:.1%} of an epoch, {part['hours']:,.2f} hours taken "
            f"{part['repeats_each_epoch']:.3g} times"
            for name, part in shown[:SHOWN]
        ]
        return "; ".join(told + [f"and {len(shown) - SHOWN:,} more"] * (len(shown) > SHOWN))


def mixture_of(
    dataset: Dataset,
    weights: Mapping[str, float] | Sequence[str],
    mix_by: Mapping[str, float] | Sequence[str],
    max_seconds: float | None = None,
) -> Mixture | None:
    """The mixture that the settings `weights` and `mix_by` ask for; None if they ask for none.

    Args:
        dataset: Prepared rows with the columns that are mixed by.
        weights: Of each corpus, by the names in the column `corpus`; as numbers by name, or as `NAME=NUMBER` texts.
        mix_by: Likewise the exponent of each level, `corpus` or another column, from the outermost; weights come
            before all of them.
        max_seconds: Rows are cropped to this.
    Raises:
        ValueError: If a column is missing, or the weights are not those of the corpora.
    """
    rules: dict[str, Mapping[str, float] | float] = {CORPUS: as_pairs(weights, "weights")} if weights else {}
    rules |= as_pairs(mix_by, "mix_by")
    if not rules:
        return None
    check_columns(dataset.column_names, list(rules))
    lengths = numbers(dataset, "num_samples").astype(np.int64)
    if max_seconds is not None:
        lengths = np.minimum(lengths, round(max_seconds * SAMPLE_RATE))
    return Mixture(lengths, {level: _values(dataset, level) for level in rules}, rules)


def told_levels(dataset: Dataset | IterableDataset | None, levels: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns that tell which part of the data a row belongs to: those mixed by, or the corpora if they have names.

    A stream may not know its columns before its first row: it is taken to tell its corpora.
    """
    there = [CORPUS] if dataset is None or dataset.column_names is None else dataset.column_names
    return tuple(level for level in levels or [CORPUS] if level in there)


def parts_of(dataset: Dataset, levels: Sequence[str], max_seconds: float | None = None) -> Mixture | None:
    """The parts of a dataset with the shares that they have by themselves; None without levels."""
    return mixture_of(dataset, {}, dict.fromkeys(levels, 1.0), max_seconds)


def check_columns(there: Sequence[str], levels: Sequence[str]):
    """Refuses rows that can't be mixed because they lack a column.

    Raises:
        ValueError: If they do.
    """
    for level in levels:
        if level == CORPUS and level not in there:
            raise ValueError(
                "The corpora are to be weighed, but they have no names: write NAME=SOURCE in train_data, as in "
                "--train_data english=LibriSpeech german=cv-corpus/de, or give rows with a column `corpus`."
            )
        if level not in there:
            raise ValueError(f"mix_by names the column {level!r}, but the rows have none: there are {list(there)}.")


def part_name(row: Mapping[str, Any], levels: Sequence[str]) -> str:
    """The name of the part that a row belongs to."""
    in_order = sorted(levels, key=lambda level: level != CORPUS)
    return "/".join(UNKNOWN if row[level] is None else str(row[level]) for level in in_order)


def _values(dataset: Dataset, column: str) -> tuple[np.ndarray, list[str]]:
    """The value of each row as a code, and the names of the codes."""
    values = dataset.select_columns([column]).with_format("arrow")[:][column].cast(pyarrow.string())
    encoded = values.fill_null(UNKNOWN).combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _shares(sizes: Mapping[tuple[str, ...], int], rules: list) -> dict[tuple[str, ...], float]:
    """The share of each key, whose elements are the values of the levels, by the rules of the levels."""
    if not rules:
        return dict.fromkeys(sizes, 1.0)
    (level, rule), *inner = rules
    of_value: dict[str, dict[tuple[str, ...], int]] = {}
    for (value, *rest), size in sizes.items():
        of_value.setdefault(value, {})[tuple(rest)] = size
    if isinstance(rule, Mapping):
        _check_weights(rule, of_value, level)
        amounts = {value: rule[value] for value in of_value}
    else:
        total = sum(sizes.values())
        amounts = {value: (sum(each.values()) / total) ** rule for value, each in of_value.items()}
    whole = math.fsum(amounts.values())
    return {
        (value, *rest): amounts[value] / whole * share
        for value, each in of_value.items()
        for rest, share in _shares(each, inner).items()
    }


def _check_weights(weights: Mapping[str, float], there: Sequence[str] | Mapping[str, Any], level: str):
    unknown, without = sorted(set(weights) - set(there)), sorted(set(there) - set(weights))
    if unknown:
        raise ValueError(
            f"weights names {', '.join(unknown)}, of which there is no usable row; the column {level!r} has "
            f"{', '.join(sorted(there)[:SHOWN])}."
        )
    if without:
        raise ValueError(
            f"weights says nothing of {', '.join(without[:SHOWN])}: give a weight for each corpus, 0 for none."
        )
    if not any(weights.values()):
        raise ValueError("The weights sum to nothing: give at least one corpus a weight above 0.")


class MixedRows(TorchDataset):
    """Rows of a dataset, and their further copies: place `n * len(dataset) + row` is what the n-th pass takes.

    Copies have `copy`, from which the collators draw other crops and masks.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        """The rows at these places."""
        copies, rows = np.divmod(places, len(self.dataset))
        found = self.dataset.__getitems__(rows.tolist())
        return [row | {COPY: copy} for row, copy in zip(found, copies.tolist())]


def mixed_stream(streams: Mapping[str, IterableDataset], weights: Mapping[str, float]) -> IterableDataset:
    """Rows of several streams, at any moment the next one of the stream that is furthest behind its weight.

    A stream that ends begins again, and its rows have the number of its pass in `copy`; once each has been gone through
    at least once, the mixed stream ends.

    Args:
        streams: Prepared rows (see `prepare_stream`), by the name of their corpus. They are shared out among workers by
            as many shards as the stream with fewest has.
        weights: Of each, in audio.
    Raises:
        ValueError: If the weights are not those of the streams.
    """
    _check_weights(weights, streams, CORPUS)
    taken = {name: stream for name, stream in streams.items() if weights[name]}
    shards = min(stream.num_shards for stream in taken.values())
    return IterableDataset.from_generator(
        _interleave,
        gen_kwargs={"shards": list(range(shards)), "streams": (taken, weights, shards)},
    )


def _interleave(shards: list[int], streams: tuple) -> Iterator[dict[str, Any]]:
    named, weights, number = streams
    passes = {
        name: _passes(name, [stream.shard(number, shard) for shard in shards])  # those of this worker
        for name, stream in named.items()
    }
    given, complete = dict.fromkeys(passes, 0), set()
    while passes:
        name = min(passes, key=lambda each: given[each] / weights[each])
        row = next(passes[name], None)
        if row is None or row[COPY] > 0:
            complete.add(name)
            if row is None or not given[name]:  # nothing there that can be used
                del passes[name]
                continue
            if complete.issuperset(passes):
                return
        given[name] += 0 if row.get("problem") else row["num_samples"]
        yield row


def _passes(name: str, parts: list[IterableDataset]) -> Iterator[dict[str, Any]]:
    """The rows of a stream again and again, unless there is none."""
    for number in itertools.count():
        is_empty = True
        for part in parts:
            for row in part:
                is_empty = False
                yield row | {CORPUS: name, COPY: number}
        if is_empty:
            return
