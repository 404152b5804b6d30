"""A fine-tuning run from its parts: transcripts, recogniser, checks, training, record."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedConfig, Wav2Vec2FeatureExtractor, Wav2Vec2Processor
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_ssl_speech.data.data_facts import SkipReport, split_facts
from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.models.classes import CONFIGS, model_class
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.heads import SSLSpeechForCTC
from hf_ssl_speech.recipes.inputs import SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments
from hf_ssl_speech.recipes.running import preflight, take_folder, train_and_record
from hf_ssl_speech.recipes.splits import Split, check_skipped, load_split
from hf_ssl_speech.recipes.starting_points import (
    find_objective,
    is_recognizer,
    load_start,
    start_facts,
    stock_config,
)
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.recognition.text import (
    AS_WRITTEN,
    add_labels,
    holds_phones,
    make_processor,
    rare_tokens,
    read_texts,
    text_facts,
)
from hf_ssl_speech.recognition.transcript import Alphabet
from hf_ssl_speech.recognition.transcription import load_normalization, load_processor
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments
from hf_ssl_speech.training.checks import check_transcripts, refuse_config
from hf_ssl_speech.training.ctc_trainer import SpeechCTCTrainer
from hf_ssl_speech.training.lora import add_lora, has_adapters, lora_settings
from hf_ssl_speech.training.resume import run_identity

logger = logging.getLogger(__name__)

# Characters of a new vocabulary that occur less often than this, too rarely to be learnt well, are named in the log.
SELDOM = 10


class Transcripts:
    """The transcripts of a run: how they are written and spelt, and what the record says of them.

    Attributes:
        processor: Tokenizer, and the feature extractor of the model to start from.
        normalization: How transcripts are written.
        facts: For the run's record: facts of the training rows, and under `validation` those of the validation rows.
    """

    def __init__(self, processor: Wav2Vec2Processor, normalization: TextNormalization, facts: dict[str, Any]):
        self.processor = processor
        self.normalization = normalization
        self.facts = {"normalization": normalization.to_dict(), **facts}

    @classmethod
    def given(
        cls, text_args: SpeechTextArguments, feature_extractor: Wav2Vec2FeatureExtractor, start: str | None
    ) -> Transcripts | None:
        """Those of `text_args.processor`, else of the CTC model to start from; None if there is no vocabulary yet.

        Args:
            start: The model's starting point; its vocabulary is ignored if `new_vocabulary` is set.
        Raises:
            ValueError: If the processor can't be loaded, or expects transcripts in another form.
        """
        has_vocabulary = start and not text_args.new_vocabulary and is_recognizer(start)
        source = text_args.processor or (start if has_vocabulary else None)
        if source is None:
            return None
        processor = load_processor(source)
        processor.feature_extractor = feature_extractor
        normalization = find_normalization(source, text_args, processor)
        return cls(processor, normalization, {"processor": source, "new_vocabulary": text_args.new_vocabulary})

    @classmethod
    def of_rows(
        cls, train: Split, text_args: SpeechTextArguments, feature_extractor: Wav2Vec2FeatureExtractor
    ) -> Transcripts:
        """Makes a vocabulary from the training transcripts: their characters, or phones where these are what they hold.

        Args:
            train: Rows with their transcripts as `text`.
        Raises:
            ValueError: If the transcripts are empty.
        """
        asked, fewest = asked_of_normalization(text_args), text_args.min_character_count
        apart = holds_phones(train.rows, "text")
        normalization = replace(AS_WRITTEN, **asked) if apart else TextNormalization(**asked)
        texts = list(map(normalization, read_texts(train.rows, "text")))
        processor = make_processor(texts, min_count=fewest, feature_extractor=feature_extractor, apart=apart)
        rare = rare_tokens(texts, fewest, apart)
        seldom = {each: count for each, count in rare_tokens(texts, SELDOM, apart).items() if each not in rare}
        for what, characters in (("left out of", rare), ("kept in", seldom)):
            if characters:
                named = ", ".join(f"{character} ({count})" for character, count in characters.items())
                logger.info(f"Rare characters, {what} the vocabulary: {named}")
        facts = {"processor": None, "new_vocabulary": text_args.new_vocabulary, "rare_characters": rare}
        return cls(processor, normalization, facts)

    def of_part(self, rows: Dataset, feature_extractor: Wav2Vec2FeatureExtractor) -> Transcripts:
        """The same spelling for a run with some of the labelled training rows, of a model with this feature extractor.

        Doubts stay those about all transcripts.
        """
        processor = Wav2Vec2Processor(feature_extractor=feature_extractor, tokenizer=self.processor.tokenizer)
        facts = text_facts(rows["text"][:]) | {"skipped": {}, "unknown_characters": {}}
        return Transcripts(processor, self.normalization, self.facts | facts)

    @property
    def config_fields(self) -> dict[str, Any]:
        """What the model's config takes from the tokenizer."""
        tokenizer = self.processor.tokenizer
        special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        return {"vocab_size": len(tokenizer), **special}

    def config_fields_beside(self, head: PreTrainedConfig) -> dict[str, Any]:
        """What the config of a model with a trained head takes from the tokenizer: nothing that would change the head.

        A tokenizer may have special tokens that no output belongs to.

        Raises:
            ValueError: If the tokenizer does not fit the head.
        """
        Alphabet(self.processor.tokenizer, head)
        return {"vocab_size": head.vocab_size}

    def label(
        self,
        split: Split,
        which: str,
        config: SSLSpeechConfig,
        args: SpeechCTCTrainingArguments,
        data_args: SpeechDataArguments,
    ) -> Split:
        """The usable rows of `train` or `validation`, with labels; the others are named and counted.

        Raises:
            ValueError: If too many of all rows can't be used (`check_skipped`).
        """
        rows, facts = split
        if rows is None:
            return split
        own = self.facts.get("processor")
        hint = f" The vocabulary is that of {own}: set `new_vocabulary` for another language." if own else ""
        with PartialState().local_main_process_first():
            try:
                rows, report, found = add_labels(
                    rows,
                    self.processor.tokenizer,
                    self.normalization,
                    config,
                    max_seconds=args.max_seconds,
                )
            except ValueError as error:
                raise ValueError(f"{error}{hint}") from error
        earlier = facts["skipped"]
        report = SkipReport(earlier["total"], earlier["skipped"]).joined(report)
        logger.info(f"{which}: {found['words']:,} words in {found['rows']:,} transcripts. {report}")
        unknown = found["unknown_characters"]
        cause = f"Characters outside the vocabulary: {' '.join(unknown) or 'none'}.{hint if unknown else ''} "
        problem = check_skipped(report, which, data_args, args, cause)
        self.facts |= found if which == "train" else {which: found}
        self.facts["vocabulary"] = list(self.processor.tokenizer.get_vocab())
        return Split(rows, facts | split_facts(facts["source"], rows, report) | problem)


