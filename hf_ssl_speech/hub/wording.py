"""How records are told to others: without this machine's folders and secrets, and as Markdown that means just them."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

from hf_ssl_speech.records import without_secrets

_ABSOLUTE_PATH = re.compile(r"(?<![^\s'\"=,(\[])(?:file://)?~?/[^\s'\"),\]]+")
_MARKUP = re.compile(r"([\\`*\[\]<>|#&~])")


def for_others(record: Any) -> Any:
    """A record, or any part of one, as it may leave this machine.

    An absolute path keeps its last name, and a file or pattern its folder's too, behind an ellipsis. Passwords, tokens
    and signatures in URLs go.
    """
    if isinstance(record, dict):
        return {name: for_others(value) for name, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [for_others(value) for value in record]
    if not isinstance(record, str):
        return record
    text = without_secrets(record)
    if text.startswith(("/", "~/")) and not re.search(r"\s[-/~]", text):  # the whole is one path, spaces and all
        return _shortened(text)
    return _ABSOLUTE_PATH.sub(lambda found: _shortened(found[0]), text)


def _shortened(path: str) -> str:
    parts = PurePosixPath(path.removeprefix("file://")).parts
    # A file right in somebody's home is named alone: its folder is the person's name.
    with_folder = len(parts) > 4 and re.search(r"[.*?\[]", parts[-1])
    return "/".join(["…", *parts[-2 if with_folder else -1 :]])


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
