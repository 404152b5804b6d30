"""Units as a column of a dataset: one label for each frame that a model makes of the audio."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TypeVar

import numpy as np
import pyarrow.compute
import torch
from datasets import Dataset, Features, IterableDataset, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher

from hf_ssl_speech.data.features import ROWS_AT_ONCE, SpeechFeatures, rows_of
from hf_ssl_speech.data.preparing import keeping_format
from hf_ssl_speech.data.processes import failing_together, rank_and_size
from hf_ssl_speech.units.kmeans_units import KMeansUnits

AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)
UNITS = List(Value("int32"))
# All that features are made from: the other columns are not even read.
NEEDED = ("name", "num_samples", "start", "audio", "samples")


def add_units(
    dataset: AnyDataset,
    units: KMeansUnits,
    *,
    column: str = "units",
    source: SpeechFeatures | None = None,
    num_proc: int | None = None,
    together: bool = False,
) -> AnyDataset:
    """Labels a dataset with units: what HuBERT learns to predict.

    Labels are made once: a later call with the same rows and centroids finds them in the cache of `datasets`. For a
    streamed dataset they are made when the rows are read.

    Args:
        dataset: Prepared rows. They keep their columns and format.
        units: Fitted before, on training data; the same for training and validation rows.
        column: Name of the new column, a list of one int32 per frame. Several unit sets may stand side by side.
        source: Computes the features; by default `units.open_features()`, on a GPU if there is one and an encoder
            to run.
        num_proc: Processes to label with, each on one thread of the CPU; not for streams.
        together: Whether all processes of torch.distributed call this: those of a machine then share the work, each on
            its own device, and find each other's labels in the cache. All get the same dataset.
    Returns:
        The dataset with units. A row whose audio turns out to be unusable is left out, and a warning names it.
    Raises:
        ValueError: If the source's features differ from those the units were fitted on, the column already exists, or
            the source is on a GPU and `num_proc` asks for several processes. Together, what one process raises is
            raised in all of them.
    """
    source = source or units.open_features()
    units.check_features(source.description)
    if column in (dataset.column_names or []):
        raise ValueError(f"The dataset already has a column {column!r}; give the units another name with `column`.")
    several = num_proc is not None and num_proc > 1
    if several and (isinstance(dataset, IterableDataset) or source.device.type != "cpu"):
        raise ValueError(
            f"num_proc={num_proc} is for rows on disk and features on the CPU, but here are a "
            f"{type(dataset).__name__} and features on {source.device}. Leave it out."
        )

    if isinstance(dataset, IterableDataset):
        return _label_stream(dataset, units, source, column)
    settings = (units, source, column, num_proc if several else None)
    labels = _labels_together(dataset, *settings) if together else _labels(dataset, *settings)
    return keeping_format(dataset, lambda rows: _beside(rows, labels, column))


def _label_stream(dataset: IterableDataset, units: KMeansUnits, source: SpeechFeatures, column: str) -> IterableDataset:
    def label(batch: Mapping[str, Sequence]) -> dict[str, list[np.ndarray]]:
        rows = rows_of(batch)
        found = iter(units.predict_rows([row for row in rows if not row.get("problem")], source))
        return {column: [np.zeros(0, np.int32) if row.get("problem") else next(found) for row in rows]}

    def is_told(row: Mapping[str, Sequence]) -> bool:
        return len(row[column]) > 0 or bool(row.get("problem"))  # what is marked goes on, to be reported

    features = dataset.features and Features(dataset.features | {column: UNITS})
    labelled = dataset.map(label, batched=True, batch_size=ROWS_AT_ONCE, features=features)
    return labelled.filter(is_told)


def _labels(dataset: Dataset, units: KMeansUnits, source: SpeechFeatures, column: str, num_proc: int | None) -> Dataset:
    """A dataset of the units alone, row by row; empty where the audio is unusable."""
    audio = dataset.select_columns([name for name in NEEDED if name in dataset.column_names])
    # Whatever format the rows have: samples as arrays, as lists they would take long, and the rest as it is.
    arrays = [name for name in audio.column_names if name == "samples"]
    audio = audio.with_format("numpy", arrays, output_all_columns=True, dtype="int16")

    def label(indices: list[int]) -> dict[str, list[np.ndarray]]:
        if num_proc:
            # More would hang for ever in a process forked from one that had used them.
            torch.set_num_threads(1)
        return {column: units.predict_rows(rows_of(audio[indices]), source)}

    # `map` gives indices only: in its batches the format is that of all columns, and num_samples would be int16 too.
    first = audio.column_names[:1]
    return audio.select_columns(first).map(
        label,
        input_columns=[],
        with_indices=True,
        batched=True,
        batch_size=ROWS_AT_ONCE,
        remove_columns=first,
        features=Features({column: UNITS}),
        num_proc=num_proc,
        new_fingerprint=_fingerprint(dataset, units, source, column),
        desc=f"Making {column}",
    )


def _labels_together(dataset: Dataset, *settings) -> Dataset:
    """The same, of which each process of this machine makes a part and then finds the others' in the cache."""
    # Machines need not see each other's cache, so each makes all labels.
    number = min(int(os.environ.get("LOCAL_WORLD_SIZE", rank_and_size()[1])), len(dataset))
    if number < 2:
        with failing_together():
            return _labels(dataset, *settings)
    parts = [dataset.shard(number, index, contiguous=True) for index in range(number)]
    own = rank_and_size()[0] % number
    with failing_together():
        own_labels = _labels(parts[own], *settings)
    return concatenate_datasets(
        [own_labels if index == own else _labels(part, *settings) for index, part in enumerate(parts)]
    )


def _fingerprint(dataset: Dataset, units: KMeansUnits, source: SpeechFeatures, column: str) -> str:
    """Of all that decides the labels. Not of `units` itself: `datasets` can't hash models the same way twice."""
    kind = [getattr(units.features, each.name) for each in fields(units.features) if each.compare]
    precision = str(getattr(source, "autocast_dtype", None))
    return Hasher.hash([dataset._fingerprint, units.centroids.numpy(), kind, precision, source.change, column])


def _beside(dataset: Dataset, labels: Dataset, column: str) -> Dataset:
    """The labels as a column of the dataset, which has no format, without the rows that have none."""
    usable = np.flatnonzero(pyarrow.compute.list_value_length(labels.data.column(column)).to_numpy())
    if dataset._indices is None:
        labelled = concatenate_datasets([dataset, labels], axis=1)
        return labelled.select(usable) if len(usable) < len(labels) else labelled
    # Of a choice of rows, `datasets` would copy all audio to the disk: the labels go where the rows lie instead.
    lie_at = dataset._indices.column(0).to_numpy().astype(np.int64)  # `select` fails for unsigned ones in a row
    whole = Dataset(dataset.data, info=dataset.info, split=dataset.split)
    nowhere = Dataset.from_dict({column: [[]]}, features=labels.features)
    label_of = np.full(len(whole), len(labels))
    label_of[lie_at] = np.arange(len(labels))
    labels = concatenate_datasets([labels, nowhere]).select(label_of)
    return concatenate_datasets([whole, labels.flatten_indices()], axis=1).select(lie_at[usable])
