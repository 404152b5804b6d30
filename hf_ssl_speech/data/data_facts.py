"""What a record says of data: the source and size of each split, and the rows that can't be used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.mixture_settings import CORPUS, split_name
from hf_ssl_speech.data.rows import numbers
from hf_ssl_speech.records import as_path, without_secrets

NAMES_SHOWN = 4
ROWS_AT_ONCE = 100_000  # row by row, millions of names take an hour; all at once, gigabytes
STREAM = "stream of "  # the beginning of the fingerprint of rows that are not known beforehand


@dataclass
class SkipReport:
    """Which of a dataset's rows can't be used, and why."""

    total: int
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """The names of the rows (`id`, else path, else row number) for each reason."""
    cut: dict[str, Any] | None = None
    """Recordings that were cut, the pieces they made, and the share of their audio that can be used."""

    @property
    def num_skipped(self) -> int:
        """Rows that can't be used."""
        return sum(len(names) for names in self.skipped.values())

    def add(self, name: str, reason: str):
        """Notes one more row, such as one whose damage only its decoding shows. Rows may share a name."""
        self.skipped.setdefault(reason, []).append(name)

    def joined(self, later: SkipReport) -> SkipReport:
        """This report, extended by the rows that were left out in a later step."""
        reasons = dict.fromkeys([*self.skipped, *later.skipped])
        both = {reason: self.skipped.get(reason, []) + later.skipped.get(reason, []) for reason in reasons}
        return SkipReport(self.total, both, self.cut)

    def to_dict(self) -> dict[str, Any]:
        """The report for a run's record, ready for JSON."""
        return {"total": self.total, "num_skipped": self.num_skipped, "skipped": self.skipped}

    def __str__(self) -> str:
        reasons = []
        for reason, names in sorted(self.skipped.items(), key=lambda item: -len(item[1])):
            more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
            reasons.append(f"{len(names):,} {reason}: {', '.join(names[:NAMES_SHOWN])}{more}")
        text = f"{self.num_skipped:,} of {self.total:,} rows skipped" + (": " if reasons else "") + "; ".join(reasons)
        if self.cut:
            text += (
                f". {self.cut['recordings']:,} long recordings were cut into {self.cut['pieces']:,} pieces, and "
                f"{self.cut['share_used']:.1%} of their audio is used"
            )
        return text


def split_facts(source: str | Sequence[str], dataset: Dataset, report: SkipReport | None = None) -> dict[str, Any]:
    """The record's facts about one split: source, size, what was cut and left out. Passwords are hidden.

    Without a report, as of rows that were prepared elsewhere, nothing is said of what was left out.
    """
    samples = numbers(dataset, "num_samples")
    return (
        {
            "source": _shown(source),
            "fingerprint": _fingerprint(samples, dataset),
            "rows": len(dataset),
            "hours": float(samples.sum()) / SAMPLE_RATE / 3600,
        }
        | ({"skipped": report.to_dict()} if report else {})
        | ({"cut": report.cut} if report and report.cut else {})
    )


def _fingerprint(samples: np.ndarray, dataset: Dataset) -> str:
    """Of the lengths and names of rows, and of their corpora if these have names."""
    digest, between = hashlib.sha256(samples.tobytes()), ""
    for column in (column for column in ("name", CORPUS) if column in dataset.column_names):
        for start in range(0, len(dataset), ROWS_AT_ONCE):
            names = dataset[column][start : start + ROWS_AT_ONCE]
            digest.update((between + "\n".join(names)).encode())
            between = "\n"
    return digest.hexdigest()[:16]


def stream_facts(source: Sequence[str]) -> dict[str, Any]:
    """The record's facts about a stream, whose rows are not known beforehand."""
    named = " ".join(map(without_secrets, source))
    return {"source": _shown(source), "fingerprint": f"{STREAM}{named}", "streaming": True}


def _shown(source: str | Sequence[str]) -> str | list[str]:
    if not isinstance(source, str):
        return [_shown(one) for one in source]
    return without_secrets(as_path(split_name(source)[1]))  # `corpora` tells the names
