"""Makes docs/results.md, docs/log.md, and the table and picture of the README from what keep_records.py has kept.

python benchmarks/results_page.py
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_ssl_speech.markdown import plain, table
from hf_ssl_speech.recipes.label_efficiency_report import draw_curves
from hf_ssl_speech.recipes.probing_report import score
from hf_ssl_speech.records import Rate, in_percent

ROOT = Path(__file__).parents[1]
MEASURED, RESULTS, LOG, README = (
    ROOT / name for name in ("docs/measured", "docs/results.md", "docs/log.md", "README.md")
)
# The results of the README's table, and of its picture.
HEADLINE = ("digits_mel", "librispeech_mel", "digits")
PICTURED, PICTURE = ("digits_tiny", "digits_mel"), ROOT / "docs" / "images" / "few_labels.png"
BEGIN, END = "<!-- results: made by `python benchmarks/results_page.py` -->", "<!-- end of results -->"
MADE = "<!-- Made by `python benchmarks/results_page.py` from docs/measured: change that, not this page. -->"
RATES = {"wer": "WER, %", "cer": "CER, %", "per": "PER, %"}
QUALITY = {
    "pnmi": ("PNMI", ".3f"),
    "phone_purity": ("phone purity", ".3f"),
    "agreement": ("agreement", ".3f"),
    "effective_rank": ("effective rank", ".1f"),
    "davies_bouldin": ("Davies-Bouldin", ".2f"),
    "abx_across_features": ("ABX across speakers", ".3f"),
}
INTRODUCTION = """# Results

{made}

Every figure is from the records of a run; brackets hold 95% bootstrap intervals over test rows (and seeds, where there
are several). Error rates are on rows that chose nothing: checkpoints, learning rates and layers are chosen on
validation rows. Hours seen count repeats. Minutes are by the clock, on a machine that others used too. The
[log](log.md) has the trials, those that gave nothing too; [measurements](measurements.md) has older figures."""
LOG_INTRODUCTION = """# What was tried

{made}

Each table is a question. The first row is what the others are compared with; each tells what it does otherwise, what it
cost, and what it gave. What gave nothing stays in. PNMI is that of the best layer that was measured."""
# What was learnt before there were records of trials, each with where its figures are.
NOTES = MEASURED / "notes.md"


def kept(kind: str) -> dict[str, dict[str, Any]]:
    """The files of a kind, `results` or `trials`, by their names."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((MEASURED / kind).glob("*.json"))}


def percent(rate: Rate | None) -> str:
    """A rate with its interval; nothing where there is none."""
    return in_percent(rate) if rate else ""


def quality_cells(found: dict[str, float]) -> list[str]:
    """The measures of units, in the order of `QUALITY`; nothing for those that were not taken."""
    return [format(found[each], form) if each in found else "" for each, (_, form) in QUALITY.items()]


def accuracy_cell(evaluation: dict[str, float]) -> str:
    """The accuracy of a pretraining's last evaluation, whichever objective it has."""
    accuracy = evaluation.get("eval_masked_accuracy", evaluation.get("eval_accuracy"))
    return "" if accuracy is None else f"{accuracy:.1%}"


