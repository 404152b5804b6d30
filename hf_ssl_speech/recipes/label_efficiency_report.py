"""The results of label efficiency: `results.json`, a table with intervals, the curve, and what labels are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from transformers import PreTrainedTokenizerBase

from hf_ssl_speech.files import write_json
from hf_ssl_speech.markdown import plain, table
from hf_ssl_speech.recognition.metrics import percentile_interval, resample_rates
from hf_ssl_speech.recognition.transcript import writes_tokens_apart
from hf_ssl_speech.records import Rate, command_line, device_name, in_percent, now, versions

RESULTS_FILE, REPORT_FILE, PICTURE_FILE = "results.json", "report.md", "curve.png"
Measures = Mapping[str, tuple[str, str]]
MEASURES: Measures = {"wer": ("words", "WER"), "cer": ("characters", "CER")}
PHONES: Measures = {"per": ("words", "PER")}  # of a text of phones, each is a word
CONFIDENCE, DRAWS = 0.95, 2000
SCRATCH = "scratch"
GLOSSARY = """\
WER, CER, PER: word, character and phone error rate on the test rows, mean over seeds; in brackets the 95% bootstrap \
interval over seeds and test rows. Minutes: the length of the rows that were learnt from, mean over seeds. Scratch \
needs: the minutes of labels with which fresh weights would make as few errors, interpolated on their curve (linearly \
over the logarithm of the minutes); outside the curve only a bound is known."""


def measures_of(tokenizer: PreTrainedTokenizerBase) -> Measures:
    """The measures of recognisers with this tokenizer: by name, the unit that is counted and the label."""
    return PHONES if writes_tokens_apart(tokenizer) else MEASURES


def write_results(
    cells: Sequence[dict[str, Any]],
    lengths: Mapping[str, np.ndarray],
    about: dict[str, Any],
    folder: Path,
    measures: Measures = MEASURES,
):
    """Writes results, report and picture of the cells that are finished.

    Args:
        cells: For each cell `start`, `minutes`, `minutes_used`, `seed`, and by unit the `errors` in every test row.
        lengths: Words and characters of every test row.
        about: Facts of the whole comparison: starts, updates, data.
        folder: The folder to write into.
        measures: See `measures_of`.
    """
    curves = summarize(cells, lengths, measures)
    shown = [{name: value for name, value in cell.items() if name != "errors"} for cell in cells]
    write_json(
        {
            "format": 1,
            "command": command_line(),
            "updated": now(),
            "versions": versions("torch", "transformers", "hf_ssl_speech"),
            "machine": {"device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))},
            **about,
            "curves": curves,
            "cells": shown,
        },
        folder / RESULTS_FILE,
    )
    draw_curves(curves, folder / PICTURE_FILE, measures)
    (folder / REPORT_FILE).write_text(report(curves, about, measures), encoding="utf-8")


def summarize(
    cells: Sequence[dict[str, Any]], lengths: Mapping[str, np.ndarray], measures: Measures = MEASURES
) -> list[dict[str, Any]]:
    """A point for each start and amount of labels: mean rates, intervals, and the minutes that scratch would need."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["start"], cell["minutes"]), []).append(cell)
    points = []
    for (start, minutes), group in groups.items():
        point = {"start": start, "minutes": minutes, "seeds": [cell["seed"] for cell in group]}
        point["minutes_used"] = float(np.mean([cell["minutes_used"] for cell in group]))
        for name, (unit, _) in measures.items():
            point[name] = mean_rate(np.array([cell["errors"][unit] for cell in group]), lengths[unit])
        points.append(point)
    for point in points:
        scratch = [each for each in points if each["start"] == SCRATCH]
        if scratch and point["start"] != SCRATCH:
            for name in measures:
                curve = [(each["minutes_used"], each[name]["value"]) for each in scratch]
                point[f"scratch_minutes_{name}"] = equal_minutes(curve, point[name]["value"])
    return points


