"""The report of what pretraining buys: a table and a picture against hours of audio seen, from records alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_ssl_speech.files import read_json, write_json
from hf_ssl_speech.markdown import plain, table
from hf_ssl_speech.recipes.label_efficiency_report import MEASURES, PHONES, SCRATCH
from hf_ssl_speech.recipes.label_efficiency_report import RESULTS_FILE as RESULTS
from hf_ssl_speech.recipes.probing_report import read_tasks
from hf_ssl_speech.records import command_line, in_percent, now, read_record, versions

LABELS, PROBES, UNITS = "labels", "probe", "units"
STARTS_FILE, RESULTS_FILE, REPORT_FILE, PICTURE_FILE = "starts.json", "results.json", "report.md", "payoff.png"
TASK, BASELINE = "PR", "mel"
# wav2vec 2.0 BASE (95 M parameters) in a study of batch sizes: WER in % on test-clean, greedy, lowest and highest, by
# hours of audio seen, after fine-tuning on 10 minutes and on 100 hours.
STUDY = "https://arxiv.org/abs/2402.13723"
BASE = {
    "10 minutes": {4_200: (98.6, 99.2), 16_700: (72, 74), 66_700: (51, 51), 267_000: (42, 46)},
    "100 hours": {4_200: (30, 30), 16_700: (16.7, 16.7), 66_700: (9, 9), 267_000: (6.3, 6.3)},
}
# What is told of the best layer of an encoder; the last two need no labels.
OF_LAYER = (
    ("pnmi", "PNMI", ".3f"),
    ("layer", "layer", "d"),
    ("effective_rank", "effective rank", ".1f"),
    ("davies_bouldin", "Davies-Bouldin", ".2f"),
)
GLOSSARY = f"""\
Hours seen: audio that the encoder was pretrained on, repeats included. Error rates: on test rows, which chose \
nothing, mean over seeds, with 95% intervals over draws of seeds and of test rows. PER of the probe: frozen encoder, \
learned weights of its layers, a linear layer with CTC. PNMI: share of the phones' entropy that knowing the units \
takes away, of the units of the best layer, on the validation rows that it is chosen on; of the same layer, without \
labels, the effective rank of its frames and how much its units overlap (Davies-Bouldin, less is better). Dashed in \
the picture: fresh weights trained with the same settings, and 80 mel bands. The last panel shows another model and \
other data, which can't be set beside the figures here: wav2vec 2.0 BASE, WER on LibriSpeech's test-clean ([published \
study]({STUDY}))."""


