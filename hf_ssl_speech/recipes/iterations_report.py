"""The report of HuBERT's iterations: `report.md` with pictures, made from the records of the stages alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile
from matplotlib.ticker import MaxNLocator

from hf_ssl_speech.markdown import table
from hf_ssl_speech.records import Record, read_record
from hf_ssl_speech.units.pictures import draw_units

REPORT_FILE, EXAMPLE_FILE = "report.md", "example.flac"
LAYERS_PICTURE, TRAINING_PICTURE, UNITS_PICTURE = "layers.png", "training.png", "units.png"
# Figures of unit quality: their names in the record and in the table, and how they are printed.
QUALITY = (
    ("pnmi", "PNMI", ".3f"),
    ("phone_purity", "phone purity", ".3f"),
    ("cluster_purity", "cluster purity", ".3f"),
    ("agreement", "agreement", ".3f"),
    ("effective_rank", "effective rank", ".1f"),
    ("davies_bouldin", "Davies-Bouldin", ".2f"),
    ("unit_perplexity", "perplexity", ".1f"),
    ("dead_clusters", "dead", "d"),
    ("mean_run_length", "mean run, frames", ".2f"),
)
WORK = {"model": "training", "layers": "units of every layer, measured", "units": "k-means, and its units measured"}
UNITS_GLOSSARY = """\
PNMI: share of the phones' entropy that knowing the units removes. Phone purity: share of frames whose phone is the \
most frequent one of their unit; cluster purity: share of frames whose unit is the most frequent one of their phone. \
Agreement: normalised mutual information of the units of clean and of disturbed audio (noise, loudness). Effective \
rank: how many directions the features use (perplexity of their singular values). Davies-Bouldin: how much each unit \
overlaps with the one most like it, less is better. Perplexity: effective number of units in use. Dead: units never \
used. All are measured on validation audio, not used in training."""
MODELS_GLOSSARY = """\
Accuracy: share of the masked or unmasked frames whose unit the model predicts; guessing gives about one over the \
perplexity of the units. Hours seen: audio trained on, repetitions included."""
TIMES_GLOSSARY = "By the clock, as the stages' records tell. Decoding and labelling the audio is not counted."


def write_report(folder: str | os.PathLike) -> Path:
    """Writes `report.md` and its pictures from the records of the complete stages.

    Args:
        folder: The `output_dir` of the iterations.
    Returns:
        The path of the report.
    Raises:
        ValueError: If no stage is complete there.
    """
    folder = Path(folder)
    units, models, layers = (read_stages(folder, kind) for kind in ("units", "model", "layers"))
    if not units:
        raise ValueError(f"There is no complete unit set in {folder}; expected the output_dir of hubert_iterations.py.")
    parts = ["# HuBERT iterations", introduction(models)]
    parts += ["## Units", units_table(units), UNITS_GLOSSARY]
    draw_example(units, folder)
    parts += ["The same utterance in each set's units, and its phones:", f"![Units]({UNITS_PICTURE})"]
    if models:
        draw_curves(models, folder / TRAINING_PICTURE)
        parts += ["## Models", models_table(models), MODELS_GLOSSARY, f"![Training]({TRAINING_PICTURE})"]
    if layers:
        draw_layers(layers, units, folder / LAYERS_PICTURE)
        parts += ["## Layers", *(layers_table(number, layers[number]) for number in layers)]
        parts += [f"![Layers]({LAYERS_PICTURE})"]
    parts += ["## Time", times_table(units, models, layers), TIMES_GLOSSARY]
    path = folder / REPORT_FILE
    path.write_text("\n\n".join(parts) + "\n")
    return path


def introduction(models: dict[int, Record]) -> str:
    """How to read the tables, and how much audio there is."""
    text = "Each row of the tables is a stage of the iterations, named after its folder."
    if models:
        train, validation = (models[max(models)]["data"][split]["hours"] for split in ("train", "validation"))
        text += f" {train:.2f} hours of audio are used for training, {validation:.2f} other hours for measuring."
    return text


def read_stages(folder: Path, kind: str) -> dict[int, Record]:
    """The records of the complete stages of a kind, by iteration."""
    found = {int(path.name.split("-")[0]): read_record(path) for path in folder.glob(f"*-{kind}")}
    complete = {number: record for number, record in found.items() if record and record["status"] == "complete"}
    return dict(sorted(complete.items()))


def units_table(stages: dict[int, Record]) -> str:
    """A row for each unit set."""
    columns = [figure for figure in QUALITY if any(figure[0] in stage["quality"] for stage in stages.values())]
    rows = []
    for number, stage in stages.items():
        facts, quality = stage["units"], stage["quality"]
        source = facts["features"]
        if number:  # the path of the folder when the units were made is of no interest
            source = f"layer {facts['layer']} of {number}-model ({source.rpartition(' (')[2]}"
        measured = [format(quality[name], form) if name in quality else "" for name, _, form in columns]
        rows.append([f"{number}-units", f"{facts['num_units']}", source, *measured, f"{facts['hours']:.2f}"])
    names = [name for _, name, _ in columns]
    return table(["stage", "units", "made from", *names, "hours fitted on"], rows)


