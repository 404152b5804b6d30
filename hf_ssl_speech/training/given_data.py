"""Datasets that users give to a trainer in Python: they are measured, labelled and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from accelerate import PartialState
from datasets import Dataset, DatasetDict, Features, IterableDataset
from transformers import Wav2Vec2CTCTokenizer

from hf_ssl_speech.data.columns import find_audio_column, usual_text_name, with_audio
from hf_ssl_speech.data.data_facts import SkipReport, split_facts, stream_facts
from hf_ssl_speech.data.mixing import COPY, check_columns
from hf_ssl_speech.data.mixture_settings import CORPUS
from hf_ssl_speech.data.preparing import prepare_speech, prepare_stream
from hf_ssl_speech.data.rows import as_prepared
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.recognition.text import add_labels
from hf_ssl_speech.training.arguments import SpeechTrainingArguments

logger = logging.getLogger(__name__)

PREPARED = {"name", "sample_id", "num_samples"}
PLAIN_FORMATS = (None, "numpy")  # of rows; of others, numbers come as tensors or frames


class GivenData(NamedTuple):
    """A dataset that a trainer was given.

    Attributes:
        rows: Rows that are ready for training.
        report: Which rows were left out; None if nothing had to be done.
        source: Where they come from, if that is known.
    """

    rows: Dataset | IterableDataset
    report: SkipReport | None = None
    source: Sequence[str] = ()


Ready = Callable[[Any, str], GivenData]


def ready_for_pretraining(
    dataset: Any, part: str, args: SpeechTrainingArguments, unit_columns: Sequence[str] = ()
) -> GivenData:
    """Rows that pretraining can use, prepared as `prepare_speech` (or `prepare_stream`) does where they are not yet.

    Args:
        dataset: A `datasets` dataset, streamed or not: rows of `prepare_speech`, or rows with audio of any kind.
        part: Its name in the log and the record, such as `train`.
        args: Give `min_seconds` and `max_seconds`.
        unit_columns: HuBERT: the columns with the units, which must be there.
    Raises:
        TypeError: If it is no `datasets` dataset.
        ValueError: If no column is known to hold audio, units are missing, or no row can be used.
    """
    dataset = _checked(dataset, part, args, streamed=part == "train")
    lacking = [column for column in unit_columns if column not in _columns(dataset)]
    if lacking:
        raise ValueError(
            f"HuBERT needs units, but the {part} rows have no column {', '.join(lacking)}: label them first with "
            "`add_units(rows, KMeansUnits.from_pretrained(...))`, where the rows are those of `prepare_speech`."
        )
    # Units belong to whole rows: which of them belong to a piece is unknown.
    return _told(_prepared(dataset, part, args, None if unit_columns else args.max_seconds, unit_columns), part)


def ready_for_ctc(
    dataset: Any,
    part: str,
    args: SpeechTrainingArguments,
    tokenizer: Wav2Vec2CTCTokenizer,
    normalization: TextNormalization,
    config: SSLSpeechConfig,
) -> GivenData:
    """Rows that CTC can learn from: prepared, and labelled as `add_labels` does, where they are not yet.

    Args:
        dataset, part, args: As `ready_for_pretraining` takes them; the dataset is not streamed.
        tokenizer, normalization, config: As `add_labels` takes them.
    Raises:
        TypeError: If it is no `datasets` dataset that is held as a whole.
        ValueError: If no column is known to hold audio or transcripts, or no row can be used.
    """
    dataset = _checked(dataset, part, args, streamed=False)
    if {*PREPARED, "labels", "text"} <= set(dataset.column_names):
        return GivenData(dataset)
    text_column = _known(dataset, usual_text_name(_columns(dataset)), "transcripts", "text", part)
    given = _prepared(dataset, part, args, None, [text_column])
    with PartialState().local_main_process_first():
        rows, report, _ = add_labels(
            given.rows, tokenizer, normalization, config, text_column=text_column, max_seconds=args.max_seconds
        )
    return _told(GivenData(rows, given.report.joined(report) if given.report else report), part)


def facts_of(given: GivenData) -> dict[str, Any]:
    """What the run's record says of a dataset."""
    source = given.source or given.rows.info.dataset_name or "a dataset given in Python"
    if isinstance(given.rows, IterableDataset):
        return stream_facts([source] if isinstance(source, str) else source)
    return split_facts(source, given.rows, given.report)


