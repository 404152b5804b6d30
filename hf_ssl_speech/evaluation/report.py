"""The report of a comparison: tables for the terminal and `report.md`, and the picture beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_ssl_speech.evaluation.comparison import Difference, EvaluationSet, ModelScores
from hf_ssl_speech.markdown import plain, table
from hf_ssl_speech.recognition.metrics import show_edits
from hf_ssl_speech.records import Score

REPORT_FILE, PICTURE_FILE = "report.md", "scores.png"
WORST_SHOWN, GROUPS_DRAWN = 5, 20
GLOSSARY = """\
WER, CER: substitutions, deletions and insertions over the words, or characters, of the references, all rows together. \
In brackets: the {confidence:.0%} interval over {bootstrap:,} draws of the rows; a single row has none. To the first: \
by how much the WER of a model is above that of the first, over the same draws; if the interval does not contain zero, \
they differ. Real-time factor: seconds of computing for a second of audio, from waveform to text (features, network, \
decoder), on {device}; loading the model and decoding audio files are not included."""


def comparison_report(
    scores: Sequence[ModelScores],
    entries: Sequence[Score],
    differences: Sequence[Difference],
    evaluation_set: EvaluationSet,
    bootstrap: int,
) -> str:
    """The report as Markdown, with tables that line up in a terminal too.

    Args:
        scores: Of each model.
        entries: Their entries for `scores.json`.
        differences: To the first model, see `differences`.
        evaluation_set: What they were scored on.
        bootstrap: Draws of the intervals.
    """
    devices = ", ".join(sorted({each.device for each in scores}))
    confidence = entries[0]["wer"]["confidence"]
    parts = [
        "# Recognisers side by side",
        _describe_data(evaluation_set),
        scores_table(entries, differences),
        GLOSSARY.format(confidence=confidence, bootstrap=bootstrap, device=devices),
    ]
    for column in evaluation_set.groups:
        parts += [f"## WER by {plain(column)}", groups_table(entries, column)]
    for label, each in zip(model_labels(entries), scores):
        parts += [f"## Most errors: {plain(label)}", worst_utterances(each, evaluation_set)]
    return "\n\n".join(parts) + "\n"


def _describe_data(evaluation_set: EvaluationSet) -> str:
    facts = evaluation_set.facts
    rules = ", ".join(f"{name} {value!r}" for name, value in evaluation_set.normalization.to_dict().items())
    skipped = "; ".join(f"{len(names):,} {reason}" for reason, names in facts["skipped"]["skipped"].items())
    return (
        f"{plain(facts['source'])}, split {plain(facts['split'])}: {facts['rows']:,} rows, {facts['hours']:.2f} hours "
        f"(fingerprint {facts['fingerprint']}). Left out for all models: {skipped or 'none'}. Normalisation of "
        f"references and recognised texts alike: {rules}."
    )


def model_labels(entries: Sequence[Score]) -> list[str]:
    """Short names of the models: a folder's last part if it distinguishes them, and Hub ids unchanged."""
    names = [entry["model"] for entry in entries]
    short = [Path(name).resolve().name if Path(name).is_dir() else name for name in names]
    return short if len(set(short)) == len(set(names)) else names


def scores_table(entries: Sequence[Score], differences: Sequence[Difference]) -> str:
    """A row for each model."""
    head = ["model", "decoder", "WER %", "to the first", "CER %", "sub / del / ins %", "real-time factor", "parameters"]
    rows = []
    for label, entry, difference in zip(model_labels(entries), entries, differences):
        wer = entry["wer"]
        kinds = (100 * wer[kind] / wer["reference_length"] for kind in ("substitutions", "deletions", "insertions"))
        rows.append(
            [
                plain(label),
                entry["decoder"]["kind"],
                _percent(wer["value"], wer),
                _points(*difference) if rows else "",
                _percent(entry["cer"]["value"], entry["cer"]),
                " / ".join(f"{kind:.1f}" for kind in kinds),
                f"{entry['real_time_factor']:.4f}",
                f"{entry['parameters'] / 1e6:.1f} M",
            ]
        )
    return table(head, rows, aligned=True)


def groups_table(entries: Sequence[Score], column: str) -> str:
    """A row for each group of a column, those with most errors of the first model first; a column for each model."""
    models = [entry["groups"][column] for entry in entries]
    rows = []
    for group in _worst_first(models[0]):
        rates = [_percent(each[group]["wer"], each[group]) for each in models]
        rows.append([plain(group), f"{models[0][group]['reference_length']:,}", *rates])
    return table([plain(column), "words", *map(plain, model_labels(entries))], rows, aligned=True)


