"""The training and validation audio of a run: prepared rows, and what the run's record says of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from accelerate import PartialState
from datasets import Dataset, IterableDataset

from hf_ssl_speech.data.preparing import prepare_speech, prepare_stream, split_facts, stream_facts
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.training.arguments import SpeechDataArguments

logger = logging.getLogger(__name__)


class Split(NamedTuple):
    """One part of a run's data.

    Attributes:
        rows: Prepared rows; None for a validation part that nobody asked for.
        facts: What the run's record says of them.
    """

    rows: Dataset | IterableDataset | None = None
    facts: dict[str, Any] | None = None


def load_split(
    split: str, data_args: SpeechDataArguments, args: Any, keep: Sequence[str] = (), need: Sequence[str] = ()
) -> Split:
    """Loads and prepares `train` or `validation`; rows that can't be used are named, counted and left out.

    Args:
        args: Whose `min_seconds` and `seed` hold: the settings of a training, or of a script.
        keep: Columns to keep if the data has them.
        need: Columns that must be there, as those of `data_args.unit_columns` must.
    Returns:
        The rows and the facts; an empty `Split` for a validation part that nobody asked for.
    """
    source = getattr(data_args, f"{split}_data")
    if not source:
        return Split()
    streaming = data_args.streaming and split == "train"
    with PartialState().local_main_process_first():
        dataset = load_speech(
            source,
            split=getattr(data_args, f"{split}_split"),
            name=data_args.dataset_config,
            streaming=streaming,
            audio_column=data_args.audio_column,
        )
        kept = [*need, *(data_args.unit_columns or ()), *(column for column in keep if column in dataset.column_names)]
        if streaming:
            # Only the order of the shards: rows are shuffled after they are decoded, in the buffer that batches them.
            dataset = dataset.shuffle(seed=args.seed, buffer_size=1)
            return Split(prepare_stream(dataset, min_seconds=args.min_seconds, keep=kept), stream_facts(source))
        dataset, report = prepare_speech(
            dataset,
            min_seconds=args.min_seconds,
            cache=data_args.cache_audio,
            num_proc=data_args.prepare_workers,
            keep=kept,
        )
    facts = split_facts(source, dataset, report)
    logger.info(f"{split}: {facts['rows']:,} utterances, {facts['hours']:.2f} hours. {report}")
    return Split(dataset, facts)
