"""The training and validation audio of a run: prepared rows, and what the run's record says of them."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import PartialState
from datasets import Dataset, IterableDataset

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.data_facts import SkipReport, split_facts, stream_facts
from hf_ssl_speech.data.mixing import check_columns, mixed_stream, mixture_of
from hf_ssl_speech.data.mixture_settings import CORPUS, as_pairs, split_name
from hf_ssl_speech.data.pieces import recording_name
from hf_ssl_speech.data.preparing import prepare_speech, prepare_stream
from hf_ssl_speech.data.rows import TOO_SHORT, most_unusable, numbers, share_with_short
from hf_ssl_speech.data.sources import available_splits, load_speech
from hf_ssl_speech.data.voice import find_speech
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments

logger = logging.getLogger(__name__)

VALIDATION_SPLITS = ("validation", "valid", "dev", "eval")
ROWS_COMPARED = 100
VALIDATION_SHARE = 0.1


class Split(NamedTuple):
    """One part of a run's data.

    Attributes:
        rows: Prepared rows; None if no validation data was asked for.
        facts: What the run's record says about them.
    """

    rows: Dataset | IterableDataset | None = None
    facts: dict[str, Any] | None = None


def load_split(
    split: str,
    data_args: SpeechDataArguments,
    args: Any,
    keep: Sequence[str] = (),
    need: Sequence[str] = (),
    beside: Split | None = None,
    text_column: str = "text",
) -> Split:
    """Loads and prepares `train` or `validation`; rows that can't be used are named, counted and left out.

    Long recordings are cut into pieces, unless columns are kept.

    Args:
        args: Give `min_seconds`, `max_seconds` and `seed`: the settings of a training, or of a script.
        keep: Columns to keep if the data has them.
        need: Columns that must be there.
        beside: The training rows, for validation: shared rows are counted, and a warning is logged.
        text_column: The data's name for the column `text`; see `load_speech`.
    Returns:
        The rows and the facts; an empty `Split` if no validation data was asked for.
    Raises:
        ValueError: If nothing can be loaded, too many of the rows can't be used (`data_args.max_skipped_share`; with
            `preflight_only` the facts tell of it), or it is not clear which split of the validation data is meant.
    """
    source = getattr(data_args, f"{split}_data")
    if not source:
        return Split()
    streaming = data_args.streaming and split == "train"
    mixed_by = args.levels if split == "train" and hasattr(args, "levels") else []
    if streaming and mixed_by and not data_args.voice_detector:
        return Split(load_mixed_stream(data_args, args, need), stream_facts(source))
    with PartialState().local_main_process_first():
        dataset = load_speech(
            source,
            split=_split_of(split, data_args),
            name=data_args.dataset_config,
            streaming=streaming,
            audio_column=data_args.audio_column,
            text_column=text_column,
            need=[level for level in mixed_by if level != CORPUS],
        )
        check_columns(dataset.column_names, mixed_by)
        told = {*getattr(args, "levels", ()), CORPUS}.intersection(dataset.column_names)
        kept = [*need, *(column for column in keep if column in dataset.column_names)]
        voice = {}
        if data_args.voice_detector:
            dataset, voice = only_speech(dataset, split, data_args, kept)
        told_of_pieces = sorted(told.difference(kept))
        if streaming:
            return Split(_prepared_stream(dataset, data_args, args, kept, told_of_pieces), stream_facts(source))
        dataset, report = prepare_speech(
            dataset,
            **_limits(data_args, args, kept),
            of_recordings=told_of_pieces,
            cache=data_args.cache_audio,
            num_proc=data_args.prepare_workers,
        )
    facts = split_facts(source, dataset, report) | check_skipped(report, split, data_args, args) | voice
    logger.info(f"{split}: {facts['rows']:,} utterances, {facts['hours']:.2f} hours. {report}")
    if isinstance(args, SpeechPreTrainingArguments):
        _tell_cropping(dataset, split, args.max_seconds, facts)
    if beside is not None and isinstance(beside.rows, Dataset):
        facts["shared_with_training"] = count_shared(beside.rows, dataset)
    return Split(dataset, facts)


def only_speech(
    rows: Dataset | IterableDataset, part: str, data_args: SpeechDataArguments, kept: Sequence[str]
) -> tuple[Dataset, dict[str, Any]]:
    """The stretches of speech in the rows of a part, and what the record says of the rest.

    Raises:
        ValueError: If the rows are streamed, or have columns that tell of whole rows.
    """
    if isinstance(rows, IterableDataset) or kept:
        why = f"the columns {', '.join(kept)} tell of whole rows" if kept else "a stream is not gone through beforehand"
        raise ValueError(f"voice_detector cuts the {part} rows, but {why}: leave it out.")
    rows, report = find_speech(
        rows,
        detector=data_args.voice_detector,
        num_proc=data_args.prepare_workers,
        channel=data_args.audio_channel,
    )
    logger.warning(f"{part}: {report}")
    return rows, {"voice": report.to_dict()}


def load_mixed_stream(data_args: SpeechDataArguments, args: Any, keep: Sequence[str] = ()) -> IterableDataset:
    """The training rows of several named sources as one stream, in the shares that `args.weights` gives them.

    Raises:
        ValueError: If a source has no name or no weight, or shares are asked for that need the hours of all sources.
    """
    if args.mix_by:
        raise ValueError(
            "mix_by makes shares of the hours of the data, and those of a stream are unknown: give weights, one for "
            "each NAME=SOURCE in train_data, or leave out streaming."
        )
    sources: dict[str, list[str]] = {}
    for source in data_args.train_data:
        name, place = split_name(source)
        if name is None:
            raise ValueError(
                f"weights are given, but the stream {source!r} has no name to be weighed by: write NAME={source}."
            )
        sources.setdefault(name, []).append(place)
    streams = {}
    for name, places in sources.items():
        rows = load_speech(
            places,
            split=data_args.train_split,
            name=data_args.dataset_config,
            streaming=True,
            audio_column=data_args.audio_column,
        )
        streams[name] = _prepared_stream(rows, data_args, args, keep)
    return mixed_stream(streams, as_pairs(args.weights, "weights")).shuffle(seed=args.seed, buffer_size=1)


def _prepared_stream(
    rows: IterableDataset,
    data_args: SpeechDataArguments,
    args: Any,
    keep: Sequence[str],
    of_recordings: Sequence[str] = (),
) -> IterableDataset:
    """A stream of training rows, of which only the shards are shuffled here: rows are, in the buffer that batches."""
    return prepare_stream(
        rows.shuffle(seed=args.seed, buffer_size=1),
        **_limits(data_args, args, keep),
        of_recordings=of_recordings,
        mark_unusable=True,
        max_skipped_share=data_args.max_skipped_share,
    )


def _limits(data_args: SpeechDataArguments, args: Any, keep: Sequence[str]) -> dict[str, Any]:
    """How rows are prepared. Kept columns describe whole rows: the transcript and the phones of a piece are unknown."""
    return {
        "min_seconds": args.min_seconds,
        "max_seconds": None if keep else args.max_seconds,
        "keep": keep,
        "channel": data_args.audio_channel,
    }


def repeats_of(rows: Dataset | IterableDataset, args: Any) -> np.ndarray | None:
    """How often a mixture takes each row, for the sample that units are fitted on; None for each row once.

    A stream comes mixed.
    """
    mixture = mixture_of(rows, args.weights, args.mix_by, args.max_seconds) if isinstance(rows, Dataset) else None
    return mixture and mixture.repeats()


def hold_out(train: Split, validation: Split, data_args: SpeechDataArguments) -> tuple[Split, Split]:
    """Training and validation part: without validation data, `validation_share` of the recordings is held out.

    Whole recordings are held out, by a hash of their names: when recordings are added, the choice hardly changes.

    Raises:
        ValueError: If the share is not from 0 to below 1, or leaves one of the parts without a recording.
    """
    share = data_args.validation_share
    if not 0 <= share < 1:
        raise ValueError(f"validation_share is {share:g}: give a share of the recordings, from 0 to below 1.")
    if share == 0 or validation.rows is not None or not isinstance(train.rows, Dataset):
        return train, validation
    recordings = [recording_name(name) for name in train.rows["name"][:]]
    order = sorted(set(recordings), key=lambda name: blake2b(name.encode()).digest())
    held_out = set(order[: max(1, round(share * len(order)))])
    if len(held_out) == len(order):
        raise ValueError(f"validation_share={share:g} of {len(order)} training recording(s) leaves none for training.")

    is_held_out = np.array([name in held_out for name in recordings])
    rest, rows = (train.rows.select(np.flatnonzero(chosen)) for chosen in (~is_held_out, is_held_out))
    logger.info(f"Without validation_data, {len(held_out):,} of {len(order):,} recordings are held out for evaluation.")
    source = train.facts["source"]
    return (
        Split(rest, train.facts | split_facts(source, rest)),
        Split(rows, split_facts(source, rows, SkipReport(len(rows))) | {"held_out": len(held_out)}),
    )


def part_facts(facts: dict[str, Any], rows: Dataset) -> dict[str, Any]:
    """The facts of some rows of a split: what was left out of it was left out before."""
    return facts | split_facts(facts["source"], rows, SkipReport(len(rows)))


def check_skipped(
    report: SkipReport, part: str, data_args: SpeechDataArguments, args: Any, hint: str = ""
) -> dict[str, str]:
    """Ends a run of any kind if too much of the data can't be used.

    Args:
        part: `train` or `validation`, for the message.
        data_args: Give the limit, `max_skipped_share`; see `most_unusable`.
        args: Give the `min_seconds` that was used.
        hint: A sentence that says more about the cause.
    Returns:
        No facts; with `preflight_only`, which shows all problems in one table, the fact `too_many_skipped`.
    Raises:
        ValueError: If more rows are left out, unless `args.preflight_only`.
    """
    max_share, min_seconds = data_args.max_skipped_share, args.min_seconds
    short = sum(len(names) for reason, names in report.skipped.items() if reason.startswith(TOO_SHORT))
    damaged, most = report.num_skipped - short, most_unusable(report.total, max_share)
    if damaged <= most and report.num_skipped <= max(most, share_with_short(max_share) * report.total):
        return {}
    way_out = "correct the data or the settings"
    if 2 * short > report.num_skipped:
        way_out = f"lower min_seconds={min_seconds:g}"
    problem = (
        f"{report.num_skipped / report.total:.1%} of the {part} rows can't be used, more than "
        f"max_skipped_share={max_share:.1%} allows: {report}. {hint}{way_out.capitalize()}, or raise max_skipped_share."
    )
    if not getattr(args, "preflight_only", False):
        raise ValueError(problem)
    return {"too_many_skipped": problem}


def _tell_cropping(dataset: Dataset, part: str, max_seconds: float, facts: dict[str, Any]):
    """Reports, in the log and the facts, how much of the audio an epoch uses if long rows are cropped."""
    lengths = numbers(dataset, "num_samples")
    longest = round(max_seconds * SAMPLE_RATE)
    cropped = int((lengths > longest).sum())
    if cropped:
        used = float(np.minimum(lengths, longest).sum() / lengths.sum())
        facts["cropped"] = {"rows": cropped, "share_used_each_epoch": used}
        logger.warning(
            f"{part}: {cropped:,} rows are longer than max_seconds={max_seconds:g} and are cropped: an epoch uses "
            f"{used:.1%} of the audio. Raise max_seconds to use all of it."
        )


def _split_of(part: str, data_args: SpeechDataArguments) -> str:
    """The split to load for `train` or `validation`: the one that was asked for, else the only sensible one."""
    asked = getattr(data_args, f"{part}_split")
    if asked:
        return asked
    source = getattr(data_args, f"{part}_data")
    splits = available_splits(source, data_args.dataset_config)
    return find_split(part, source, splits, VALIDATION_SPLITS)


def with_a_share(data_args: SpeechDataArguments) -> SpeechDataArguments:
    """Data arguments of a run that needs validation rows: where nothing is said, a tenth is held out."""
    return replace(data_args, validation_share=data_args.validation_share or VALIDATION_SHARE)


def with_test(data_args: SpeechDataArguments, source: list[str] | None, split: str | None) -> SpeechDataArguments:
    """Data arguments that also have `test_data` and `test_split`, which `load_split("test", ...)` reads.

    Args:
        source: Where the rows to score are; by default where those to learn from are.
        split: Their split; by default `test`, or the only one.
    Raises:
        ValueError: If it is not clear which split is meant, or it is the one that is learnt from.
    """
    data = source or data_args.train_data
    split = split or find_split("test", data, available_splits(data, data_args.dataset_config), ("test",))
    if not source and split == data_args.train_split:
        raise ValueError(f"The rows to score would be those to learn from, the split {split!r}: give test_data.")
    completed = copy.copy(data_args)
    vars(completed).update(test_data=data, test_split=split)
    return completed


def find_split(part: str, source: Sequence[str], splits: Sequence[str], usual: Sequence[str]) -> str:
    """The split that must be meant where none is named: the first of the usual ones that is there, or the only one.

    Args:
        part: `validation` or `test`, for the log.
        source, splits: The data, and the splits that it has.
        usual: How such a split is usually called.
    Raises:
        ValueError: If it is not clear.
    """
    found = next((name for name in usual if name in splits), splits[0] if len(splits) == 1 else None)
    if found is None:
        raise ValueError(
            f"{' '.join(source)} has the splits {splits}, none of them one of {list(usual)}: say which to "
            f"evaluate on with `{part}_split`."
        )
    logger.info(f"{part}_split is not given: the {part} data is the split {found!r} of {' '.join(source)}.")
    return found


def count_shared(train: Dataset, validation: Dataset) -> int:
    """The number of validation rows whose audio is also in the training rows; warns if there are any.

    At most `ROWS_COMPARED` validation rows, evenly chosen, are looked for: by length and, of a piece, its place in the
    recording; then, where these meet, by a hash of their samples or encoded audio. The same speech in another encoding
    is not found.
    """
    if len(validation) > ROWS_COMPARED:
        validation = validation.select(np.linspace(0, len(validation) - 1, ROWS_COMPARED).astype(int))
    meeting = set(_places(train)) & set(_places(validation))
    known = set(_contents(train, meeting))
    shared = sum(content in known for content in _contents(validation, meeting))
    if shared:
        logger.warning(
            f"{shared:,} of {len(validation):,} validation rows that were checked are training rows too: scores on "
            "them say nothing about new speech. Use other validation_data, or another validation_split."
        )
    return shared


def _places(rows: Dataset) -> list[tuple[int, int | None]]:
    """Of each row its length, and where it begins in its recording if it is a piece."""
    starts = rows["start"][:] if "start" in rows.column_names else [None] * len(rows)
    return list(zip(rows["num_samples"][:], starts))


def _contents(rows: Dataset, meeting: set[tuple[int, int | None]]) -> Iterator[tuple[bytes, int | None]]:
    """A hash of the audio of each row that has one of the lengths and starts, and the start."""
    places = {number: start for number, (length, start) in enumerate(_places(rows)) if (length, start) in meeting}
    column = "samples" if "samples" in rows.column_names else "audio"
    for row, start in zip(rows.select_columns([column]).select(list(places)), places.values()):
        yield _content(row[column]), start


def _content(audio: Any) -> bytes:
    if not isinstance(audio, dict):
        return blake2b(np.asarray(audio, np.int16).tobytes(), digest_size=16).digest()
    path = audio.get("path") or ""
    if audio.get("bytes") is None and os.path.isfile(path):
        return _file_content(path, os.stat(path).st_mtime_ns)
    return blake2b(audio.get("bytes") or path.encode(), digest_size=16).digest()


@lru_cache(maxsize=1)  # the pieces of a recording follow one another
def _file_content(path: str, changed: int) -> bytes:
    return blake2b(Path(path).read_bytes(), digest_size=16).digest()