def load_transcribed(
    split: str,
    data_args: SpeechDataArguments,
    args: SpeechCTCTrainingArguments,
    text_args: SpeechTextArguments,
    beside: Split | None = None,
    keep: Sequence[str] = (),
) -> Split:
    """`load_split` of rows with transcripts; validation rows are compared with the training rows `beside`.

    Args:
        keep: More columns to keep if the data has them.
    Raises:
        ValueError: If there is no text column, or the data is to be streamed.
    """
    if data_args.streaming:
        raise ValueError("All transcripts are checked before training, so they can't be streamed: leave it out.")
    return load_split(split, data_args, args, keep, ["text"], beside=beside, text_column=text_args.text_column)


def find_normalization(source: str, text_args: SpeechTextArguments, processor: Wav2Vec2Processor) -> TextNormalization:
    """The normalisation in a processor's folder, else the one that fits its vocabulary and the arguments."""
    asked = asked_of_normalization(text_args)
    normalization = load_normalization(source, processor, **asked)
    # How labels end can be changed at any time, since it does not change the text.
    normalization = replace(normalization, final_delimiter=asked.pop("final_delimiter", normalization.final_delimiter))
    if replace(normalization, **asked) != normalization:
        raise ValueError(
            f"The processor of {source} expects transcripts normalised with {normalization.to_dict()}, but the "
            f"arguments ask for {asked}: leave them out, or set `new_vocabulary`."
        )
    logger.info(f"Transcripts are normalised with {normalization.to_dict()}")
    return normalization


def asked_of_normalization(text_args: SpeechTextArguments) -> dict[str, Any]:
    """The fields of `TextNormalization` that the arguments set to other values than their defaults."""
    values = {each.name: getattr(text_args, each.name) for each in dataclasses.fields(TextNormalization)}
    return {name: value for name, value in values.items() if value != getattr(SpeechTextArguments, name)}


def find_feature_extractor(model_args: SpeechCTCModelArguments) -> Wav2Vec2FeatureExtractor:
    """That of the model to start from; where it has none, or is new, the one that fits its config."""
    start = model_args.model_name_or_path
    if start:
        return feature_extractor_for(stock_config(start), start)
    config_class = CONFIGS[find_objective(model_args)]
    return feature_extractor_for(config_class.preset(model_args.preset, **model_args.config))


