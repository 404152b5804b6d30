"""The heads of fine-tuning: transcripts by CTC, and one class per utterance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput

from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLSpeechConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.encoder import SSLHubertModel, SSLSpeechModel, SSLSpeechPreTrainedModel, SSLWav2Vec2Model


class SSLSpeechForCTC(SSLSpeechPreTrainedModel):
    """An encoder with a linear layer that spells: frames to characters by CTC (wav2vec 2.0, section 3.3)."""

    encoder_class: type[SSLSpeechModel]

    def __init__(self, config: SSLSpeechConfig):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.encoder_class(config))
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

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
    ) -> CausalLMOutput:
        """Character logits `(batch, frames, vocabulary)`, and the loss if labels are given.

        Args:
            labels: Token ids `(batch, tokens)`, filled up with -100; the blank is `config.pad_token_id`.
            num_items_in_batch: Tokens of the whole update, over accumulation and ranks.
        """
        outputs = self.base_model(
            input_values,
            attention_mask,
            mask_time_indices,
            mask_feature_indices,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self.lm_head(self.dropout(outputs.last_hidden_state))  # (batch, frames, vocabulary)
        loss = None
        if labels is not None:
            total = self.ctc_loss(logits, outputs.frame_mask, labels)
            loss = total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)
        return CausalLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)

    def ctc_loss(self, logits: Tensor, frame_mask: Tensor | None, labels: Tensor) -> Tensor:
        """Negative log-likelihood of the labels, summed over rows; a row whose labels don't fit its frames is 0."""
        if int(labels.max()) >= self.config.vocab_size:
            raise ValueError(
                f"A label is {int(labels.max())} but the head has {self.config.vocab_size} outputs: make the model "
                "with `vocab_size=len(tokenizer)`."
            )
        log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)  # (frames, batch, vocabulary)
        num_frames = logits.new_full(logits.shape[:1], logits.shape[1]) if frame_mask is None else frame_mask.sum(-1)
        with torch.backends.cudnn.flags(enabled=False):
            return F.ctc_loss(
                log_probabilities,
                labels.clamp(min=0),
                num_frames.long(),
                (labels != -100).sum(-1),
                blank=self.config.pad_token_id,
                reduction="sum",
                zero_infinity=True,
            )


class SSLSpeechForSequenceClassification(SSLSpeechPreTrainedModel):
    """An encoder with one class per utterance: the mean over real frames, then a linear layer."""

    encoder_class: type[SSLSpeechModel]

    def __init__(self, config: SSLSpeechConfig):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.encoder_class(config))
        if config.use_weighted_layer_sum:
            self.layer_weights = nn.Parameter(
                torch.full((config.num_hidden_layers + 1,), 1 / (config.num_hidden_layers + 1))
            )
        self.projector = nn.Linear(config.hidden_size, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Class logits `(batch, classes)`, and the mean cross-entropy if labels `(batch,)` are given."""
        outputs = self.base_model(
            input_values,
            attention_mask,
            output_hidden_states=output_hidden_states or self.config.use_weighted_layer_sum,
            output_attentions=output_attentions,
            return_dict=True,
        )
        hidden = outputs.last_hidden_state
        if self.config.use_weighted_layer_sum:
            states = torch.stack(outputs.hidden_states, dim=1)  # (batch, layers, frames, -1)
            hidden = (states * self.layer_weights.softmax(-1)[:, None, None]).sum(1)
        hidden = self.projector(hidden)  # (batch, frames, projected)
        if outputs.frame_mask is None:
            pooled = hidden.mean(1)
        else:
            mask = outputs.frame_mask[..., None]
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        logits = self.classifier(pooled)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
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
