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
NOTES = """## Earlier

- **Features that are not centred**: the model memorises its speakers, and its units are worse than those of MFCC
  ([measurements](measurements.md)).
- **Two minutes of transcripts, in the first demo**: the encoder needs more pretraining than it first had. After 700
  updates of 8 s (masked accuracy 28%) the demo ended with 83.3% WER from scratch and 98.4% pretrained. On the same made
  speech 1,400 updates of 4 s (31%, as much audio) gave 66.0%, and 2,800 (43%) 45.0%. With the conv encoder trained too
  89.6% instead of 66.0%, with only the head trained for 100 updates 85.1%, with that and a mixture of all layers 77.0%.
  An encoder of half the cost (64 channels, three layers of 128) gave 54.3% instead of 45.0% after as many updates. With
  English alone instead of both languages, the transcripts cover ten words instead of twenty: 59.6% from scratch, 22.7%
  pretrained (one voice). One seed each. With all thirty voices, as the demo was then: 55.4% from scratch and 26.0%
  pretrained with seed 0, 55.4% and 19.7% with seed 1, 58.6% and 35.3% with seed 2; in bf16 55.1% and 28.5% with seed 0.
  On another processor (AVX2, one core, the other busy) it took 578 s and gave 65.4% and 32.6% with seed 0, the blank
  calibrated on eleven rows.
- **The demo on mel bands** took 354 s on one core of a processor with AVX2, the other busy, with as many updates of
  both kinds, but from fresh weights the errors are fewer, too, and what they give depends much on their first values:
  45.1% from scratch and 11.2% pretrained with seed 0, 44.4% and 26.8% with seed 1, 55.6% and 42.4% with seed 2; with
  the one conv layer frozen in fine-tuning 80.0% and 19.6% with seed 0, 44.4% and 35.7% with seed 1. More voices help
  most: with seed 2 and bands that keep their levels, 30 voices gave 54.9% and 48.0% after 400 updates of fine-tuning,
  120 voices 46.2% and 33.3% after 250; with a minute of labels 55.6% and 44.4%; with an hour of speech instead of half
  an hour, 100 units instead of 50 and batches of 8 s instead of 4 s, 56.3% and 37.8%; with twice the learning rate in
  fine-tuning 46.1% and 24.4%, with four times 44.9% and 23.7%. After 100 updates of fine-tuning both are at 70 to 90%.
  With learned filters, 120 voices and 1,600 updates of pretraining instead of 2,800, a minute of labels and 200 updates
  give 98.5% and 64.1% in 355 s. As it is now: 91.5% from scratch and 43.3% pretrained with seed 0 (characters 47.6 and
  15.1%), 95.5% and 56.6% with seed 1 (50.8 and 18.2%), 47.9% and 28.0% with seed 2 (18.1 and 9.3%), in 307 s on one
  core of that processor, the other busy. The first 60 updates of fine-tuning leave the transformer frozen: without
  that, two encoders of seed 0 that were alike to a percent (1,300 and 1,400 updates) ended at 83.7 and 41.8%. With 100
  frozen updates 54.0%, with two minutes of labels 42.0%, with the head at the rate of the encoder, nothing frozen,
  78.5%; pretraining with 4e-3 instead of 2e-3 left the accuracy on hidden frames at 29.6 instead of 33.1% after 1,100
  updates.
- **Mel bands, each centred and scaled over its recording, instead of seven conv layers** (on a processor with AVX2, one
  core, the other busy): 15.9 instead of 8 updates a second in the demo. From fresh weights, ten minutes of LibriSpeech
  and 600 updates give 66.5% character errors on validation rows with the logarithm of the powers and 66.2% with their
  tenth root, where a tiny model that learns its filters makes 90.8% on test rows. As a start, HuBERT on 500 units of
  MFCC, 40 hours, gained little on LibriSpeech (62.6 and 66.4% on test rows after 1,000 updates), and on digits, after
  800 updates, it was worse than nothing: 83.0 instead of 53.0% word errors with a minute of labels, 23.7 instead of
  7.0% with all. Its units were worse, too: PNMI .360 and .358 of 100 units of layers 3 and 4, after 9 hours on 100
  units of MFCC .350 and .353. Without the loss of unmasked frames the accuracy on masked ones was 1.0% after two hours,
  with half its weight 1.9%. One seed each.
- **Mel bands that keep their levels**, as they are now. The digits were recorded at 8 kHz: nothing is in the upper
  bands, and scaling each by itself had blown up what rounding leaves there. An encoder that has heard 5 hours, its
  targets 500 units of the third layer of a model that learns its filters, makes 13.0% word errors after a minute of
  digits and 600 updates; the one with centred bands and units of MFCC makes 53.0%. But fresh weights on such bands make
  13.0% as well, where learned filters make 103.3% (1e-3): on words as few as these the front-end is worth as much as
  pretraining. With 15 seconds of labels it is 57.3% from fresh weights and 46.0% after 54 hours.
- **Ten minutes of LibriSpeech on mel bands that keep their levels**, 1,000 updates with a learning rate of 2e-3: 59.5%
  character errors after 54 hours of pretraining, 69.0% from fresh weights, and 57.6% after an hour of labels
  ([results](results.md)). One seed each.
- **Learning rates on mel bands**, a minute of digits, 600 updates, word errors on validation and on test rows: after 20
  hours of pretraining 33.0 and 29.3% with 1e-3, 12.6 and 10.3% with 2e-3, 13.3 and 11.3% with 4e-3; from fresh weights
  20.4 and 14.0% with 2e-3, 15.6 and 12.3% with 4e-3. After 54 hours, with 2e-3, 11.5 and 13.3%; with other speeds in
  each epoch 19.3 and 14.0%; with the transformer frozen for 250 updates and 1e-2 for the head 25.6 and 21.7%. One seed
  each.
- **A calibrated blank**, ten minutes of LibriSpeech, half of the validation rows: after 600 updates from an encoder
  that had heard 9 hours, character errors fall from 66.9 to 62.6% with a cost of 1, from fresh weights from 66.1 to
  65.2% with 0.5. After 1,200 updates from the same encoder they are 61.2%, and no cost makes them fewer.
- **Batches of one length for single words**: 1,500 recordings of digits, most of them shorter than half a second, left
  batches of 1.7 s instead of 12 s with `crop_to_frames` 16, and 77% of the audio. After 400 updates the model named
  2.8% of the masked units, and the recogniser made 81% word errors ([where it pays](performance.md)).
- **Which measure foretells character errors?** Of a tiny HuBERT after 5, 20, 50 and 99 hours ([results](results.md)),
  the errors after ten minutes of labels fall from 71.0 to 63.7%. The PNMI of the best layer (.366 to .387), the
  accuracy on masked frames and the effective rank that its evaluations told rise in the same order; agreement, the
  effective rank of the best layer and Davies-Bouldin do not. Of the encoder with six layers the errors fall from 66.9
  to 63.1% after 50 hours and are 63.5% after 101: there PNMI and accuracy go on rising, and only the effective rank of
  the best layer and Davies-Bouldin have the order of the errors. So none is to be trusted to a point. One seed each.
- **A larger encoder on the same units**: six layers of 256 and a conv encoder of 128 channels, 5.7 instead of 2.3
  million parameters and half the weight on unmasked frames, heard 101 hours in 91 minutes of one core. The PNMI of its
  best layer, .383, is no better than the .387 of the tiny one, and neither are its errors, 63.5 and 63.7%; from scratch
  it makes 70.0 instead of 90.8% ([results](results.md)). Both learnt the same units, which may be what holds them.
- **Units of an encoder that has heard 45 hours**, 500 of its third layer, predicted by a tiny HuBERT from fresh weights
  together with those of unmasked frames: after 99 hours the PNMI of 100 units of its best layer is .387, hardly more
  than the .378 of the third layer of one that predicted 100 units of MFCC in 1,000 updates, 3 hours
  ([noise](noise.md)).
- **Batches padded to a multiple of 16 frames, so that lengths come again**: training a tiny model in bf16 on batches of
  6 s takes three quarters of the time if oneDNN keeps 1,024 kernels, and as long as before with the 128 that keep
  memory flat; without gradients a tenth at most is saved.
- **The kernels that oneDNN keeps**: 1,024 by default, and torch as many; with lengths that do not come again a tiny
  model's memory grew to 2.4 GB in 300 updates. With 128 it stays at 1.4 GB, and a step takes no longer
  ([speed](performance.md)).
- **A second iteration** of a tiny HuBERT gains little: PNMI .392 after the first, .397 after the second
  ([measurements](measurements.md)).
- **The positional convolution by Fourier transforms**: slower than as products of blocks of frames, which in turn are
  slower than torch's convolution for a few seconds of audio at the base size ([speed](performance.md)).
- **Float32 weight gradients of channels-last convolutions by oneDNN**: up to four times slower than the matrix product
  that is used instead ([speed](performance.md)).
- **The conv encoder in blocks of frames that stay in the cache, its activations computed again**: of a HuBERT step, 556
  instead of 924 MB are kept at the small size in float32, and 38 instead of 57 at the tiny size in bf16, which then
  takes 1.17 times as long ([speed](performance.md))."""


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
    return "\n\n".join([*parts, NOTES]) + "\n"


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
