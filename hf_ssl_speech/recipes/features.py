"""Writes features as a dataset while they are computed: a layer of an encoder, MFCC, or units and durations."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, Features, List, Value
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_ssl_speech.allocation import give_large_arrays_back
from hf_ssl_speech.audio import INT16_SCALE, BadAudio
from hf_ssl_speech.data.data_facts import split_facts
from hf_ssl_speech.data.features import ROWS_AT_ONCE, HiddenFeatures, MfccFeatures, SpeechFeatures
from hf_ssl_speech.data.preparing import prepare_speech, row_waveform
from hf_ssl_speech.data.processes import failing_together
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.recipes.arguments import FeatureArguments
from hf_ssl_speech.recipes.splits import check_skipped
from hf_ssl_speech.recipes.stages import is_complete
from hf_ssl_speech.records import new_record, write_record
from hf_ssl_speech.training.precision import encoder_dtype
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.unit_text import without_repeats, write_unit_texts

logger = logging.getLogger(__name__)

DATA_FOLDER = "data"  # as in datasets on the Hub


class FeatureWriter:
    """Computes the features of all rows and writes them, each process its own part of every split.

    Args:
        args: The features, the data, and the output folder.
        state: The number and the device of this process.
    Raises:
        ValueError: If encoder, units or data can't be loaded, or too many rows can't be used.
    """

    def __init__(self, args: FeatureArguments, state: PartialState):
        self.args, self.state, self.folder = args, state, Path(args.output_dir)
        settings: dict[str, Any] = {"device": state.device, "batch_seconds": args.batch_seconds}
        self.autocast_dtype = settings["autocast_dtype"] = encoder_dtype(args.bf16, state.device)
        self.units = load_units(args.units) if args.units else None
        self.source: SpeechFeatures
        if self.units:
            self.source = self.units.open_features(**settings)
        elif args.encoder:
            self.source = HiddenFeatures.from_pretrained(args.encoder, args.layer, **settings)
        else:
            self.source = MfccFeatures(device=state.device)
        self.kept = list(dict.fromkeys(["name", *(["num_samples"] if self.units else []), *args.keep]))
        self.splits, self.facts = {}, {}
        for split in args.splits:
            self.splits[split], self.facts[split] = self.load(split)

    def run(self):
        """Writes all splits, unless the folder has them already."""
        identity = self.identify()
        if is_complete(self.folder, identity):
            logger.info(f"The features in {self.folder} are complete")
        else:
            self.write_all(identity)
        if self.args.text_files and self.state.is_main_process:
            for split, rows in self.splits.items():
                self.write_texts(split, rows)

    def write_all(self, identity: dict[str, Any]):
        """Writes every split, and the record."""
        give_large_arrays_back()
        started, written = time.perf_counter(), {}
        for split, rows in self.splits.items():
            with failing_together():
                frames = self.write(split, rows)
            written[split] = sum(gather_object([frames]))
        seconds = time.perf_counter() - started
        hours = sum(facts["hours"] for facts in self.facts.values())
        logger.info(f"{hours:.2f} hours in {seconds:.0f} s, {hours * 3600 / seconds:.0f} times as fast as they last")
        if self.state.is_main_process:
            record = new_record(
                "complete",
                identity,
                seconds=seconds,
                device=self.state.device,
                processes=self.state.num_processes,
                task="features",
                data=self.facts,
                skipped=self.source.skipped,
                features={"description": str(self.source.description), "frames": written},
            )
            write_record(record, self.folder)
            logger.info(f"The dataset, and run.json, are in {self.folder}: load_dataset({str(self.folder)!r})")

    def load(self, split: str) -> tuple[Dataset, dict[str, Any]]:
        """Prepared rows of a split, and its facts."""
        args = self.args
        with self.state.local_main_process_first():
            dataset = load_speech(args.data, split=split, name=args.dataset_config, audio_column=args.audio_column)
            rows, report = prepare_speech(dataset, min_seconds=args.min_seconds, keep=args.keep)
        check_skipped(report, split, args, args)
        facts = split_facts(args.data, rows, report)
        logger.info(f"{split}: {facts['rows']:,} utterances, {facts['hours']:.2f} hours. {report}")
        return rows, facts

    def identify(self) -> dict[str, Any]:
        """Everything that the written data depends on."""
        features, args = self.source.description, self.args
        return {
            "stage": "features",
            "features": {name: getattr(features, name) for name in ("kind", "layer", "center", "weights_hash")},
            "units": self.units and {"num_units": self.units.num_units, "inertia": self.units.facts.get("inertia")},
            **{name: getattr(args, name) for name in ("keep_repeats", "keep", "number_format")},
            "bf16": self.autocast_dtype is not None,
            "data": {split: facts["fingerprint"] for split, facts in self.facts.items()},
        }

    def write(self, split: str, rows: Dataset) -> int:
        """Writes this process's part of a split; returns its number of vectors or units."""
        rank, size = self.state.process_index, self.state.num_processes
        path = self.folder / DATA_FOLDER / f"{split}-{rank:05d}-of-{size:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        part = rows.shard(size, rank, contiguous=True) if size > 1 else rows
        schema = self.features_of(rows).arrow_schema
        count = 0
        with (
            partial.open("wb") as opened,  # of a name such as a::b, pyarrow would take the start for a protocol
            pq.ParquetWriter(opened, schema, use_dictionary=False) as file,
            self.bar(len(part), split) as bar,
        ):
            for batch in decoded(part, self.args.workers):
                columns = self.compute(batch)
                table = pa.table([columns[name] for name in schema.names], schema=schema)
                file.write_table(table)
                count += sum(len(each) for each in columns["units" if self.units else "features"])
                bar.update(len(batch))
        partial.replace(path)
        return count

    def write_texts(self, split: str, rows: Dataset):
        """Writes the units of a split once more, as text."""
        files = sorted(map(str, (self.folder / DATA_FOLDER).glob(f"{split}-*.parquet")))
        with tempfile.TemporaryDirectory() as cache:
            write_unit_texts(Dataset.from_parquet(files, cache_dir=cache), audio_paths(rows), self.folder / split)
        logger.info(f"The units as text are in {self.folder / split}.txt, .jsonl, .km and .tsv")

    def bar(self, total: int, split: str) -> tqdm:
        """A progress bar, shown by the first process only."""
        silent = self.args.disable_tqdm or not self.state.is_main_process
        return tqdm(total=total, unit="row", desc=split, disable=silent)

    def features_of(self, rows: Dataset) -> Features:
        """The columns of the dataset and their types."""
        kept = {name: rows.features[name] for name in self.kept}
        if not self.units:
            vector = List(Value(self.args.number_format), length=self.source.description.width)
            return Features(kept | {"features": List(vector)})
        durations = {} if self.args.keep_repeats else {"durations": List(Value("int32"))}
        return Features(kept | {"units": List(Value("int32"))} | durations)

    def compute(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The columns of some rows; those whose audio can't be read are left out."""
        if self.units:
            found = self.units.predict_rows(rows, self.source)
        else:
            found = [frames.cpu().numpy() for frames in self.source.features(rows)]
        usable = [place for place, each in enumerate(found) if len(each)]
        columns = {name: [rows[place][name] for place in usable] for name in self.kept}
        found = [found[place] for place in usable]
        if not self.units:
            return columns | {"features": as_vectors(found, self.source.description.width, self.args.number_format)}
        if self.args.keep_repeats:
            return columns | {"units": found}
        runs = [without_repeats(each) for each in found]
        return columns | {"units": [units for units, _ in runs], "durations": [durations for _, durations in runs]}


def load_units(source: str) -> KMeansUnits:
    """The unit set in a folder or on the Hub.

    Raises:
        ValueError: If there is none.
    """
    try:
        return KMeansUnits.from_pretrained(source)
    except OSError as error:
        raise ValueError(f"No unit set can be loaded: {error}") from error


def audio_paths(rows: Dataset) -> dict[str, str | None]:
    """The audio file of each row by its name; None where the audio lies inside another file."""
    found = {}
    for batch in rows.select_columns(["name", "audio"]).with_format("arrow").iter(1000):
        found |= zip(batch["name"].to_pylist(), pc.struct_field(batch["audio"].combine_chunks(), "path").to_pylist())
    return {name: path if path and Path(path).is_file() else None for name, path in found.items()}


def as_vectors(rows: Sequence[np.ndarray], width: int, number_format: str) -> pa.Array:
    """Vectors `(frames, width)` of each row as one array of lists, copied once."""
    values = np.concatenate([np.zeros((0, width), np.float32), *rows]).astype(number_format).ravel()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), width)
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), vectors)


class _Windows(torch.utils.data.Dataset):
    """Decoded rows, some dozens in one item."""

    def __init__(self, rows: Dataset):
        self.rows = rows

    def __len__(self) -> int:
        return -(-len(self.rows) // ROWS_AT_ONCE)

    def __getitem__(self, number: int) -> list[dict[str, Any]]:
        first = number * ROWS_AT_ONCE
        places = range(first, min(first + ROWS_AT_ONCE, len(self.rows)))
        return [_decode(self.rows[place]) for place in places]


def decoded(rows: Dataset, workers: int) -> Iterator[list[dict[str, Any]]]:
    """Prepared rows in their order, some dozens at a time, decoded in other processes while this one computes."""
    workers = min(workers, -(-len(rows) // ROWS_AT_ONCE))
    yield from DataLoader(_Windows(rows), batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _as_it_is(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows


def _decode(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose audio has become `samples`, or whose `problem` tells why it can't be read."""
    try:
        row["samples"] = row_waveform(row) * INT16_SCALE  # a power of two, so that no bit is lost
    except BadAudio as reason:
        row["problem"] = str(reason)
    return {name: value for name, value in row.items() if name not in ("audio", "start", "channel")}
