"""Transcripts: one way to write them, the characters they are spelt with, and labels for CTC."""

from __future__ import annotations

import hashlib
import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import (
    PreTrainedTokenizerBase,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2PhonemeCTCTokenizer,
    Wav2Vec2Processor,
)

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.data_facts import SkipReport
from hf_ssl_speech.data.preparing import keeping_format
from hf_ssl_speech.data.rows import numbers
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.frames import num_frames
from hf_ssl_speech.models.objectives import frames_needed
from hf_ssl_speech.recognition.doubts import warn_of_doubts
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.recognition.scripts import APOSTROPHES, fold
from hf_ssl_speech.recognition.transcript import Spelling, writes_tokens_apart, written_tokens
from hf_ssl_speech.units.phones import sequence_of

MORE_TEXT_THAN_FRAMES = "with more text than its audio has frames"
AS_WRITTEN = TextNormalization("NFC", "keep", "keep", keep_characters="", tags="keep")
PAD, UNKNOWN, WORD_DELIMITER = "<pad>", "<unk>", "|"


def read_texts(dataset: Dataset, column: str) -> list[str]:
    """The transcripts of a dataset, unchanged; an empty text for a row without one.

    A column of phones, lists of dictionaries with `phone`, gives their names without silence, with spaces between.

    Raises:
        ValueError: If there is no such column, or it holds something else; the first such row is named.
    """
    if column not in dataset.column_names:
        raise ValueError(
            f"There is no column {column!r} with transcripts; there are: {', '.join(dataset.column_names)}."
        )
    values = dataset.with_format(None)[column][:]
    if holds_phones(dataset, column):
        values = [" ".join(sequence_of(value or []) or []) for value in values]
    for place, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            name = dataset[place]["name"] if "name" in dataset.column_names else f"row {place}"
            raise ValueError(
                f"Column {column!r} should hold transcripts as text, but {name} holds {type(value).__name__} "
                f"{str(value)[:60]!r} (the column's type is {dataset.features[column]}). {_way_out(value, column)}"
            )
    return [value or "" for value in values]


def holds_phones(dataset: Dataset, column: str) -> bool:
    """Whether a column holds lists of dictionaries with `phone`, each of which is a token, instead of texts.

    Lists of mere names could be words, and are not guessed at.
    """
    entry = getattr(dataset.features[column], "feature", None)
    return isinstance(entry, dict) and getattr(entry.get("phone"), "dtype", None) in ("string", "large_string")


def _way_out(value: Any, column: str) -> str:
    if isinstance(value, (list, tuple)):
        return f"Join its entries beforehand: dataset.map(lambda row: {{{column!r}: ' '.join(row[{column!r}])}})."
    if isinstance(value, dict):
        return "Name the field that is the transcript, after dataset.flatten()."
    if isinstance(value, bytes):
        return "Decode it beforehand."
    return (
        "Write numbers as the words that were said; if these very digits are the transcript: "
        f"dataset.cast_column({column!r}, datasets.Value('string'))."
    )


def count_tokens(texts: Iterable[str], apart: bool = False) -> dict[str, int]:
    """How often each character but the space occurs, the most frequent first; or, `apart`, each phone."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split() if apart else text)
    del counts[" "]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def rare_tokens(texts: Iterable[str], min_count: int, apart: bool = False) -> dict[str, int]:
    """The characters, or phones, seen less than `min_count` times, and how often."""
    return {token: count for token, count in count_tokens(texts, apart).items() if count < min_count}


def make_processor(
    texts: Iterable[str],
    *,
    min_count: int = 1,
    feature_extractor: Wav2Vec2FeatureExtractor | None = None,
    apart: bool = False,
) -> Wav2Vec2Processor:
    """A processor whose vocabulary is the characters of normalised transcripts, or the phones that they consist of.

    The blank of CTC is the pad token, number 0; words end with `|`.

    Args:
        texts: Normalised transcripts, of any language and script.
        min_count: Characters that occur less often are left out; rows with them can't be used for training.
        feature_extractor: That of the model; by default one for models that take normalised waveforms.
        apart: Whether the texts are phones with spaces between, each of which is a token.
    Raises:
        ValueError: If no character is left.
    """
    counts = count_tokens(texts, apart)
    tokens = sorted(token for token, count in counts.items() if count >= min_count and token != WORD_DELIMITER)
    if not tokens:
        raise ValueError(
            f"The transcripts hold no {'phone' if apart else 'character'} {min_count} times: check the text column and "
            "its normalisation, or lower min_count."
        )
    special = [PAD, UNKNOWN] if apart else [PAD, UNKNOWN, WORD_DELIMITER]
    vocabulary = {token: number for number, token in enumerate([*special, *tokens])}
    own = {"do_phonemize": False} if apart else {"word_delimiter_token": WORD_DELIMITER}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        tokenizer = (Wav2Vec2PhonemeCTCTokenizer if apart else Wav2Vec2CTCTokenizer)(
            str(file), bos_token=None, eos_token=None, unk_token=UNKNOWN, pad_token=PAD, **own
        )
    feature_extractor = feature_extractor or Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    return Wav2Vec2Processor(feature_extractor=feature_extractor, tokenizer=tokenizer)


def spellable_characters(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The characters that a tokenizer's tokens are made of, and the space."""
    return set().union(*written_tokens(tokenizer).values()) | {" "}