def _checked(dataset: Any, part: str, args: SpeechTrainingArguments, streamed: bool) -> Dataset | IterableDataset:
    """The rows, if a trainer can take them, in the format of `prepare_speech`, whatever their own format is.

    Args:
        streamed: Whether they may be a stream.
    Raises:
        TypeError: If it is no `datasets` dataset, or a stream where all rows are needed.
        ValueError: If there is none, or the length of a run on a stream is given in epochs.
    """
    if dataset is None:
        raise ValueError(f"There are no {part} data: give a dataset.")
    if isinstance(dataset, DatasetDict):
        raise TypeError(f"The {part} data are several splits, {', '.join(dataset)}: take one, as `dataset['train']`.")
    if isinstance(dataset, IterableDataset):
        if not streamed:
            why = "an evaluation makes the same batches of all rows every time"
            if part == "train":
                why = "transcripts are checked before training, all of them"
            raise TypeError(f"The {part} rows are streamed, but {why}: load them with `streaming=False`.")
        if args.max_steps < 0:
            raise ValueError(
                f"The {part} rows are streamed, so the length of an epoch is unknown: give max_steps instead of "
                "num_train_epochs."
            )
        return dataset.with_format(None)
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"The {part} data are of type {type(dataset).__name__}, but a trainer takes a `datasets` dataset: "
            "`load_speech(...)` reads folders and files, `Dataset.from_list(...)` takes rows from Python."
        )
    return dataset if dataset.format["type"] in PLAIN_FORMATS else as_prepared(dataset)


def _columns(dataset: Dataset | IterableDataset) -> list[str]:
    """The columns; of a stream that does not tell them, those of its first row."""
    return dataset.column_names or list(next(iter(dataset), PREPARED))  # of no row at all, nothing can be prepared


def _features(dataset: Dataset | IterableDataset) -> Features:
    """The columns with their types; of a stream that does not tell them, those of its first rows."""
    return dataset.features or dataset._resolve_features().features


def _known(dataset: Dataset | IterableDataset, column: str | None, what: str, name: str, part: str) -> str:
    if column is None:
        raise ValueError(
            f"No column of the {part} rows is known to hold {what}; there are {_columns(dataset)}. Rename yours: "
            f"`dataset.rename_column(COLUMN, {name!r})`."
        )
    return column


def _audio_column(dataset: Dataset | IterableDataset, part: str) -> str:
    features = _features(dataset)
    column = "audio" if "audio" in features else find_audio_column(features)
    return _known(dataset, column, "audio", "audio", part)


def _prepared(
    dataset: Dataset | IterableDataset,
    part: str,
    args: SpeechTrainingArguments,
    max_seconds: float | None,
    keep: Sequence[str],
) -> GivenData:
    """Rows that are measured, or decoded as they come by."""
    columns = _columns(dataset)
    levels = [level for level in dict.fromkeys([*args.levels, CORPUS]) if level in columns]
    if part == "train":
        _check_mixing(dataset, columns, args)
    if set(columns) >= PREPARED:
        return GivenData(dataset)
    limits = {"min_seconds": args.min_seconds, "max_seconds": max_seconds, "keep": keep, "of_recordings": levels}
    if isinstance(dataset, IterableDataset):
        dataset = with_audio(dataset, _audio_column(dataset, part), f"the {part} rows")
        return GivenData(prepare_stream(dataset, **limits))
    dataset = with_audio(dataset.with_format(None), _audio_column(dataset, part), f"the {part} rows")
    with PartialState().local_main_process_first():
        return GivenData(*prepare_speech(dataset, **limits))


def _check_mixing(dataset: Dataset | IterableDataset, columns: Sequence[str], args: SpeechTrainingArguments):
    """Refuses rows that can't be mixed as the arguments say.

    Raises:
        ValueError: If they can't.
    """
    if isinstance(dataset, IterableDataset) and args.levels and COPY not in columns:
        raise ValueError(
            "Rows of a stream come in its own order, so that weights and mix_by can't change their shares: give "
            "`mixed_stream({NAME: stream, ...}, weights)` of prepared streams, or load the rows with `streaming=False`."
        )
    if not isinstance(dataset, IterableDataset):
        check_columns(columns, args.levels)


def _told(given: GivenData, part: str) -> GivenData:
    if given.report:
        level = logging.WARNING if given.report.num_skipped else logging.INFO
        logger.log(level, f"{part}: {len(given.rows):,} utterances. {given.report}")
    return given