def worst_utterances(scores: ModelScores, evaluation_set: EvaluationSet) -> str:
    """The rows with most word errors, with their edits, as blocks of preformatted text."""
    errors = scores.words.errors
    worst = [place for place in np.argsort(-errors, kind="stable")[:WORST_SHOWN].tolist() if errors[place]]
    names = evaluation_set.rows["name"]
    blocks = []
    for place in worst:
        lines = show_edits(evaluation_set.references[place], scores.predictions[place])
        length = scores.words.reference_length[place]
        blocks.append(f"{plain(names[place])}, errors: {errors[place]}, words: {length}\n\n```\n{lines}\n```")
    return "\n\n".join(blocks) or "No row has an error."


def draw_scores(entries: Sequence[Score], path: str | os.PathLike):
    """Draws the word error rates of all models with their intervals, over all rows and for each group.

    Args:
        entries: One for each model, see `score_entry`.
        path: Of the PNG.
    """
    groups = {column: _worst_first(each)[:GROUPS_DRAWN] for column, each in entries[0]["groups"].items()}
    lines = [2 * len(entries), *(len(names) * (len(entries) + 1) for names in groups.values())]
    heights = [0.6 + 0.13 * number for number in lines]  # inches: what stands around a panel, and its bars
    figure = Figure(figsize=(9, 0.7 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0]
    for number, entry in enumerate(entries):
        _draw_bars(axes[0], number, [entry["wer"] | {"wer": entry["wer"]["value"]}], f"C{number}", 0.7)
    _label_bars(axes[0], "All rows", model_labels(entries))
    thickness = 0.8 / len(entries)
    for axis, (column, names) in zip(axes[1:], groups.items()):
        for number, entry in enumerate(entries):
            first = (number - (len(entries) - 1) / 2) * thickness
            _draw_bars(axis, first, [entry["groups"][column][name] for name in names], f"C{number}", thickness)
        number_of_groups = len(entries[0]["groups"][column])
        cut = f" (the worst {len(names)} of {number_of_groups})" if len(names) < number_of_groups else ""
        _label_bars(axis, f"By {column}{cut}", names)
    axes[-1].set(xlabel="WER, %", xlim=(0, 1.05 * axes[-1].get_xlim()[1]))  # room for the figures
    data = entries[0]["data"]
    figure.suptitle(f"Word error rate: {data['source']}, split {data['split']}, {data['rows']:,} rows", fontsize=11)
    figure.savefig(path, dpi=110)


def _draw_bars(axis: Axes, first: float, summaries: Sequence[dict[str, Any]], color: str, thickness: float):
    """Bars with intervals and figures, from the place `first` on."""
    rates, low, high = (100 * np.array([each[key] for each in summaries], float) for key in ("wer", "low", "high"))
    places = first + np.arange(len(summaries))
    axis.barh(places, rates, thickness, color=color, alpha=0.7)
    # Of very few draws, all can lie on one side of the rate.
    reach = np.maximum(0, [rates - low, high - rates])
    axis.errorbar(rates, places, xerr=reach, fmt="none", ecolor="0.2", capsize=2, lw=1)
    for place, rate, right in zip(places, rates, np.where(np.isfinite(high), high, rates)):
        if np.isfinite(rate):
            axis.annotate(f"{rate:.1f}", (right, place), (4, 0), textcoords="offset points", va="center", fontsize=7)


def _label_bars(axis: Axes, title: str, names: Sequence[str]):
    axis.set_title(title, fontsize=10)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(labelbottom=True)
    axis.grid(axis="x", alpha=0.3)


def write_report(report: str, entries: Sequence[Score], folder: str | os.PathLike):
    """Writes `report.md` and its picture into a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    draw_scores(entries, Path(folder, PICTURE_FILE))
    Path(folder, REPORT_FILE).write_text(f"{report}\n![Scores]({PICTURE_FILE})\n", encoding="utf-8")


def _worst_first(groups: dict[str, dict[str, Any]]) -> list[str]:
    return sorted(groups, key=lambda name: (-(groups[name]["wer"] or 0), name))


def _percent(rate: float | None, interval: dict[str, Any]) -> str:
    if rate is None or interval["low"] is None:
        return "" if rate is None else f"{100 * rate:.1f} (one row)"
    return f"{100 * rate:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def _points(difference: float, low: float | None, high: float | None) -> str:
    interval = "(one row)" if low is None else f"[{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * difference:+.1f} {interval}"
