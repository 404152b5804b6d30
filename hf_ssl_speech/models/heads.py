"""The heads of fine-tuning: transcripts by CTC, and one class per utterance."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput
from transformers.utils import can_return_tuple

from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLSpeechConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.encoder import SSLHubertModel, SSLSpeechModel, SSLSpeechPreTrainedModel, SSLWav2Vec2Model
from hf_ssl_speech.models.initialization import XavierLinear
from hf_ssl_speech.models.objectives import ctc_loss, frames_needed
from hf_ssl_speech.models.precision import at_least_float32


@dataclass
class SSLSpeechCTCOutput(CausalLMOutput):
    """The outputs of a CTC model.

    Attributes:
        loss: Sum over rows, divided by `num_items_in_batch` or by the tokens here.
        logits: `(batch, frames, vocabulary)`; padded frames are certain blanks.
        statistics: Detached sums over this batch, to be added up over batches and ranks and read by `metrics`.
        hidden_states, attentions: As the encoder gives them.
    """

    statistics: dict[str, Tensor] | None = None


class SSLSpeechForCTC(SSLSpeechPreTrainedModel):
    """An encoder with a linear layer that maps frames to characters by CTC (wav2vec 2.0, section 3.3).

    In training, batches that bring no masks get some as the config says (see `SSLSpeechModel.draw_masks`). Set
    `thaw_update` to let the head learn alone, without a gradient in the encoder, until `set_update` gets there. With
    `config.ctc_layer_mix` the head gets the sum of all hidden states, whose weights are learnt and start alike, instead
    of the last one.
    """

    encoder_class: type[SSLSpeechModel]
    accepts_loss_kwargs = True  # Trainer would give num_items_in_batch only to a forward with **kwargs

    def __init__(self, config: SSLSpeechConfig):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.encoder_class(config))
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = XavierLinear(config.hidden_size, config.vocab_size)
        if config.ctc_layer_mix:
            self.layer_weights = nn.Parameter(torch.empty(config.num_hidden_layers + 1))
        self.thaw_update = 0
        self.encoder_learns = True
        self.post_init()

    def set_initial_values(self):
        """The layers' weights, all alike."""
        if self.config.ctc_layer_mix:
            init.constant_(self.layer_weights, 0.0)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        mask_feature_indices: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SSLSpeechCTCOutput | tuple:
        """Character logits, and the loss if labels are given.

        Args:
            input_values, attention_mask, mask_time_indices, mask_feature_indices: As the encoder takes them; in
                training, without either of the masks both are drawn.
            labels: Token ids `(batch, tokens)`, filled up with -100; the blank is `config.pad_token_id`.
            num_items_in_batch: Tokens of the whole update, over accumulation and ranks.
        Raises:
            ValueError: If a label is beyond the head. Looked at on the CPU only: a GPU would have to wait for it, and
                `CTCCollator` has checked.
        """
        if self.training and mask_time_indices is None and mask_feature_indices is None:
            mask_time_indices, mask_feature_indices = self.base_model.draw_masks(input_values, attention_mask)
        self.warn_if_never_told()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder_learns):
            outputs = self.base_model(
                input_values,
                attention_mask,
                mask_time_indices,
                mask_feature_indices,
                output_hidden_states=True if self.config.ctc_layer_mix else output_hidden_states,
                output_attentions=output_attentions,
                return_dict=True,
            )
        hidden = outputs.last_hidden_state
        if self.config.ctc_layer_mix:
            hidden = mix_layers(torch.stack(outputs.hidden_states, dim=1), self.layer_weights)
        logits = self.lm_head(self.dropout(hidden))  # (batch, frames, vocabulary)
        if outputs.frame_mask is not None:
            # Code that decodes all frames of a padded batch, as the ASR pipeline does, finds no text in the padding.
            nothing = torch.full_like(logits[0, 0], torch.finfo(logits.dtype).min)
            nothing[self.config.pad_token_id] = 0
            logits = torch.where(outputs.frame_mask[..., None], logits, nothing)
        loss = statistics = None
        if labels is not None:
            if labels.device.type == "cpu" and labels.numel():
                check_labels(int(labels.max()), self.config)
            mask = outputs.frame_mask
            num_frames = labels.new_full(logits.shape[:1], logits.shape[1]) if mask is None else mask.sum(-1)
            total = ctc_loss(logits, num_frames, labels, self.config.pad_token_id).sum()
            tokens = (labels != -100).sum()
            # No token at all where every audio of an update was unusable: then the loss is 0.
            loss = total / torch.as_tensor(tokens if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
            infinite = (frames_needed(labels) > num_frames).sum()
            blanks = logits.argmax(-1) == self.config.pad_token_id
            statistics = {"total": total.detach(), "tokens": tokens, "infinite": infinite, "frames": num_frames.sum()}
            statistics["blanks"] = (blanks if mask is None else blanks & mask).sum()
        return SSLSpeechCTCOutput(loss, logits, outputs.hidden_states, outputs.attentions, statistics=statistics)

    def renew_head(self, vocab_size: int):
        """Puts a fresh head of this many tokens in place of the old one, for another vocabulary."""
        self.config.vocab_size = vocab_size
        self.lm_head = XavierLinear(self.config.hidden_size, vocab_size).to(self.lm_head.weight)
        self.lm_head.set_initial_values()

    def lost_schedules(self) -> list[str]:
        """The encoder's rest too."""
        resting = [f"the encoder is not frozen until update {self.thaw_update:,}"] if self.thaw_update else []
        return super().lost_schedules() + resting

    def set_update(self, update: int):
        """Seeds layer drop, and unfreezes the encoder at `thaw_update`."""
        super().set_update(update)
        self.encoder_learns = update >= self.thaw_update

    def resting_parameters(self) -> Iterator[nn.Parameter]:
        """The whole encoder as long as it is frozen."""
        return super().resting_parameters() if self.encoder_learns else self.base_model.parameters()

    @property
    def metric_names(self) -> list[str]:
        """What `metrics` tells of every batch, by name."""
        return ["loss", "blank_share"]

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Loss per token of added-up `statistics`, the share of frames in which the blank is most likely; and, if there
        are any, the rows whose labels did not fit."""
        metrics = {
            "loss": float(statistics["total"] / statistics["tokens"].clamp(min=1)),
            "blank_share": float(statistics["blanks"] / statistics["frames"].clamp(min=1)),
        }
        infinite = int(statistics["infinite"])
        return metrics | ({"infinite_losses": infinite} if infinite else {})


def check_labels(largest: int, config: SSLSpeechConfig):
    """Raises a ValueError if the head has no output for a label."""
    if largest >= config.vocab_size:
        raise ValueError(
            f"A label is {largest} but the head has {config.vocab_size} outputs: make the model with "
            "`vocab_size=len(tokenizer)`."
        )


# Mask budget in the fine-tuning of classifiers, as a share of the frames: the default of stock configurations.
CLASSIFICATION_MASK_PROB = 0.05


def mix_layers(states: Tensor, layer_weights: Tensor) -> Tensor:
    """The weighted sum of hidden states, as SUPERB has it.

    Args:
        states: `(batch, layers, frames, hidden)`.
        layer_weights: `(layers,)`, of which the softmax weighs.
    Returns:
        `(batch, frames, hidden)`.
    """
    return (states * layer_weights.softmax(-1).view(-1, 1, 1)).sum(dim=1)  # in stock's order: equal to the last bit


def pool_frames(hidden: Tensor, frame_mask: Tensor | None, attention: nn.Module | None = None) -> Tensor:
    """One vector for each row: the mean over its real frames, or their sum as attention weighs them.

    Args:
        hidden: `(batch, frames, width)`.
        frame_mask: Which frames are real, `(batch, frames)`; None if all are.
        attention: Gives a weight to each frame before the softmax, `(batch, frames, 1)`.
    Returns:
        `(batch, width)`.
    """
    if attention is None:
        if frame_mask is None:
            return hidden.mean(1)
        mask = frame_mask[..., None]
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
    scores = at_least_float32(attention(hidden)).squeeze(-1)
    if frame_mask is not None:
        scores = scores.masked_fill(~frame_mask, torch.finfo(scores.dtype).min)
    return torch.einsum("bth,bt->bh", hidden, scores.softmax(-1).to(hidden.dtype))


class SSLSpeechForSequenceClassification(SSLSpeechPreTrainedModel):
    """An encoder with one class per utterance: its frames become one vector, then a linear layer chooses.

    The vector is the mean over real frames, or with `classifier_pooling="attentive"`, which stock does not have, their
    sum as a learned attention weighs them. In training, batches that bring no masks get some as the config says (see
    `SSLSpeechModel.draw_masks`).
    """

    encoder_class: type[SSLSpeechModel]

    def __init__(self, config: SSLSpeechConfig):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.encoder_class(config))
        if config.use_weighted_layer_sum:
            self.layer_weights = nn.Parameter(torch.empty(config.num_hidden_layers + 1))
        self.projector = nn.Linear(config.hidden_size, config.classifier_proj_size)
        attends = config.classifier_pooling == "attentive"
        self.pooling_attention = nn.Linear(config.classifier_proj_size, 1) if attends else None
        self.classifier = nn.Linear(config.classifier_proj_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args, **kwargs):
        """Loads ours or a stock checkpoint; masks of pretraining are replaced by those of fine-tuning.

        With half of the frames masked, as in pretraining, too little would be left to classify: such a checkpoint gets
        `mask_time_prob=0.05`, unless you set it.
        """
        if pretrained_model_name_or_path and not {"config", "mask_time_prob"} & set(kwargs) and not args:
            fields, _ = cls.config_class.get_config_dict(pretrained_model_name_or_path, **kwargs)
            if not str(fields.get("architectures")).endswith(("ForCTC']", "ForSequenceClassification']")):
                kwargs["mask_time_prob"] = CLASSIFICATION_MASK_PROB
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def set_initial_values(self):
        """The layers' weights, all alike."""
        if self.config.use_weighted_layer_sum:
            init.constant_(self.layer_weights, 1 / self.layer_weights.numel())

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        mask_feature_indices: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Class logits `(batch, classes)`, and the mean cross-entropy if labels are given.

        Args:
            input_values, attention_mask, mask_time_indices, mask_feature_indices: As the encoder takes them; in
                training, without either of the masks both are drawn.
            labels: Class numbers, `(batch,)` or `(batch, 1)`.
        """
        if self.training and mask_time_indices is None and mask_feature_indices is None:
            mask_time_indices, mask_feature_indices = self.base_model.draw_masks(input_values, attention_mask)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs = self.base_model(
            input_values,
            attention_mask,
            mask_time_indices,
            mask_feature_indices,
            output_hidden_states=output_hidden_states or self.config.use_weighted_layer_sum,
            output_attentions=output_attentions,
            return_dict=True,
        )
        hidden = outputs.last_hidden_state
        if self.config.use_weighted_layer_sum:
            hidden = mix_layers(torch.stack(outputs.hidden_states, dim=1), self.layer_weights)
        hidden = self.projector(hidden)  # (batch, frames, projected)
        pooled = pool_frames(hidden, outputs.frame_mask, self.pooling_attention)
        logits = self.classifier(pooled)
        loss = None if labels is None else F.cross_entropy(at_least_float32(logits), labels.view(-1))
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class SSLWav2Vec2ForCTC(SSLSpeechForCTC):
    """wav2vec 2.0 with a CTC head; weights are interchangeable with transformers' `Wav2Vec2ForCTC`."""

    config_class = SSLWav2Vec2Config
    base_model_prefix = "wav2vec2"
    encoder_class = SSLWav2Vec2Model


class SSLHubertForCTC(SSLSpeechForCTC):
    """HuBERT with a CTC head; weights are interchangeable with transformers' `HubertForCTC`."""

    config_class = SSLHubertConfig
    base_model_prefix = "hubert"
    encoder_class = SSLHubertModel


class SSLWav2Vec2ForSequenceClassification(SSLSpeechForSequenceClassification):
    """wav2vec 2.0 with one class per utterance; interchangeable with `Wav2Vec2ForSequenceClassification`."""

    config_class = SSLWav2Vec2Config
    base_model_prefix = "wav2vec2"
    encoder_class = SSLWav2Vec2Model


class SSLHubertForSequenceClassification(SSLSpeechForSequenceClassification):
    """HuBERT with one class per utterance; interchangeable with `HubertForSequenceClassification`."""

    config_class = SSLHubertConfig
    base_model_prefix = "hubert"
    encoder_class = SSLHubertModel
