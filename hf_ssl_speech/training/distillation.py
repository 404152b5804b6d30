"""A student and its trainer: beside the student a teacher, frozen, that hears the same audio."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields as fields_of
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedConfig, Wav2Vec2FeatureExtractor

from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.data.hidden_states import weights_hash
from hf_ssl_speech.models.configuration import SSLDistilHubertConfig
from hf_ssl_speech.models.distillation import SSLHubertForDistillation
from hf_ssl_speech.models.encoder import SSLSpeechModel
from hf_ssl_speech.models.frames import hop_samples, window_samples
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments
from hf_ssl_speech.training.checks import refuse_config
from hf_ssl_speech.training.pretrainer import SpeechPreTrainer

logger = logging.getLogger(__name__)

# What makes a student small and learn well is its own; all else is as in the teacher.
STUDENTS_OWN = {"num_hidden_layers", "layerdrop", "feature_penalty_weight"}


def make_student(
    teacher: SSLSpeechModel, teacher_layers: Sequence[int] = (4, 8, 12), *, attn_implementation=None, **fields: Any
) -> SSLHubertForDistillation:
    """A student of a teacher: two layers, all else as in the teacher, and its weights wherever they fit.

    Args:
        teacher: An encoder of this package.
        teacher_layers: Which of its layers are to be learnt, counted from 1.
        attn_implementation: As in transformers.
        fields: Fields of the student's configuration that differ, such as `num_hidden_layers`.
    Raises:
        ValueError: If the teacher has no such layer, the student would make other frames, a field is unknown, or the
            configuration makes learning impossible.
    """
    theirs, number = teacher.config, teacher.config.num_hidden_layers
    if not teacher_layers or len(set(teacher_layers)) < len(teacher_layers):
        raise ValueError(f"teacher_layers is {list(teacher_layers)}: name at least one layer, and each once.")
    missing = [layer for layer in teacher_layers if not 1 <= layer <= number]
    if missing:
        raise ValueError(f"The teacher has {number} layers, 1 to {number}, but teacher_layers names {missing}.")
    SSLDistilHubertConfig.check_names(fields)
    shared = {field.name for field in fields_of(SSLDistilHubertConfig)} - {f.name for f in fields_of(PreTrainedConfig)}
    known = {name: getattr(theirs, name) for name in shared - STUDENTS_OWN if hasattr(theirs, name)}
    of_teacher = {"teacher_layers": list(teacher_layers), "teacher_size": theirs.hidden_size}
    config = SSLDistilHubertConfig(**(known | fields | of_teacher | {"teacher_hash": weights_hash(teacher)}))
    frames, expected = ((hop_samples(each.conv_layers), window_samples(each.conv_layers)) for each in (config, theirs))
    if frames != expected:
        raise ValueError(
            "A student's frames must be its teacher's: every {} samples from windows of {}, but with this conv_stride "
            "and conv_kernel they are every {} from windows of {}.".format(*expected, *frames)
        )
    refuse_config(config, predicts_hidden=True)
    student = SSLHubertForDistillation._from_config(config, attn_implementation=attn_implementation)
    take_weights(student, teacher)
    return student


def take_weights(student: SSLHubertForDistillation, teacher: SSLSpeechModel):
    """Copies to the student all weights of the teacher that fit, by name: the conv encoder and the first layers."""
    encoder, weights = student.base_model, teacher.state_dict()
    fitting = {
        name: weights[name]
        for name, own in encoder.state_dict().items()
        if name in weights and weights[name].shape == own.shape
    }
    encoder.load_state_dict(fitting, strict=False)
    logger.info(
        f"{type(student).__name__}, {student.num_parameters():,} parameters, of which "
        f"{sum(each.numel() for each in fitting.values()):,} start as in the teacher, which has "
        f"{teacher.num_parameters():,}"
    )


class SpeechDistiller(SpeechPreTrainer):
    """The trainer of a student; checkpoints hold the student alone.

    Args:
        model: The student, as `make_student` makes it.
        teacher: The encoder whose layers it learns, ours.
        processing_class: By default the teacher's feature extractor: both hear the same.
        args, train_dataset, eval_dataset, settings: As `SpeechPreTrainer` takes them.
    Raises:
        ValueError: If this is not the teacher that the student was made for.
    """

    def __init__(
        self,
        model: SSLHubertForDistillation,
        teacher: SSLSpeechModel,
        args: SpeechPreTrainingArguments,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: Wav2Vec2FeatureExtractor | None = None,
        **settings,
    ):
        if model.config.teacher_hash != weights_hash(teacher):
            raise ValueError(
                f"The student was made for a teacher with other weights (hash {model.config.teacher_hash}): give that "
                "one, or make the student anew with `make_student`."
            )
        processing_class = processing_class or feature_extractor_for(teacher.config, teacher.name_or_path or None)
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, **settings)
        self.layers = model.config.teacher_layers
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Adds what the teacher says, unless it is there already, as in an update that is kept to be replayed."""
        inputs = dict(super()._prepare_inputs(inputs))
        if "teacher_frames" not in inputs:
            heard = inputs.pop("clean_values", inputs["input_values"])
            inputs["teacher_frames"] = self.teacher_frames(heard, inputs.get("attention_mask"))
        return inputs

    @torch.no_grad()
    def teacher_frames(self, waveforms: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The layers to be learnt, `(batch, frames, layers, width)`.

        Where norms stand before the layers, as in LARGE, the frames grow from layer to layer: these are normalised, or
        the last layer would be most of the loss.
        """
        with self.compute_loss_context_manager():
            hidden = self.teacher(waveforms, attention_mask, output_hidden_states=True).hidden_states
        frames = torch.stack([hidden[layer] for layer in self.layers], dim=2)
        return F.layer_norm(frames, frames.shape[-1:]) if self.teacher.config.do_stable_layer_norm else frames
