"""The tables and sentences of model cards, made from records. Missing facts appear as not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ssl_speech.markdown import code, plain, table
from hf_ssl_speech.recipes.iterations_report import LAYERS_PICTURE, QUALITY, UNITS_PICTURE, last_value
from hf_ssl_speech.records import CorpusFacts, Rate, Record, Score, SplitFacts, UnitFacts
from hf_ssl_speech.training.record_keeper import PICTURE_FILE

GROUPS_SHOWN = 10
NOT_MEASURED, NOT_RECORDED = "not measured", "not recorded"
PICTURES = {
    PICTURE_FILE: "Curves of the training",
    UNITS_PICTURE: "An utterance, its units and its phones",
    "phones.png": "How well each unit determines the phone",
    LAYERS_PICTURE: "Quality of the units of each layer",
}
# Figures of a training's log: what it calls them, what the card does, and how they are printed.
MEASURES = (
    ("wer", "word error rate", ".1%"),
    ("cer", "character error rate", ".1%"),
    ("accuracy", "accuracy", ".1%"),
    ("chance", "chance", ".1%"),
    ("masked_accuracy", "accuracy on masked frames", ".1%"),
    ("unmasked_accuracy", "accuracy on unmasked frames", ".1%"),
    ("hard_perplexity_1", "codebook entries in use, group 1", ".1f"),
    ("hard_perplexity_2", "codebook entries in use, group 2", ".1f"),
    ("loss", "loss", ".3f"),
)
# Facts of transcripts: what a record calls them, and what the card does.
TEXT = (
    ("words", "words"),
    ("vocabulary", "vocabulary"),
    ("normalization", "normalised with"),
)
CITATIONS = {
    "ssl-wav2vec2": """\
@inproceedings{baevski2020wav2vec,
  title     = {wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations},
  author    = {Baevski, Alexei and Zhou, Henry and Mohamed, Abdelrahman and Auli, Michael},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020},
  url       = {https://arxiv.org/abs/2006.11477}
}""",
    "ssl-hubert": """\
