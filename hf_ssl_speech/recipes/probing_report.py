"""The report of probes: a table in SUPERB's terms and the pictures of layer weights, made from the records alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hf_ssl_speech.files import write_json
from hf_ssl_speech.markdown import plain, table
from hf_ssl_speech.records import Record, in_percent, read_record

REPORT_FILE, PICTURE_FILE, RESULTS_FILE = "report.md", "layers.png", "results.json"
GLOSSARY = """\
Scored on test rows, by which nothing was chosen, with 95% bootstrap intervals over these rows. PER: edits divided by \
true phones (or other symbols of a sequence), lower is better; accuracy: share of the rows with the right class, \
higher is better. The encoders are frozen: only a weight for each layer, a projection and a linear layer learn, at the \
learning rate that was best on validation rows. PR: phones, KS: keywords, SID: speakers, LID: languages, ER: emotions. \
The names are SUPERB's but the data is not, so the figures can't be compared with published ones."""


def write_report(folder: str | os.PathLike) -> Path:
    """Writes `report.md`, `results.json` and the picture of all tasks in a folder.

    Args:
        folder: The `output_dir` of the probes.
    Returns:
        The path of the report.
    Raises:
        ValueError: If no probe is complete there.
    """
    folder = Path(folder)
    tasks = read_tasks(folder)
    if not tasks:
        raise ValueError(f"There is no complete probe in {folder}; expected the output_dir of probes.")
    names = list(dict.fromkeys(name for records in tasks.values() for name in records))
    head = ["features", *(f"{plain(task)} {measure(records)}" for task, records in tasks.items())]
    rows = [
        [plain(name), *(score(records[name]["probe"]) if name in records else "" for records in tasks.values())]
        for name in names
    ]
    parts = ["# Probes", table(head, rows), GLOSSARY, "## Data", table(*data_of(tasks))]
    if draw_layers(tasks, folder / PICTURE_FILE):
        parts += ["## Layers", "The weight that each layer gets:", f"![Weights of layers]({PICTURE_FILE})"]
    shown = {task: {name: record["probe"] for name, record in records.items()} for task, records in tasks.items()}
    write_json(shown, folder / RESULTS_FILE)
    path = folder / REPORT_FILE
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def read_tasks(folder: Path) -> dict[str, dict[str, Record]]:
    """The records of complete probes, by task and by features, in the order in which they were made."""
    tasks: dict[str, dict[str, Record]] = {}
    paths = sorted(folder.glob("*/*/run.json"), key=lambda path: path.stat().st_mtime)
    for path in paths:
        record = read_record(path.parent)
        if record["task"] == "probe" and record["status"] == "complete":
            tasks.setdefault(record["probe"]["task"], {})[path.parent.name] = record
    return tasks


def measure(records: dict[str, Record]) -> str:
    """The measure of a task, for the head of its column."""
    return "PER, %" if next(iter(records.values()))["probe"]["is_sequence"] else "accuracy, %"


def score(probe: Mapping[str, Any]) -> str:
    """Of sequences the error rate, of classes the accuracy, each with its interval.

    Args:
        probe: Says whether it `is_sequence`, and its `error`.
    """
    error = probe["error"]
    if probe["is_sequence"]:
        return in_percent(error)
    return in_percent({**error, "value": 1 - error["value"], "low": 1 - error["high"], "high": 1 - error["low"]})


def data_of(tasks: dict[str, dict[str, Record]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of data: what each task was trained and scored on."""
    rows = []
    for task, records in tasks.items():
        record = next(iter(records.values()))
        parts: list[Any] = [record["data"][part] for part in ("train", "validation", "test")]
        sizes = [f"{facts['rows']:,} ({60 * facts['hours']:.1f} min)" for facts in parts]
        probe = record["probe"]
        count = len(probe["classes"]) - probe["is_sequence"]
        rows.append([plain(task), plain(probe["label_column"]), f"{count:,}", *sizes])
    return ["task", "column", "classes", "train", "validation", "test"], rows


def draw_layers(tasks: dict[str, dict[str, Record]], path: Path) -> bool:
    """Draws the weights of the layers, a panel for each task; returns False if no features have several layers."""
    layered = {
        task: {name: each["probe"]["layer_weights"] for name, each in records.items()}
        for task, records in tasks.items()
    }
    layered = {task: {name: row for name, row in rows.items() if len(row) > 1} for task, rows in layered.items()}
    layered = {task: rows for task, rows in layered.items() if rows}
    if not layered:
        return False
    figure = Figure(figsize=(4.5 * len(layered), 3.5), layout="constrained")
    axes = figure.subplots(1, len(layered), squeeze=False)[0]
    for axis, (task, rows) in zip(axes, layered.items()):
        for name, weights in rows.items():
            axis.plot(range(len(weights)), weights, "o-", label=name, markersize=4)
        axis.axhline(1 / max(map(len, rows.values())), color="0.5", ls="--", lw=1)
        axis.set(title=task, xlabel="layer (0: the transformer's input)", ylabel="weight", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    return True
