"""A pretraining run from its parts: model, checks, training, record."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import Wav2Vec2FeatureExtractor

from hf_ssl_speech.models.classes import CONFIGS, model_class
from hf_ssl_speech.models.encoder import SSLSpeechModel
from hf_ssl_speech.models.pretraining import SSLSpeechForPreTraining
from hf_ssl_speech.recipes.inputs import SpeechDataArguments, SpeechModelArguments
from hf_ssl_speech.recipes.running import preflight, take_folder, tell, train_and_record
from hf_ssl_speech.recipes.splits import Split, hold_out, load_split
from hf_ssl_speech.recipes.starting_points import (
    find_objective,
    is_stock,
    load_start,
    published_recipe,
    start_facts,
    stock_config,
)
from hf_ssl_speech.recipes.unit_labels import UnitLabels
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments
from hf_ssl_speech.training.checks import refuse_config
from hf_ssl_speech.training.distillation import SpeechDistiller
from hf_ssl_speech.training.findings import Finding, of_level
from hf_ssl_speech.training.given_data import facts_of
from hf_ssl_speech.training.lock import hold
from hf_ssl_speech.training.pretrainer import SOUNDS, SpeechPreTrainer
from hf_ssl_speech.training.resume import run_identity
from hf_ssl_speech.training.trainer_settings import refuse_metric

logger = logging.getLogger(__name__)


def make_model(model_args: SpeechModelArguments, *, fresh_head: bool = False, **fields: Any) -> SSLSpeechForPreTraining:
    """The model to train: a preset, or the weights of a checkpoint, ours or stock.

    Masks, dropout and losses in a stock checkpoint's config are meant for fine-tuning or missing, so the paper's
    settings are used instead. A checkpoint that predicts another number of units gives its encoder only.

    Args:
        fresh_head: Whether to take the encoder only in any case, as for units that have another meaning.
        fields: Fields of the configuration that the data decides; those of `model_args` override them.
    Raises:
        ValueError: If there is no such checkpoint, its kind or objective is another one, a field is unknown, or the
            configuration makes learning impossible.
    """
    start, config_class = model_args.model_name_or_path, CONFIGS[find_objective(model_args)]
    pretraining_class = model_class(config_class, "AutoModelForPreTraining")
    config_class.check_names(model_args.config)
    fields |= model_args.config
    attention = {"attn_implementation": model_args.attn_implementation}
    if start:
        theirs = stock_config(start)
        if is_stock(theirs):
            fields = published_recipe(theirs) | fields
        theirs, ours = (each.get("num_units") for each in (theirs.to_dict(), fields))
        if fresh_head or (theirs and ours and list(theirs) != list(ours)):
            model, fresh = load_encoder(pretraining_class, start, **attention, **fields)
        else:
            model, fresh = load_start(pretraining_class, start, **attention, **fields)
        if is_stock(theirs) and hasattr(model, "quantizer") and "gumbel_temperature_start" not in model_args.config:
            start_temperature(model, fresh)
    else:
        model = pretraining_class._from_config(config_class.preset(model_args.preset, **fields), **attention)
    refuse_config(model.config, predicts_hidden=True)
    logger.info(f"{pretraining_class.__name__}, {model.num_parameters():,} parameters, from {start or 'fresh weights'}")
    return model


def load_encoder(
    pretraining_class: type[SSLSpeechForPreTraining], start: str, *, attn_implementation: str | None, **fields: Any
) -> tuple[SSLSpeechForPreTraining, list[str]]:
    """The encoder of a checkpoint, ours or stock, with fresh weights for all that is above it.

    Returns:
        The model, and the modules with fresh weights.
    """
    config = pretraining_class.config_class.from_pretrained(start, **fields)
    model = pretraining_class._from_config(config, attn_implementation=attn_implementation)
    encoder, fresh = load_start(type(model.base_model), start, tell=False, **fields)
    model.base_model.load_state_dict(encoder.state_dict())
    logger.info(f"The head for {fields.get('num_units')} units starts fresh: only the encoder comes from {start}.")
    return model, fresh + [name for name, _ in model.named_children() if name != model.base_model_prefix]


def start_temperature(model: SSLSpeechForPreTraining, fresh: Sequence[str]):
    """Makes a trained codebook begin at the Gumbel temperature that its training ended with.

    Args:
        fresh: Modules whose weights are new.
    """
    if not any(name.startswith("quantizer") for name in fresh):
        model.config.gumbel_temperature_start = model.config.gumbel_temperature_end


def load_data(
    model: SSLSpeechForPreTraining,
    data_args: SpeechDataArguments,
    args: SpeechPreTrainingArguments,
    unit_columns: Sequence[str] = (),
) -> tuple[Split, Split]:
    """Training and validation rows of a run, whose folder is held from now on.

    Raises:
        ValueError: If the rows can't be used, or the run shall be evaluated without any, or by what is not measured.
    """
    refuse_metric(args, model.metric_names)
    if args.eval_strategy != "no" and not (data_args.validation_data or data_args.validation_share):
        raise ValueError(
            f"eval_strategy is {args.eval_strategy.value}, but there is nothing to evaluate on: give validation_data "
            "or validation_share."
        )
    if not args.preflight_only:
        hold(args.output_dir)
    train = load_split("train", data_args, args, need=unit_columns)
    return hold_out(train, load_split("validation", data_args, args, need=unit_columns, beside=train), data_args)


def identify(
    model: SSLSpeechForPreTraining,
    args: SpeechPreTrainingArguments,
    train: Split,
    validation: Split = Split(),
    units: UnitLabels | None = None,
) -> dict[str, Any]:
    """What identifies a run: model, data, units and recipe."""
    fingerprints = {"train": train.facts["fingerprint"]}
    if validation.facts:
        fingerprints["validation"] = validation.facts["fingerprint"]
    if units:
        fingerprints["units"] = units.fingerprint
        if not units.sets and isinstance(train.rows, Dataset):
            fingerprints["unit_columns"] = fingerprint_columns(train.rows, units.columns)
    return run_identity(model.config, fingerprints, args)


def fingerprint_columns(dataset: Dataset, columns: Sequence[str]) -> str:
    """Of the units that came with the data: other labels make another run."""
    digest = hashlib.sha256()
    for batch in dataset.select_columns(list(columns)).with_format("arrow").iter(1000):
        for column in columns:
            digest.update(batch[column].combine_chunks().flatten().to_numpy().astype(np.int64).tobytes())
    return digest.hexdigest()[:16]


def pretrain(
    model: SSLSpeechForPreTraining,
    args: SpeechPreTrainingArguments,
    train: Split,
    validation: Split = Split(),
    *,
    processing_class: Wav2Vec2FeatureExtractor | None = None,
    units: UnitLabels | None = None,
    start: str | None = None,
    teacher: SSLSpeechModel | None = None,
) -> SpeechPreTrainer:
    """Checks, trains (continuing an interrupted run), and saves model and record.

    Args:
        train, validation: Rows and facts, as `load_split` gives them; for HuBERT with their units, as
            `UnitLabels.label` leaves them.
        units: HuBERT: which units the rows have.
        start: The model's starting point, for the record; None for fresh weights.
        teacher: Of a student.
    Returns:
        The trainer after the training; with `preflight_only`, after the checks.
    Raises:
        ValueError: If a check before the run fails, or the output folder holds another run.
        UnhealthyRun: If the run has gone wrong (see `training/health.py`).
    """
    facts = {"train": train.facts} | ({"validation": validation.facts} if validation.facts else {})
    if validation.rows is not None and args.eval_strategy == "no":
        logger.warning("eval_strategy is 'no': the validation data is prepared, but never evaluated.")
    findings = check_units(model, units, train, validation)
    if of_level(findings, "error"):  # no batch can be made
        tell(findings, args)
    identity = {"start": start, **identify(model, args, train, validation, units)}
    checkpoint, origin = take_folder(identity, args)
    collator_settings = {"unit_columns": units.columns} if units else None
    trainer_class = partial(SpeechDistiller, teacher=teacher) if teacher else SpeechPreTrainer
    data = {"train_dataset": train.rows, "eval_dataset": validation.rows, "collator_settings": collator_settings}
    trainer = trainer_class(model, args=args, processing_class=processing_class, **data)
    facts |= {name: facts_of(given) for name, given in trainer.given.items() if name in SOUNDS}
    preflight(trainer, {"identity": identity, "data": facts}, [*findings, origin])
    if not args.preflight_only:
        more = {"start": start_facts(start)} if start else None
        train_and_record(trainer, checkpoint, identity, facts, more)
    return trainer


def check_units(
    model: SSLSpeechForPreTraining, units: UnitLabels | None, train: Split, validation: Split
) -> list[Finding]:
    """Whether all rows have the units that the model is to predict; nothing for wav2vec 2.0."""
    if units is None:
        return []

    def examine() -> str:
        for split in (train, validation):
            units.check(split.rows, model.config)
        return f"{', '.join(map(str, model.config.num_units))} units, one for each frame of every row"

    return [Finding.of("units", examine)]
