"""Model cards, made only from the records of runs and evaluations."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hf_ssl_speech.data.sources import is_hub_id
from hf_ssl_speech.evaluation.comparison import SCORES_FILE, read_scores
from hf_ssl_speech.files import naming_the_file, read_json
from hf_ssl_speech.hub.card_edits import MARK, digest
from hf_ssl_speech.hub.card_sections import (
    CITATIONS,
    breakdown_table,
    compute,
    data_table,
    effort_table,
    evaluations,
    hours,
    layer_weights_table,
    limits,
    measures_table,
    pictures,
    probe_table,
    quality_table,
    scores_table,
    text_table,
    unit_departures,
    unit_effort_table,
)
from hf_ssl_speech.hub.licences import check_metadata
from hf_ssl_speech.hub.wording import for_others
from hf_ssl_speech.markdown import plain, quoted, table
from hf_ssl_speech.models.classes import config_class_of
from hf_ssl_speech.models.installing import install_command
from hf_ssl_speech.recipes.iterations_report import UNITS_GLOSSARY
from hf_ssl_speech.records import Record, Score, UnitFacts, as_record, complete, read_record
from hf_ssl_speech.training.paper_settings import compare_with_paper
from hf_ssl_speech.units.kmeans_units import FACTS_FILE

CARD_FILE = "README.md"
# In the wheel the templates lie in the package, in a checkout beside it.
PACKAGE = Path(__file__).parents[1]
TEMPLATES = [PACKAGE / "model_cards", PACKAGE.parent / "model_cards"]
NOT_STATED = "not stated"
BENCHMARK_NOTES = "WER in percent"  # begins the notes of our entries on leaderboards
MEASURES_GLOSSARY = {
    "ssl-wav2vec2": "Accuracy: how often, of the true hidden frame and the negatives, the model picks the true one; "
    "chance: how often a blind guess would. Codebook entries in use: perplexity of the hard choices of each group.",
    "ssl-hubert": "Accuracy: how often the model names the unit of a masked, or of an unmasked frame.",
    "distilhubert": "Loss: what is left between the student's frames and its teacher's, added up over the layers.",
}


TAGS = {
    "pretraining": ["self-supervised"], "ctc": ["ctc"], "probe": ["probe"], "units": ["k-means", "speech-units"],
}  # fmt: skip
PIPELINES = {
    "ctc": "automatic-speech-recognition", "pretraining": "feature-extraction", "probe": "audio-classification",
}  # fmt: skip


def create_model_card(
    folder: str | os.PathLike,
    *,
    repo_id: str | None = None,
    license: str | Sequence[str] | None = None,
    language: str | Sequence[str] | None = None,
    datasets: Mapping[str, str | None] | Sequence[str] = (),
) -> ModelCard:
    """The model card of an encoder, a CTC model, a classifier or a unit set, ours or exported to transformers' form.

    Every figure is read from `run.json` and `scores.json` in the folder; missing figures appear as not measured. The
    departures from the paper are computed.

    Args:
        folder: What a run, an evaluation or `save_pretrained` wrote.
        repo_id: Where it will lie on the Hub, for the code that shows how to load it; by default the folder.
        license: Of the model, as the Hub names it, such as `apache-2.0`; or several.
        language: Codes of the speech's languages, such as `en`.
        datasets: The training data sets, with their licences where they are known.
    Returns:
        The card, with the metadata that the Hub reads; `card.save(path)` writes it.
    Raises:
        ValueError: If the folder holds none of these, or the Hub would refuse the metadata.
    """
    check_metadata(as_list(license), as_list(language))
    return fill_card(Path(folder), repo_id=repo_id, license=license, language=language, datasets=datasets)


def fill_card(folder: Path, *, repo_id=None, license=None, language=None, datasets=()) -> ModelCard:
    """As `create_model_card`, of metadata that the Hub takes: it was checked, or is what the Hub's own card says."""
    kind, config = find_kind(folder)
    languages, licence = as_list(language), ", ".join(as_list(license))
    datasets = [datasets] if isinstance(datasets, str) else datasets
    licences = dict(datasets) if isinstance(datasets, Mapping) else dict.fromkeys(datasets)
    config, record, scores = map(for_others, (config, read_record(folder) or as_record({}), read_scores(folder)))
    name = (repo_id or str(folder.resolve())).split("/")[-1]
    context = CONTEXTS[kind](folder, config, record, scores)
    context |= {
        "title": name,
        "repo_id": repo_id or name,
        "install": install_command(),
        "license": licence or NOT_STATED,
        "language": ", ".join(languages) or NOT_STATED,
        "licence_rows": [[plain(data), plain(licence or NOT_STATED)] for data, licence in licences.items()],
        "data_table": data_table(record),
        "pictures": pictures(folder),
        "limits": limits(kind, record, languages, scores),
        "compute": compute(record),
        "citations": [CITATIONS[paper] for paper in context["papers"]],
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "quoted": quoted}
    environment.globals["table"] = table
    text = re.sub(r"\n{3,}", "\n\n", environment.get_template(f"{kind}.md").render(context))
    metadata = card_data(kind, context, record, scores, license=license, languages=languages, datasets=licences)
    marked = MARK.sub(lambda found: found[0].replace("(text)", f"(text {digest(text)})"), text, count=1)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{marked.strip()}\n")


