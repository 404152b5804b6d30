"""Probes of frozen encoders and of features that were not learnt: data, features, training, scores, records."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModel, set_seed

from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.data.features import MfccFeatures, SpeechFeatures
from hf_ssl_speech.evaluation.probe_features import EveryHiddenState, Frames, MelFeatures, collect_frames
from hf_ssl_speech.evaluation.probes import Probe, Targets, error_rate, errors, fit_probe
from hf_ssl_speech.models.classes import config_class_of, model_class
from hf_ssl_speech.recipes.arguments import ProbeArguments, named
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.recipes.probing_report import write_report
from hf_ssl_speech.recipes.splits import Split, hold_out, load_split, part_facts, with_a_share, with_test
from hf_ssl_speech.recipes.stages import is_complete
from hf_ssl_speech.recipes.starting_points import load_start, start_facts, stock_config
from hf_ssl_speech.records import new_record, write_record
from hf_ssl_speech.units.phones import sequence_of

logger = logging.getLogger(__name__)

# SUPERB's names for the tasks of these columns.
TASKS = {"phones": "PR", "speaker": "SID", "language": "LID", "text": "KS", "keyword": "KS", "emotion": "ER"}
BLANK_NAME = "<blank>"
HELD_OUT = "held_out"


@dataclass(frozen=True)
class Source:
    """Features to probe: their source, their number of layers, and the checkpoint they come from, if any."""

    name: str
    features: SpeechFeatures
    layers: int
    checkpoint: str | None = None


class Probing:
    """Probes every encoder and baseline for one task, and writes records, the models and the report.

    Args:
        data_args: Training and validation data. Without validation data, some of the training rows are held out for it.
        args: The encoders, the task and the settings of the training.
        device: The device that computes the features.
    Raises:
        ValueError: If the data can't be used, has no such column, or all rows have one label.
    """

    def __init__(self, data_args: SpeechDataArguments, args: ProbeArguments, device: torch.device):
        self.data_args, self.args, self.device = data_args, args, device
        self.task = args.task or TASKS.get(args.label_column, args.label_column)
        for checkpoint in named(args.encoders).values():  # errors in one show before the data is prepared
            stock_config(checkpoint)
        self.splits, self.targets = self.load()

    def run(self):
        """Probes all features that are not probed yet, and writes the report after each."""
        for source in self.sources():
            folder = Path(self.args.output_dir, self.task, source.name)
            identity = self.identify(source)
            if is_complete(folder, identity):
                logger.info(f"{self.task}, {source.name}: complete")
                continue
            self.probe(source, folder, identity)
            logger.info(f"The report is {write_report(self.args.output_dir)}")

    # Data ----------------------------------------------------------------------------------------------------------

    def load(self) -> tuple[dict[str, Split], dict[str, Targets]]:
        """Rows and targets of train, validation and test."""
        args, data_args, column = self.args, self.data_args, self.args.label_column
        held_out = args.test_split == HELD_OUT
        test_args = None if held_out else with_test(data_args, args.test_data, args.test_split)
        data_args = with_a_share(data_args)
        train = load_split("train", data_args, args, need=[column])
        validation = load_split("validation", data_args, args, need=[column], beside=train)
        train, validation = hold_out(train, validation, data_args)
        test = load_split("test", test_args, args, need=[column]) if test_args else Split()
        train, test = hold_out(train, test, data_args)
        splits = {"train": train, "validation": validation, "test": test}
        classes: list[str] = []
        targets = {}
        for part, split in splits.items():
            labels = read_labels(split.rows, column, args.silence)
            labelled = [place for place, label in enumerate(labels) if label]
            if not labelled:
                raise ValueError(f"No {part} row has a label in the column {column!r}.")
            if len(labelled) < len(labels):
                logger.info(f"{part}: {len(labels) - len(labelled):,} rows without a label are left out")
            rows = split.rows.select(labelled)
            splits[part] = Split(rows, part_facts(split.facts, rows))
            labels = [labels[place] for place in labelled]
            classes = classes or classes_of(labels, column)
            targets[part] = make_targets(labels, classes, part)
        logger.info(f"{self.task}: {len(classes):,} classes in {len(targets['train'].rows):,} training rows")
        return splits, targets

    def sources(self) -> Iterator[Source]:
        """The features to probe, loaded one after the other."""
        args, encoders = self.args, named(self.args.encoders)
        settings = {"device": self.device, "batch_seconds": args.batch_seconds}
        for name, checkpoint in encoders.items():
            features = EveryHiddenState.from_pretrained(checkpoint, 0, **settings)
            yield Source(name, features, features.layer + 1, checkpoint)
        for name in args.baselines:
            if name == "mfcc":
                yield Source(name, MfccFeatures(every=1, device=self.device), 1)
            elif name == "mel":
                yield Source(name, MelFeatures(device=self.device), 1)
            elif encoders:
                first = next(iter(encoders.values()))
                set_seed(args.seed)
                model = AutoModel.from_config(stock_config(first)).to(self.device)
                normalize = feature_extractor_for(model.config, first).do_normalize
                features = EveryHiddenState(
                    model, normalize=normalize, encoder="fresh weights", batch_seconds=args.batch_seconds
                )
                yield Source(name, features, features.layer + 1)

    # Work ----------------------------------------------------------------------------------------------------------

    def identify(self, source: Source) -> dict[str, Any]:
        """Everything that the scores depend on."""
        features, settings = source.features.description, vars(self.args)
        names = ("label_column", "pooling", "projected", "updates", "batch_rows", "learning_rates", "seed", "silence")
        return {
            "stage": "probe",
            "features": {name: getattr(features, name) for name in ("kind", "width", "hop_samples", "weights_hash")},
            **{name: settings[name] for name in names},
            "data": {part: split.facts["fingerprint"] for part, split in self.splits.items()},
            "classes": self.targets["train"].names,
        }

    def probe(self, source: Source, folder: Path, identity: dict[str, Any]):
        """Computes the features of one source, trains, scores, and writes record and model."""
        args, started = self.args, time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        is_sequence, progress = self.targets["train"].is_sequence, not args.disable_tqdm
        pooling = None if is_sequence else args.pooling
        found: dict[str, tuple[Frames, Targets]] = {}
        for part, split in self.splits.items():
            frames = collect_frames(
                split.rows, source.features, source.layers,
                averaged=pooling == "mean", folder=folder, progress=progress,
            )  # fmt: skip
            found[part] = frames, self.targets[part].select(frames.places)
        probe, chosen = fit_probe(
            found["train"],
            found["validation"],
            projected=args.projected,
            pooling=pooling,
            updates=args.updates,
            batch_rows=args.batch_rows,
            learning_rates=args.learning_rates,
            seed=args.seed,
            progress=progress,
        )
        rate = error_rate(*errors(probe, *found["test"], args.batch_rows), seed=args.seed)
        measure = "phone error rate" if args.label_column == "phones" else "error rate"
        logger.info(
            f"{self.task}, {source.name}: {measure if is_sequence else 'accuracy'} "
            f"{rate['value'] if is_sequence else 1 - rate['value']:.1%} on test"
        )
        if source.checkpoint and not is_sequence:
            save_classifier(probe, source.checkpoint, self.targets["train"].names, args.pooling, folder)
        record = new_record(
            "complete",
            identity,
            seconds=time.perf_counter() - started,
            device=self.device,
            processes=1,
            task="probe",
            start=start_facts(source.checkpoint),
            data={part: split.facts for part, split in self.splits.items()},
            skipped=source.features.skipped,
            probe={
                "task": self.task,
                "features": str(source.features.description),
                "label_column": args.label_column,
                "classes": self.targets["train"].names,
                "is_sequence": is_sequence,
                "pooling": pooling,
                "error": rate,
                "layer_weights": probe.layer_weights.detach().softmax(-1).tolist(),
                "parameters": sum(weight.numel() for weight in probe.parameters()),
                **chosen,
            },
        )
        write_record(record, folder)


def read_labels(rows: Dataset, column: str, silence: list[str]) -> list[str] | list[list[str]]:
    """The label of each row as text, or its sequence of phones without silence; empty where it has none.

    Raises:
        ValueError: If the column holds neither classes nor phones.
    """
    labels: list[Any] = []
    for name, value in zip(rows["name"], rows.with_format(None)[column][:]):
        if isinstance(value, (list, tuple)):
            phones = sequence_of(value, silence)
            if phones is None:
                raise ValueError(f"{name} has something else than phones, or texts, in the column {column!r}.")
            labels.append(phones)
        elif isinstance(value, (dict, bytes, float)):
            raise ValueError(f"{name} has {type(value).__name__} in the column {column!r}: expected a class.")
        else:
            labels.append("" if value is None else str(value))
    return labels


def classes_of(labels: list[str] | list[list[str]], column: str) -> list[str]:
    """The classes among the training labels; for sequences, the blank of CTC comes first.

    Raises:
        ValueError: If there is only one class, so that nothing can be told apart.
    """
    is_sequence = isinstance(labels[0], list)
    found = sorted({each for label in labels for each in (label if is_sequence else [label])})
    if len(found) < 2:
        raise ValueError(
            f"Every training row has {found[0]!r} in the column {column!r}: there is nothing to tell apart."
        )
    return [BLANK_NAME, *found] if is_sequence else found


def make_targets(labels: list[str] | list[list[str]], classes: list[str], part: str) -> Targets:
    """Labels as numbers. A label that no training row has always counts as an error.

    Raises:
        ValueError: If none of the labels is among those of the training rows.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    is_sequence = isinstance(labels[0], list)
    each = [one for label in labels for one in (label if is_sequence else [label])]
    unknown = Counter(one for one in each if one not in numbers)
    if unknown.total() == len(each):
        raise ValueError(
            f"None of the labels of the {part} rows ({', '.join(list(unknown)[:5])}, ...) is among those of the "
            f"training rows: give {part}_data with the same classes, or hold rows out (test_split {HELD_OUT})."
        )
    if unknown:
        logger.warning(f"{part}: {unknown.total():,} labels are not among the training rows', and count as errors")
    if is_sequence:
        return Targets([[numbers.get(one, len(classes)) for one in label] for label in labels], classes, True)
    return Targets([numbers.get(label, -1) for label in labels], classes, False)


def save_classifier(probe: Probe, checkpoint: str, classes: list[str], pooling: str, folder: Path):
    """Writes the encoder with the probe as its head: a model for the pipeline, or to be fine-tuned as a whole."""
    config_class = config_class_of(stock_config(checkpoint).model_type)
    model, _ = load_start(
        model_class(config_class, "AutoModelForAudioClassification"),
        checkpoint,
        tell=False,
        use_weighted_layer_sum=True,
        classifier_proj_size=probe.projector.out_features,
        classifier_pooling=pooling,
        num_labels=len(classes),
        id2label=dict(enumerate(classes)),
        label2id={name: number for number, name in enumerate(classes)},
    )
    model.load_state_dict(probe.weights_of_head(), strict=False)
    model.save_pretrained(folder)
    feature_extractor_for(model.config, checkpoint).save_pretrained(folder)
