"""Recognisers side by side: the same rows, the same normalisation of texts, error rates, speed and records of both."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from hf_ssl_speech.data.data_facts import split_facts
from hf_ssl_speech.data.preparing import prepare_speech
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.evaluation.recognizers import Recognizer
from hf_ssl_speech.files import naming_the_file, read_json, write_json
from hf_ssl_speech.recognition.decoding import Decoder
from hf_ssl_speech.recognition.doubts import warn_of_doubts
from hf_ssl_speech.recognition.metrics import (
    EditCounts,
    count_edits,
    group_edits,
    percentile_interval,
    resample_rates,
    summarize_edits,
)
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.recognition.text import read_texts
from hf_ssl_speech.records import Score, command_line, complete, device_name, now, versions

logger = logging.getLogger(__name__)

SCORES_FILE = "scores.json"
# Scores that agree in these fields replace each other. (In a model's own folder, entries do not name the model.)
SCORE_KEYS = ("model", "data", "normalization", "decoder")


@dataclass(frozen=True)
class EvaluationSet:
    """Rows with their true texts, the same for all recognisers.

    Attributes:
        rows: Prepared rows, decoded, with the columns to break scores down by.
        references: Their texts, normalised.
        groups: Values of each of these columns, a text for each row.
        normalization: What makes texts comparable.
        facts: For records: source, split, rows, hours, fingerprint, and what was left out.
    """

    rows: Dataset
    references: list[str]
    groups: dict[str, list[str]]
    normalization: TextNormalization
    facts: dict[str, Any]


def load_evaluation_set(
    source: Sequence[str],
    normalization: TextNormalization,
    *,
    split: str = "test",
    text_column: str = "text",
    by: Sequence[str] = (),
    limit: int | None = None,
    num_proc: int | None = None,
    **settings: Any,
) -> EvaluationSet:
    """Loads speech with transcripts; rows without text and unusable audio are named, counted and left out.

    Args:
        source: See `load_speech`, which also takes `settings`.
        normalization: For references and recognised texts alike.
        split: The split to take.
        text_column: The column with the transcripts; see `load_speech`.
        by: Columns to break scores down by.
        limit: The largest number of rows, see `choose_rows`.
        num_proc: Processes that decode the audio.
    Raises:
        ValueError: If a column is missing, or no row has both audio and text.
    """
    dataset = choose_rows(load_speech(source, split=split, text_column=text_column, **settings), limit)
    # Decoded beforehand: damage shows before any model is scored, and decoding does not count in the speed.
    kept = list(dict.fromkeys(["text", *by]))
    rows, report = prepare_speech(dataset, min_seconds=0, cache=True, num_proc=num_proc, keep=kept)
    raw = read_texts(rows, "text")
    texts = list(map(normalization, raw))
    for name, came, text in zip(rows["name"], raw, texts):
        if not text:
            report.add(name, "with nothing left of its text once normalised" if came else "without text")
    warn_of_doubts(raw, normalization)
    usable = [place for place, text in enumerate(texts) if text]
    if not usable:
        raise ValueError(f"No row can be scored: {report}. Check `text_column` and the normalisation.")
    rows = rows.select(usable)
    facts = split_facts(" ".join(source), rows, report)
    logger.info("%s rows, %.2f hours. %s", f"{len(rows):,}", facts["hours"], report)
    return EvaluationSet(
        rows=rows,
        references=[texts[place] for place in usable],
        groups={column: list(map(str, rows[column])) for column in by},
        normalization=normalization,
        facts={"split": split, **facts},
    )


def choose_rows(dataset: Dataset, limit: int | None) -> Dataset:
    """At most `limit` rows, at random since data is often sorted; the same ones every time, in their order."""
    if not limit:
        return dataset
    return dataset.select(np.sort(np.random.default_rng(0).permutation(len(dataset))[:limit]))


# How much worse a model is than another one, and the bounds of that; None if there is no interval.
Difference = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class ModelScores:
    """What a recogniser wrote, and its scores.

    Attributes:
        predictions: What it wrote for each row, normalised.
        words, characters: Edits of each row.
        seconds: Time from waveforms to texts: features, network and decoder.
        device: What it ran on, in words.
    """

    name: str
    decoder: dict[str, Any]
    parameters: int
    predictions: list[str]
    words: EditCounts
    characters: EditCounts
    seconds: float
    device: str


def score(recognizer: Recognizer, evaluation_set: EvaluationSet) -> ModelScores:
    """Runs a recogniser over the rows, after a first row that warms it up, and counts its edits."""
    rows, references = evaluation_set.rows, evaluation_set.references
    recognizer.texts(rows.select([0]))
    start = time.perf_counter()
    texts = recognizer.texts(rows)
    seconds = time.perf_counter() - start
    predictions = [evaluation_set.normalization(text) for text in texts]
    return ModelScores(
        name=recognizer.name,
        decoder=recognizer.decoder,
        parameters=recognizer.model.num_parameters(),
        predictions=predictions,
        words=count_edits(predictions, references, "words"),
        characters=count_edits(predictions, references, "characters"),
        seconds=seconds,
        device=describe_device(recognizer.model.device),
    )


def word_error_rate(
    decoder: Decoder, heard: Iterable[tuple[list[int], Tensor, Tensor]], evaluation_set: EvaluationSet
) -> float:
    """Errors over words of all rows, of logits that a recogniser has given.

    Args:
        decoder: What makes text of the logits.
        heard: Places of rows in the set, their logits `(rows, frames, vocabulary)` and their frames `(rows,)`.
        evaluation_set: The rows.
    """
    predictions = [""] * len(evaluation_set.references)
    for places, logits, frames in heard:
        for place, transcript in zip(places, decoder.decode(logits, frames)):
            predictions[place] = evaluation_set.normalization(transcript.text)
    counts = count_edits(predictions, evaluation_set.references)
    return counts.errors.sum() / counts.reference_length.sum()


def describe_device(device: torch.device) -> str:
    """A device in words, with the threads of a CPU."""
    threads = f" (threads: {torch.get_num_threads()})" if device.type == "cpu" else ""
    return device_name(device) + threads


def differences(scores: Sequence[ModelScores], *, confidence: float, **draws: int) -> list[Difference]:
    """How much each model's word error rate is above the first one's, with the interval of the difference.

    The draws are the same for both, so the interval is narrower than the intervals of the two rates suggest. If it does
    not contain zero, the models differ.

    Args:
        draws: `bootstrap` and `seed`, see `resample_rates`.
    Returns:
        `(difference, low, high)` for each model; zeros for the first. Of a single row there is no interval: None.
    """
    length = scores[0].words.reference_length
    errors = np.stack([each.words.errors for each in scores])
    rates = errors.sum(1) / length.sum()
    drawn = resample_rates(errors, length, **draws)
    low, high = percentile_interval(drawn - drawn[:, :1], confidence)
    bounds = [(None, None)] * len(rates) if len(length) == 1 else zip(low.tolist(), high.tolist())
    return [(difference, *pair) for difference, pair in zip((rates - rates[0]).tolist(), bounds)]


def score_entry(scores: ModelScores, evaluation_set: EvaluationSet, *, confidence: float, **draws: int) -> Score:
    """A model's scores for `scores.json`, with all facts needed to repeat them: data, normalisation, decoder, machine
    and versions.

    Args:
        confidence: Share of the draws that the intervals hold.
        draws: `bootstrap` and `seed`, see `resample_rates`.
    """
    rates = {}
    for measure, counts in (("wer", scores.words), ("cer", scores.characters)):
        summary = summarize_edits(counts, measure, confidence=confidence, **draws)
        rates[measure] = {"value": summary.pop(measure), "confidence": confidence, **summary}
    groups = {
        column: {
            group: summarize_edits(counts, "wer", confidence=confidence, **draws)
            for group, counts in group_edits(scores.words, values).items()
        }
        for column, values in evaluation_set.groups.items()
    }
    facts = evaluation_set.facts
    return {
        "model": scores.name,
        "data": {name: facts[name] for name in ("source", "split", "rows", "hours", "fingerprint")},
        "skipped": facts["skipped"],
        "normalization": evaluation_set.normalization.to_dict(),
        "decoder": scores.decoder,
        **rates,
        "groups": groups,
        "real_time_factor": scores.seconds / (facts["hours"] * 3600),
        "device": scores.device,
        "parameters": scores.parameters,
        "command": command_line(),
        "date": now(),
        "versions": versions("torch", "transformers", "jiwer", "hf_ssl_speech"),
    }


def save_scores(entries: Sequence[Score], folder: str | os.PathLike):
    """Adds entries to a folder's `scores.json`; one of the same model, data, normalisation and decoder is replaced.

    Raises:
        ValueError: If the file there holds something else.
    """
    path = Path(folder, SCORES_FILE)
    new = [_score_identity(entry) for entry in entries]
    kept = [entry for entry in read_scores(folder) if _score_identity(entry) not in new]
    write_json([*kept, *entries], path)


def read_scores(folder: str | os.PathLike) -> list[Score]:
    """The entries of a folder's `scores.json`; none where there is no such file.

    Raises:
        ValueError: If the file holds something else.
    """
    path = Path(folder, SCORES_FILE)
    if not path.exists():
        return []
    with naming_the_file(path, "scores"):
        return [complete(Score, entry) for entry in read_json(path, "scores", list)]


def _score_identity(entry: Score) -> dict[str, Any]:
    return {key: each for key, each in complete(Score, entry).items() if key in SCORE_KEYS}
