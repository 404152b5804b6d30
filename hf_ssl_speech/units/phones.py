"""Phones from other programs: their labels of silence, and checks of their times."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from datasets import Dataset

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.rows import numbers

logger = logging.getLogger(__name__)

SILENCE = "SIL"
# Silence, noise and spoken noise as TIMIT, the Montreal Forced Aligner, Kaldi, Buckeye, WebMAUS, Festival and CMU
# Sphinx spell them, without brackets and in lower case. The empty name is silence in every TextGrid.
NO_PHONES = {
    "", "sil", "silence", "sp", "spn", "nsn", "noi", "noise", "pau", "pause", "epi", "h#", "#h", "#", "_", "eps",
    "nib", "usb", "lau", "laugh", "laughter", "vocnoise", "iver", "unknown", "exclude", "cutoff", "b_trans",
    "e_trans", "breath", "cough", "smack", "nonspeech", "spoken_noise", "v-noise", "unk", "oov",
}  # fmt: skip
BRACKETS = "<>[](){}+*~ \t"
# WebMAUS's pause and the ends of a sentence in CMU Sphinx. Without brackets these are phones: p: is a long p.
ONLY_IN_BRACKETS = {"p:", "s", "/s"}
# Labels such as SIL-2, <LAUGH-yeah> and IVER-LAUGH name a noise before a hyphen; without brackets it is one of these.
BEFORE_HYPHEN = {"exclude", "sil", "noise", "iver"}
# Kaldi marks where in a word a phone stands.
WORD_POSITION = re.compile(r"(?<=[^\W_])_[BIES]$")
# An alignment may last this much longer than its audio; gaps and overlaps up to this long are rounding.
SLACK_SECONDS, ROUNDING_SECONDS = 0.1, 1e-3
NAMED = 5


def is_silence(phone: str | None, others: Collection[str] = ()) -> bool:
    """Whether a label means silence or noise instead of a phone.

    Args:
        phone: The label in the alignment; None counts as the empty name.
        others: More labels that mean silence, spelt as in the alignment.
    """
    label = WORD_POSITION.sub("", (phone or "").strip()).casefold()
    plain = label.strip(BRACKETS) or label  # in X-SAMPA { and } are vowels
    in_brackets = plain != label
    first, hyphen, _ = plain.partition("-")
    return (
        phone in others
        or plain in NO_PHONES
        or (in_brackets and plain in ONLY_IN_BRACKETS)
        or (hyphen != "" and first in (NO_PHONES - {""} if in_brackets else BEFORE_HYPHEN))
    )


def sequence_of(value: Any, silence: Collection[str] = ()) -> list[str] | None:
    """The phones of a row without silence, from names or from dictionaries with `phone`; None if it holds others.

    Args:
        value: A row's value in a column of sequences.
        silence: See `others` of `is_silence`.
    """
    if not isinstance(value, (list, tuple)):
        return None
    phones = [each.get("phone") if isinstance(each, dict) else each for each in value]
    if not all(isinstance(phone, str) for phone in phones):
        return None
    return [phone for phone in phones if not is_silence(phone, silence)]


def in_order(phones: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The phones that have a duration, in order of their starts; of two that start together, the longer first.

    Raises:
        ValueError: If a time is not a number, or a phone ends before it starts.
    """
    phones = list(phones)
    for phone in phones:
        times = phone["start"], phone["end"]
        if None in times or not all(map(isfinite, times)) or phone["end"] < phone["start"]:
            raise ValueError(f"The phone {phone['phone']!r} lasts from {times[0]} to {times[1]} s.")
    lasting = (phone for phone in phones if phone["end"] > phone["start"])
    return sorted(lasting, key=lambda phone: (phone["start"], -phone["end"]))


