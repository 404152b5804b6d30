"""Transcripts: one way to write them, the characters they are spelt with, and labels for CTC."""

from __future__ import annotations

import json
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor
from transformers.models.whisper.english_normalizer import EnglishNumberNormalizer
from transformers.utils import cached_file

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.preparing import SkipReport, keeping_format
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.frames import num_frames
from hf_ssl_speech.models.objectives import frames_needed
from hf_ssl_speech.records import as_dataclass, naming_the_file, read_json, write_json

NORMALIZATION_FILE = "text_normalization.json"
CASES = {"lower": str.lower, "upper": str.upper, "keep": str}
MORE_TEXT_THAN_FRAMES = "with more text than its audio has frames"
PAD, UNKNOWN, WORD_DELIMITER = "<pad>", "<unk>", "|"
NUMBERS = ("keep", "digits")
JOINERS = "\u200c\u200d"  # invisible, but letters of Persian and of many Indic scripts change with them


@dataclass(frozen=True)
class TextNormalization:
    """How transcripts are written, in training and in scoring alike: `normalization(text)`.

    Attributes:
        unicode_form: NFC, NFD, NFKC or NFKD; NFKC makes one character of what looks alike.
        case: `lower`, `upper` or `keep`.
        punctuation: `remove` turns punctuation and symbols into spaces; `keep` leaves them.
        keep_characters: Punctuation to keep nevertheless. With the apostrophe, the typographic one becomes it.
        numbers: `keep`, or `digits`: English number words become digits, as Whisper's own scoring has it, and digits
            lose the commas between thousands. Not for `case="keep"`.

    White space of any kind becomes one space, and invisible control characters go.
    """

    unicode_form: str = "NFKC"
    case: str = "lower"
    punctuation: str = "remove"
    keep_characters: str = "'"
    numbers: str = "keep"

    def __post_init__(self):
        choices = {
            "unicode_form": ("NFC", "NFD", "NFKC", "NFKD"),
            "case": tuple(CASES),
            "punctuation": ("remove", "keep"),
            "numbers": NUMBERS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(allowed)}.")
        if self.numbers == "digits" and self.case == "keep":
            raise ValueError("numbers is 'digits', which reads number words in one case: choose a case.")

    def __call__(self, text: str) -> str:
        text = CASES[self.case](unicodedata.normalize(self.unicode_form, text))
        if "'" in self.keep_characters:
            text = text.replace("\u2019", "'")
        # Once more: a change of case can leave letters and their marks apart.
        text = unicodedata.normalize(self.unicode_form, text)
        if self.numbers == "digits":
            text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
        text = " ".join("".join(map(self._written, text)).split())
        return CASES[self.case](EnglishNumberNormalizer()(text.lower())) if self.numbers == "digits" else text

    def _written(self, character: str) -> str:
        kind = unicodedata.category(character)
        if kind in ("Cc", "Cf") and not character.isspace():
            return character if character in JOINERS else ""
        removed = kind[0] in "PS" and self.punctuation == "remove" and character not in self.keep_characters
        return " " if removed else character

    def to_dict(self) -> dict[str, str]:
        """The settings, ready for JSON; numbers that are kept are not told, as in records before there was a choice."""
        settings = asdict(self)
        return settings if self.numbers != "keep" else {name: settings[name] for name in settings if name != "numbers"}

    def save_pretrained(self, folder: str | os.PathLike):
        """Writes `text_normalization.json`, beside a model's files."""
        write_json(self.to_dict(), Path(folder, NORMALIZATION_FILE))

    @classmethod
    def from_pretrained(cls, folder_or_repo: str | os.PathLike, **download) -> TextNormalization:
        """Reads `text_normalization.json` from a folder or a repository on the Hub.

        Raises:
            OSError: If there is none.
            ValueError: If the file holds something else.
        """
        path, what = cached_file(folder_or_repo, NORMALIZATION_FILE, **download), "how transcripts are written"
        fields = read_json(path, what)
        with naming_the_file(path, what):
            return as_dataclass(cls, fields)


