"""Keeps what a measurement found in docs/measured, and draws it, with its table, at the end of its page in docs.

python benchmarks/measured_sections.py unit_lm runs/unit-lm/results.json --verdict "What it teaches, in words."
python benchmarks/measured_sections.py          (draws all again)

The measurements are those of unit_language_model (an example), student, continued, noise and scale. Folders of this
machine are left out of what is kept.
"""

import argparse
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import noise
import scale
from keep_records import KEPT
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measuring import processor

from hf_ssl_speech.files import write_json
from hf_ssl_speech.markdown import plain, table
from hf_ssl_speech.records import Rate, in_percent

DOCS = KEPT.parent
BEGIN, END = "<!-- measured: {name}, by `python benchmarks/measured_sections.py` -->", "<!-- end of measured -->"
PATHS = ("units", "train", "test", "output_dir")
Found = dict[str, Any]


# Language models of units --------------------------------------------------------------------------------------------


def unit_lm(found: Found) -> str:
    names = list(next(iter(found["results"].values())))
    shares = [name for name in names if name.startswith("real preferred")]
    rows = [
        [plain(judge), f"{each['perplexity']:.1f}", *(f"{each[name]:.1%}" for name in shares)]
        for judge, each in found["results"].items()
    ]
    (utterances, units), (unseen, tested) = found["training"], found["test"]
    told = (
        f"{found['settings']['updates']:,} updates of GPT-2 ({found['settings']['layers']} layers of "
        f"{found['settings']['width']}) on {units:,} units of {utterances:,} utterances; scored on {tested:,} units of "
        f"{unseen:,} utterances of other speakers. A guess prefers the real utterance in half of the cases."
    )
    return (
        told + "\n\n" + table(["model", "perplexity of a unit", *(name.replace(",", " in") for name in shares)], rows)
    )


def draw_unit_lm(found: Found, left: Axes, right: Axes):
    judges = list(found["results"])
    bars(left, judges, [found["results"][name]["perplexity"] for name in judges], "perplexity of a unit")
    for judge, each in found["results"].items():
        shares = {name.split()[-1]: value for name, value in each.items() if name.startswith("real preferred")}
        right.plot(list(shares), list(shares.values()), marker="o", label=judge)
    right.axhline(0.5, color="grey", linestyle=":")
    right.set(xlabel="units that stay together in a block", ylabel="real utterance preferred", ylim=(0, 1.02))
    right.legend()


# A small student -----------------------------------------------------------------------------------------------------


def student(found: Found) -> str:
    rows = []
    for point in found["points"]:
        run, rate = found["runs"].get(point["name"], {}), error_of(point)
        rows.append(
            [
                plain(point["name"]),
                f"{run['parameters'] / 1e6:.1f} M" if run else "",
                f"{run['updates']:,}" if run else "",
                f"{run['cpu_seconds']:,.0f}" if "cpu_seconds" in run else "",
                in_percent(point["per"]) if point["per"] else "",
                f"{point['best']['pnmi']:.3f}" if "pnmi" in point["best"] else "",
                in_percent(rate) if rate else "",
            ]
        )
    head = ["encoder", "parameters", "updates", "CPU seconds", "PER of a probe, %", "PNMI", "CER, ten minutes, %"]
    return table(head, rows)


def error_of(point: Found) -> Rate | None:
    """The character errors of an encoder, at the one amount of labels; mel bands have none."""
    return next((rates["cer"] for rates in point["errors"].values()), None)


def draw_student(found: Found, left: Axes, right: Axes):
    for axes, title, rate_of in (
        (left, "PER of a probe, %", lambda point: point["per"]),
        (right, "CER after ten minutes of labels, %", error_of),
    ):
        rates = {point["name"]: rate_of(point) for point in found["points"] if rate_of(point)}
        bars(axes, list(rates), [100 * rate["value"] for rate in rates.values()], title)


# Continued pretraining -----------------------------------------------------------------------------------------------

ARMS = {
    "scratch": "from scratch, no pretraining",
    "english": "English, not continued",
    "languages": "other languages, from scratch",
    "back": "other languages, then English",
}


def arm_in_words(name: str) -> str:
    """What an encoder has heard."""
    share = name.removeprefix("continued-")
    return ARMS.get(name, f"English, then other languages with {share} of English")


def continued(found: Found) -> str:
    rows = [
        [
            arm_in_words(each["name"]),
            f"{each['cpu_seconds'] / 60:.1f}" if each.get("cpu_seconds") else "",
            in_percent(each["cer"]),
            f"{each['pnmi']:.3f}" if each["pnmi"] else "",
        ]
        for each in found["results"]
    ]
    head = ["encoder", "CPU minutes of this pretraining", "CER in seven other languages, %", "PNMI in English"]
    settings = found["settings"]
    told = f"{settings['updates']:,} updates of each pretraining, {settings['ctc_updates']:,} of each fine-tuning."
    return told + "\n\n" + table(head, rows)