@article{hsu2021hubert,
  title   = {HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units},
  author  = {Hsu, Wei-Ning and Bolte, Benjamin and Tsai, Yao-Hung Hubert and Lakhotia, Kushal and
             Salakhutdinov, Ruslan and Mohamed, Abdelrahman},
  journal = {IEEE/ACM Transactions on Audio, Speech, and Language Processing},
  year    = {2021},
  url     = {https://arxiv.org/abs/2106.07447}
}""",
    "distilhubert": """\
@inproceedings{chang2022distilhubert,
  title     = {DistilHuBERT: Speech Representation Learning by Layer-wise Distillation of Hidden-unit BERT},
  author    = {Chang, Heng-Jui and Yang, Shu-wen and Lee, Hung-yi},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing},
  year      = {2022},
  url       = {https://arxiv.org/abs/2110.01900}
}""",
}


def shown(value: Any, form: str = "", unit: str = "") -> str:
    """A figure as text, or that it was not measured."""
    return NOT_MEASURED if value is None else f"{value:{form}}{unit}"


def hours(amount: float | None) -> str:
    """How much audio, in words."""
    return f"hours: {NOT_MEASURED}" if amount is None else f"{amount:.2f} hours"


def told(text: str | None) -> str:
    """A text that was recorded, as code, or that it was not."""
    return NOT_RECORDED if text is None else code(text)


def sources(facts: SplitFacts) -> list[str]:
    """Where the rows of a split come from."""
    source = facts["source"]
    return [source] if isinstance(source, str) else source or []


def data_table(record: Record) -> str:
    """A row for each split, and for the data of the pretraining before: where from, how much, what was left out."""
    splits, earlier, rows = dict(record["data"]), record["start"]["record"], []
    if earlier:
        splits["train, pretraining"] = earlier["data"]["train"]
    for split, facts in splits.items():
        rows.append(
            [
                plain(split),
                ", ".join(map(code, sources(facts))) or NOT_RECORDED,
                shown(facts["rows"], ","),
                shown(facts["hours"], ".2f"),
                shown(facts["skipped"]["num_skipped"], ","),
            ]
        )
    return table(["split", "source", "utterances", "hours", "left out"], rows)


def effort_table(record: Record) -> str:
    """Updates, audio seen and effective batch of a training."""
    recipe, processes, train = record["recipe"], record["machine"]["processes"], record["data"]["train"]
    seen = record["hours_seen"]
    batch = shown(record["seconds_per_update"], ".1f", " s of audio on average")
    if processes and "batch_seconds" in recipe:
        parts = f"{recipe['batch_seconds']:g} s x {recipe['gradient_accumulation_steps']} accumulated x {processes}"
        batch += f", at most {parts} process{'es' * (processes > 1)}"
    repeats = f", {seen / train['hours']:.1f} times the data" if seen is not None and train["hours"] else ""
    predicted = [f"{units['num_units']} units of {units['features']}" for units in train["units"]["sets"]]
    rows = [
        *(["predicts", plain(units)] for units in predicted),
        ["updates", shown(record["updates"], ",")],
        ["audio seen", shown(seen, ".2f", " hours") + repeats],
        *([f"of it {plain(name)}", corpus_seen(facts)] for name, facts in train["corpora"].items()),
        ["effective batch", batch],
        ["precision", _precision(recipe)],
        ["seed", f"{recipe['seed']}" if "seed" in recipe else NOT_RECORDED],
        ["command", told(record["command"])],
    ]
    if record["identity"].get("lora"):
        rows.insert(0, ["learnt by LoRA adapters, merged into the weights", _settings(record["identity"]["lora"])])
    if recipe.get("head_learning_rate") is not None:
        rows.insert(1, ["peak learning rate of the head", f"{recipe['head_learning_rate']:g}"])
    return table(["", ""], rows)


def corpus_seen(facts: CorpusFacts) -> str:
    """How much of a corpus was seen, and how often it was repeated."""
    seen = shown(facts["hours_seen"], ".2f", " hours")
    if facts["hours"] is None or facts["repeats"] is None:
        return seen
    return f"{seen}, {facts['repeats']:.1f} times its {facts['hours']:.2f} hours"


def measures_table(record: Record) -> str:
    """Figures of a training's curves: of the model that was kept on validation data, and the last ones of training."""
    curves, kept, rows = record["curves"], record["kept_update"], []
    evaluated = [point for point in curves if kept is None or point["step"] <= kept]
    for name, label, form in MEASURES:
        validation, training = last_value(evaluated, f"eval_{name}"), last_value(curves, name)
        if validation is not None or training is not None:
            rows.append([label, shown(validation, form), shown(training, form)])
    updates = [point["step"] for point in evaluated if any(name.startswith("eval_") for name in point)][-1:]
    validated = f"validation, update {updates[0]:,}" if updates else "validation"
    return table(["", validated, "training, last"], rows or [["accuracy", NOT_MEASURED, NOT_MEASURED]])


def scores_table(scores: Sequence[Score]) -> str:
    """A row for each evaluation of a CTC model."""
    rows = []
    for score in scores:
        data, split = score["data"], score["data"]["split"]
        rows.append(
            [
                code(", ".join(sources(data))) + (f", {plain(split)}" if split else ""),
                shown(data["rows"], ","),
                shown(data["hours"], ".2f"),
                _rate(score["wer"]),
                _rate(score["cer"]),
                _settings(score["decoder"]),
                shown(score["real_time_factor"], ".3g"),
            ]
        )
    head = ["data", "utterances", "hours", "WER, %", "CER, %", "decoder", "real-time factor"]
    return table(head, rows or [[NOT_MEASURED] * len(head)])


def evaluations(scores: Sequence[Score]) -> list[str]:
    """The conditions under which each row of `scores_table` was measured."""
    return [
        f"Row {number}: text normalised with {_settings(score['normalization'])}; intervals of "
        f"{shown(score['wer']['confidence'], '.0%')} by bootstrap over utterances; data fingerprint "
        f"{told(score['data']['fingerprint'])}; on {plain(score['device'] or NOT_RECORDED)}, "
        f"{plain(score['date'] or NOT_RECORDED)}, {_settings(score['versions'])}; command {told(score['command'])}."
        for number, score in enumerate(scores, 1)
    ]


def breakdown_table(scores: Sequence[Score]) -> str:
    """Word error rates of groups of utterances, the worst of each column first; empty if none were measured."""
    rows = []
    for number, score in enumerate(scores, 1):
        for column, groups in score["groups"].items():
            measured = {name: rate for name, rate in groups.items() if rate["wer"] is not None}
            worst = sorted(measured, key=lambda name: -measured[name]["wer"])[:GROUPS_SHOWN]
            more = f" ({len(groups)} in all)" if len(groups) > len(worst) else ""
            for name in worst:
                rate = measured[name]
                cells = [_rate({**rate, "value": rate["wer"]}), shown(rate["reference_length"], ",")]
                rows.append([f"{number}", plain(column) + more, plain(name), *cells])
    return table(["row", "by", "group", "WER, %", "words"], rows) if rows else ""


def probe_table(record: Record) -> str:
    """How a classifier was scored, a row for each figure."""
    probe = record["probe"]
    if not probe:
        return table(["", ""], [["accuracy", NOT_MEASURED]])
    error, test = probe["error"], record["data"].get("test", {})
    correct = {"value": 1 - error["value"], "low": 1 - error["high"], "high": 1 - error["low"]}
    rows = [
        ["task", plain(probe["task"])],
        [
            "accuracy on test, %",
            f"{_rate(correct)}, {error['confidence']:.0%} interval over {test.get('rows', 0):,} rows",
        ],
        ["pooling", plain(probe["pooling"])],
        ["weights that learnt", f"{probe['parameters']:,}"],
        ["chosen on validation", f"learning rate {probe['learning_rate']:g}, update {probe['update']:,}"],
        ["command", told(record["command"])],
    ]
    return table(["", ""], rows)


def layer_weights_table(weights: Sequence[float]) -> str:
    """The weight that each layer gets; layer 0 is the transformer's input."""
    rows = [[f"{layer}", f"{weight:.3f}"] for layer, weight in enumerate(weights)]
    return table(["layer", "weight"], rows or [["all", NOT_RECORDED]])


def text_table(record: Record) -> str:
    """Facts of the transcripts that a CTC model learnt from."""
    text = record["text"]
    rows = [[label, _plain(text[name]) if text.get(name) else "none"] for name, label in TEXT if name in text]
    return table(["transcripts", ""], rows or [["words", NOT_MEASURED]])


def unit_effort_table(facts: UnitFacts, record: Record) -> str:
    """How a unit set was fitted."""
    rows = [
        ["utterances", shown(facts["utterances"], ",")],
        ["frames", shown(facts["frames"], ",")],
        ["share of the utterances", shown(facts["share"], ".0%")],
        ["inertia (mean squared distance)", shown(facts["inertia"], ",.4g")],
        ["seed", NOT_RECORDED if facts["seed"] is None else f"{facts['seed']}"],
        ["command", told(record["command"])],
    ]
    return table(["", ""], rows)


def unit_departures(facts: UnitFacts) -> list[tuple[str, str, str]]:
    """Where a unit set departs from those of HuBERT BASE: MFCC for iteration 1, layer 6 for iteration 2."""
    hidden = facts["features"]["kind"] == "hidden"
    published = {"layer": 6, "number of units": 500} if hidden else {"number of units": 100}
    here = {"layer": facts["features"]["layer"], "number of units": facts["num_units"]}
    found = [(name, f"{here[name]}", f"{value}") for name, value in published.items() if here[name] != value]
    if facts["share"] not in (None, 0.1):
        found.append(("share of the utterances", f"{facts['share']:.0%}", "10%"))
    return found


def quality_table(record: Record) -> str:
    """How well units match phones, and how they are used."""
    quality = record["quality"]
    rows = [[label, format(quality[name], form)] for name, label, form in QUALITY if name in quality]
    phones = record["data"].get("validation", {}).get("phones")
    if rows and phones:
        taken = ", ".join(code(name) if name else "the empty name" for name in phones["silence"])
        rows.append(["taken as silence", taken or "no label"])
        rows.append(["gaps, overlaps and phones without duration", _counts(phones, "gaps", "overlaps", "empty")])
    return table(["", ""], rows or [[label, NOT_MEASURED] for name, label, _ in QUALITY if name != "agreement"])


def compute(record: Record) -> str:
    """On what, for how long, with which versions, in sentences."""
    machine, seconds, start = record["machine"], record["seconds"], record["start"]
    processes = machine["processes"]
    on = f"{plain(machine['device'] or 'A device that was ' + NOT_RECORDED)}"
    on += f", {processes:,} process{'es' * (processes > 1)}" if processes else ""
    device_hours = f", {seconds * processes / 3600:.2f} device hours" if seconds is not None and processes else ""
    told = f"{on}. Time: {_time(seconds)}{device_hours}. Versions: {_settings(record['versions'])}."
    if start["source"]:
        earlier = start["record"] and start["record"]["seconds"]
        told += f" Time of the pretraining before it: {_time(earlier)}."
    return told


def pictures(folder: Path) -> list[tuple[str, str]]:
    """Pictures that lie in the folder, with their captions."""
    return [(name, caption) for name, caption in PICTURES.items() if (folder / name).exists()]


def limits(kind: str, record: Record, languages: Sequence[str], scores: Sequence[Score]) -> list[str]:
    """Limits of the model, as far as they follow from the records."""
    spoken = f"{', '.join(languages)} only" if languages else "languages that are not stated"
    groups = "see the breakdown of the evaluation" if any(score["groups"] for score in scores) else NOT_MEASURED
    found = [
        f"Trained on {spoken}; other languages, accents, rooms and microphones: {NOT_MEASURED}.",
        f"Whether it works equally well for all groups of speakers: {groups}.",
        "One run with one seed: how much another seed would change is not measured.",
    ]
    amount = record["data"]["train"]["hours"]
    if amount is not None and amount < 100:
        taught = "transcribed speech" if kind == "ctc" else "audio"
        found.insert(0, f"Trained on only {amount:.2f} hours of {taught}: it is a demonstration, not a general model.")
    if kind == "ctc":
        found.append("It transcribes without a language model, and can write only the characters of its alphabet.")
    if kind != "units":
        found.append("Audio must be resampled to 16 kHz first; audio shorter than 25 ms has no frame.")
    return found


def _time(seconds: float | None) -> str:
    return NOT_MEASURED if seconds is None else f"{seconds / 3600:.2f} hours ({seconds:,.0f} s)"


def _counts(facts: Mapping[str, int], *names: str) -> str:
    return ", ".join(f"{facts[name]:,}" for name in names)


def _rate(rate: Rate) -> str:
    if rate["value"] is None:
        return NOT_MEASURED
    if rate["low"] is None:
        return f"{100 * rate['value']:.2f} (one row, no interval)"
    return f"{100 * rate['value']:.2f} [{100 * rate['low']:.2f}, {100 * rate['high']:.2f}]"


def _precision(recipe: Mapping[str, Any]) -> str:
    if "bf16" not in recipe:
        return NOT_RECORDED
    return "bfloat16" if recipe["bf16"] else "float16" if recipe.get("fp16") else "float32"


def _settings(settings: Mapping[str, Any] | None) -> str:
    """`{"kind": "beam", "width": 10}` as "kind beam, width 10"."""
    if not settings:
        return NOT_RECORDED
    return ", ".join(f"{plain(name)} {_plain(value)}" for name, value in settings.items())


def _plain(value: Any) -> str:
    """A value as the cell of a table."""
    if isinstance(value, Mapping):
        return _settings(value)
    return code(" ".join(map(str, value))) if isinstance(value, (list, tuple)) else plain(value)
