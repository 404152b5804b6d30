"""Rows chosen by a column: `books[language=ru]` is a source of which only these rows are taken."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from datasets import Dataset, IterableDataset

# The selector of CSS: a column and its value, or several values with | between.
CONDITION = re.compile(r"\[([^\[\]=|]+)=([^\[\]=]+)\]$")
SHOWN = 8
Rows = TypeVar("Rows", Dataset, IterableDataset)


def split_conditions(source: str) -> tuple[str, dict[str, list[str]]]:
    """A source without the conditions at its end, and the values that each of them allows in its column.

    A path that exists as it is written has none.
    """
    conditions: dict[str, list[str]] = {}
    while (found := CONDITION.search(source)) and not os.path.exists(source):
        conditions[found[1]] = found[2].split("|")
        source = source[: found.start()]
    return source, conditions


def only_matching(parts: Sequence[Rows], conditions: Mapping[str, list[str]], source: str) -> list[Rows]:
    """The rows of which every condition holds; values are compared as text.

    Args:
        parts: All rows of a source, one dataset for each schema.
        conditions: The values that are allowed in each of these columns.
        source: Where the rows come from, for messages.
    Raises:
        ValueError: If there is no such column, or, unless the rows are streamed, a value that no row has.
    """
    parts = list(parts)
    for column, values in conditions.items():
        lacking = next((part for part in parts if column not in part.column_names), None)
        if lacking is not None:
            raise ValueError(
                f"{source!r} has no column {column!r} to choose rows by; there are {lacking.column_names}."
            )
        there: set[str] = set()
        for place, part in enumerate(parts):
            if isinstance(part, IterableDataset):
                parts[place] = part.filter(_is_one_of, input_columns=column, fn_kwargs={"values": values})
                there.update(values)
            else:
                found = np.array(list(map(str, part.with_format(None)[column][:])))
                there.update(found.tolist())
                parts[place] = part.select(np.flatnonzero(np.isin(found, values)))
        missing = sorted(set(values) - there)
        if missing:
            known = sorted(there)
            more = f" and {len(known) - SHOWN:,} more" if len(known) > SHOWN else ""
            raise ValueError(
                f"No row of {source!r} has {' or '.join(map(repr, missing))} in the column {column!r}; there are "
                f"{', '.join(known[:SHOWN])}{more}."
            )
    return parts


def _is_one_of(value: object, values: list[str]) -> bool:
    return str(value) in values
