"""Counts what a normalisation can't decide in transcripts, so that the user can check it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import regex

from hf_ssl_speech.recognition.normalization import TAG, TextNormalization, read_references

logger = logging.getLogger(__name__)

EXAMPLES = 5
_POINTED = regex.compile(r"[\u05b0-\u05bc\u05c1\u05c2\u05c7\u064b-\u0652\u0670]")


class Doubt(NamedTuple):
    """Something that a text may hold: its name, how it is found, and what to do about it."""

    name: str
    pattern: regex.Pattern
    advice: str


DOUBTS = (
    Doubt("tags", TAG, "they are removed; set `tags: keep` if they are words"),
    Doubt(
        "digits",
        regex.compile(r"\w*\p{N}[\p{N}.,:]*\w*"),
        "they can be read in several ways: write them as words, as they were said",
    ),
    Doubt(
        "symbols that are read aloud",
        regex.compile(r"[\p{Sc}%‰&@#§№°ºª+=×÷]|\p{L}[²³]"),
        "most are removed: write them as words, as they were said",
    ),
    Doubt(
        "parentheses",
        regex.compile(r"[(\uff08][^()]*[)\uff09]|\u3010[^\u3010\u3011]*\u3011|\*[^*\s][^*]*\*"),
        "their content counts as said: remove it if it describes sounds or speakers",
    ),
    Doubt(
        "words of two alphabets",
        regex.compile(r"\b(?=\w*\p{Latin})(?=\w*[\p{Cyrillic}\p{Greek}])[\p{L}\p{M}]+\b"),
        "letters that look alike are different characters: correct the ones from the wrong alphabet",
    ),
    Doubt(
        "characters that a wrong encoding left",
        regex.compile(
            r"[\ufffd\ud800-\udfff\u0080-\u0084\u0086-\u009f\p{Co}]|\u00c3[\u0080-\u00bf]|\u00e2\u20ac[\p{P}\p{S}\u0080-\u00bf]"
        ),
        "read the file in the encoding it was written in",
    ),
    Doubt(
        "stress marks",
        regex.compile(r"\w*[аеиоуыэюяіє]\u0301\w*", regex.IGNORECASE),
        "other texts have none: leave out all or none",
    ),
    Doubt(
        "zero-width spaces in a script without spaces",
        regex.compile(r"(?<=[\p{Khmer}\p{Thai}\p{Lao}\p{Myanmar}])\u200b"),
        "they are removed: if they separate words, replace them by spaces beforehand",
    ),
)
DOTTED_I = Doubt(
    "the letters \u0130 or \u0131",
    regex.compile(r"\w*[\u0130\u0131]\w*"),
    "in Turkish and Azeri I is the capital of \u0131: set `language`",
)
POINTS = Doubt(
    "vowel points", regex.compile(rf"\w*{_POINTED.pattern}\w*"), "other texts have none: leave out all or none"
)


def find_doubts(texts: Sequence[str], normalization: TextNormalization) -> dict[str, dict[str, Any]]:
    """The parts of these texts that a normalisation can't decide.

    Args:
        texts: Transcripts as they came.
        normalization: How they will be written.
    Returns:
        For each kind that occurs, `texts` (how many hold it), `examples` of it, the most frequent first, and `advice`.
    """
    if normalization.tags == "remove":
        texts = [read_references(text) for text in texts]
    kinds = [each for each in DOUBTS if each.name != "tags" or normalization.tags == "remove"]
    if normalization.case != "keep" and normalization.language is None:
        kinds.append(DOTTED_I)
    pointed = sum(bool(_POINTED.search(text)) for text in texts)
    could_be = sum(bool(regex.search(r"[\p{Hebrew}\p{Arabic}]", text)) for text in texts)
    if pointed < could_be:
        kinds.append(POINTS)
    found = {}
    for kind in kinds:
        plain = (text if kind.name == "tags" or normalization.tags == "keep" else TAG.sub(" ", text) for text in texts)
        hits = [hit for hit in (kind.pattern.findall(text) for text in plain) if hit]
        if hits:
            examples = [example for example, _ in Counter(each for hit in hits for each in hit).most_common(EXAMPLES)]
            found[kind.name] = {"texts": len(hits), "examples": examples, "advice": kind.advice}
    return found


def warn_of_doubts(texts: Sequence[str], normalization: TextNormalization) -> dict[str, int]:
    """Logs a warning for each kind of doubt and returns how many texts hold it, for records."""
    found = find_doubts(texts, normalization)
    for name, each in found.items():
        shown = ", ".join(map(repr, each["examples"]))
        logger.warning("%d of %d transcripts hold %s (%s): %s.", each["texts"], len(texts), name, shown, each["advice"])
    return {name: each["texts"] for name, each in found.items()}