def as_list(value: Any) -> list:
    """One value, several or none of the metadata as a list."""
    return [value] if isinstance(value, str) else list(value or ())


def find_kind(folder: Path) -> tuple[str, dict[str, Any]]:
    """`units`, `ctc`, `probe` (a classifier) or `pretraining` (an encoder, with its head or without), and its JSON.

    A model stays what its config.json says where a unit set lies beside its files.

    Raises:
        ValueError: If the folder holds none of them.
    """
    if not (folder / "config.json").exists():
        if (folder / FACTS_FILE).exists():
            return "units", read_json(folder / FACTS_FILE, "a unit set")
        raise ValueError(
            f"{folder} has neither config.json nor {FACTS_FILE}: expected the folder of a pretrained or fine-tuned "
            "model, or of a unit set."
        )
    path, what = folder / "config.json", "a model's configuration"
    config = read_json(path, what)
    with naming_the_file(path, what):
        architecture = str((config.get("architectures") or [""])[0])
        is_known = config_class_of(config.get("model_type")) is not None
    if is_known and architecture.endswith("ForCTC"):
        return "ctc", config
    if is_known and architecture.endswith("ForSequenceClassification"):
        return "probe", config
    if is_known and architecture.endswith(("ForPreTraining", "ForDistillation", "Model")):
        return "pretraining", config
    raise ValueError(
        f"{folder} holds {architecture or 'a model without a class in its config'}: cards are made of pretrained "
        "wav2vec 2.0 and HuBERT encoders, their CTC models and classifiers, and unit sets."
    )


# What each kind of card tells of its own ---------------------------------------------------------------------------


def model_context(folder: Path, config: dict[str, Any], record: Record) -> dict[str, Any]:
    """What cards of encoders and of CTC models share."""
    config_class = config_class_of(config["model_type"])
    model_type = config_class.model_type
    comparison = compare_with_paper(record)
    source = record["start"]["source"]
    named = source if is_hub_id(source) else "an encoder that is not on the Hub"
    start = f", starting from {named}" if source else ", from scratch" if record["task"] else ""
    status, updates, parameters = record["status"] or "complete", record["updates"] or 0, record["parameters"]
    return {
        "model_type": model_type,
        "paper": config_class.method,
        "papers": [model_type],
        "stock": config["model_type"] == config_class.stock_model_type,
        "group_norm": config.get("feat_extract_norm", "group") == "group",
        "parameters": f"{parameters / 1e6:.1f} M" if parameters else "an uncounted number of",
        "width": config["hidden_size"],
        "hours": hours(record["data"]["train"]["hours"]),
        "start": start,
        "unfinished": "" if status == "complete" else f"The run was {status} at update {updates:,}.",
        "effort_table": effort_table(record),
        "comparison": comparison,
        "no_comparison": "no such run was published" if record["identity"] else "the recipe was not recorded",
        "measures_table": measures_table(record),
    }


def pretraining_context(folder, config, record, scores) -> dict[str, Any]:
    """What the card of an encoder tells."""
    shared = model_context(folder, config, record)
    layers = config.get("teacher_layers")
    if layers:  # a student
        shared["papers"] = [*shared["papers"], "distilhubert"]
        shared["start"] += f", of which it learnt layers {', '.join(map(str, layers))}"
    return shared | {"measures_glossary": MEASURES_GLOSSARY[shared["papers"][-1]]}


def ctc_context(folder, config, record, scores) -> dict[str, Any]:
    """What the card of a CTC model tells."""
    return model_context(folder, config, record) | {
        "vocabulary": config["vocab_size"],
        "scores_table": scores_table(scores),
        "breakdown_table": breakdown_table(scores),
        "evaluations": evaluations(scores),
        "text_table": text_table(record),
    }


def probe_context(folder, config, record, scores) -> dict[str, Any]:
    """What the card of a classifier tells."""
    config_class, probe, source = config_class_of(config["model_type"]), record["probe"], record["start"]["source"]
    classes = list((config.get("id2label") or {}).values())
    return {
        "paper": config_class.method,
        "papers": [config_class.model_type],
        "stock": config["model_type"] == config_class.stock_model_type,
        "group_norm": config.get("feat_extract_norm", "group") == "group",
        "num_classes": len(classes),
        "classes": ", ".join(map(str, classes)),
        "probed": f"The encoder stayed as {source or 'its pretraining'} left it." if probe else "",
        "probe_table": probe_table(record),
        "layers_table": layer_weights_table(probe.get("layer_weights", [])),
    }


