"""Markdown from texts, code and tables, with markup in the texts escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_MARKUP = re.compile(r"([\\`*\[\]<>|#&~])")
_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+\s*")
# An even number of backslashes escape each other, and leave the bar to end the cell.
_BAR = re.compile(r"(?<!\\)((?:\\\\)*)\|")


def plain(value: Any) -> str:
    """A value as text in Markdown, a table's cell or a heading: what it holds of markup is shown, not followed."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return _MARKUP.sub(r"\\\1", " ".join(f"{value}".split()))


def code(text: str) -> str:
    """A text as a code span, in a table too."""
    text = " ".join(text.split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def quoted(text: str) -> str:
    """A text as a Python string in a fenced block of code."""
    return json.dumps(text, ensure_ascii=False).replace("`", "\\u0060")


def cell(text: str) -> str:
    """A piece of Markdown as the cell of a table: in one line, and its bars end no cell."""
    return _BAR.sub(r"\1\\|", _LINE_BREAKS.sub(" ", text))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, aligned: bool = False) -> str:
    """Cells as a Markdown table.

    Args:
        head: Of the columns.
        rows: Cells, each a piece of Markdown: `plain` makes one of a text that may hold markup.
        aligned: Whether the columns line up in a terminal too.
    """
    lines = [list(map(cell, line)) for line in (head, *rows)]
    widths = [max(map(len, column)) if aligned else 0 for column in zip(*lines)]
    head, *rows = ([each.ljust(width) for each, width in zip(line, widths)] for line in lines)
    rule = ["-" * max(3, width) for width in widths]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))
