"""The transformer: positional conv, self-attention and feed-forward layers, norms before or after (section 2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_ssl_speech.models.block_convolution import convolve_in_blocks, pays
from hf_ssl_speech.models.checkpointing import CheckpointedLayer
from hf_ssl_speech.models.compilation import block
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.convolution_operator import convolve
from hf_ssl_speech.models.dropout import Dropout, drop
from hf_ssl_speech.models.precision import in_autocast
from hf_ssl_speech.models.products import Linear, is_fast, is_plain, product_of_heads


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    dropout: float,
    **_,
) -> tuple[Tensor, Tensor]:
    """Attention written out; query, key and value are `(batch, heads, frames, head width)`.

    `mask` is added to the scores or, if it is boolean, marks the keys that are seen.
    """
    if module.training:  # few queries are scaled, not many scores, which stock's order of operations asks for
        scores = product_of_heads(query * scaling, key.transpose(2, 3))
    else:
        scores = query @ key.transpose(2, 3) * scaling
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = drop(scores.softmax(-1), dropout)
    context = product_of_heads(weights, value) if module.training else weights @ value
    return context.transpose(1, 2).contiguous(), weights


class SelfAttention(nn.Module):
    """Multi-head self-attention through transformers' attention interface (eager, sdpa, flash, flex)."""

    is_causal = False

    def __init__(self, config: SSLSpeechConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.k_proj = Linear(config.hidden_size, config.hidden_size)
        self.v_proj = Linear(config.hidden_size, config.hidden_size)
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Attended frames `(batch, frames, hidden)`, and the attention weights where the implementation gives them."""
        shape = hidden.shape
        query, key, value = (
            projection(hidden).view(*shape[:2], -1, self.head_dim).transpose(1, 2)  # (batch, heads, frames, -1)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        implementation = self.config._attn_implementation
        dropout = self.config.attention_dropout if self.training else 0.0
        if implementation == "sdpa" and self.training and is_fast(hidden) and (dropout or query.itemsize == 2):
            implementation = "eager"  # on CPUs, torch's own takes longer with dropout, and twice as long in bf16
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        context, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=dropout,
        )
        return self.out_proj(context.reshape(shape)), weights


class FeedForward(nn.Module):
    """Two linear layers, frame by frame."""

    def __init__(self, config: SSLSpeechConfig):
        super().__init__()
        self.intermediate_dense = Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]
        self.intermediate_dropout = Dropout(config.activation_dropout)
        self.output_dense = Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.intermediate_dropout(self.intermediate_act_fn(self.intermediate_dense(hidden)))
        return self.output_dropout(self.output_dense(hidden))


class TransformerLayer(CheckpointedLayer):
    """Attention and feed-forward with residuals; the norms stand before them (LARGE) or after (BASE)."""

    def __init__(self, config: SSLSpeechConfig):
        super().__init__()
        self.pre_norm = config.do_stable_layer_norm
        self.attention = SelfAttention(config)
        self.dropout = Dropout(config.hidden_dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @block
    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if self.pre_norm:
            context, weights = self.attention(self.layer_norm(hidden), attention_mask)
            hidden = hidden + self.dropout(context)
            return hidden + self.feed_forward(self.final_layer_norm(hidden)), weights
        context, weights = self.attention(hidden, attention_mask)
        hidden = self.layer_norm(hidden + self.dropout(context))
        return self.final_layer_norm(hidden + self.feed_forward(hidden)), weights


class PositionalConv(nn.Module):
    """Relative positions from one wide grouped convolution over frames."""

    def __init__(self, config: SSLSpeechConfig):
        super().__init__()
        kernel = config.num_conv_pos_embeddings
        conv = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            kernel,
            padding=kernel // 2,
            groups=config.num_conv_pos_embedding_groups,
        )
        self.conv = weight_norm(conv, dim=2)
        self.activation = ACT2FN[config.feat_extract_activation]

    @block
    def forward(self, hidden: Tensor) -> Tensor:
        conv = self.conv
        plain = self.training and is_plain(conv)
        if plain and torch.compiler.is_compiling():
            weight, padding = in_autocast(conv.weight), conv.padding[0]
            positions = convolve(in_autocast(hidden), weight, 1, padding, conv.groups) + conv.bias.to(weight.dtype)
            return self.activation(positions[:, : hidden.shape[1]])
        if plain and is_fast(hidden) and pays(hidden, conv.kernel_size[0]):
            positions = convolve_in_blocks(hidden, conv.weight, conv.groups)
            return self.activation(positions + conv.bias.to(positions.dtype))
        positions = conv(hidden.transpose(1, 2))[..., : hidden.shape[1]]  # an even kernel gives one frame too many
        return self.activation(positions).transpose(1, 2)


class Transformer(nn.Module):
    """Positional conv and a stack of layers."""

    def __init__(self, config: SSLSpeechConfig):
        super().__init__()
        self.config = config
        self.pos_conv_embed = PositionalConv(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_hidden_layers))
        self.kept: Tensor | None = None  # which layers run in this update, `(layers,)` bool, on the CPU

    def forward(
        self, hidden: Tensor, mask: Tensor | None, *, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """Contextualises frames.

        Args:
            hidden: `(batch, frames, hidden)`.
            mask: True on real frames, `(batch, frames)`; None where nothing is padded.
        Returns:
            The last hidden state, all of them (the layers' input first; before the closing norm in pre-norm models, as
            stock has it), and the attention weights `(batch, heads, frames, frames)` of each layer.
        """
        if mask is not None:
            hidden = hidden * mask[..., None]  # the positional conv must see zeros, as after an audio's end
        attention_mask = self.attention_mask(hidden, mask)
        hidden = hidden + self.pos_conv_embed(hidden)
        if not self.config.do_stable_layer_norm:
            hidden = self.layer_norm(hidden)
        hidden = self.dropout(hidden)

        hidden_states, attentions = [hidden], []
        kept = self.kept_layers(hidden.device)
        for number, layer in enumerate(self.layers):
            if isinstance(kept, list) and not kept[number]:
                continue
            layer_output, weights = layer(hidden, attention_mask)
            hidden = layer_output if isinstance(kept, list) else torch.where(kept[number], layer_output, hidden)
            if output_hidden_states:
                hidden_states.append(hidden)
            if output_attentions:
                attentions.append(weights)
        if self.config.do_stable_layer_norm:
            hidden = self.layer_norm(hidden)
        return hidden, tuple(hidden_states) if output_hidden_states else None, tuple(attentions) or None

    def attention_mask(self, hidden: Tensor, mask: Tensor | None) -> Tensor | None:
        """Which frames are seen, in the form that the attention takes."""
        if self.training and mask is not None and self.config._attn_implementation == "sdpa":
            # transformers would check whether anything is padded, and the host would wait for the GPU. Something is,
            # since the collators leave out the masks of batches without padding.
            return mask[:, None, None]
        return create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=mask)

    def set_update(self, update: int):
        """Layer drop: draws which layers run in an update. All ranks and micro-batches of it drop the same ones."""
        if self.config.layerdrop:
            self.kept = self.draw_layers(torch.Generator().manual_seed(update))

    def draw_layers(self, generator: torch.Generator | None = None) -> Tensor:
        """True for the layers that run, `(layers,)` bool."""
        return torch.rand(len(self.layers), generator=generator) >= self.config.layerdrop

    def resting_parameters(self) -> Iterator[nn.Parameter]:
        """Of the layers that `set_update` has dropped."""
        for layer, runs in zip(self.layers, [] if self.kept is None else self.kept.tolist()):
            if not runs:
                yield from layer.parameters()

    def kept_layers(self, device: torch.device) -> list[bool] | Tensor:
        """Which layers run. A compiled graph gets a tensor, so that one graph serves every choice."""
        if not (self.training and self.config.layerdrop):
            return [True] * len(self.layers)
        kept = self.draw_layers() if self.kept is None else self.kept
        return kept.to(device, non_blocking=True) if torch.compiler.is_compiling() else kept.tolist()
