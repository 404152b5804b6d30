"""A pretraining run from its parts: checks, training, record; what the scripts and the HuBERT ladder call."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from transformers import TrainerCallback, Wav2Vec2FeatureExtractor

from hf_ssl_speech.data.loading import load_speech, prepare_speech, prepare_stream
from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.pretraining import (
    SSLHubertForPreTraining,
    SSLSpeechForPreTraining,
    SSLWav2Vec2ForPreTraining,
)
from hf_ssl_speech.training.arguments import SpeechDataArguments, SpeechModelArguments, SpeechPreTrainingArguments
from hf_ssl_speech.training.callbacks import UnhealthyRun
from hf_ssl_speech.training.preflight import check_disk, check_masks, find_checkpoint, run_identity
from hf_ssl_speech.training.record import RecordKeeper, split_facts, stream_facts
from hf_ssl_speech.training.trainer import SpeechPreTrainer, SpeechTrainer
from hf_ssl_speech.training.unit_labels import UnitLabels

logger = logging.getLogger(__name__)

OBJECTIVES = {
    "wav2vec2": (SSLWav2Vec2Config, SSLWav2Vec2ForPreTraining),
    "hubert": (SSLHubertConfig, SSLHubertForPreTraining),
}
# Rows and what the run's record says of them; both None for a validation set that is not asked for.
Split = tuple[Dataset | IterableDataset | None, dict[str, Any] | None]


def load_split(
    split: str, data_args: SpeechDataArguments, args: Any, keep: Sequence[str] = (), need: Sequence[str] = ()
) -> Split:
    """Loads and prepares `train` or `validation`; rows that can't be used are named, counted and left out.

    Args:
        args: Whose `min_seconds` and `seed` hold: the settings of a training, or of a script.
        keep: Columns to keep if the data has them.
        need: Columns that must be there, as those of `data_args.unit_columns` must.
    Returns:
        The rows and what the run's record says of them; both None for a validation set that is not asked for.
    """
    source = getattr(data_args, f"{split}_data")
    if not source:
        return None, None
    streaming = data_args.streaming and split == "train"
    with PartialState().local_main_process_first():
        dataset = load_speech(
            source,
            split=getattr(data_args, f"{split}_split"),
            name=data_args.dataset_config,
            streaming=streaming,
            audio_column=data_args.audio_column,
        )
        kept = [*need, *(data_args.unit_columns or ()), *(column for column in keep if column in dataset.column_names)]
        if streaming:
            # Only the order of the shards: rows are shuffled after they are decoded, in the buffer that batches them.
            dataset = dataset.shuffle(seed=args.seed, buffer_size=1)
            return prepare_stream(dataset, min_seconds=args.min_seconds, keep=kept), stream_facts(source)
        dataset, report = prepare_speech(
            dataset,
            min_seconds=args.min_seconds,
            cache=data_args.cache_audio,
            num_proc=data_args.prepare_workers,
            keep=kept,
        )
    facts = split_facts(source, dataset, report)
    logger.info(f"{split}: {facts['rows']:,} utterances, {facts['hours']:.2f} hours. {report}")
    return dataset, facts


def make_model(model_args: SpeechModelArguments, **fields: Any) -> SSLSpeechForPreTraining:
    """The model to train: a preset, or the weights of a checkpoint, ours or stock.

    Args:
        fields: Fields of the configuration that the data decides; those of `model_args` win.
    """
    config_class, model_class = OBJECTIVES[model_args.objective]
    fields |= model_args.config
    attention = {"attn_implementation": model_args.attn_implementation}
    if model_args.model_name_or_path:
        # Whatever precision the checkpoint was saved in, the weights that are trained are float32.
        source = model_args.model_name_or_path
        model = model_class.from_pretrained(source, dtype=torch.float32, **attention, **fields)
    else:
        model = model_class._from_config(config_class.preset(model_args.preset, **fields), **attention)
    logger.info(f"{model_class.__name__}, {model.num_parameters():,} parameters")
    return model


def identify(
    model: SSLSpeechForPreTraining,
    args: SpeechPreTrainingArguments,
    train: Split,
    validation: Split = (None, None),
    units: UnitLabels | None = None,
) -> dict[str, Any]:
    """What makes a run this run: model, data, units and recipe."""
    fingerprints = {"train": train[1]["fingerprint"]}
    if validation[1]:
        fingerprints["validation"] = validation[1]["fingerprint"]
    if units:
        fingerprints["units"] = units.fingerprint
        if not units.sets and isinstance(train[0], Dataset):
            fingerprints["unit_columns"] = fingerprint_columns(train[0], units.columns)
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
    validation: Split = (None, None),
    *,
    processing_class: Wav2Vec2FeatureExtractor | None = None,
    units: UnitLabels | None = None,
) -> SpeechPreTrainer:
    """Checks, trains, going on where an earlier start of this run stopped, and saves model and record.

    Args:
        train, validation: Rows and facts, as `load_split` gives them; for HuBERT with their units, as
            `UnitLabels.label` leaves them.
        units: HuBERT: which units the rows have.
    Returns:
        The trainer, its work done.
    Raises:
        ValueError: If the masks or the units do not fit the audio, the disk is too full, or the output folder holds
            another run.
        UnhealthyRun: If the loss is no number any more, or a codebook collapsed.
    """
    facts = {"train": train[1]} | ({"validation": validation[1]} if validation[1] else {})
    check_masks(model.config, args.min_seconds)
    if units:
        for rows, _ in (train, validation):
            units.check(rows, model.config)
    check_disk(model, args)
    identity = identify(model, args, train, validation, units)
    checkpoint = find_checkpoint(identity, args)
    collator_settings = {"unit_columns": units.columns} if units else None
    trainer = SpeechPreTrainer(model, args, train[0], validation[0], processing_class, collator_settings)
    train_and_record(trainer, checkpoint, identity, facts)
    return trainer


def train_and_record(
    trainer: SpeechTrainer,
    checkpoint: str | None,
    identity: dict[str, Any],
    facts: dict[str, dict[str, Any]],
    more: dict[str, Any] | None = None,
):
    """Trains from a checkpoint or from the start, and saves model and record.

    Args:
        identity, facts, more: As `RecordKeeper` takes them; `facts` are those of the splits.
    """
    trainer.add_callback(SaveModel(trainer))
    keeper = RecordKeeper(trainer, identity, facts, more)
    trainer.add_callback(keeper)
    if checkpoint:
        logger.info(f"Going on from {checkpoint}")
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except UnhealthyRun as cause:
        keeper.keep("failed", str(cause))
        raise
    logger.info(left_out(facts, trainer.skipped_rows))
    logger.info(f"The model, run.json and training.png are in {trainer.args.output_dir}")


def left_out(facts: dict[str, dict[str, Any]], skipped_rows: dict[str, str]) -> str:
    """The closing line on audio that could not be used: beforehand by the record's facts, and while training."""
    reports = {split: fact["skipped"] for split, fact in facts.items() if "skipped" in fact}
    counts = [f"{report['num_skipped']:,} of {report['total']:,} {split} rows" for split, report in reports.items()]
    while_training = "; ".join(f"{name} ({reason})" for name, reason in sorted(skipped_rows.items()))
    return f"Left out beforehand: {', '.join(counts) or 'not counted'}. While training: {while_training or 'none'}."


class SaveModel(TrainerCallback):
    """Saves the final model, before the record says that the run is complete."""

    def __init__(self, trainer: SpeechPreTrainer):
        self.trainer = trainer

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.save_model()