def check_end(phones: Sequence[Mapping[str, Any]], seconds: float, what: str = "The audio"):
    """Raises a ValueError if phones go on after the audio, as they do if their times are not in seconds.

    Args:
        phones: The phones with their times.
        seconds: Length of the audio.
        what: The subject of the message.
    """
    end = max((phone["end"] for phone in phones), default=0.0)
    if end > seconds + SLACK_SECONDS:
        units = {50: "frames of 20 ms", 100: "frames of 10 ms", 1000: "milliseconds", 16_000: "samples"}
        nearest = min(units, key=lambda ratio: abs(end / max(seconds, 1e-3) / ratio - 1))
        hint = f" Are they {units[nearest]}?" if abs(end / max(seconds, 1e-3) / nearest - 1) < 0.2 else ""
        raise ValueError(
            f"{what} lasts {seconds:.2f} s, but its phones end at {end:g}: their times are expected in seconds from "
            f"its start.{hint}"
        )


@dataclass
class PhoneReport:
    """What was found in the phones of a data set.

    Attributes:
        utterances, phones: How many have phones, and how many they have.
        silence: Labels that were taken as silence or noise, and how often each occurs.
        gaps, overlaps: Numbers of gaps between phones, and of overlaps of two phones.
        empty: Phones without duration, which have no frames.
    """

    utterances: int = 0
    phones: int = 0
    silence: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    overlaps: int = 0
    empty: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        taken = ", ".join(f"{name!r} ({count:,})" for name, count in self.silence.most_common()) or "no label"
        text = (
            f"{self.phones:,} phones in {self.utterances:,} utterances. Taken as silence or noise: {taken}. Gaps: "
            f"{self.gaps:,}, overlaps: {self.overlaps:,}."
        )
        if self.empty:
            more = f" and {len(self.empty) - NAMED:,} more" if len(self.empty) > NAMED else ""
            text += f" Without duration, and left out: {', '.join(self.empty[:NAMED])}{more}."
        return text

    def to_dict(self) -> dict[str, Any]:
        """For records."""
        counts = {name: getattr(self, name) for name in ("utterances", "phones", "gaps", "overlaps")}
        return counts | {"silence": dict(self.silence.most_common()), "empty": len(self.empty)}


def check_phones(
    names: Sequence[str],
    phones: Sequence[Sequence[Mapping[str, Any]] | None],
    seconds: Sequence[float],
    silence: Collection[str] = (),
) -> PhoneReport:
    """Checks the phones of a data set before anything is measured with them.

    Args:
        names: Names of the utterances.
        phones: For each utterance its `{"phone", "start", "end"}` in seconds, or None if its phones are not known.
        seconds: Length of each utterance.
        silence: More labels that mean silence.
    Raises:
        ValueError: If times are not in seconds, or are not numbers. The utterance is named.
    """
    report = PhoneReport()
    for name, row, length in zip(names, phones, seconds):
        if not row:
            continue
        try:
            ordered = in_order(row)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        check_end(row, length, name)
        report.utterances += 1
        report.phones += len(row)
        report.silence.update(phone["phone"] or "" for phone in row if is_silence(phone["phone"], silence))
        report.empty += [f"{each['phone']!r} at {each['start']:g} s of {name}" for each in row if _is_empty(each)]
        reached = ordered[0]["start"] if ordered else 0.0
        for phone in ordered:
            report.gaps += phone["start"] - reached > ROUNDING_SECONDS
            report.overlaps += reached - phone["start"] > ROUNDING_SECONDS
            reached = max(reached, phone["end"])
    return report


def check_phone_column(rows: Dataset | None, silence: Collection[str] = ()) -> dict[str, Any]:
    """Checks the phones of prepared rows and logs what it finds: facts for the record, empty if there are no phones.

    Raises:
        ValueError: As `check_phones`.
    """
    if rows is None or "phones" not in rows.column_names:
        return {}
    seconds = numbers(rows, "num_samples") / SAMPLE_RATE
    report = check_phones(rows["name"], rows["phones"], seconds.tolist(), silence)
    if not report.utterances:
        return {}
    logger.info(str(report))
    return {"phones": report.to_dict()}


def _is_empty(phone: Mapping[str, Any]) -> bool:
    return phone["start"] == phone["end"]
