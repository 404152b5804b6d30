"""Makes records fit to be published: without this machine's folders and secrets."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from hf_ssl_speech.records import without_secrets

_ABSOLUTE_PATH = re.compile(r"(?<![^\s'\"=,(\[])(?:file://)?~?/[^\s'\"),\]]+")


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