def models_table(stages: dict[int, Record]) -> str:
    """A row for each model: accuracies of the last evaluation, or of the last training log."""
    rows = []
    for number, stage in stages.items():
        measured = [
            last_value(stage["curves"], f"eval_{name}", name)
            for name in ("masked_accuracy", "unmasked_accuracy", "loss")
        ]
        rows.append(
            [f"{number}-model", f"{number - 1}-units"]
            + ["" if value is None else f"{value:.3f}" for value in measured]
            + [f"{stage['updates']:,}", f"{stage['hours_seen']:.2f}"]
        )
    head = ["stage", "predicts", "masked accuracy", "unmasked accuracy", "loss", "updates", "hours seen"]
    return table(head, rows)


def layers_table(iteration: int, stage: Record) -> str:
    """A row for each layer of an iteration's model."""
    columns = [figure for figure in QUALITY if figure[0] in stage["layers"][0]]
    rows = [
        [f"**{layer['layer']}**" if layer["layer"] == stage["layer"] else f"{layer['layer']}"]
        + [format(layer[name], form) for name, _, form in columns]
        for layer in stage["layers"]
    ]
    criterion = next(name for key, name, _ in QUALITY if key == stage["criterion"])
    model = f"{iteration}-model" if iteration else "the teacher"
    title = f"Units made from each layer of {model}: those of layer {stage['layer']} have the best {criterion}."
    return f"{title}\n\n" + table(["layer", *(name for _, name, _ in columns)], rows)


def times_table(units: dict[int, Record], models: dict[int, Record], layers: dict[int, Record]) -> str:
    """A row for each stage in the order of work, and one for all."""
    kinds = {"model": models, "layers": layers, "units": units}
    rows, total = [], 0.0
    for number in sorted({*units, *models, *layers}):
        for kind, stages in kinds.items():
            if number in stages:
                stage = stages[number]
                seconds = stage["seconds"]
                total += seconds
                rows.append([f"{number}-{kind}", WORK[kind], f"{seconds / 60:.1f}", machine(stage)])
    return table(["stage", "work", "minutes", "machine"], [*rows, ["all", "", f"{total / 60:.1f}", ""]])


def machine(stage: Record) -> str:
    """What a stage ran on."""
    facts = stage["machine"]
    counts = [(facts["processes"], "process", "processes"), (facts["threads"], "thread", "threads")]
    return ", ".join([facts["device"], *(f"{count} {one if count == 1 else many}" for count, one, many in counts)])


def last_value(curves: Sequence[dict[str, float]], *names: str) -> float | None:
    """The last value of the first of these figures that was logged."""
    logged = ([point[name] for point in curves if name in point] for name in names)
    return next((values[-1] for values in logged if values), None)


def draw_example(stages: dict[int, Record], folder: Path):
    """Draws the example utterance with the units of every set under each other."""
    waveform, _ = soundfile.read(folder / EXAMPLE_FILE, dtype="int16")
    example = stages[min(stages)]["example"]
    units = {f"{number}-units": stage["example"]["units"] for number, stage in stages.items()}
    row = {"name": example["name"], "samples": waveform, "num_samples": len(waveform)}
    draw_units(row, units, example["phones"], folder / UNITS_PICTURE)


def draw_layers(layers: dict[int, Record], units: dict[int, Record], path: Path):
    """Draws the quality of each layer's units, one line for each iteration, compared with the first unit set."""
    shown = [figure for figure in QUALITY if figure[0] in ("pnmi", "agreement")]
    shown = [(key, name) for key, name, _ in shown if all(key in stage["layers"][0] for stage in layers.values())]
    figure, axes = plt.subplots(1, len(shown), figsize=(6 * len(shown), 4), squeeze=False, layout="constrained")
    for axis, (key, name) in zip(axes.flat, shown):
        for number, stage in layers.items():
            numbers = [layer["layer"] for layer in stage["layers"]]
            values = [layer[key] for layer in stage["layers"]]
            axis.plot(numbers, values, "o-", label=f"{number}-model" if number else "teacher")
        first = units[0]["quality"].get(key) if 0 in units else None
        if first is not None:
            axis.axhline(first, color="0.5", ls="--", label="0-units")
        axis.set(title=f"{name} of the units made of each layer", xlabel="layer")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_curves(stages: dict[int, Record], path: Path):
    """Draws loss and accuracies of all iterations over updates: training thin, evaluation with dots."""
    names = ("masked_loss", "masked_accuracy", "unmasked_accuracy")
    names = [name for name in names if any(name in point for stage in stages.values() for point in stage["curves"])]
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 4), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names):
        for color, (number, stage) in enumerate(stages.items()):
            for key, style in ((name, "-"), (f"eval_{name}", "o-")):
                points = np.array([(point["step"], point[key]) for point in stage["curves"] if key in point])
                if len(points):
                    label = f"{number}-model" + (", validation" if key != name else ", training")
                    axis.plot(*points.T, style, color=f"C{color}", label=label, lw=1, markersize=3)
        axis.set(title=name.replace("_", " "), xlabel="update")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