def count_characters(texts: Iterable[str]) -> dict[str, int]:
    """How often each character but the space occurs, the most frequent first."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    del counts[" "]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def rare_characters(texts: Iterable[str], min_count: int) -> dict[str, int]:
    """The characters seen less than `min_count` times, and how often."""
    return {character: count for character, count in count_characters(texts).items() if count < min_count}


def make_processor(
    texts: Iterable[str], *, min_count: int = 1, feature_extractor: Wav2Vec2FeatureExtractor | None = None
) -> Wav2Vec2Processor:
    """A processor whose vocabulary is the characters of normalised transcripts.

    The blank of CTC is the pad token, number 0; words end with `|`.

    Args:
        texts: Normalised transcripts, of any language and script.
        min_count: Characters seen less often are left out: what holds them can't be learnt from.
        feature_extractor: That of the model; by default one for models that take normalised waveforms.
    Raises:
        ValueError: If no character is left.
    """
    characters = sorted(
        character
        for character, count in count_characters(texts).items()
        if count >= min_count and character != WORD_DELIMITER
    )
    if not characters:
        raise ValueError(
            f"The transcripts hold no character {min_count} times: check the text column and its normalisation, or "
            "lower min_count."
        )
    vocabulary = {token: number for number, token in enumerate([PAD, UNKNOWN, WORD_DELIMITER, *characters])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(
            str(file),
            bos_token=None,
            eos_token=None,
            unk_token=UNKNOWN,
            pad_token=PAD,
            word_delimiter_token=WORD_DELIMITER,
        )
    feature_extractor = feature_extractor or Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    return Wav2Vec2Processor(feature_extractor=feature_extractor, tokenizer=tokenizer)


def spellable_characters(tokenizer: Wav2Vec2CTCTokenizer) -> set[str]:
    """The characters that a tokenizer has a label for, the space among them."""
    special = {tokenizer.pad_token, tokenizer.unk_token, tokenizer.word_delimiter_token}
    return {token for token in tokenizer.get_vocab() if len(token) == 1 and token not in special} | {" "}


def encode_text(text: str, tokenizer: Wav2Vec2CTCTokenizer) -> list[int]:
    """Labels of a normalised transcript: one for each character, and the word delimiter after each word."""
    vocabulary = tokenizer.get_vocab()
    delimiter = tokenizer.word_delimiter_token_id
    return [delimiter if character == " " else vocabulary[character] for character in text] + [delimiter]


def add_labels(
    dataset: Dataset,
    tokenizer: Wav2Vec2CTCTokenizer,
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
        ValueError: If no row is left.
    """
    spellable = spellable_characters(tokenizer)
    frames = num_frames(dataset.with_format("numpy")["num_samples"][:], config.conv_layers)
    longest = np.inf if max_seconds is None else round(max_seconds * SAMPLE_RATE)
    report, unknown = SkipReport(total=len(dataset)), Counter()
    usable, texts, labels = [], [], []
    columns = (dataset["name"], dataset["num_samples"], dataset[text_column], frames)
    for name, samples, text, room in zip(*columns):
        text = normalization(text or "")
        foreign = set(text) - spellable
        tokens = [] if foreign else encode_text(text, tokenizer)
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
        raise ValueError(f"No row can be learnt from: {report}.{_about(unknown, spellable)}")
    replaced = [column for column in {text_column, "text"} if column in dataset.column_names]
    written = Dataset.from_dict({"text": texts, "labels": labels})

    def with_texts(rows: Dataset) -> Dataset:
        return concatenate_datasets([rows.remove_columns(replaced), written], axis=1).select(usable)

    kept = keeping_format(dataset, with_texts)
    facts = {
        "rows": len(usable),
        "words": sum(len(texts[index].split()) for index in usable),
        "characters": sum(len(texts[index]) for index in usable),
        "skipped": {reason: len(names) for reason, names in report.skipped.items()},
        "unknown_characters": dict(sorted(unknown.items())),
    }
    return kept, report, facts


def _about(unknown: Counter, spellable: set[str]) -> str:
    """What to do about unknown characters, where there are any."""
    if not unknown:
        return ""
    shown = f" Not in the vocabulary: {' '.join(sorted(unknown)[:40])}."
    other_case = {character.swapcase() for character in unknown} & spellable
    return shown + (" It is spelt in the other case: set `case`." if other_case else "")


def find_case(characters: Iterable[str]) -> str:
    """The case that a vocabulary is spelt in: `lower`, `upper`, or `keep` where it has both."""
    letters = "".join(characters)
    has_lower, has_upper = letters != letters.upper(), letters != letters.lower()
    if has_lower and has_upper:
        return "keep"
    return "upper" if has_upper else "lower"
