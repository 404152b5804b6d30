"""Which units HuBERT predicts: columns that the data already has, or labels made with unit sets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, IterableDataset

from hf_ssl_speech.data.collators import HubertPretrainingCollator
from hf_ssl_speech.data.feature_description import FeatureDescription
from hf_ssl_speech.data.features import ROWS_AT_ONCE, rows_of
from hf_ssl_speech.models.configuration import SSLHubertConfig
from hf_ssl_speech.recipes.inputs import SpeechModelArguments, SpeechPreTrainingDataArguments
from hf_ssl_speech.recipes.splits import Split
from hf_ssl_speech.recipes.starting_points import find_objective, is_stock, stock_config
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments
from hf_ssl_speech.training.precision import encoder_dtype
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.labelling import add_units


@dataclass(frozen=True)
class UnitLabels:
    """The units of a run.

    Attributes:
        columns: Columns of the rows, one per unit set.
        sets: The unit sets they are made with, in the same order; none if the data came with the columns.
        sources: Where the sets were loaded from.
    """

    columns: tuple[str, ...]
    sets: tuple[KMeansUnits, ...] = ()
    sources: tuple[str, ...] = ()

    @classmethod
    def load(cls, model_args: SpeechModelArguments, data_args: SpeechPreTrainingDataArguments) -> UnitLabels | None:
        """The units that the arguments ask for; None for wav2vec 2.0, which needs none.

        Raises:
            ValueError: If HuBERT gets neither unit sets nor columns, or both, if a unit set is not found, or if the
                number of units in the columns is unknown.
        """
        sets, columns = data_args.units, data_args.unit_columns
        if find_objective(model_args) != "hubert":
            if sets or columns:
                raise ValueError("wav2vec 2.0 needs no units: leave them out, or set `objective: hubert`.")
            return None
        if bool(sets) == bool(columns):
            raise ValueError(
                "HuBERT needs either `units` (unit sets to label the audio with, as `hf-ssl-speech units` makes them) "
                f"or `unit_columns` (columns of units in the data), but {'both' if sets else 'neither'} were given."
            )
        if sets:
            return cls.from_sets(sets)
        start = model_args.model_name_or_path
        if "num_units" not in model_args.config and (not start or is_stock(stock_config(start))):
            raise ValueError(
                f"The number of units in the columns {', '.join(columns)} is unknown. Give it in the model's config: "
                "--config '{\"num_units\": [100]}', one number for each column."
            )
        return cls(tuple(columns))

    @classmethod
    def from_sets(cls, sources: list[str]) -> UnitLabels:
        """Labels made with the unit sets in these folders or Hub repositories."""
        columns = ("units",) if len(sources) == 1 else tuple(f"units_{number}" for number, _ in enumerate(sources, 1))
        try:
            return cls(columns, tuple(map(KMeansUnits.from_pretrained, sources)), tuple(map(str, sources)))
        except OSError as error:
            raise ValueError(f"No unit set can be loaded: {error}") from error

    @property
    def config_fields(self) -> dict[str, Any]:
        """What the model's config takes from the unit sets."""
        return {"num_units": [units.num_units for units in self.sets]} if self.sets else {}

    @property
    def fingerprint(self) -> str:
        """A fingerprint of all centroids and their features; without sets, the names of the columns."""
        digest = hashlib.sha256(" ".join(self.columns).encode())
        for units in self.sets:
            digest.update(units.centroids.numpy().tobytes())
            digest.update(str(units.features.weights_hash).encode())
        return digest.hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """What the run's record says about the units."""
        sets = [
            {"source": source, "num_units": units.num_units, "features": str(units.features), **units.facts}
            for source, units in zip(self.sources, self.sets)
        ]
        return {"columns": self.columns, "fingerprint": self.fingerprint, "sets": sets}

    def label(self, split: Split, args: SpeechPreTrainingArguments) -> Split:
        """Adds the units to the rows of a split and to its facts; all processes call this and share the work."""
        dataset, facts = split
        if dataset is None:
            return split
        before = dataset
        for column, units in zip(self.columns, self.sets):
            # A stream is labelled where its rows are read, in worker processes, which have no GPU.
            device = "cpu" if isinstance(dataset, IterableDataset) else args.device
            bf16 = "auto" if args.bf16 else False  # this device may not compute what the training's does
            source = units.open_features(device=device, autocast_dtype=encoder_dtype(bf16, torch.device(device)))
            dataset = add_units(dataset, units, column=column, source=source, together=True)
        facts = facts | {"units": self.facts()}
        if isinstance(dataset, Dataset) and len(dataset) < len(before):
            lost = sorted(set(before["name"][:]) - set(dataset["name"][:]))
            facts |= {"rows": len(dataset), "skipped_while_labelling": lost}
        return Split(dataset, facts)

    def check_rate(self, config: SSLHubertConfig):
        """Checks that there is a unit for each frame of the model; this needs no data.

        Raises:
            ValueError: If a unit set has another frame rate.
        """
        for units in self.sets:
            check_label_rate(units.features, config)

    def check(self, dataset: Dataset | IterableDataset | None, config: SSLHubertConfig):
        """Checks that the model can learn these units; rows of a stream are checked when they are read.

        Raises:
            ValueError: If the config has other numbers of units, or a row has units at another frame rate than the
                model's or above the config's number.
        """
        self.check_rate(config)
        collator = HubertPretrainingCollator(config, unit_columns=self.columns, normalize=False)
        if isinstance(dataset, Dataset):
            rows = dataset.select_columns(["name", "num_samples", *self.columns]).with_format("numpy")
            for batch in rows.iter(ROWS_AT_ONCE):
                for row in rows_of(batch):
                    collator.units(row)


def check_label_rate(features: FeatureDescription, config: SSLHubertConfig):
    """Checks that these features give one label for each frame of a model, for audio of any length.

    Raises:
        ValueError: If they are not.
    """
    frame = (features.hop_samples, features.window_samples)
    if frame != (config.inputs_to_logits_ratio, config.window_samples):
        raise ValueError(
            f"{features} makes a unit every {frame[0]} samples from {frame[1]}, but the model makes a frame every "
            f"{config.inputs_to_logits_ratio} from {config.window_samples}. Fit units at the model's frame rate: of "
            "MFCC take every second frame."
        )
