"""The settings of a mixture of corpora: names of sources, weights and exponents."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

CORPUS = "corpus"  # the column with the name that `NAME=SOURCE` gives
NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
WEIGHTS_HELP = (
    "Shares of an epoch's audio that the corpora fill, as NAME=WEIGHT for each; train_data gives the names as "
    "NAME=SOURCE. See docs/collections.md."
)
MIX_BY_HELP = (
    "Columns by whose values audio is mixed, from the outermost, as COLUMN=EXPONENT: shares are the hours to this "
    "power, as in `--mix_by language=0.7 corpus=0.9`. 1 leaves the shares of the hours, 0 makes them equal."
)


def split_name(source: str) -> tuple[str | None, str]:
    """The name and the source of `NAME=SOURCE`; no name for a path or pattern of files that exists as it is written."""
    found = NAMED.fullmatch(source)
    if not found or os.path.exists(source) or glob.glob(source):
        return None, source
    return found[1], found[2]


def as_pairs(given: Mapping[str, Any] | Sequence[str] | None, setting: str) -> dict[str, float]:
    """`NAME=NUMBER` texts, or a mapping, as numbers by name.

    Raises:
        ValueError: If one is no pair, comes twice, or its number is below 0, infinite or none.
    """
    numbers: dict[str, float] = {}
    pairs = given.items() if isinstance(given, Mapping) else [str(each).rpartition("=")[::2] for each in given or ()]
    for name, value in pairs:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not name or not 0 <= number < math.inf:
            raise ValueError(f"{setting} holds {name}={value}: give NAME=NUMBER, with a number from 0 up.")
        if name in numbers:
            raise ValueError(f"{setting} names {name!r} twice.")
        numbers[str(name)] = number
    return numbers


def as_settings(weights: Any, mix_by: Any) -> tuple[list[str], list[str]]:
    """`weights` and `mix_by` as NAME=NUMBER texts, however they were given.

    Raises:
        ValueError: If they can't be understood, or both tell how corpora are weighed.
    """
    numbers = as_pairs(weights, "weights"), as_pairs(mix_by, "mix_by")
    if numbers[0] and CORPUS in numbers[1]:
        raise ValueError(
            "Both weights and mix_by tell how much of each corpus is taken: leave out `corpus` in mix_by, or weights."
        )
    if numbers[0] and not any(numbers[0].values()):
        raise ValueError("The weights sum to nothing: give at least one corpus a weight above 0.")
    texts = [[f"{name}={number:g}" for name, number in each.items()] for each in numbers]
    return texts[0], texts[1]


def levels_of(weights: Any, mix_by: Any) -> list[str]:
    """The columns that these settings mix by, from the outermost."""
    return [CORPUS] * bool(weights) + list(as_pairs(mix_by, "mix_by"))
