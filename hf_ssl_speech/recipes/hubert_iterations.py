"""The iterations of HuBERT: units, a model that predicts them, units of its best layer, a second model, ..."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import set_seed

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.data.features import FeatureSource, HiddenFeatures, MfccFeatures, SpeechFeatures
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining
from hf_ssl_speech.recipes.arguments import CRITERIA, HubertIterationsArguments
from hf_ssl_speech.recipes.inputs import SpeechDataArguments, SpeechModelArguments
from hf_ssl_speech.recipes.iterations_report import EXAMPLE_FILE, write_report
from hf_ssl_speech.recipes.pretraining import identify, make_model, pretrain
from hf_ssl_speech.recipes.running import preflight
from hf_ssl_speech.recipes.splits import hold_out, load_split, repeats_of
from hf_ssl_speech.recipes.stages import is_complete, run_stage
from hf_ssl_speech.recipes.unit_labels import UnitLabels, check_label_rate
from hf_ssl_speech.records import Record
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments
from hf_ssl_speech.training.checks import check_schedule
from hf_ssl_speech.training.findings import Finding
from hf_ssl_speech.training.lock import hold
from hf_ssl_speech.training.precision import encoder_dtype
from hf_ssl_speech.training.pretrainer import SpeechPreTrainer
from hf_ssl_speech.training.resume import run_identity
from hf_ssl_speech.training.trainer_settings import refuse_metric
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.layers import compare_layers, disturb, first_hours, measure_units
from hf_ssl_speech.units.phones import check_phone_column

logger = logging.getLogger(__name__)


class HubertIterations:
    """Trains from raw audio to the last iteration's model and units, stage by stage.

    Each stage has a folder under `args.output_dir`: `0-units`, then for each iteration `1-model`, `1-layers`,
    `1-units`, ... Its `run.json` is the last file written: without it, the stage is done again. Training continues from
    the last checkpoint. A run that is interrupted at any moment and started again ends with the same models and units.

    Args:
        model_args: The model of every iteration. It starts from fresh weights, or those of `model_name_or_path`, with
            a new head.
        data_args: The audio; units are measured on its validation part.
        args: Settings of every iteration's training.
        iterations_args: Settings of the iterations.
    Raises:
        ValueError: If settings contradict each other.
    """

    def __init__(
        self,
        model_args: SpeechModelArguments,
        data_args: SpeechDataArguments,
        args: SpeechPreTrainingArguments,
        iterations_args: HubertIterationsArguments,
    ):
        if not (data_args.validation_data or data_args.validation_share):
            raise ValueError(
                "Units are measured on validation_data, but there is none: give some, with `phones` if you can, or "
                "hold out a part of the training recordings with validation_share, such as 0.05."
            )
        if data_args.streaming:
            raise ValueError("The iterations go over the audio many times: leave out `streaming`.")
        if iterations_args.updates and args.num_train_epochs:
            raise ValueError(
                f"updates is {iterations_args.updates} and num_train_epochs {args.num_train_epochs:g}: both set the "
                "length of a training. Leave one of them out."
            )
        self.model_args = model_args
        self.args = args
        self.iterations_args = iterations_args
        self.folder = Path(args.output_dir)
        self.check_models()
        train = load_split("train", data_args, args)
        validation = load_split("validation", data_args, args, keep=["phones"], beside=train)
        self.train, self.validation = hold_out(train, validation, data_args)
        self.measured = first_hours(self.validation.rows, iterations_args.choice_hours, args.seed)
        self.validation.facts.update(check_phone_column(self.validation.rows, iterations_args.silence))
        self.criterion = self.find_criterion()

    def run(self):
        """Runs the stages that are not complete, and writes the report after each iteration.

        With `preflight_only`, only the checks are run.
        """
        self.preflight()
        if self.args.preflight_only:
            return
        hold(self.folder)
        for iteration in range(self.iterations_args.iterations + 1):
            if iteration:
                self.train_model(iteration)
            self.make_units(iteration)
            if PartialState().is_main_process:
                logger.info(f"The report is {write_report(self.folder)}")
        logger.info(f"All {self.iterations_args.iterations} iterations in {self.folder} are complete")

    def find_criterion(self) -> str:
        """The measure by which the best layer is chosen."""
        has_phones = "phones" in self.measured.column_names and any(self.measured["phones"])
        chosen = self.iterations_args.choose_by or ("phones" if has_phones else "agreement")
        if chosen == "phones" and not has_phones:
            raise ValueError("choose_by is phones, but the validation data has none: use agreement.")
        return CRITERIA[chosen]

    def check_models(self):
        """Makes model and teacher once as a test: problems with them show before the data is prepared.

        Raises:
            ValueError: If the layers for the units do not exist, a model can't be made or loaded, or the teacher's
                frame rate differs from the models'.
        """
        settings, model = self.iterations_args, self.new_model()
        config = model.config
        refuse_metric(self.args, model.metric_names)
        highest = config.num_hidden_layers
        if any(not 0 <= layer <= highest for layer in settings.layers or ()):
            raise ValueError(f"layers is {settings.layers}, but the models have {highest} layers, counted from 1.")
        if settings.teacher is not None:
            layer = 1 if settings.teacher_layer is None else settings.teacher_layer
            teacher = HiddenFeatures.from_pretrained(settings.teacher, layer, device="cpu")
            check_label_rate(teacher.description, config)

    def preflight(self):
        """Checks the first iteration's training, with the largest number of units, before the first units are made.

        Raises:
            ValueError: If something forbids it.
        """
        settings, args = self.iterations_args, self.args_of(1)
        args.output_dir = str(self.folder)
        most = max(settings.num_units_of(iteration) for iteration in range(settings.iterations))
        set_seed(args.seed)
        model = self.new_model(num_units=[most])
        feature_extractor = feature_extractor_for(model.config, self.model_args.model_name_or_path)
        to_come = [
            split.rows and split.rows.add_column("units", [None] * len(split.rows))
            for split in (self.train, self.validation)
        ]
        trainer = SpeechPreTrainer(model, args, *to_come, feature_extractor)
        record = {
            "identity": run_identity(model.config, self.fingerprints(), args),
            "data": {"train": self.train.facts, "validation": self.validation.facts},
        }
        preflight(trainer, record, self.later_schedules())

    def later_schedules(self) -> list[Finding]:
        """Whether the schedule also fits the later iterations, which may be shorter or longer than the first."""
        found = []
        for iteration in range(2, self.iterations_args.iterations + 1):
            args = self.args_of(iteration)
            if args.max_steps > 0:
                finding = check_schedule(args, args.max_steps)
                found.append(replace(finding, check=f"schedule {iteration}"))
        return found

    # Stages --------------------------------------------------------------------------------------------------------

    def make_units(self, iteration: int):
        """Units of the best layer of an iteration's model; in iteration 0, of MFCC or of the teacher."""
        center = self.iterations_args.center
        encoder = str(self.folder / f"{iteration}-model") if iteration else self.iterations_args.teacher
        if encoder is None:
            self.fit_units(iteration, MfccFeatures(center=center, device=self.args.device))
            return
        layer = self.iterations_args.layer_of(iteration)
        dtype = encoder_dtype(self.args.bf16, self.args.device)
        source = HiddenFeatures.from_pretrained(
            encoder, 1 if layer is None else layer, center=center, device=self.args.device, autocast_dtype=dtype
        )
        if layer is None:
            layer = self.choose_layer(iteration, source)
            settings = {"normalize": source.normalize, "extractor": source.extractor, "autocast_dtype": dtype}
            source = HiddenFeatures(source.model, layer, center=center, encoder=encoder, **settings)
        self.fit_units(iteration, source)

    def choose_layer(self, iteration: int, encoder: HiddenFeatures) -> int:
        """The layer of an encoder (whichever layer is opened) with the best units, as a stage."""
        settings, seed = self.iterations_args, self.args.seed
        num_units = settings.num_units_of(iteration)
        identity = {
            "stage": "layers",
            "weights_hash": encoder.description.weights_hash,
            "num_units": num_units,
            "center": settings.center,
            "choice_hours": settings.choice_hours,
            "criterion": self.criterion,
            "seed": seed,
            "data": self.fingerprints(),
        }

        def work(folder: Path) -> dict[str, Any]:
            layers = compare_layers(
                encoder,
                first_hours(self.train.rows, settings.choice_hours, seed),
                self.measured,
                num_units,
                seed=seed,
                memory_bytes=settings.memory_gb * 1e9,
                silence=settings.silence,
                progress=not self.args.disable_tqdm,
            )
            best = max(layers, key=lambda layer: layer[self.criterion])["layer"]
            return {"criterion": self.criterion, "layer": best, "layers": layers, "skipped": skipped_by(encoder)}

        record = self.stage(f"{iteration}-layers", identity, work)
        shown = "  ".join(f"{layer['layer']}: {layer[self.criterion]:.3f}" for layer in record["layers"])
        logger.info(f"{self.criterion} of layer {shown}; chosen: {record['layer']}")
        return record["layer"]

    def fit_units(self, iteration: int, source: SpeechFeatures):
        """The unit set of an iteration, its quality and its labels of an example, as a stage."""
        settings, seed = self.iterations_args, self.args.seed
        features = source.description
        identity = {
            "stage": "units",
            "features": {name: getattr(features, name) for name in ("kind", "layer", "center", "weights_hash")},
            "num_units": settings.num_units_of(iteration),
            "kmeans_share": settings.kmeans_share,
            "choice_hours": settings.choice_hours,
            "seed": seed,
            "data": self.fingerprints(),
            **{name: getattr(self.args, name) for name in ("weights", "mix_by") if getattr(self.args, name)},
        }

        def work(folder: Path) -> dict[str, Any]:
            units = KMeansUnits.fit(
                self.train.rows,
                source,
                settings.num_units_of(iteration),
                seed=seed,
                share=settings.kmeans_share,
                memory_gb=settings.memory_gb,
                repeats=repeats_of(self.train.rows, self.args),
                progress=not self.args.disable_tqdm,
            )
            if PartialState().is_main_process:
                units.save_pretrained(folder)
            quality = measure_units(units, source, source.with_changed_audio(disturb), self.measured, settings.silence)
            facts = {"features": str(features), "layer": features.layer, "num_units": units.num_units, **units.facts}
            data = {"train": self.train.facts, "validation": self.validation.facts}
            example = self.label_example(units, source)
            return {"data": data, "units": facts, "quality": quality, "skipped": skipped_by(source), "example": example}

        record = self.stage(f"{iteration}-units", identity, work)
        shown = "  ".join(
            f"{name} {record['quality'][name]:.3f}" for name in CRITERIA.values() if name in record["quality"]
        )
        logger.info(f"{record['units']['num_units']} units of {record['units']['features']}: {shown}")

    def train_model(self, iteration: int):
        """The model of an iteration, which predicts the units of the one before."""
        name, args = f"{iteration}-model", self.args_of(iteration)
        units = UnitLabels.from_sets([str(self.folder / f"{iteration - 1}-units")])
        set_seed(args.seed)
        model = self.new_model(**units.config_fields)
        identity = identify(model, args, self.train, self.validation, units)
        if is_complete(self.folder / name, identity):
            logger.info(f"{name} is complete")
            return
        train, validation = units.label(self.train, args), units.label(self.validation, args)
        # Labelling runs other models: this makes the random state the same, wherever the run was interrupted.
        set_seed(args.seed)
        feature_extractor = feature_extractor_for(model.config, self.model_args.model_name_or_path)
        pretrain(model, args, train, validation, processing_class=feature_extractor, units=units)
        PartialState().wait_for_everyone()

    def args_of(self, iteration: int) -> SpeechPreTrainingArguments:
        """The settings of an iteration's training."""
        updates, args = self.iterations_args.updates, copy.copy(self.args)
        args.output_dir = str(self.folder / f"{iteration}-model")
        if updates:
            args.max_steps = updates[min(iteration, len(updates)) - 1]
        return args

    def new_model(self, **fields: Any) -> SSLHubertForPreTraining:
        """Fresh weights, or the encoder of `model_name_or_path` with a fresh head; `fields` say how many units."""
        return make_model(self.model_args, fresh_head=True, **fields)

    # What stages share ---------------------------------------------------------------------------------------------

    def stage(self, name: str, identity: dict[str, Any], work: Callable[[Path], dict[str, Any]]) -> Record:
        """`run_stage` in the folder of this name."""
        return run_stage(self.folder / name, identity, self.args.device, work)

    def fingerprints(self) -> dict[str, str]:
        """Of the prepared rows."""
        return {"train": self.train.facts["fingerprint"], "validation": self.validation.facts["fingerprint"]}

    def label_example(self, units: KMeansUnits, source: SpeechFeatures) -> dict[str, Any]:
        """The first usable validation utterance with its units and phones, for the report; its audio is saved too."""
        labelled = ((row, units.predict_rows([row], source)[0]) for row in self.measured)
        row, found = next((row, found) for row, found in labelled if len(found))
        if PartialState().is_main_process:
            soundfile.write(self.folder / EXAMPLE_FILE, row_waveform(row), SAMPLE_RATE)
        return {"name": row["name"], "units": np.asarray(found).tolist(), "phones": row.get("phones") or []}


def skipped_by(source: FeatureSource) -> dict[str, str]:
    """Names of the rows that a source could not use, in any process, and the reasons."""
    return {name: reason for skipped in gather_object([source.skipped]) for name, reason in sorted(skipped.items())}