def write_report(folder: str | os.PathLike) -> Path:
    """Writes `report.md`, `results.json` and `payoff.png` of what is finished.

    Args:
        folder: The `output_dir` of the command.
    Returns:
        The path of the report.
    """
    folder = Path(folder)
    points, about = collect(folder)
    measure, label = measure_in(points)
    shown = {"format": 1, "command": command_line(), "updated": now()}
    shown |= {"versions": versions("torch", "transformers", "hf_ssl_speech"), **about, "points": points}
    write_json(shown, folder / RESULTS_FILE)
    draw(points, about, measure, label, folder / PICTURE_FILE)
    amounts = about["minutes"]
    head = ["hours seen", "encoder", *(f"{label} with {amount_in_words(each)}, %" for each in amounts)]
    head += ["PER of the probe, %", *(label for _, label, _ in OF_LAYER)]
    rows = []
    for point in points:
        rates = [point["errors"].get(each, {}).get(measure) for each in amounts]
        rows.append(
            ["" if point["hours"] is None else f"{point['hours']:,.1f}", plain(point["name"])]
            + ["" if rate is None else in_percent(rate) for rate in (*rates, point["per"])]
            + [format(point["best"][name], form) if name in point["best"] else "" for name, _, form in OF_LAYER]
        )
    parts = ["# What pretraining buys", introduction(about), table(head, rows), GLOSSARY, f"![Curves]({PICTURE_FILE})"]
    path = folder / REPORT_FILE
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def collect(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A point for each encoder, for fresh weights and for mel bands, by hours seen; and what is told of all."""
    given = read_json(folder / STARTS_FILE, "the starts")
    found = folder / LABELS / RESULTS
    labels = read_json(found, "the results of label efficiency") if found.exists() else {"curves": []}
    probes = read_tasks(folder / PROBES).get(TASK, {})
    points = []
    for name in (SCRATCH, BASELINE, *given["starts"]):
        record = read_record(folder / UNITS / name)
        layers = [layer for layer in (record["layers"] if record else []) if "pnmi" in layer]
        best: Mapping[str, Any] = max(layers, key=lambda layer: layer["pnmi"], default={})
        errors = {
            curve["minutes"]: {each: curve[each] for each in (*MEASURES, *PHONES) if each in curve}
            for curve in labels["curves"]
            if curve["start"] == name
        }
        per = probes[name]["probe"]["error"] if name in probes else None
        if errors or per or name in given["starts"]:
            hours = given["hours"].get(name, 0.0 if name == SCRATCH else None)
            points.append(
                {"name": name, "hours": hours, "errors": errors, "per": per}
                | {"best": best, "layers": record["layers"] if record else []}
            )
    minutes = list(dict.fromkeys(curve["minutes"] for curve in labels["curves"]))
    about = {"minutes": minutes, **{each: labels.get(each) for each in ("updates", "data", "machine")}}
    return sorted(points, key=lambda point: -1.0 if point["hours"] is None else point["hours"]), about


def measure_in(points: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What errors are counted in, with its label: characters, or phones where the transcripts are phones."""
    measured = {name for point in points for rates in point["errors"].values() for name in rates}
    return ("per", PHONES["per"][1]) if "per" in measured else ("cer", MEASURES["cer"][1])


def introduction(about: Mapping[str, Any]) -> str:
    """What was learnt from and scored on."""
    data = about["data"]
    if not data:
        return "No recogniser is finished yet."
    test = data["test"]
    return (
        f"Every encoder is fine-tuned in {about['updates']:,} updates on parts of {60 * data['train']['hours']:.1f} "
        f"minutes of transcripts; the checkpoint is chosen on {data['validation']['rows']:,} other rows and scored on "
        f"{test['rows']:,} test rows ({60 * test['hours']:.1f} minutes)."
    )


def amount_in_words(minutes: str) -> str:
    """An amount of labels, for a head or a legend."""
    return "all labels" if minutes == "all" else f"{float(minutes):g} min"


def draw(points: Sequence[Mapping[str, Any]], about: Mapping[str, Any], measure: str, label: str, path: Path):
    """Draws errors, the probe, PNMI and the published points over hours seen, on logarithmic axes."""
    figure = Figure(figsize=(15, 4), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, 4))
    along = [point for point in points if point["hours"]]
    others = {point["name"]: point for point in points if not point["hours"]}
    for color, amount in enumerate(about["minutes"]):
        rates = [(point["hours"], point["errors"].get(amount, {}).get(measure)) for point in along]
        draw_rates(panels[0], rates, f"C{color}", amount_in_words(amount))
        scratch = others.get(SCRATCH, {}).get("errors", {}).get(amount, {}).get(measure)
        if scratch:
            panels[0].axhline(100 * scratch["value"], color=f"C{color}", ls="--", lw=1)
    draw_rates(panels[1], [(point["hours"], point["per"]) for point in along], "C0", "encoder")
    mel = others.get(BASELINE, {}).get("per")
    if mel:
        panels[1].axhline(100 * mel["value"], color="0.4", ls="--", lw=1, label="mel bands")
    measured = [(point["hours"], point["best"]["pnmi"]) for point in along if point["best"]]
    if measured:
        panels[2].plot(*zip(*measured), "o-", markersize=4)
    for amount, published in BASE.items():
        middle = [sum(bounds) / 2 for bounds in published.values()]
        panels[3].plot(list(published), middle, "o-", markersize=4, label=amount)
        panels[3].fill_between(list(published), *zip(*published.values()), alpha=0.2, lw=0)
    titles = (f"{label} on test, %", "PER of a probe, %", "PNMI of the best layer", "published: BASE, WER, %")
    for axis, title in zip(panels, titles):
        axis.set(title=title, xscale="log", xlabel="hours of audio seen")
        axis.grid(alpha=0.3)
        if not axis.has_data():  # without the column `phones`, or not finished yet
            axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def draw_rates(axis: Axes, rates: Sequence[tuple[float, Mapping[str, float] | None]], color: str, label: str):
    """Draws rates with their intervals; those that are not there yet are passed over."""
    known = [(hours, rate) for hours, rate in rates if rate]
    if not known:
        return
    hours = [each for each, _ in known]
    value, low, high = ([100 * rate[name] for _, rate in known] for name in ("value", "low", "high"))
    axis.plot(hours, value, "o-", color=color, label=label, markersize=4)
    axis.fill_between(hours, low, high, color=color, alpha=0.2, lw=0)
