"""The licences that the Hub knows, by the identifiers of its documentation ("Licenses", repositories)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

LICENCES = {
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "isc", "h-research", "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0",
    "odc-by", "odbl", "open-mdw", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib",
    "pddl", "lgpl-lr", "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "grok2-community", "gemma", "unknown", "other",
}  # fmt: skip


def check_metadata(license: str | None, languages: Sequence[str]):
    """Raises a ValueError if the Hub would refuse a language or a licence, which spoils the whole push."""
    strange = [code for code in languages if not re.fullmatch(r"[a-z]{2,3}|multilingual|code", code)]
    if strange:
        raise ValueError(f"{', '.join(strange)}: the Hub takes languages as ISO 639 codes such as en, de or yue.")
    if license is not None and license not in LICENCES:
        close = difflib.get_close_matches(license.lower(), LICENCES, n=3)
        raise ValueError(
            f"{license!r}: the Hub takes licences such as apache-2.0, cc-by-4.0, or other."
            + (f" Did you mean {' or '.join(close)}?" if close else "")
        )