def add_labels(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    normalization: TextNormalization,
    config: SSLSpeechConfig,
    *,
    text_column: str = "text",
    max_seconds: float | None = None,
) -> tuple[Dataset, SkipReport, dict[str, Any]]:
    """Gives prepared rows `text`, normalised, and `labels`, leaving out those that CTC can't learn from.

    Left out are rows without text, with characters that the tokenizer does not have, with more labels than their audio
    makes frames, or with audio too long (a transcript can't be cropped).

    Args:
        dataset: Rows of `prepare_speech` that kept the text column.
        config: Of the model: how many frames an audio makes.
        max_seconds: The longest audio to keep.
    Returns:
        The rows, the report of those left out, and what the run's record says of the transcripts.
    Raises:
        ValueError: If no row is left, or the column holds something else than text.
    """
    spelling = Spelling(tokenizer, config.vocab_size)
    end = [spelling.delimiter] if normalization.final_delimiter and spelling.delimiter is not None else []
    frames = num_frames(numbers(dataset, "num_samples"), config.conv_layers)
    longest = np.inf if max_seconds is None else round(max_seconds * SAMPLE_RATE)
    unknown: Counter[str] = Counter()
    report = SkipReport(total=len(dataset))
    usable, texts, labels = [], [], []
    raw = read_texts(dataset, text_column)
    for name, samples, text, room in zip(dataset["name"], dataset["num_samples"], map(normalization, raw), frames):
        foreign = spelling.unknown(text)
        tokens = [] if foreign else spelling.spell(text) + end
        texts.append(text)
        labels.append(tokens)
        if not text:
            report.add(name, "without text")
        elif foreign:
            unknown.update(foreign)
            report.add(name, "with characters outside the vocabulary")
        elif int(frames_needed(torch.tensor(tokens))) > room:
            report.add(name, MORE_TEXT_THAN_FRAMES)
        elif samples > longest:
            report.add(name, f"too long (over {max_seconds:g} s)")
        else:
            usable.append(len(texts) - 1)
    if not usable:
        raise ValueError(f"No row can be trained on: {report}.{_about(unknown, spellable_characters(tokenizer))}")
    replaced = [column for column in {text_column, "text"} if column in dataset.column_names]
    written = Dataset.from_dict({"text": texts, "labels": labels})

    def with_texts(rows: Dataset) -> Dataset:
        return concatenate_datasets([rows.remove_columns(replaced), written], axis=1).select(usable)

    kept = keeping_format(dataset, with_texts)
    facts = {
        **text_facts([texts[index] for index in usable]),
        "skipped": {reason: len(names) for reason, names in report.skipped.items()},
        "unknown_characters": dict(sorted(unknown.items())),
        "doubts": warn_of_doubts(raw, normalization),
    }
    return kept, report, facts


def text_facts(texts: Sequence[str]) -> dict[str, Any]:
    """What the run's record says of normalised transcripts: how much they are, and a hash of them."""
    return {
        "rows": len(texts),
        "words": sum(len(text.split()) for text in texts),
        "characters": sum(map(len, texts)),
        "fingerprint": hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16],
    }


def _about(unknown: Counter, spellable: set[str]) -> str:
    """What to do about unknown characters, where there are any."""
    if not unknown:
        return ""
    shown = f" Not in the vocabulary: {' '.join(sorted(unknown)[:40])}."
    other_case = {character.swapcase() for character in unknown} & spellable
    return shown + (" It is spelt in the other case: set `case`." if other_case else "")


def fitting_normalization(tokenizer: PreTrainedTokenizerBase) -> TextNormalization:
    """The normalisation for a vocabulary that comes without one: with its case and its punctuation."""
    if writes_tokens_apart(tokenizer):  # phones: each character counts
        return AS_WRITTEN
    tokens = [token for token in written_tokens(tokenizer).values() if len(token) == 1]
    marks = sorted(token for token in tokens if unicodedata.category(token)[0] in "PS" or token in APOSTROPHES)
    kept = "".join(marks) if APOSTROPHES & set(marks) else "".join(["'", *marks])
    wide = any(unicodedata.normalize("NFKC", token) != token and fold(token) != token for token in tokens)
    return TextNormalization("NFC" if wide else "NFKC", find_case(tokens), keep_characters=kept)


def find_case(characters: Iterable[str]) -> str:
    """The case that a vocabulary is spelt in: `lower`, `upper`, or `keep` where it has both."""
    letters = "".join(characters)
    has_lower, has_upper = letters != letters.upper(), letters != letters.lower()
    if has_lower and has_upper:
        return "keep"
    return "upper" if has_upper else "lower"