def unit_context(folder, facts, record, scores) -> dict[str, Any]:
    """What the card of a unit set tells."""
    facts = complete(UnitFacts, facts)
    features = facts["features"]
    per_second = (16_000 - features["window_samples"]) // features["hop_samples"] + 1
    hidden = features["kind"] == "hidden"
    return {
        "papers": ["ssl-hubert"],
        "num_units": facts["num_units"],
        "features": f"layer {features['layer']} of {features['encoder']}" if hidden else "MFCC",
        "encoder": features["encoder"] if hidden else None,
        "hop": f"{features['hop_samples'] / 16:g}",
        "per_second": per_second,
        "hours": hours(facts["hours"]),
        "effort_table": unit_effort_table(facts, record),
        "departures": unit_departures(facts),
        "quality_table": quality_table(record),
        "quality_glossary": UNITS_GLOSSARY,
    }


CONTEXTS = {"pretraining": pretraining_context, "ctc": ctc_context, "probe": probe_context, "units": unit_context}


# What the Hub reads ------------------------------------------------------------------------------------------------


def card_data(
    kind: str,
    context: dict[str, Any],
    record: Record,
    scores: Sequence[Score],
    *,
    license: str | Sequence[str] | None,
    languages: list[str],
    datasets: Mapping[str, str | None],
) -> ModelCardData:
    """The metadata on top of a card. Only what is an id on the Hub is named as a data set or as the model's base."""
    start, results = record["start"]["source"], eval_results(scores) or None
    tags = ["speech", "hf_ssl_speech", *(each.removeprefix("ssl-") for each in context["papers"])]
    tags += TAGS[kind]
    return ModelCardData(
        license=license if isinstance(license, str) else as_list(license) or None,  # type: ignore[arg-type]
        language=languages or None,
        datasets=[name for name in datasets if is_hub_id(name)] or None,
        base_model=start if is_hub_id(start) else None,
        library_name="hf_ssl_speech" if kind == "units" else "transformers",
        pipeline_tag=PIPELINES.get(kind),
        metrics={"ctc": ["wer", "cer"], "probe": ["accuracy"]}.get(kind),
        tags=tags,
        model_name=context["title"] if results else None,
        eval_results=results,
    )


def eval_results(scores: Sequence[Score]) -> list[EvalResult]:
    """Word and character error rates in percent, with interval and conditions, in the Hub's form."""
    found = []
    for score in scores:
        source = _source(score)
        for metric in ("wer", "cer"):
            rate = score[metric]
            interval = {} if rate["low"] is None else {bound: round(100 * rate[bound], 2) for bound in ("low", "high")}
            interval |= {"confidence": rate["confidence"]} if interval else {}
            found.append(
                EvalResult(
                    task_type="automatic-speech-recognition",
                    task_name="Automatic Speech Recognition",
                    dataset_type=source if is_hub_id(source) else re.sub(r"[^\w.-]+", "-", source).strip("-"),
                    dataset_name=source,
                    dataset_split=score["data"]["split"],
                    metric_type=metric,
                    metric_name=f"{metric.upper()} (%)",
                    metric_value=round(100 * rate["value"], 2),
                    metric_args={
                        **interval,
                        "decoder": score["decoder"],
                        "normalization": score["normalization"],
                    },
                )
            )
    return found


def benchmark_results(scores: Sequence[Score], benchmarks: Mapping[str, str]) -> dict[str, list[dict]]:
    """Word error rates in the form that puts them on the leaderboards of benchmark data sets.

    Args:
        scores: Content of `scores.json`.
        benchmarks: Hub ids of data sets that are registered as benchmarks, with the name of the task there.
    Returns:
        What each file in `.eval_results` holds: one evaluation, since a benchmark may be measured in several ways.
    Raises:
        ValueError: If the model was not evaluated on one of them.
    """
    found = {}
    for dataset, task in benchmarks.items():
        measured = [score for score in scores if _source(score) == dataset]
        if not measured:
            raise ValueError(f"{SCORES_FILE} has no evaluation on {dataset}: evaluate the model on it first.")
        for number, score in enumerate(measured, 1):
            entry = EvalResultEntry(
                dataset_id=dataset,
                task_id=task,
                value=round(100 * score["wer"]["value"], 2),
                date=score["date"],
                notes=f"{BENCHMARK_NOTES}, {score['decoder']['kind']} decoding",
            )
            found[f"{dataset.split('/')[-1]}-{number}.yaml"] = eval_result_entries_to_yaml([entry])
    return found


def _source(score: Score) -> str:
    source = score["data"]["source"]
    return source if isinstance(source, str) else " ".join(source)
