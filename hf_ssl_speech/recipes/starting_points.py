"""What a run starts from: the kind of checkpoint, ours or stock, and the recipe for its objective."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.files import read_json
from hf_ssl_speech.models.classes import config_class_of, load_config, model_class
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.encoder import SSLSpeechModel
from hf_ssl_speech.recipes.inputs import SpeechModelArguments
from hf_ssl_speech.records import Record, read_record
from hf_ssl_speech.training.callbacks import Tally

logger = logging.getLogger(__name__)

# Fields of the pretraining recipe. In a stock config they are meant for fine-tuning (masks over 5% of the frames) or
# missing, so continued pretraining takes them from the paper.
PRETRAINING_FIELDS = (
    "hidden_dropout",
    "activation_dropout",
    "attention_dropout",
    "feat_proj_dropout",
    "feat_quantizer_dropout",
    "layerdrop",
    "apply_spec_augment",
    "mask_time_prob",
    "mask_time_length",
    "mask_time_min_masks",
    "mask_feature_prob",
    "feature_gradient_scale",
    "feature_penalty_weight",
    "gumbel_temperature_start",
    "gumbel_temperature_end",
    "gumbel_temperature_decay",
    "unit_embedding_dim",
)


def stock_config(start: str) -> PreTrainedConfig:
    """The configuration of a checkpoint, ours or stock.

    Raises:
        ValueError: If there is none, or it belongs to another kind of model.
    """
    try:
        config = load_config(start)
    except OSError as error:
        raise ValueError(f"There is no model at {start}: {error}") from error
    if config_class_of(config.model_type) is None:
        raise ValueError(f"{start} is of type {config.model_type!r}: expected a wav2vec 2.0 or HuBERT checkpoint.")
    return config


def load_start(
    model_class: type[PreTrainedModel], start: str, *, tell: bool = True, **settings: Any
) -> tuple[PreTrainedModel, list[str]]:
    """The model to train, with the weights of a checkpoint, ours or stock.

    One line of the log, once for each checkpoint, names what starts fresh, as a head on an encoder does; transformers
    would warn of it in a table every time.

    Args:
        tell: Whether to log that line. A caller that has other weights for the head leaves it out.
        settings: Arguments of `from_pretrained`, such as fields of the configuration.
    Returns:
        The model in float32, whatever precision the checkpoint was saved in, and the modules with fresh weights.
    """
    of_transformers = logging.getLogger(PreTrainedModel.__module__)
    of_transformers.disabled, before = True, of_transformers.disabled  # a higher level would make it warn of more
    try:
        model, report = model_class.from_pretrained(start, dtype=torch.float32, output_loading_info=True, **settings)
    finally:
        of_transformers.disabled = before
    fresh = sorted({name.rsplit(".", 1)[0] for name in report["missing_keys"]})
    if fresh and tell:
        logger.info_once(f"{start} has no weights for {', '.join(fresh)}: they start fresh.")
    if report["unexpected_keys"]:
        logger.info_once(f"These weights of {start} have no use here: {', '.join(sorted(report['unexpected_keys']))}")
    return model, fresh


def load_teacher(source: str) -> SSLSpeechModel:
    """The encoder of a wav2vec 2.0 or HuBERT checkpoint, ours or stock.

    Raises:
        ValueError: If there is none.
    """
    encoder_class = model_class(config_class_of(stock_config(source).model_type), "AutoModel")
    return load_start(encoder_class, source)[0]


def find_objective(model_args: SpeechModelArguments) -> str:
    """The objective of the checkpoint to start from; without one, that of the arguments, else wav2vec 2.0.

    Raises:
        ValueError: If the arguments ask for another objective than the checkpoint's, or there is no such checkpoint.
    """
    start, asked = model_args.model_name_or_path, model_args.objective
    if not start:
        return asked or "wav2vec2"
    found = config_class_of(stock_config(start).model_type).stock_model_type
    if asked not in (None, found):
        raise ValueError(f"{start} is a {found} checkpoint, but objective is {asked}: leave `objective` out.")
    return found


def is_recognizer(start: str) -> bool:
    """Whether a checkpoint has a CTC head already."""
    return any(name.endswith("ForCTC") for name in stock_config(start).architectures or ())


def is_stock(config: PreTrainedConfig) -> bool:
    """Whether a configuration is transformers' own, not one of this package."""
    return not isinstance(config, SSLSpeechConfig)


def published_recipe(config: PreTrainedConfig) -> dict[str, Any]:
    """Masks, dropouts and weights of the losses of the paper that a stock checkpoint comes from.

    LARGE models and XLS-R have layer norm in the conv encoder, BASE models group norm.
    """
    config_class = config_class_of(config.model_type)
    preset = config_class.preset("large" if config.feat_extract_norm == "layer" else "base")
    return {name: getattr(preset, name) for name in PRETRAINING_FIELDS if hasattr(preset, name)}


def start_facts(start: str | None) -> dict[str, Any]:
    """What a run's record says about the checkpoint it starts from, including the checkpoint's own record, if any."""
    # A folder is named by its full path: "runs/mine" could be mistaken for a repository on the Hub.
    source = str(Path(start).resolve()) if start and Path(start).exists() else start
    return {"source": source, "record": read_record(start) if start else None}


def hours_seen_by(start: str) -> float | None:
    """Hours of audio that the pretraining of a local model, or of a checkpoint of a run, had seen; None if unknown.

    Those of the models that it started from count too.
    """
    record, state = read_record(start), Path(start, TRAINER_STATE_NAME)
    if record and record["hours_seen"]:
        return _hours_of(record)
    if not state.exists():
        return None
    tally = read_json(state, "the state of a training").get("stateful_callbacks", {}).get(Tally.__name__)
    run = read_record(Path(start).parent)
    before = _hours_of(run["start"]["record"]) if run and run["start"]["record"] else 0.0
    return tally["attributes"]["samples_seen"] / SAMPLE_RATE / 3600 + before if tally else None


def _hours_of(record: Record) -> float:
    """Hours that a run's model has seen, and those of its starts before."""
    before = record["start"]["record"]
    return (record["hours_seen"] or 0.0) + (_hours_of(before) if before else 0.0)
