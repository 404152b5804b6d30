"""The HuBERT ladder: units, a model that predicts them, units of its best layer, a model that predicts those, ..."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from accelerate import PartialState
from transformers import set_seed

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.features import HiddenFeatures, MfccFeatures, SpeechFeatures
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.models.configuration import SSLHubertConfig
from hf_ssl_speech.models.encoder import SSLHubertModel
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining
from hf_ssl_speech.recipes.iterations_report import EXAMPLE_FILE, write_report
from hf_ssl_speech.recipes.pretraining import identify, make_model, pretrain
from hf_ssl_speech.recipes.splits import load_split
from hf_ssl_speech.recipes.unit_labels import UnitLabels
from hf_ssl_speech.records import command_line, machine, now, read_record, write_record
from hf_ssl_speech.training.arguments import SpeechDataArguments, SpeechModelArguments, SpeechPreTrainingArguments
from hf_ssl_speech.training.preflight import differences
from hf_ssl_speech.training.trainer import feature_extractor_for
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.layers import Remembered, compare_layers, disturb, first_hours, measure_units

logger = logging.getLogger(__name__)

CRITERIA = {"phones": "pnmi", "agreement": "agreement"}


@dataclass
class LadderArguments:
    """How many iterations HuBERT goes through, and what its units are made from."""

    iterations: int = field(default=2, metadata={"help": "Models to train, each on the units of the one before."})
    num_units: list[int] = field(
        default_factory=lambda: [100, 500],
        metadata={"help": "Units of each set, the first's first; the last number holds for all that follow."},
    )
    updates: list[int] | None = field(
        default=None, metadata={"help": "max_steps of each iteration, the last number for all that follow."}
    )
    layers: list[int] | None = field(
        default=None,
        metadata={"help": "The layer of each iteration's model to make units of, instead of choosing the best."},
    )
    choose_by: str | None = field(
        default=None,
        metadata={
            "help": "What the best layer is: the one whose units tell most of the phones, or agree most with those of "
            "disturbed audio. By default phones, where the validation data has them.",
            "choices": list(CRITERIA),
        },
    )
    center_features: bool = field(
        default=False,
        metadata={
            "help": "Take each utterance's mean off its features before they are clustered (cepstral mean "
            "normalisation). The norm of the encoder's first layer hides loudness and channel, so that units which "
            "tell of them can only be memorised; published models, on much more speech, did without."
        },
    )
    choice_hours: float = field(
        default=0.5, metadata={"help": "Training audio, and validation audio, that layers are compared on."}
    )
    kmeans_share: float | None = field(
        default=None, metadata={"help": "Share of the utterances to fit units on; by default 0.1, but all of little."}
    )
    memory_gb: float = field(
        default=4.0, metadata={"help": "Features kept in memory; what does not fit is computed anew in each pass."}
    )
    teacher: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of an encoder that gives the first units, instead of MFCC."}
    )
    teacher_layer: int | None = field(
        default=None, metadata={"help": "The teacher's layer, counted from 1; by default the best is chosen."}
    )

    def __post_init__(self):
        if self.iterations < 1 or not self.num_units:
            raise ValueError(
                f"iterations is {self.iterations} and num_units {self.num_units}: a ladder needs at least one of each."
            )
        if self.layers and len(self.layers) != self.iterations:
            raise ValueError(f"layers names {len(self.layers)} layers: name one for each of {self.iterations} models.")
        if self.teacher_layer is not None and self.teacher is None:
            raise ValueError(f"teacher_layer is {self.teacher_layer}, but of which teacher? Name it too.")

    def num_units_of(self, iteration: int) -> int:
        """Units in the set that an iteration leaves; 0 for the first set."""
        return self.num_units[min(iteration, len(self.num_units) - 1)]

    def layer_of(self, iteration: int) -> int | None:
        """The layer that the units of an iteration are made of, 0 for the teacher; None if it is to be chosen."""
        if iteration == 0:
            return self.teacher_layer
        return self.layers[iteration - 1] if self.layers else None


class Ladder:
    """Climbs from raw audio to the last iteration's model and units, stage by stage.

    Each stage has a folder under `args.output_dir`: `0-units`, then for each iteration `1-model`, `1-layers`,
    `1-units`, ... Its `run.json` is the last file written, so a stage is complete or done again; a model goes on from
    its last checkpoint. Started again after an interruption at any moment, the ladder gives the same models and units.

    Args:
        model_args: The model of every iteration. It starts from fresh weights, or those of `model_name_or_path`, with
            a new head.
        data_args: The audio, of which the validation part also measures units.
        args: Settings of every iteration's training.
        ladder_args: Settings of the ladder.
    Raises:
        ValueError: If settings contradict each other.
    """

    def __init__(
        self,
        model_args: SpeechModelArguments,
        data_args: SpeechDataArguments,
        args: SpeechPreTrainingArguments,
        ladder_args: LadderArguments,
    ):
        if not data_args.validation_data:
            raise ValueError("The ladder measures units on validation_data: give some, with `phones` if you can.")
        if data_args.streaming or data_args.units or data_args.unit_columns:
            raise ValueError(
                "The ladder makes its own units, and goes over the audio many times: leave out `streaming`, `units` "
                "and `unit_columns`."
            )
        self.model_args = model_args
        self.args = args
        self.ladder_args = ladder_args
        self.folder = Path(args.output_dir)
        self.train = load_split("train", data_args, args)
        self.validation = load_split("validation", data_args, args, keep=["phones"], beside=self.train)
        self.measured = first_hours(self.validation.rows, ladder_args.choice_hours, args.seed)
        self.criterion = self.find_criterion()

    def climb(self):
        """Does what is left to do; the report tells of the stages so far."""
        for iteration in range(self.ladder_args.iterations + 1):
            if iteration:
                self.train_model(iteration)
            self.make_units(iteration)
            if PartialState().is_main_process:
                logger.info(f"The report is {write_report(self.folder)}")

    def find_criterion(self) -> str:
        """The measure that the best layer has most of."""
        has_phones = "phones" in self.measured.column_names and any(self.measured["phones"])
        chosen = self.ladder_args.choose_by or ("phones" if has_phones else "agreement")
        if chosen == "phones" and not has_phones:
            raise ValueError("choose_by is phones, but the validation data has none: take agreement.")
        return CRITERIA[chosen]

    # Stages --------------------------------------------------------------------------------------------------------

    def make_units(self, iteration: int):
        """Units of the best layer of an iteration's model; for 0 of MFCC, or of the teacher."""
        center = self.ladder_args.center_features
        encoder = str(self.folder / f"{iteration}-model") if iteration else self.ladder_args.teacher
        if encoder is None:
            self.fit_units(iteration, MfccFeatures(center=center, device=self.args.device))
            return
        layer = self.ladder_args.layer_of(iteration)
        source = HiddenFeatures.from_pretrained(
            encoder, 1 if layer is None else layer, center=center, device=self.args.device
        )
        if layer is None:
            layer = self.choose_layer(iteration, source)
            source = HiddenFeatures(source.model, layer, normalize=source.normalize, center=center, encoder=encoder)
        self.fit_units(iteration, source)

    def choose_layer(self, iteration: int, encoder: HiddenFeatures) -> int:
        """The layer of an encoder (whichever layer is opened) with the best units, as a stage."""
        ladder, seed = self.ladder_args, self.args.seed
        num_units = ladder.num_units_of(iteration)
        identity = {
            "stage": "layers",
            "weights_hash": encoder.description.weights_hash,
            "num_units": num_units,
            "center": ladder.center_features,
            "choice_hours": ladder.choice_hours,
            "criterion": self.criterion,
            "seed": seed,
            "data": self.fingerprints(),
        }

        def work(folder: Path) -> dict[str, Any]:
            layers = compare_layers(
                encoder,
                first_hours(self.train.rows, ladder.choice_hours, seed),
                self.measured,
                num_units,
                seed=seed,
                memory_bytes=ladder.memory_gb * 1e9,
                progress=not self.args.disable_tqdm,
            )
            best = max(layers, key=lambda layer: layer[self.criterion])["layer"]
            return {"criterion": self.criterion, "layer": best, "layers": layers}

        record = self.stage(f"{iteration}-layers", identity, work)
        shown = "  ".join(f"{layer['layer']}: {layer[self.criterion]:.3f}" for layer in record["layers"])
        logger.info(f"{self.criterion} of layer {shown}; taken: {record['layer']}")
        return record["layer"]

    def fit_units(self, iteration: int, source: SpeechFeatures):
        """The unit set of an iteration, its quality and its labels of an example, as a stage."""
        ladder, seed = self.ladder_args, self.args.seed
        features = source.description
        identity = {
            "stage": "units",
            "features": {name: getattr(features, name) for name in ("kind", "layer", "center", "weights_hash")},
            "num_units": ladder.num_units_of(iteration),
            "kmeans_share": ladder.kmeans_share,
            "choice_hours": ladder.choice_hours,
            "seed": seed,
            "data": self.fingerprints(),
        }

        def work(folder: Path) -> dict[str, Any]:
            units = KMeansUnits.fit(
                self.train.rows,
                Remembered(source, ladder.memory_gb * 1e9),
                ladder.num_units_of(iteration),
                seed=seed,
                share=ladder.kmeans_share,
                progress=not self.args.disable_tqdm,
            )
            if PartialState().is_main_process:
                units.save_pretrained(folder)
            quality = measure_units(units, source, source.with_changed_audio(disturb), self.measured)
            facts = {"features": str(features), "layer": features.layer, "num_units": units.num_units, **units.facts}
            data = {"train": self.train.facts, "validation": self.validation.facts}
            return {"data": data, "units": facts, "quality": quality, "example": self.label_example(units, source)}

        record = self.stage(f"{iteration}-units", identity, work)
        shown = "  ".join(
            f"{name} {record['quality'][name]:.3f}" for name in CRITERIA.values() if name in record["quality"]
        )
        logger.info(f"{record['units']['num_units']} units of {record['units']['features']}: {shown}")

    def train_model(self, iteration: int):
        """The model of an iteration, which predicts the units of the one before."""
        ladder, name = self.ladder_args, f"{iteration}-model"
        units = UnitLabels.from_sets([str(self.folder / f"{iteration - 1}-units")])
        args = copy.copy(self.args)
        args.output_dir = str(self.folder / name)
        if ladder.updates:
            args.max_steps = ladder.updates[min(iteration, len(ladder.updates)) - 1]
        set_seed(args.seed)
        model = self.new_model(units)
        highest = model.config.num_hidden_layers
        if any(not 0 <= layer <= highest for layer in ladder.layers or ()):
            raise ValueError(f"layers is {ladder.layers}, but the models have {highest} layers, counted from 1.")
        identity = identify(model, args, self.train, self.validation, units)
        if is_complete(self.folder / name, identity):
            logger.info(f"{name} is complete")
            return
        train, validation = units.label(self.train, args), units.label(self.validation, args)
        # Labelling ran other models: the training starts from the same random state, wherever it was interrupted.
        set_seed(args.seed)
        feature_extractor = feature_extractor_for(model.config, self.model_args.model_name_or_path)
        pretrain(model, args, train, validation, processing_class=feature_extractor, units=units)
        PartialState().wait_for_everyone()

    def new_model(self, units: UnitLabels) -> SSLHubertForPreTraining:
        """Fresh weights, or the encoder of `model_name_or_path` with a fresh head."""
        start = self.model_args.model_name_or_path
        if start is None:
            return make_model(self.model_args, **units.config_fields)
        config = SSLHubertConfig.from_pretrained(start, **(units.config_fields | self.model_args.config))
        attention = {"attn_implementation": self.model_args.attn_implementation}
        model = SSLHubertForPreTraining._from_config(config, **attention)
        model.hubert.load_state_dict(SSLHubertModel.from_pretrained(start).state_dict())
        return model

    # What stages share ---------------------------------------------------------------------------------------------

    def stage(self, name: str, identity: dict[str, Any], work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """The record of a stage, whose work is done if it is not complete; all processes share the work."""
        folder = self.folder / name
        if is_complete(folder, identity):
            logger.info(f"{name} is complete")
            return read_record(folder)
        started = time.perf_counter()
        found = work(folder)
        record = {
            "format": 1,
            "status": "complete",
            "command": command_line(),
            "updated": now(),
            "seconds": time.perf_counter() - started,
            "machine": machine(self.args.device, PartialState().num_processes),
            "identity": identity,
            **found,
        }
        if PartialState().is_main_process:
            write_record(record, folder)
        PartialState().wait_for_everyone()
        return record

    def fingerprints(self) -> dict[str, str]:
        """Of the prepared rows."""
        return {"train": self.train.facts["fingerprint"], "validation": self.validation.facts["fingerprint"]}

    def label_example(self, units: KMeansUnits, source: SpeechFeatures) -> dict[str, Any]:
        """One validation utterance with its units and phones, for the report; its audio lies beside the stages."""
        row = self.measured[0]
        if PartialState().is_main_process:
            soundfile.write(self.folder / EXAMPLE_FILE, row_waveform(row), SAMPLE_RATE)
        found = units.predict_rows([row], source)[0]
        return {"name": row["name"], "units": np.asarray(found).tolist(), "phones": row.get("phones") or []}


def is_complete(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether a stage is done.

    Raises:
        ValueError: If it was done, or begun, with other settings, which are named.
    """
    record = read_record(folder)
    if record is None:
        return False
    different = differences(record["identity"], identity)
    if different:
        raise ValueError(
            f"The stage in {folder} was made with other settings ({'; '.join(different)}). Use another output_dir, or "
            "delete that stage and all after it."
        )
    return record["status"] == "complete"