def mean_rate(errors: np.ndarray, lengths: np.ndarray) -> Rate:
    """The mean error rate over seeds, with the interval over draws of rows and of seeds.

    Args:
        errors: Errors in every row with every seed, `(seeds, rows)`.
        lengths: Words or characters of every row, `(rows,)`.
    """
    drawn = resample_rates(errors, lengths, bootstrap=DRAWS)  # (draws, seeds)
    seeds = np.random.default_rng(0).integers(drawn.shape[1], size=drawn.shape)
    low, high = percentile_interval(np.take_along_axis(drawn, seeds, axis=1).mean(1), CONFIDENCE)
    value = float(errors.sum() / len(errors) / lengths.sum())
    return {"value": value, "low": float(low), "high": float(high), "confidence": CONFIDENCE}


def equal_minutes(curve: Sequence[tuple[float, float]], error: float) -> dict[str, Any]:
    """The fewest minutes at which a curve gets down to an error rate.

    Args:
        curve: Minutes and error rates.
        error: The error rate.
    Returns:
        `minutes`, and as `is` what they are: `about` the value; or a bound, `at most` if the curve is as good from its
        first point on, `more than` if it never gets there.
    """
    curve = sorted(curve)
    if curve[0][1] <= error:
        return {"minutes": curve[0][0], "is": "at most"}
    for (left, above), (right, below) in pairwise(curve):
        if below <= error:
            share = (above - error) / (above - below)
            return {"minutes": float(np.exp(np.log(left) + share * np.log(right / left))), "is": "about"}
    return {"minutes": curve[-1][0], "is": "more than"}


def report(curves: Sequence[dict[str, Any]], about: Mapping[str, Any], measures: Measures = MEASURES) -> str:
    """The page `report.md`: what was done, the table and the picture."""
    data, test = about["data"], about["data"]["test"]
    starts = "; ".join(f"{plain(name)}: {plain(path or 'fresh weights')}" for name, path in about["starts"].items())
    first = (
        f"{about['updates']:,} updates in every cell. Labels are taken from {data['train']['hours'] * 60:.1f} minutes "
        f"({data['train']['rows']:,} rows); the checkpoint is chosen on {data['validation']['rows']:,} other rows and "
        f"scored on {test['rows']:,} test rows ({test['hours'] * 60:.1f} minutes). Starts: {starts}."
    )
    rows = []
    for point in sorted(curves, key=lambda point: point["minutes_used"]):
        needs = [_needed(point.get(f"scratch_minutes_{name}")) for name in measures]
        rates = [in_percent(point[name]) for name in measures]
        rows.append([f"{point['minutes_used']:.1f}", plain(point["start"]), f"{len(point['seeds'])}", *rates, *needs])
    named = [name for _, name in measures.values()]
    head = ["minutes", "start", "seeds", *(f"{name}, %" for name in named)]
    head += [f"scratch needs ({name})" for name in named]
    parts = ["# Errors against minutes of labels", first, table(head, rows), GLOSSARY, f"![The curve]({PICTURE_FILE})"]
    return "\n\n".join(parts) + "\n"


def draw_curves(curves: Sequence[dict[str, Any]], path: Path, measures: Measures = MEASURES):
    """Draws error rates over minutes of labels (a logarithmic axis): for each start a line with its interval."""
    figure = Figure(figsize=(6 * len(measures), 4.5), layout="constrained")
    axes = figure.subplots(1, len(measures), squeeze=False)[0]
    minutes = sorted({round(point["minutes_used"], 2) for point in curves})
    for axis, (name, (_, label)) in zip(axes, measures.items()):
        for color, start in enumerate(dict.fromkeys(point["start"] for point in curves)):
            points = sorted((each for each in curves if each["start"] == start), key=lambda each: each["minutes_used"])
            along = [point["minutes_used"] for point in points]
            value, low, high = (
                100 * np.array([each[name][key] for each in points]) for key in ("value", "low", "high")
            )
            axis.plot(along, value, "o-", color=f"C{color}", label=start, markersize=4)
            axis.fill_between(along, low, high, color=f"C{color}", alpha=0.2, lw=0)
        axis.set(xscale="log", xlabel="minutes of labels", ylabel=f"{label} on test, %", ylim=(0, None))
        axis.xaxis.set_major_locator(FixedLocator(minutes))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _needed(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{found['is']} {found['minutes']:.1f} min"
