"""A student that predicts the hidden layers of a teacher: an encoder with one head for each of these layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_ssl_speech.models import objectives
from hf_ssl_speech.models.configuration import SSLDistilHubertConfig
from hf_ssl_speech.models.encoder import SSLHubertModel, SSLSpeechModelOutput
from hf_ssl_speech.models.initialization import UniformLinear
from hf_ssl_speech.models.pretraining import SSLSpeechForPreTraining


class SSLHubertForDistillation(SSLSpeechForPreTraining):
    """DistilHuBERT: predict layers of a teacher in every frame, nothing hidden (section 2).

    Each head is a linear layer, GELU and another, as in the authors' code. The teacher is no part of the model: what it
    says of a batch comes with the batch.
    """

    config_class = SSLDistilHubertConfig
    base_model_prefix = "hubert"
    objective_inputs = ("teacher_frames",)

    def __init__(self, config: SSLDistilHubertConfig):
        super().__init__(config)
        self.hubert = SSLHubertModel(config)
        self.prediction_heads = nn.ModuleList(
            nn.Sequential(
                UniformLinear(config.hidden_size, config.teacher_size),
                nn.GELU(),
                UniformLinear(config.teacher_size, config.teacher_size),
            )
            for _ in config.teacher_layers
        )
        self.post_init()

    def objective(
        self,
        outputs: SSLSpeechModelOutput,
        labels: Tensor,
        masked_positions: Tensor,
        teacher_frames: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The differences of the values, and minus the logarithms of the sigmoid of the cosines, added up over layers.

        Args:
            teacher_frames: `(batch, frames, layers, width)`.
        """
        if teacher_frames is None:
            raise ValueError("labels need teacher_frames too: they come from SpeechDistiller, which has the teacher.")
        predicted = labels != -100  # (batch, frames)
        predictions = torch.stack([head(outputs.last_hidden_state) for head in self.prediction_heads], dim=2)
        difference, cosine = objectives.likeness(predictions, teacher_frames)  # (batch, frames, layers)
        counted = predicted[..., None].to(difference.dtype)
        penalty = self.feature_penalty(outputs, predicted)
        loss = ((difference - self.config.cosine_loss_weight * F.logsigmoid(cosine)) * counted).sum()
        return loss + self.config.feature_penalty_weight * penalty, {
            "difference": (difference * counted).sum((0, 1)),
            "cosine": (cosine * counted).sum((0, 1)),
            "penalty": penalty,
            "masked": torch.zeros_like(predicted.sum()),
        }

    @property
    def metric_names(self) -> list[str]:
        """What `metrics` tells of every batch, by name."""
        layers = self.config.teacher_layers
        return [*super().metric_names, *(f"{what}_{layer}" for what in ("difference", "cosine") for layer in layers)]

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Also, for each layer of the teacher, the mean difference of a value and the mean cosine of a frame."""
        metrics = super().metrics(statistics)
        for what in ("difference", "cosine"):
            means = statistics[what] / statistics["predicted"].clamp(min=1)
            metrics |= {f"{what}_{layer}": float(mean) for layer, mean in zip(self.config.teacher_layers, means)}
        return metrics
