"""Normalisation of transcripts, by Unicode properties, script and language."""

from __future__ import annotations

import functools
import html
import os
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

import regex
from transformers.models.whisper.english_normalizer import EnglishNumberNormalizer
from transformers.utils import cached_file

from hf_ssl_speech.files import as_dataclass, naming_the_file, read_json, write_json
from hf_ssl_speech.recognition import scripts

NUMBERS = ("keep", "digits")
NORMALIZATION_FILE = "text_normalization.json"

# Markup and sounds: <COMMA>, <|en|>, [laughter], {breath}; an angle bracket with a space after it is a sign.
TAG = regex.compile(r"<[^<>\s][^<>]{0,60}>|\[[^\[\]]{1,60}\]|\{[^{}]{1,60}\}")
REFERENCE = regex.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,8}[0-9]*);")  # &amp; and its like
# Marks of every kind that stand alone: the letter that carried them is gone, or never was there.
ORPHANS = regex.compile(r"(?<![\p{L}\p{M}\p{N}\u200c\u200d\u180e])\p{M}+")


def read_references(text: str) -> str:
    """A text with the characters that HTML's references mean: & for &amp;."""
    return REFERENCE.sub(lambda found: html.unescape(found[0]), text)


@dataclass(frozen=True)
class TextNormalization:
    """How transcripts are written, in training and in scoring alike: `normalization(text)`.

    White space of any kind becomes one space; invisible characters, marks without a letter and characters that only
    stretch a line go; joiners stay inside words of scripts that need them. `docs/text.md` says what each script gets.

    Attributes:
        unicode_form: NFC, NFD, NFKC or NFKD; the last two make one character of what looks alike (wide letters,
            ligatures), except where the parts are another spelling, as in Thai sara am.
        case: `lower`, `upper` or `keep`.
        punctuation: `remove` turns punctuation and symbols into spaces, and takes single quotation marks off words;
            `keep` leaves them.
        keep_characters: Punctuation to keep. If it includes an apostrophe of any kind, all other characters used as
            apostrophes inside words become the first one named here.
        tags: `remove` removes text in <>, [] or {}, such as <COMMA> and [laughter], and reads &amp; as &; `keep`
            treats the brackets as punctuation.
        language: Code of the transcripts' language, such as `tr`, for its special rules: the dotted i of Turkish and
            Azeri, Irish prefixes, Greek capitals, Persian and Romanian letters. With None, no special rules are used.
        final_delimiter: Whether the labels for CTC end with the word delimiter, as in fairseq, or not, as in Hugging
            Face's recipes. Says nothing about the text.
        numbers: `keep`, or `digits`: English number words become digits, as in Whisper's own scoring, and digits
            lose the commas between thousands. Not for `case="keep"`.
    """

    unicode_form: str = "NFKC"
    case: str = "lower"
    punctuation: str = "remove"
    keep_characters: str = "'"
    tags: str = "remove"
    language: str | None = None
    final_delimiter: bool = True
    numbers: str = "keep"

    def __post_init__(self):
        choices = {
            "unicode_form": ("NFC", "NFD", "NFKC", "NFKD"),
            "case": ("lower", "upper", "keep"),
            "punctuation": ("remove", "keep"),
            "tags": ("remove", "keep"),
            "numbers": NUMBERS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(allowed)}.")
        if self.numbers == "digits" and self.case == "keep":
            raise ValueError("numbers is 'digits', which reads number words in one case: choose a case.")
        object.__setattr__(self, "language", scripts.language_code(self.language))

    @functools.cached_property
    def apostrophe(self) -> str | None:
        """What an apostrophe is written as; None if none is kept."""
        return next((each for each in self.keep_characters if each in scripts.APOSTROPHES), None)

    def __call__(self, text: str) -> str:
        if self.tags == "remove":
            text = read_references(text)
        text = scripts.fold(text) if "K" in self.unicode_form else unicodedata.normalize("NFC", text)
        if self.tags == "remove":
            text = TAG.sub(" ", text)
        text = scripts.change_case(scripts.language_letters(text, self.language), self.case, self.language)
        text = scripts.drop_invisible(text)
        if self.numbers == "digits":
            text = regex.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", text)
        if self.apostrophe or self.punctuation == "remove":  # which then goes with the rest of the punctuation
            text = scripts.write_apostrophes(text, self.apostrophe or "'", unquote=self.punctuation == "remove")
        if self.punctuation == "remove":
            text = scripts.drop_punctuation(text, self.keep_characters, self.language)
        text = " ".join(ORPHANS.sub("", text).split())
        if self.numbers == "digits":
            text = scripts.change_case(EnglishNumberNormalizer()(text.lower()), self.case, self.language)
        return unicodedata.normalize("NFD" if self.unicode_form.endswith("D") else "NFC", text)

    def to_dict(self) -> dict[str, str | bool | None]:
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
