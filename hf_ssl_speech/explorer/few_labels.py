"""What a page tells of label efficiency: the curve, and what recognisers heard at each of its points."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hf_ssl_speech.explorer.runs import short_names
from hf_ssl_speech.files import read_json
from hf_ssl_speech.recipes.label_efficiency_report import RESULTS_FILE
from hf_ssl_speech.records import read_record

EXAMPLES = 3


def label_curve(folder: str | os.PathLike) -> dict[str, Any]:
    """The points of a label efficiency, with transcripts of the first seed for a few test rows.

    The rows lie evenly over those whose references differ, in the order of their references, so that nobody chose them.

    Raises:
        ValueError: If the folder holds no results, or a cell has no record.
    """
    results = read_json(Path(folder, RESULTS_FILE), "results of `hf-ssl-speech label-efficiency`")
    points = []
    for point in results["curves"]:
        cell = next(
            cell for cell in results["cells"] if (cell["start"], cell["minutes"]) == (point["start"], point["minutes"])
        )
        record = read_record(Path(folder, cell["folder"]))
        if record is None:
            raise ValueError(f"{cell['folder']} in {folder} has no run.json: give the folder with all its cells.")
        test = record["test"]
        shown = {name: point[name] for name in ("start", "minutes", "minutes_used", "wer", "cer")}
        points.append(shown | {"seeds": len(point["seeds"]), "examples": examples(test["references"], test["heard"])})
    test_rows = results["data"]["test"]
    source = short_names(test_rows["source"])
    return {"updates": results["updates"], "source": source, "rows": test_rows["rows"], "points": points}


def examples(references: list[str], heard: list[str]) -> list[dict[str, str]]:
    """A few rows, as said and as heard."""
    first_rows = {reference: row for row, reference in reversed(list(enumerate(references)))}
    rows = [first_rows[reference] for reference in sorted(first_rows)]
    chosen = [rows[place * (len(rows) - 1) // max(EXAMPLES - 1, 1)] for place in range(min(EXAMPLES, len(rows)))]
    return [{"said": references[row], "heard": heard[row]} for row in dict.fromkeys(chosen)]