def make_recognizer(
    model_args: SpeechCTCModelArguments, transcripts: Transcripts | None, new_vocabulary: bool = False
) -> SSLSpeechForCTC:
    """The model to fine-tune: an encoder or a CTC model, ours or stock, or a preset with fresh weights.

    Args:
        model_args: With `lora`, the model comes in PEFT's wrapper.
        transcripts: They give the vocabulary. Without them the model is only a test, which shows other problems before
            the data is prepared.
        new_vocabulary: Whether the encoder of a CTC model gets a fresh head.
    Raises:
        ValueError: If the vocabulary of the checkpoint's head is not that of the transcripts.
    """
    fields = dict(model_args.config)
    attention = {"attn_implementation": model_args.attn_implementation}
    start, config_class = model_args.model_name_or_path, CONFIGS[find_objective(model_args)]
    recognizer_class = model_class(config_class, "AutoModelForCTC")
    if start:
        head = stock_config(start) if is_recognizer(start) else None
        if transcripts and head and not new_vocabulary:
            try:
                fields = transcripts.config_fields_beside(head) | fields
            except ValueError as error:
                raise ValueError(
                    f"The head of {start} has another vocabulary. {error} Leave out `processor` to keep the head's "
                    "vocabulary, or set `new_vocabulary` to start a fresh head on its encoder."
                ) from error
        elif transcripts:
            fields = transcripts.config_fields | fields
        config_class.check_names(fields)
        size = fields.pop("vocab_size", None) if head and new_vocabulary else None
        model, _ = load_start(recognizer_class, start, **attention, **fields)
        if head and new_vocabulary:
            model.renew_head(size or head.vocab_size)
    else:
        # The gradient scale that slows down the conv encoder in pretraining has no use here.
        fields = {"feature_gradient_scale": 1.0} | (transcripts.config_fields if transcripts else {}) | fields
        model = recognizer_class._from_config(config_class.preset(model_args.preset, **fields), **attention)
    refuse_config(model.config, predicts_hidden=False)
    if isinstance(model_args.lora, dict):
        if not start:
            raise ValueError("LoRA adapters need a pretrained encoder: give `model_name_or_path` with `lora`.")
        model = add_lora(model, **model_args.lora)
    return model


def settle(args: SpeechCTCTrainingArguments, validation: Split, start: str | None) -> SpeechCTCTrainingArguments:
    """The settings as they hold with fresh weights, or without validation rows; arguments as for `finetune`."""
    args = copy.copy(args)  # the caller's stay as they are
    if start is None and (args.freeze_conv_encoder or args.freeze_transformer_updates):
        logger.info("Fresh weights: nothing is frozen.")
        args.freeze_conv_encoder, args.freeze_transformer_updates = False, 0
    if validation.rows is None and args.eval_strategy != IntervalStrategy.NO:
        logger.info("Without validation_data the last model is saved, not the best.")
        args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
        if args.save_strategy == SaveStrategy.BEST:
            args.save_strategy = SaveStrategy.STEPS
        args.early_stopping_patience, args.calibrate_blank = None, False
    return args


def identify(
    model: SSLSpeechForCTC,
    args: SpeechCTCTrainingArguments,
    facts: dict[str, dict[str, Any]],
    transcripts: Transcripts,
    start: str | None,
) -> dict[str, Any]:
    """What makes a fine-tuning this one; arguments as for `finetune`, and the facts of each split that there is."""
    texts = {"train_text": transcripts.facts["fingerprint"], "normalization": transcripts.normalization.to_dict()}
    fingerprints = {split: fact["fingerprint"] for split, fact in facts.items()}
    identity = {"task": "ctc", "start": start, **run_identity(model.config, fingerprints | texts, args)}
    if transcripts.facts.get("new_vocabulary"):
        identity["new_vocabulary"] = True
    if has_adapters(model):
        identity["lora"] = lora_settings(model)
    return identity


def finetune(
    model: SSLSpeechForCTC,
    args: SpeechCTCTrainingArguments,
    train: Split,
    validation: Split,
    transcripts: Transcripts,
    start: str | None = None,
) -> SpeechCTCTrainer:
    """Checks, trains (continuing an interrupted run), and saves the best model and the record.

    Args:
        train, validation: Rows and facts, as `Transcripts.label` returns them. Without validation rows the last model
            is saved.
        start: The model's starting point; None for fresh weights, none of which are frozen.
    Returns:
        The trainer after the training; with `preflight_only`, after the checks.
    Raises:
        ValueError: If the head doesn't fit, a check before the run finds what forbids it, or the output folder holds
            another run.
        UnhealthyRun: If the run has gone wrong (see `training/health.py`).
    """
    learning = model.num_parameters(only_trainable=True)
    logger.info(
        f"CTC model from {start or 'fresh weights'}: {model.num_parameters():,} parameters"
        + (f", of which {learning:,} learn" if learning < model.num_parameters() else "")
    )
    args = settle(args, validation, start)
    facts = {"train": train.facts} | ({"validation": validation.facts} if validation.facts else {})
    identity = identify(model, args, facts, transcripts, start)
    checkpoint, origin = take_folder(identity, args)

    trainer = SpeechCTCTrainer(
        model,
        args,
        train.rows,
        validation.rows,
        processing_class=transcripts.processor,
        normalization=transcripts.normalization,
    )
    fit = check_transcripts(transcripts.facts, train.rows, model.config)
    preflight(trainer, {"task": "ctc", "identity": identity, "data": facts}, [fit, origin])
    if args.preflight_only:
        return trainer
    more = {"task": "ctc", "start": start_facts(start), "text": transcripts.facts}
    train_and_record(trainer, checkpoint, identity, facts, more)
    return trainer
