"""What records tell of runs and data, in a page's words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_ssl_speech.records import Record


def run_facts(run: str, record: Record | None) -> dict[str, Any]:
    """Name and size of a run, and what it heard."""
    known = record or {}
    return {"name": Path(run).name, **{name: known.get(name) for name in ("updates", "hours_seen", "parameters")}}


def short_names(sources: str | Sequence[str]) -> str:
    """Sources of data as a reader knows them: the last folder and the name, without machine, pattern and ending."""
    sources = [sources] if isinstance(sources, str) else sources
    names = ["/".join(Path(source).parts[-2:]) for source in sources]
    return ", ".join(dict.fromkeys(re.sub(r"(-\d{5}-of-\d{5})?(\*.*|\.\w+)?$", "", name) for name in names))
