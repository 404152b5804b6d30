"""The two pretraining models: an encoder, its head and its loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from hf_ssl_speech.models import objectives
from hf_ssl_speech.models.compilation import block
from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.conv_encoder import feature_penalty_per_row
from hf_ssl_speech.models.dropout import Dropout
from hf_ssl_speech.models.encoder import (
    SSLHubertModel,
    SSLSpeechModelOutput,
    SSLSpeechPreTrainedModel,
    SSLWav2Vec2Model,
)
from hf_ssl_speech.models.initialization import UniformLinear
from hf_ssl_speech.models.quantizer import GumbelQuantizer


@dataclass
class SSLPreTrainingOutput(ModelOutput):
    """The outputs of a pretraining model.

    Attributes:
        loss: Sum over predicted frames, divided by those of the whole update (else by those predicted here).
        last_hidden_state: `(batch, frames, hidden)`.
        statistics: Detached sums over this batch, to be added up over batches and ranks and read by `metrics`.
        hidden_states, attentions: As the encoder gives them.
    """

    loss: Tensor | None = None
    last_hidden_state: Tensor | None = None
    statistics: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SSLSpeechForPreTraining(SSLSpeechPreTrainedModel):
    """What both objectives share: labels carry the mask, losses are sums over the frames they predict."""

    accepts_loss_kwargs = True  # Trainer gives num_items_in_batch
    objective_inputs: ClassVar[tuple[str, ...]] = ()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        masked_positions: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **objective_inputs: Tensor,
    ) -> SSLPreTrainingOutput | tuple:
        """Predicts hidden frames. A batch comes ready from the objective's collator.

        Args:
            input_values, attention_mask, mask_time_indices: As the encoder takes them.
            masked_positions: Frame numbers of the masked frames of each row, `(batch, masked)`, filled up with -1.
            labels: `(batch, frames)`, -100 where nothing is predicted; wav2vec 2.0: 0 elsewhere; HuBERT: the unit
                (`(batch, frames, unit sets)` for several sets).
            num_items_in_batch: Labels of the whole update that are not -100, over accumulation and ranks; with several
                unit sets a predicted frame has as many labels.
            objective_inputs: wav2vec 2.0: `sampled_negative_indices`, `gumbel_seeds`.
        Raises:
            ValueError: If the labels do not fit the frames that the audio makes.
            TypeError: If the objective knows no such input.
        """
        unknown = sorted(objective_inputs.keys() - set(self.objective_inputs))
        if unknown:
            raise TypeError(f"{type(self).__name__}.forward() got an unexpected keyword argument {unknown[0]!r}")
        self.warn_if_never_told()
        outputs = self.base_model(
            input_values,
            attention_mask,
            mask_time_indices,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        loss = statistics = None
        if labels is not None:
            self.check_labels(labels, outputs.last_hidden_state, masked_positions)
            total, statistics = self.objective(outputs, labels, masked_positions, **objective_inputs)
            items, unit_sets = (labels != -100).sum(), labels.shape[2:].numel()
            # No frame is predicted at all where every audio of an update was unusable: then the loss is 0.
            divisor = torch.as_tensor(items if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
            loss = total * unit_sets / divisor  # per frame, in which the losses of all unit sets add up
            predicted = items // unit_sets
            mask = outputs.frame_mask
            statistics["frames"] = torch.full_like(predicted, labels.shape[:2].numel()) if mask is None else mask.sum()
            statistics |= {"total": total, "predicted": predicted}
            if not self.training:
                hidden = outputs.last_hidden_state
                statistics["gram"] = objectives.gram_matrix(hidden.flatten(0, 1) if mask is None else hidden[mask])
            statistics = {name: value.detach() for name, value in statistics.items()}
        return SSLPreTrainingOutput(
            loss, outputs.last_hidden_state, statistics, outputs.hidden_states, outputs.attentions
        )

    def objective(
        self, outputs: SSLSpeechModelOutput, labels: Tensor, masked_positions: Tensor, **inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss of a batch, and the sums that `metrics` reads."""
        raise TypeError(f"{type(self).__name__} has no objective: use that of wav2vec 2.0 or HuBERT.")

    @property
    def metric_names(self) -> list[str]:
        """What `metrics` tells of every batch, by name."""
        return ["loss", "feature_penalty", "masked_share"]

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Means over all frames behind `statistics`, which were added up over batches and ranks.

        In an evaluation also the effective rank of the last layer's frames, which tells without labels how much of its
        width the encoder uses.
        """
        rank = {"effective_rank": float(objectives.effective_rank(statistics["gram"]))} if "gram" in statistics else {}
        return rank | {
            "loss": float(statistics["total"] / statistics["predicted"].clamp(min=1)),
            "feature_penalty": float(statistics["penalty"] / statistics["predicted"].clamp(min=1)),
            "masked_share": float(statistics["masked"] / statistics["frames"].clamp(min=1)),
        }

    def feature_penalty(self, outputs: SSLSpeechModelOutput, predicted: Tensor) -> Tensor:
        """Mean square of each row's conv features times its predicted frames, summed: a row weighs as in the loss.

        The mean over the predicted frames of an update, by which the loss is divided, is then the penalty itself.

        Args:
            predicted: True where a frame is predicted, masked or not, `(batch, frames)`.
        """
        return (feature_penalty_per_row(outputs.conv_features, outputs.frame_mask) * predicted.sum(-1)).sum()

    @staticmethod
    def check_labels(labels: Tensor, hidden: Tensor, masked_positions: Tensor | None):
        """Raises a ValueError if labels and frames disagree, or the masked positions are missing."""
        if labels.shape[:2] != hidden.shape[:2]:
            raise ValueError(
                f"Labels cover {tuple(labels.shape[:2])} (rows, frames) but the audio makes {tuple(hidden.shape[:2])}: "
                "they were made for another conv stack. Make them with this model's config."
            )
        if masked_positions is None:
            raise ValueError("labels need masked_positions too: both come from the objective's collator.")


class SSLWav2Vec2ForPreTraining(SSLSpeechForPreTraining):
    """wav2vec 2.0: tell the true quantised frame from negatives of the same utterance (section 3)."""

    config_class = SSLWav2Vec2Config
    base_model_prefix = "wav2vec2"
    objective_inputs = ("sampled_negative_indices", "gumbel_seeds")

    def __init__(self, config: SSLWav2Vec2Config):
        super().__init__(config)
        self.wav2vec2 = SSLWav2Vec2Model(config)
        self.dropout_features = Dropout(config.feat_quantizer_dropout)
        self.quantizer = GumbelQuantizer(config)
        self.project_hid = UniformLinear(config.hidden_size, config.proj_codevector_dim)
        self.project_q = UniformLinear(config.codevector_dim, config.proj_codevector_dim)
        self.post_init()

    @block
    def objective(
        self,
        outputs: SSLSpeechModelOutput,
        labels: Tensor,
        masked_positions: Tensor,
        sampled_negative_indices: Tensor | None = None,
        gumbel_seeds: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrastive loss, diversity loss and feature penalty, each weighted by the masked frames."""
        if sampled_negative_indices is None:
            raise ValueError("labels need sampled_negative_indices too: both come from Wav2Vec2PretrainingCollator.")
        valid = masked_positions >= 0  # (batch, masked)
        context = objectives.gather_frames(outputs.last_hidden_state, masked_positions)
        hidden_frames = objectives.gather_frames(outputs.extract_features, masked_positions)

        predictions = self.project_hid(context)  # (batch, masked, dim)
        quantized = self.quantizer(self.dropout_features(hidden_frames), gumbel_seeds)
        targets = self.project_q(quantized.vectors)  # (batch, masked, dim)
        logits = objectives.contrastive_logits(
            predictions,
            targets,
            sampled_negative_indices,
            quantized.codes,
            self.config.contrastive_logits_temperature,
        )
        masked = valid.sum()
        contrastive = objectives.contrastive_loss(logits, valid)
        diversity = objectives.diversity_loss(quantized.probabilities, valid) * masked
        penalty = self.feature_penalty(outputs, valid)  # the predicted frames are the masked ones
        loss = (
            contrastive + self.config.diversity_loss_weight * diversity + self.config.feature_penalty_weight * penalty
        )

        soft_codes = (quantized.probabilities * valid[..., None, None]).sum((0, 1))  # (groups, entries)
        choices = quantized.codes.flatten(0, 1).T  # (groups, batch * masked)
        counted = valid.to(soft_codes.dtype).flatten().expand_as(choices)
        hard_codes = torch.zeros_like(soft_codes).scatter_add(1, choices, counted)
        return loss, {
            "masked": masked,
            "contrastive": contrastive,
            "diversity": diversity,
            "penalty": penalty,
            "correct": (objectives.picks_the_true_frame(logits) & valid).sum(),
            "chance": (objectives.chance_of_the_true_frame(logits) * valid).sum(),
            "soft_codes": soft_codes,
            "hard_codes": hard_codes,
        }

    @property
    def metric_names(self) -> list[str]:
        """What `metrics` tells of every batch, by name."""
        groups = range(1, self.config.num_codevector_groups + 1)
        perplexities = [f"{kind}_perplexity_{group}" for kind in ("soft", "hard") for group in groups]
        return [*super().metric_names, "contrastive_loss", "diversity_loss", "accuracy", "chance", *perplexities]

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Loss and accuracy of picking the true frame, and how many codebook entries each group uses."""
        masked = statistics["masked"].clamp(min=1)
        metrics = super().metrics(statistics)
        metrics["contrastive_loss"] = float(statistics["contrastive"] / masked)
        metrics["diversity_loss"] = float(statistics["diversity"] / masked)
        metrics["accuracy"] = float(statistics["correct"] / masked)
        metrics["chance"] = float(statistics["chance"] / masked)
        for kind in ("soft", "hard"):
            for group, entries in enumerate(objectives.perplexity(statistics[f"{kind}_codes"] / masked), start=1):
                metrics[f"{kind}_perplexity_{group}"] = float(entries)
        return metrics

    def lost_schedules(self) -> list[str]:
        """Also the Gumbel temperature."""
        return [*super().lost_schedules(), f"the Gumbel temperature stays {self.config.gumbel_temperature_start:g}"]

    def set_update(self, update: int):
        """Sets the Gumbel temperature of an update, `max(start * decay ** update, end)`, and seeds layer drop."""
        super().set_update(update)
        config = self.config
        decayed = config.gumbel_temperature_start * config.gumbel_temperature_decay**update
        self.quantizer.temperature.fill_(max(decayed, config.gumbel_temperature_end))


class UnitEmbedding(nn.Embedding):
    """Learned embeddings of one unit set, `(units, dim)`."""

    def set_initial_values(self):
        """Uniform in [0, 1)."""
        init.uniform_(self.weight)


class SSLHubertForPreTraining(SSLSpeechForPreTraining):
    """HuBERT: predict the k-means unit of each masked frame, once per unit set (section II)."""

    config_class = SSLHubertConfig
    base_model_prefix = "hubert"

    def __init__(self, config: SSLHubertConfig):
        super().__init__(config)
        self.hubert = SSLHubertModel(config)
        self.to_unit_space = nn.ModuleList(
            UniformLinear(config.hidden_size, config.unit_embedding_dim) for _ in config.num_units
        )
        self.unit_embeddings = nn.ModuleList(
            UnitEmbedding(units, config.unit_embedding_dim) for units in config.num_units
        )
        self.post_init()

    @block
    def objective(
        self, outputs: SSLSpeechModelOutput, labels: Tensor, masked_positions: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Unit prediction on masked frames, on the others if they have a weight, and the feature penalty."""
        labels = labels if labels.dim() == 3 else labels[..., None]  # (batch, frames, unit sets)
        if labels.shape[-1] != len(self.config.num_units):
            raise ValueError(
                f"Labels come from {labels.shape[-1]} unit sets; config.num_units names {len(self.config.num_units)}."
            )
        valid = masked_positions >= 0  # (batch, masked)
        context = objectives.gather_frames(outputs.last_hidden_state, masked_positions)
        units = objectives.gather_frames(labels, masked_positions).masked_fill(~valid[..., None], -100)
        masked_loss, statistics = self.predict_units(context, units, "masked")
        penalty = self.feature_penalty(outputs, (labels != -100).any(-1))
        loss = masked_loss + self.config.feature_penalty_weight * penalty
        if self.config.unmasked_loss_weight:
            units = hide_labels(labels, masked_positions)
            unmasked_loss, unmasked = self.predict_units(outputs.last_hidden_state, units, "unmasked")
            loss = loss + self.config.unmasked_loss_weight * unmasked_loss
            statistics |= unmasked
        return loss, statistics | {"penalty": penalty, "masked": valid.sum()}

    def predict_units(self, hidden: Tensor, units: Tensor, which: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed loss over all unit sets; under the name `which`: loss, hits and count of these frames, and how often
        each unit of each set was predicted."""
        loss, correct = hidden.new_zeros((), dtype=torch.float32), torch.zeros_like(units[0, 0, 0])
        statistics = {}
        sets = zip(self.to_unit_space, self.unit_embeddings, units.unbind(-1))
        for number, (projection, embedding, labels) in enumerate(sets, start=1):
            logits = objectives.unit_logits(projection(hidden), embedding.weight, self.config.unit_logits_temperature)
            loss = loss + objectives.unit_prediction_loss(logits, labels)
            predicted = logits.argmax(-1)
            correct = correct + (predicted == labels).sum()
            counts, counted = labels.new_zeros(len(embedding.weight)), (labels != -100).long()
            statistics[f"{which}_predicted_{number}"] = counts.scatter_add(0, predicted.flatten(), counted.flatten())
        statistics |= {f"{which}_units": (units != -100).sum(), f"{which}_loss": loss, f"{which}_correct": correct}
        return loss, statistics

    @property
    def metric_names(self) -> list[str]:
        """What `metrics` tells of every batch, by name."""
        predicted = ("masked", "unmasked") if self.config.unmasked_loss_weight else ("masked",)
        perplexities = [f"unit_perplexity_{number}" for number, _ in enumerate(self.config.num_units, start=1)]
        kinds = [f"{which}_{what}" for which in predicted for what in ("loss", "accuracy")]
        return [*super().metric_names, *perplexities, *kinds]

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Loss and accuracy of unit prediction on masked frames and, if they have a weight, on the others.

        Also the perplexity of the units that are predicted for masked frames, for each set.
        """
        metrics = super().metrics(statistics)
        for number, _ in enumerate(self.config.num_units, start=1):
            counts = statistics[f"masked_predicted_{number}"]
            metrics[f"unit_perplexity_{number}"] = float(objectives.perplexity(counts / counts.sum().clamp(min=1)))
        for which in ("masked", "unmasked"):
            if f"{which}_units" in statistics:
                count = statistics[f"{which}_units"].clamp(min=1)
                metrics[f"{which}_loss"] = float(statistics[f"{which}_loss"] / count)
                metrics[f"{which}_accuracy"] = float(statistics[f"{which}_correct"] / count)
        return metrics


def hide_labels(labels: Tensor, masked_positions: Tensor) -> Tensor:
    """Labels with -100 on the masked frames: the others are predicted from frames that were seen."""
    batch, frames = labels.shape[:2]
    columns = torch.where(masked_positions >= 0, masked_positions, frames)
    masked = torch.zeros(batch, frames + 1, dtype=torch.bool, device=labels.device).scatter(1, columns, True)
    return labels.masked_fill(masked[:, :frames, None], -100)