def draw_continued(found: Found, left: Axes, right: Axes):
    names = [each["name"] for each in found["results"]]
    bars(left, names, [100 * each["cer"]["value"] for each in found["results"]], "CER, other languages, %")
    known = [each for each in found["results"] if each["pnmi"]]
    bars(right, [each["name"] for each in known], [each["pnmi"] for each in known], "PNMI, English")


# Noise and scale, whose tables their own files make ------------------------------------------------------------------


def draw_noise(found: Found, left: Axes, right: Axes):
    """Each mean over seeds, and pale behind it the seeds."""
    seeds = sorted({each["seed"] for each in found["results"]})
    for axes, figure in ((left, "agreement"), (right, "cer")):
        for color, (arm, label) in enumerate((("clean", "without"), ("noise", "with noise"))):
            at = {(each["seed"], each["level"]): each[figure] for each in found["results"] if each["arm"] == arm}
            for seed in seeds:
                axes.plot(noise.LEVELS, [at[seed, level] for level in noise.LEVELS], color=f"C{color}", alpha=0.25)
            means = [mean([at[seed, level] for seed in seeds]) for level in noise.LEVELS]
            axes.plot(noise.LEVELS, means, color=f"C{color}", marker="o", label=label)
        axes.set(xlabel="dB of the speech above the noise", ylabel={"cer": "CER"}.get(figure, "agreement of the units"))
        axes.legend()


def draw_scale(found: Found, left: Axes, right: Axes):
    for stage, measured in found["stages"].items():
        sizes = sorted(measured, key=float)
        for axes, what in ((left, "seconds"), (right, "gigabytes")):
            axes.plot(
                list(map(float, sizes)), [max(measured[size][what], 1e-3) for size in sizes], marker="o", label=stage
            )
            axes.set(xscale="log", yscale="log", xlabel="hours", ylabel=what)
    left.legend()


# Pages ----------------------------------------------------------------------------------------------------------------


class Section(NamedTuple):
    """Where a measurement is told, and how."""

    page: str
    title: str
    text: Callable[[Found], str]
    draw: Callable[[Found, Axes, Axes], None]


SECTIONS = {
    "unit_lm": Section("units", "Does it know speech from shuffled speech?", unit_lm, draw_unit_lm),
    "student": Section("distillation", "What a student is worth", student, draw_student),
    "continued": Section("continued_pretraining", "What it buys, and what is forgotten", continued, draw_continued),
    "noise": Section("noise", "What it buys", lambda found: noise.shown(found["results"]), draw_noise),
    "scale": Section("collections", "Sixty thousand hours, rehearsed", scale.shown, draw_scale),
}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def bars(axes: Axes, names: list[str], values: list[float], title: str):
    """Horizontal bars with their values."""
    places = list(range(len(names)))[::-1]
    axes.barh(places, values, color="tab:blue", alpha=0.7)
    axes.set_yticks(places, names)
    for place, value in zip(places, values):
        axes.text(value, place, f" {value:.3g}", va="center")
    axes.set(xlabel=title, xlim=(0, 1.15 * max(values)))


def draw(name: str, found: Found) -> str:
    """Draws a measurement; the picture's path seen from docs."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    SECTIONS[name].draw(found, *figure.subplots(1, 2))
    path = Path("images", f"{name}.png")
    figure.savefig(DOCS / path, dpi=110)
    return str(path)


def write_section(name: str):
    """Puts a measurement at the end of its page, in the place of what stood there of it."""
    found, section = json.loads((KEPT / f"{name}.json").read_text()), SECTIONS[name]
    page, begin = DOCS / f"{section.page}.md", BEGIN.format(name=name)
    before, _, rest = page.read_text().partition(begin)
    parts = [begin, f"## {section.title}", f"Measured on {plain(found['processor'])}.", section.text(found)]
    parts += [textwrap.fill(found["verdict"], 120)] if "verdict" in found else []
    parts += [f"![{section.title}]({draw(name, found)})", END]
    after = rest.partition(END)[2].lstrip("\n")
    page.write_text(before.rstrip("\n") + "\n\n" + "\n\n".join(parts) + "\n" + (f"\n{after}" if after else ""))


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=SECTIONS)
    parser.add_argument("file", nargs="?", type=Path, help="what the measurement has written")
    parser.add_argument("--verdict", help="what the figures teach, in a sentence or two")
    args = parser.parse_args(argv)
    if args.name:
        found = json.loads(args.file.read_text())
        if "settings" in found:
            found["settings"] = {name: value for name, value in found["settings"].items() if name not in PATHS}
        found = {"processor": processor()} | found | ({"verdict": args.verdict} if args.verdict else {})
        write_json(found, KEPT / f"{args.name}.json")
    for name in SECTIONS:
        if (KEPT / f"{name}.json").exists():
            write_section(name)


if __name__ == "__main__":
    main()
