"""File names: as users write them, with variables, and derived from other names, such as the ids of rows."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

# What a file system of Linux, macOS or Windows refuses, and a dot in front, which hides a file. Windows takes no dot
# and no space at the end, and no half of a pair of surrogates can be written at all.
_REFUSED = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u2028\u2029\ud800-\udfff]|^[. ]|[. ]$')
# Devices of Windows, whatever follows after a dot.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?= *(?:\.|$))", re.IGNORECASE)
# Of a name, on most file systems; eCryptfs takes less.
MOST_BYTES, MARK_BYTES = 255, 13


_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[^}]*\})")


def expanded(path: str) -> str:
    """A path with `~` and environment variables expanded.

    A path that exists as written is not changed, and neither are URLs, `https://...`.

    Raises:
        ValueError: If a variable is not set, or there is no such user.
    """
    if "://" in path or os.path.exists(path):
        return path
    found = os.path.expandvars(os.path.expanduser(path))
    unset = _VARIABLE.search(found)
    if unset:
        raise ValueError(f"{path!r} names the environment variable {unset[0]}, which is not set.")
    if found.startswith("~"):
        raise ValueError(f"{path!r} names the home of {found.partition('/')[0][1:]!r}, but there is no such user.")
    return found


def file_names(names: Sequence[str], ids: Sequence[object], suffix: str) -> list[str]:
    """A file name for each name: any file system takes it, and no two are the same.

    A name is kept but for characters that a file name can't have. Where names meet, also where only case tells them
    apart, or a name is longer than file systems take, part of a hash of name and id follows it.

    Args:
        names: Such as the ids of prepared rows.
        ids: What tells names apart that are the same, such as `sample_id`.
        suffix: Of all files, with its dot.
    Returns:
        Names without folders, of at most 255 bytes, which don't depend on the order of the names.
    """
    plain = [_without_refused(name) for name in names]
    met = Counter(map(_as_seen, plain))
    found = []
    for name, each, stem in zip(names, ids, plain):
        if met[_as_seen(stem)] > 1 or len((stem + suffix).encode()) > MOST_BYTES:
            digest = hashlib.sha256(f"{name} {each}".encode(errors="surrogatepass")).hexdigest()
            room = MOST_BYTES - len(suffix.encode()) - MARK_BYTES
            stem = f"{stem.encode()[:room].decode(errors='ignore')}-{digest[: MARK_BYTES - 1]}"
        found.append(stem + suffix)
    return found


def _without_refused(name: str) -> str:
    stem = _REFUSED.sub("_", unicodedata.normalize("NFC", name)) or "_"
    return f"_{stem}" if _DEVICE.match(stem) else stem


def _as_seen(stem: str) -> str:
    """What a file system takes for the same name: without case, and in the form that it decomposes names to."""
    return unicodedata.normalize("NFD", stem.casefold())
