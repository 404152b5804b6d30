"""What the checks before a run found, one sentence for each check, and their table."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate.utils import gather_object

LEVELS = ("ok", "warning", "error")
TABLE_WIDTH = 120


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was checked, in a word or two.
        finding: What was found; for a problem, also the cause and what to do.
        level: `ok`, `warning` (the run can go on) or `error` (it can't).
    """

    check: str
    finding: str
    level: str = "ok"

    @classmethod
    def of(cls, check: str, examine: Callable[[], str]) -> Finding:
        """What `examine` returns, or, as an error, the ValueError that it raises."""
        try:
            return cls(check, examine())
        except ValueError as error:
            return cls(check, str(error), "error")

    def __str__(self) -> str:
        return f"{self.check}: {self.finding}"


def of_level(findings: Sequence[Finding], level: str) -> list[Finding]:
    """The findings of a level."""
    return [finding for finding in findings if finding.level == level]


def of_all_ranks(findings: Sequence[Finding]) -> list[Finding]:
    """For each check, the worst finding of all processes; all call this with the same checks in the same order."""
    ranks = gather_object([list(findings)])
    return [max(same, key=lambda finding: LEVELS.index(finding.level)) for same in zip(*ranks)]


def table(findings: Sequence[Finding]) -> str:
    """One line or more for each check, in three columns: check, finding, level."""
    rows = [("check", "finding", "level"), *((each.check, each.finding, each.level) for each in findings)]
    first, last = (max(len(row[column]) for row in rows) for column in (0, 2))
    middle = TABLE_WIDTH - first - last - 4
    lines = []
    for check, finding, level in rows:
        start, *more = textwrap.wrap(finding, middle) or [""]
        lines.append(f"{check:{first}}  {start:{middle}}  {level}")
        lines += [f"{'':{first}}  {line}" for line in more]
    lines.insert(1, "-" * TABLE_WIDTH)
    return "\n".join(line.rstrip() for line in lines)