def labels_points(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of a curve, the fewest labels first."""
    return sorted(entry["labels"], key=lambda point: point["minutes_used"])


def start_in_words(name: str, hours: dict[str, float | None]) -> str:
    """A start, and the hours of audio that its pretraining had seen, where its records told."""
    seen = hours.get(name)
    return plain(name) + (f" ({seen:.1f} h seen)" if seen else "")


def data_in_words(data: dict[str, Any]) -> str:
    """What was learnt from, chosen on and scored on."""
    verbs = {"train": "learnt from", "validation": "chosen on", "test": "scored on"}
    return "; ".join(
        f"{verbs[part]} {plain(facts['of'])} ({facts['rows']:,} rows, {60 * facts['hours']:.1f} min)"
        for part, facts in data.items()
        if part in verbs
    )


def grouped(entries: list[dict[str, Any]], key: Callable[[dict[str, Any]], str]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups


def labels_rows(entry: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a curve of errors against minutes of labels."""
    measures = [name for name in RATES if name in entry["labels"][0]]
    rows = [
        [f"{point['minutes_used']:.1f}", start_in_words(point["start"], entry["hours_seen"]), f"{len(point['seeds'])}"]
        + [percent(point[name]) for name in measures]
        for point in labels_points(entry)
    ]
    return ["minutes of labels", "start", "seeds", *(RATES[name] for name in measures)], rows


def payoff_rows(entry: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what hours of pretraining buy."""
    points = entry["payoff"]
    measured = {(minutes, name) for point in points for minutes, rates in point["errors"].items() for name in rates}
    name = "per" if any(name == "per" for _, name in measured) else "cer"
    amounts = sorted(
        {minutes for minutes, _ in measured}, key=lambda each: float("inf") if each == "all" else float(each)
    )
    head = [
        "hours seen",
        "encoder",
        *(f"{RATES[name]}, {each if each == 'all' else each + ' min'}" for each in amounts),
    ]
    rows = [
        ["" if point["hours"] is None else f"{point['hours']:,.1f}", plain(point["name"])]
        + [percent(point["errors"].get(each, {}).get(name)) for each in amounts]
        + [percent(point["per"])]
        + quality_cells(point["best"])
        for point in points
    ]
    return with_values([*head, "PER of a probe, %", *(label for label, _ in QUALITY.values())], rows)


def with_values(head: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The columns that say something."""
    used = [place for place in range(len(head)) if any(row[place] for row in rows)]
    return [head[place] for place in used], [[row[place] for place in used] for row in rows]


def curves(found: dict[str, Any], kind: str, title: str, rows: Callable) -> list[str]:
    """The sections of curves, or of payoffs."""
    sections = []
    for entry in found["entries"]:
        if entry["kind"] == kind:
            told = f"{entry['updates']:,} updates; {data_in_words(entry['data'])}." if entry["data"] else ""
            sections += [f"### {title}", *([told] if told else []), table(*rows(entry))]
    return sections


def probes(found: dict[str, Any]) -> list[str]:
    """A table for each task of the probes."""
    sections = []
    for task, entries in grouped(
        [each for each in found["entries"] if each["kind"] == "probe"], lambda e: e["task"]
    ).items():
        is_sequence = entries[0]["is_sequence"]
        rows = []
        for entry in entries:
            name = start_in_words(entry["name"], {entry["name"]: entry["hours_seen"]})
            rows.append([name, score(entry)])
        told = f"{entries[0]['updates']:,} updates; {data_in_words(entries[0]['data'])}."
        sections += [f"### Probe of frozen features: {plain(task)}", told]
        sections += [table(["features", "PER, %" if is_sequence else "accuracy, %"], rows)]
    return sections


def encoders(found: dict[str, Any]) -> list[str]:
    """The table of pretrainings."""
    rows = []
    for entry in found["entries"]:
        if entry["kind"] == "pretraining":
            train, shape, last = entry["data"]["train"], entry["settings"], entry["evaluation"]
            row = [plain(entry["name"]), entry["objective"], f"{entry['parameters'] / 1e6:.1f} M"]
            row += [f"{shape['num_hidden_layers']} x {shape['hidden_size']}", f"{train['of']}, {train['hours']:.1f} h"]
            row += [
                f"{entry['updates']:,}",
                f"{entry['hours_seen']:.1f}",
                f"{entry['seed']}",
                f"{entry['minutes']:.0f}",
            ]
            row.append(accuracy_cell(last))
            row.append(f"{last['eval_effective_rank']:.1f}" if "eval_effective_rank" in last else "")
            rows.append(row)
    head = ["run", "objective", "parameters", "layers x width", "data", "updates", "hours seen", "seed", "minutes"]
    head += ["accuracy on validation", "effective rank"]
    return ["### Pretraining", table(*with_values(head, rows))] if rows else []


def units(found: dict[str, Any]) -> list[str]:
    """The table of unit sets."""
    entries = [entry for entry in found["entries"] if entry["kind"] == "units" and entry["quality"]]
    rows = [
        [plain(entry["name"]), f"{entry['num_units']}", plain(entry["made_from"]), *quality_cells(entry["quality"])]
        for entry in entries
    ]
    head = ["set", "units", "made from", *(label for label, _ in QUALITY.values())]
    measured = entries and entries[0]["data"].get("validation")
    told = [f"Measured on {plain(measured['of'])} ({60 * measured['hours']:.1f} min)."] if measured else []
    return ["### Units", *told, table(*with_values(head, rows))] if rows else []


def results() -> str:
    """docs/results.md."""
    parts = [INTRODUCTION.format(made=MADE)]
    for name, found in kept("results").items():
        parts += [f"## {name.replace('_', ' ').capitalize()}", f"Measured on {plain(found['machine'])}."]
        parts += curves(found, "payoff", "What hours of pretraining buy", payoff_rows)
        parts += curves(found, "labels", "Errors against minutes of labels", labels_rows)
        parts += [*probes(found), *encoders(found), *units(found)]
    return "\n\n".join(parts) + "\n"


def otherwise(settings: dict[str, Any], first: dict[str, Any]) -> str:
    """What a trial does otherwise than the first."""
    names = sorted(name for name in settings if settings[name] != first.get(name))
    return plain("; ".join(f"{name} {settings[name]}" for name in names)) or "as the first"


def first_in_words(run: dict[str, Any]) -> str:
    """What the first trial is."""
    shape = run["settings"]
    return (
        f"{run['objective']}, {shape['num_hidden_layers']} layers of {shape['hidden_size']}, learning rate "
        f"{shape['learning_rate']:g}, {shape['batch_seconds']:g} s a batch"
    )


def trials(found: dict[str, Any]) -> list[str]:
    """A question, its trials, and what they taught."""
    recognisers = [entry for entry in found["entries"] if entry["kind"] == "recogniser"]
    head, rows = recogniser_trials(recognisers) if recognisers else encoder_trials(found)
    train = found["entries"][0]["data"]["train"]
    told = f"On {plain(train['of'])} ({train['hours']:.1f} h); {plain(found['machine'])}."
    verdict = [found["verdict"]] if "verdict" in found else []
    return [f"## {plain(found['question'])}", told, table(*with_values(head, rows)), *verdict]


def recogniser_trials(runs: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of trials of fine-tuning."""
    settings = [run["settings"] | {"start": run["start"]} for run in runs]
    first = f"{runs[0]['start']}, learning rate {settings[0]['learning_rate']:g}"
    rows = [
        [
            plain(run["name"]),
            otherwise(own, settings[0]) if place else first,
            f"{run['updates']:,}",
            f"{run['minutes']:.0f}",
            *(f"{run['errors'][name]:.1%}" for name in ("wer", "cer")),
        ]
        for place, (run, own) in enumerate(zip(runs, settings))
    ]
    return ["trial", "what is other", "updates", "minutes", "WER on validation", "CER on validation"], rows


def encoder_trials(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of trials of pretraining."""
    runs = [entry for entry in found["entries"] if entry["kind"] == "pretraining"]
    sets = [entry for entry in found["entries"] if entry["kind"] == "units" and entry["quality"]]
    rows = []
    for place, run in enumerate(runs):
        own = [each for each in sets if re.search(rf"of {re.escape(run['name'])}\b", each["made_from"])]
        best = max((each["quality"].get("pnmi", 0.0) for each in own), default=None)
        other = otherwise(run["settings"], runs[0]["settings"]) if place else first_in_words(run)
        row = [plain(run["name"]), other, f"{run['updates']:,}", f"{run['hours_seen']:.1f}", f"{run['minutes']:.0f}"]
        rows.append([*row, accuracy_cell(run["evaluation"]), "" if best is None else f"{best:.3f}"])
    head = ["trial", "what is other", "updates", "hours seen", "minutes", "accuracy on validation", "PNMI"]
    return head, rows


def log() -> str:
    """docs/log.md."""
    parts = [LOG_INTRODUCTION.format(made=MADE)]
    for found in kept("trials").values():
        parts += trials(found)
    return "\n\n".join([*parts, NOTES.read_text()])


def curves_of(names: Sequence[str]) -> list[dict[str, Any]]:
    """The curves of errors against minutes of labels of some results."""
    found = kept("results")
    return [entry for name in names for entry in found[name]["entries"] if entry["kind"] == "labels"]


def start_with_filters(start: str) -> str:
    """A start that says whether its model learns its filters."""
    return start if "mel bands" in start else f"{start}, learned filters"


def headline() -> str:
    """The table of the README: curves of errors against minutes of labels, without numbers of seeds."""
    rows = []
    for entry in curves_of(HEADLINE):
        for point in labels_points(entry):
            about = [plain(entry["data"]["test"]["of"]), f"{point['minutes_used']:.1f}"]
            about.append(start_in_words(point["start"], entry["hours_seen"]))
            rows.append([*about, *(percent(point.get(name)) for name in RATES)])
    head = ["scored on", "minutes of labels", "start", *RATES.values()]
    return table(*with_values(head, rows))


def readme() -> str:
    """The README with its table of results, where it has a place for one."""
    text = README.read_text()
    if BEGIN not in text:
        return text
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{headline()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    for page, made in ((RESULTS, results()), (LOG, log()), (README, readme())):
        page.write_text(made)
    points = [point for entry in curves_of(PICTURED) for point in entry["labels"]]
    named = [point | {"start": start_with_filters(point["start"])} for point in points]
    draw_curves(named, PICTURE)
