"""What pretraining buys: encoders kept along one run, fine-tuned, probed and clustered, on the same speech."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_ssl_speech.data.features import HiddenFeatures
from hf_ssl_speech.files import write_json
from hf_ssl_speech.recipes.arguments import LabelEfficiencyArguments, PayoffArguments, ProbeArguments
from hf_ssl_speech.recipes.inputs import SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments
from hf_ssl_speech.recipes.label_efficiency import LabelEfficiency
from hf_ssl_speech.recipes.payoff_report import LABELS, PROBES, STARTS_FILE, UNITS, write_report
from hf_ssl_speech.recipes.probing import Probing
from hf_ssl_speech.recipes.splits import Split, hold_out, load_split, with_a_share
from hf_ssl_speech.recipes.stages import run_stage
from hf_ssl_speech.recipes.starting_points import hours_seen_by
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments
from hf_ssl_speech.training.precision import encoder_dtype
from hf_ssl_speech.units.layers import compare_layers, first_hours

logger = logging.getLogger(__name__)


class Payoff:
    """Errors against minutes of labels, a probe of phones and the units of every layer, for each of several encoders.

    Each part is a run of its own recipe, in a folder under `args.output_dir`: `labels` (`LabelEfficiency`), `probe`
    (`Probing`) and `units` (`compare_layers`). What is complete there is read back. Probe and PNMI need the column
    `phones`; without it they are left out.

    Args:
        model_args, data_args, text_args, args, labels: As `LabelEfficiency` takes them.
        settings: Of the probe and the units.
        device: Where features are computed.
    Raises:
        ValueError: If the data can't be used, or the hours that a start had seen are unknown.
    """

    def __init__(
        self,
        model_args: SpeechCTCModelArguments,
        data_args: SpeechDataArguments,
        text_args: SpeechTextArguments,
        args: SpeechCTCTrainingArguments,
        labels: LabelEfficiencyArguments,
        settings: PayoffArguments,
        device: torch.device,
    ):
        self.folder, self.device = Path(args.output_dir), device
        self.data_args, self.args, self.labels, self.settings = data_args, args, labels, settings
        self.checkpoints = {name: start for name, start in labels.named_starts.items() if start}
        self.given = named_hours(settings.hours, self.checkpoints)
        self.hours = {name: self.hours_of(name, start) for name, start in self.checkpoints.items()}
        own = copy.copy(args)
        own.output_dir = str(self.folder / LABELS)
        self.efficiency = LabelEfficiency(model_args, data_args, text_args, own, labels)
        train = load_split("train", data_args, args, keep=["phones"])
        validation = load_split("validation", data_args, args, keep=["phones"], beside=train)
        self.train, self.validation = hold_out(train, validation, with_a_share(data_args))

    def run(self):
        """Does what is not done yet, and writes the report after each part."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json({"starts": self.checkpoints, "hours": self.hours}, self.folder / STARTS_FILE)
        for name, checkpoint in self.checkpoints.items():
            self.cluster(name, checkpoint)
        if "phones" in self.train.rows.column_names:
            self.probing().run()
        self.efficiency.run()
        logger.info(f"The report is {write_report(self.folder)}")

    def hours_of(self, name: str, start: str) -> float:
        """Hours of audio that a start had seen, by `hours` or its records."""
        hours = self.given.get(name, hours_seen_by(start))
        if hours is None:
            raise ValueError(f"Nothing in {start} tells how much audio it had seen: add `--hours {name}=HOURS`.")
        return hours

    def probing(self) -> Probing:
        """The probe of phones."""
        settings = self.settings
        args = ProbeArguments(
            output_dir=str(self.folder / PROBES),
            label_column="phones",
            encoders=[f"{name}={start}" for name, start in self.checkpoints.items()],
            baselines=["mel"],
            test_data=self.labels.test_data,
            test_split=self.labels.test_split,
            updates=settings.probe_updates,
            learning_rates=settings.probe_learning_rates,
            batch_rows=settings.probe_batch_rows,
            min_seconds=self.args.min_seconds,
            batch_seconds=settings.feature_seconds,
            disable_tqdm=self.args.disable_tqdm,
        )
        return Probing(self.data_args, args, self.device)

    def cluster(self, name: str, checkpoint: str):
        """The units of every layer of an encoder, fitted on training rows and measured on validation rows."""
        settings, seed = self.settings, self.labels.seeds[0]
        encoder = HiddenFeatures.from_pretrained(
            checkpoint,
            1,
            center=settings.center,
            device=self.device,
            batch_seconds=settings.feature_seconds,
            autocast_dtype=encoder_dtype(self.args.bf16, self.device),
        )
        identity = {
            "stage": "layers",
            "weights_hash": encoder.description.weights_hash,
            **{each: getattr(settings, each) for each in ("num_units", "unit_hours", "center")},
            "seed": seed,
            "data": {"train": self.train.facts["fingerprint"], "validation": self.validation.facts["fingerprint"]},
        }

        def work(folder: Path) -> dict[str, Any]:
            layers = compare_layers(
                encoder,
                self.some_of(self.train, seed),
                self.some_of(self.validation, seed),
                settings.num_units,
                seed=seed,
                memory_bytes=settings.memory_gb * 1e9,
                progress=not self.args.disable_tqdm,
            )
            data = {"train": self.train.facts, "validation": self.validation.facts}
            return {"data": data, "skipped": encoder.skipped, "layers": layers}

        run_stage(self.folder / UNITS / name, identity, self.device, work)

    def some_of(self, split: Split, seed: int):
        """Rows of a split that make up `unit_hours`."""
        return first_hours(split.rows, self.settings.unit_hours, seed)


def named_hours(given: Sequence[str], starts: Collection[str]) -> dict[str, float]:
    """`NAME=HOURS` as hours by name.

    Args:
        given: What was written.
        starts: The names that may be there.
    Raises:
        ValueError: If one is something else.
    """
    found = {}
    for each in given:
        name, _, hours = each.partition("=")
        try:
            found[name] = float(hours)
        except ValueError:
            raise ValueError(f"hours holds {each!r}: write NAME=HOURS.") from None
    unknown = sorted(set(found) - set(starts))
    if unknown:
        raise ValueError(f"hours names {', '.join(unknown)}, but the starts with weights are {', '.join(starts)}.")
    return found
