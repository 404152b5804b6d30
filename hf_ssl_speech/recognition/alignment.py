"""Forced alignment: when each word and character of a known transcript was said."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets
from torch import Tensor
from transformers import PreTrainedModel, Wav2Vec2Processor

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.data_facts import SkipReport
from hf_ssl_speech.data.preparing import keeping_format
from hf_ssl_speech.recognition.decoding import align_tokens
from hf_ssl_speech.recognition.text import read_texts
from hf_ssl_speech.recognition.transcript import Alphabet, Transcript
from hf_ssl_speech.recognition.transcription import compute_logits

NUMBER = Value("float64")
SPANS = List({"text": Value("string"), "start": NUMBER, "end": NUMBER, "score": NUMBER})
TEXTGRID = ".TextGrid"
ALIGNED = Features({"words": SPANS, "characters": SPANS, "score": NUMBER})
# This many of the rows that fit their audio worst are named.
LOWEST_ROWS = 5


def align_text(text: str, logits: Tensor, alphabet: Alphabet) -> Transcript:
    """When each word and character of a text was said.

    A word with characters that the model can't write is aligned as one wild card: it gets the time between its
    neighbours, and is also its only entry among the characters.

    Args:
        text: What is said, normalised as the transcripts were for training.
        logits: Of the audio, `(frames, vocabulary)`.
        alphabet: Of the model.
    Raises:
        ValueError: If the text is empty, the model can't write any of its words, or the audio has too few frames for
            it.
    """
    words = text.split()
    if not words:
        raise ValueError("The text is empty.")
    wild = [word for word in words if alphabet.unknown(word)]
    if len(wild) == len(words):
        raise ValueError(f"{', '.join(map(repr, wild))}: {alphabet.describe(alphabet.unknown(text))}.")
    log_probabilities = logits.float().log_softmax(-1).cpu()
    path, scores = align_tokens(log_probabilities, alphabet.spell(text, wild=True), alphabet)
    return alphabet.read(path, scores, wild=wild)


def add_alignment(
    dataset: Dataset,
    model: PreTrainedModel,
    processor: Wav2Vec2Processor,
    *,
    text_column: str = "text",
    normalize: Callable[[str], str] = str,
    batch_seconds: float | None = None,
    progress: bool = False,
) -> tuple[Dataset, SkipReport]:
    """Adds to each row when its words and characters were said.

    Args:
        dataset: Prepared rows with their transcripts.
        model: With a CTC head.
        processor: Of the model.
        text_column: Column with the transcripts.
        normalize: Applied to the transcripts before they are spelt, as in training.
        batch_seconds, progress: As for `transcribe`.
    Returns:
        The rows with the columns `words` and `characters`, lists of `text`, `start` and `end` in seconds and `score`,
        the mean probability of what is written over its frames (see `Span`), and the column `score`, which is low for
        a transcript that does not fit its audio (`Transcript.confidence`); and the report of the rows that could not
        be aligned and are left out.
    Raises:
        ValueError: If there is no such text column, the new columns are there already, or no row can be aligned.
    """
    taken = [column for column in ALIGNED if column in dataset.column_names]
    if text_column not in dataset.column_names or taken:
        raise ValueError(
            f"The dataset has the columns {dataset.column_names}; expected {text_column!r} with the transcripts, and "
            f"no {' or '.join(ALIGNED)} yet. Keep the text with prepare_speech(keep=[...])."
        )
    alphabet = Alphabet(processor.tokenizer, model.config)
    texts, names, lengths = read_texts(dataset, text_column), dataset["name"], dataset["num_samples"]
    found: dict[int, Transcript] = {}
    problems: dict[int, str] = {}
    for places, logits, frames in compute_logits(model, processor, dataset, batch_seconds, progress):
        for place, row, length in zip(places, logits, frames.tolist()):
            try:
                transcript = align_text(normalize(texts[place]), row[:length], alphabet)
                found[place] = transcript.within(int(lengths[place]) / SAMPLE_RATE)
            except ValueError as error:
                problems[place] = str(error)

    report = SkipReport(len(dataset))
    for place, name in enumerate(names):
        if place not in found:
            report.add(name, problems.get(place, "There is no usable audio in it."))
    if not found:
        raise ValueError(f"No row can be aligned: {report}")
    places = sorted(found)
    spans = Dataset.from_list([_columns(found[place]) for place in places], features=ALIGNED)
    chosen = dataset.select(places)
    return keeping_format(chosen, lambda rows: concatenate_datasets([rows, spans], axis=1)), report


def _columns(transcript: Transcript) -> dict[str, Any]:
    spans = {column: [span._asdict() for span in getattr(transcript, column)] for column in ("words", "characters")}
    return {**spans, "score": transcript.confidence}


def describe_scores(aligned: Dataset) -> str:
    """The scores of aligned rows in a few lines: their range, and the rows whose transcripts fit worst."""
    aligned = aligned.with_format(None).select_columns(["name", "words", "score"])
    scores = np.array(aligned["score"])
    median, tenth = np.quantile(scores, [0.5, 0.1])
    lines = [f"Scores from 0 to 1: median {median:.2f}; a tenth of the rows has less than {tenth:.2f}. Lowest:"]
    lowest = np.argsort(scores, kind="stable")[:LOWEST_ROWS].tolist()
    for name, words, score in zip(*(aligned.select(lowest)[column] for column in ("name", "words", "score"))):
        known = [word for word in words if word["score"] is not None]
        worst = min(known, key=lambda word: word["score"])
        lines.append(
            f"  {score:.2f}  {name}, worst word {worst['text']!r} at {worst['start']:.2f} s ({worst['score']:.2f})"
        )
    return "\n".join(lines)


def write_textgrid(tiers: Mapping[str, Sequence[Mapping[str, Any]]], seconds: float, path: str | os.PathLike):
    """Writes spans as a Praat TextGrid.

    Args:
        tiers: For each tier its spans, such as the `words` and `characters` of an aligned row.
        seconds: Length of the audio.
        path: File to write.
    Raises:
        ImportError: If praatio is not installed.
    """
    try:
        from praatio import textgrid
    except ImportError as error:
        raise ImportError("TextGrid files are written by praatio: pip install praatio") from error
    grid = textgrid.Textgrid(0, seconds)
    for name, spans in tiers.items():
        entries = [(span["start"], span["end"], span["text"]) for span in spans]
        grid.addTier(textgrid.IntervalTier(name, entries, 0, seconds))
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
