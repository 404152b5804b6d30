"""The trainer of both objectives."""

from __future__ import annotations

from functools import partial
from typing import Any

from accelerate import PartialState
from datasets import Dataset, IterableDataset
from transformers import Wav2Vec2FeatureExtractor

from hf_ssl_speech.data.collators import pretraining_collator
from hf_ssl_speech.data.distortion import Distortion, load_noise
from hf_ssl_speech.data.feature_extractor import check_rate, feature_extractor_for
from hf_ssl_speech.data.noise_settings import NoiseSettings
from hf_ssl_speech.models.pretraining import SSLSpeechForPreTraining
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments
from hf_ssl_speech.training.checks import refuse_config
from hf_ssl_speech.training.given_data import GivenData, ready_for_pretraining
from hf_ssl_speech.training.milestones import Milestones
from hf_ssl_speech.training.precision import refuse_low_precision
from hf_ssl_speech.training.trainer import SpeechTrainer

SOUNDS = ("noise", "impulse responses")


class SpeechPreTrainer(SpeechTrainer):
    """The trainer of both objectives.

    Args:
        model: `SSLWav2Vec2ForPreTraining` or `SSLHubertForPreTraining`.
        args: Settings of the run.
        train_dataset: A `datasets` dataset with audio of any kind. It is prepared automatically, as by `prepare_speech`
            or `prepare_stream`: rows that can't be used are left out, named and counted. Rows that come from these
            functions are not changed. For HuBERT they have the columns that `add_units` makes.
        eval_dataset: The same, or several by name; their masks never change.
        processing_class: The feature extractor; by default the one that fits the config.
        collator_settings: More arguments for the objective's collator, such as `unit_columns`.
    """

    args: SpeechPreTrainingArguments
    own_metrics = ("effective_rank",)

    def __init__(
        self,
        model: SSLSpeechForPreTraining,
        args: SpeechPreTrainingArguments,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: Wav2Vec2FeatureExtractor | None = None,
        collator_settings: dict[str, Any] | None = None,
        **kwargs,
    ):
        if train_dataset is not None:
            refuse_low_precision(model)
        refuse_config(model.config, predicts_hidden=True)
        processing_class = processing_class or feature_extractor_for(model.config)
        check_rate(processing_class, "The processing_class's model")
        settings = {
            "normalize": processing_class.do_normalize,
            "max_seconds": args.max_seconds,
            "crop_to_frames": args.crop_to_frames,
            "seed": args.order_seed,
            **(collator_settings or {}),
        }
        collator = pretraining_collator(model.config, **settings)
        unit_columns = getattr(collator, "unit_columns", ())
        super().__init__(
            model,
            args,
            collator,
            pretraining_collator(model.config, **settings, evaluation=True),
            partial(ready_for_pretraining, args=args, unit_columns=unit_columns),
            train_dataset,
            eval_dataset,
            processing_class,
            **kwargs,
        )
        if args.noise and train_dataset is not None:
            self.data_collator.distortion = self.make_distortion(NoiseSettings.of(args.noise))
        if args.keep_hours:
            self.add_callback(Milestones(self, args.keep_hours))

    def make_distortion(self, settings: NoiseSettings) -> Distortion:
        """What the settings ask for, with its sounds; the record tells of these."""
        with PartialState().local_main_process_first():
            for name, sources in zip(SOUNDS, (settings.data, settings.impulse_responses)):
                if sources:
                    self.given[name] = GivenData(*load_noise(sources, name), sources)
        noise, impulses = ((name in self.given and self.given[name].rows) or None for name in SOUNDS)
        speech = self.train_dataset if isinstance(self.train_dataset, Dataset) else None
        return Distortion(settings, noise, impulses, speech)
