"""The conv encoder: raw waveform to one frame per hop (wav2vec 2.0, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from hf_ssl_speech.models.channels_last import conv_and_norm, conv_frames
from hf_ssl_speech.models.checkpointing import CheckpointedLayer
from hf_ssl_speech.models.compilation import block
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.convolution_operator import convolve
from hf_ssl_speech.models.dropout import Dropout
from hf_ssl_speech.models.frames import frame_mask, num_frames
from hf_ssl_speech.models.initialization import UniformLinear
from hf_ssl_speech.models.mel_bands import MelBands
from hf_ssl_speech.models.precision import at_least_float32, in_autocast
from hf_ssl_speech.models.products import is_fast, is_plain


class ValidGroupNorm(nn.GroupNorm):
    """Norm of each channel over time, over valid frames only.

    Group norm averages over time, so padding would change real frames: a padded row gets its statistics from its own
    frames, and so the values it gets alone.
    """

    def __init__(self, channels: int):
        super().__init__(num_groups=channels, num_channels=channels)

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """`frames` is `(batch, channels, frames)`, `mask` `(batch, frames)` bool or None where nothing is padded."""
        if mask is None:
            return super().forward(frames)
        with torch.autocast(frames.device.type, enabled=False):
            values = at_least_float32(frames)
            share = mask.to(values.dtype).mean(-1).clamp(min=1 / mask.shape[-1])[:, None, None]  # valid frames of all
            variance, mean = torch.var_mean(values * mask[:, None], -1, correction=0, keepdim=True)
            second_moment = (variance + mean.square()) / share
            mean = mean / share
            scale = self.weight[:, None] * torch.rsqrt(second_moment - mean.square() + self.eps)
            shift = self.bias[:, None] - mean * scale
        return (frames * scale + shift).to(frames.dtype)  # in float32 also in low precision, as torch's group norm


class ConvLayerBlock(CheckpointedLayer):
    """Conv, norm where the architecture has one, activation."""

    def __init__(self, config: SSLSpeechConfig, index: int):
        super().__init__()
        channels = config.conv_dim[index]
        self.conv = nn.Conv1d(
            config.conv_dim[index - 1] if index else 1,
            channels,
            config.conv_kernel[index],
            config.conv_stride[index],
            bias=config.conv_bias,
        )
        if config.feat_extract_norm == "layer":
            self.layer_norm = nn.LayerNorm(channels)
        elif index == 0:
            self.layer_norm = ValidGroupNorm(channels)
        else:
            self.layer_norm = None
        self.activation = ACT2FN[config.feat_extract_activation]

    @block
    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """`frames` is `(batch, frames, channels)`, `mask` True on the real frames that the layer makes."""
        if self.training and is_plain(self.conv) and (is_fast(frames) or torch.compiler.is_compiling()):
            return self.activation(self.conv_channels_last(frames, mask))
        frames = self.conv(frames.transpose(1, 2))  # (batch, channels, frames)
        if isinstance(self.layer_norm, ValidGroupNorm):
            frames = self.layer_norm(frames, mask)
        elif self.layer_norm is not None:
            frames = self.layer_norm(frames.transpose(1, 2)).transpose(1, 2)
        return self.activation(frames).transpose(1, 2)

    def conv_channels_last(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        """Conv and norm, without a change of layout."""
        norm, weight, bias, stride = self.layer_norm, self.conv.weight, self.conv.bias, self.conv.stride[0]
        if isinstance(norm, ValidGroupNorm) and bias is None:
            return conv_and_norm(frames[..., 0], weight, stride, norm.weight, norm.bias, norm.eps, mask)
        if torch.compiler.is_compiling():
            frames = convolve(in_autocast(frames), in_autocast(weight), stride, 0, 1)
            frames = frames if bias is None else frames + bias.to(frames.dtype)
        else:
            frames = conv_frames(frames, weight, bias, stride)
        if isinstance(norm, ValidGroupNorm):
            return norm(frames.transpose(1, 2), mask).transpose(1, 2)
        return frames if norm is None else norm(frames)


class ConvEncoder(nn.Module):
    """Strided convolutions over the waveform, or over its mel bands; valid frames never depend on padding."""

    def __init__(self, config: SSLSpeechConfig):
        super().__init__()
        self.config = config
        first = MelBands(config) if config.feat_extract_filters == "mel" else ConvLayerBlock(config, 0)
        others = (ConvLayerBlock(config, index) for index in range(1, len(config.conv_dim)))
        self.conv_layers = nn.ModuleList([first, *others])

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames of each waveform.

        Args:
            waveforms: `(batch, samples)` at 16 kHz, in any precision.
            lengths: Real samples of each row, `(batch,)`; None where nothing is padded.
        Returns:
            `(batch, frames, channels)`.
        Raises:
            ValueError: If the waveforms are shorter than one window.
        """
        samples = waveforms.shape[-1]
        if samples < self.config.window_samples:
            raise ValueError(
                f"An audio of {samples} samples is shorter than the {self.config.window_samples} samples "
                "one frame needs (400, or 25 ms, with the usual conv stack). Drop it or pad it with silence."
            )
        mask = None
        if lengths is not None:
            first = self.config.conv_layers[:1]
            mask = frame_mask(num_frames(lengths, first), num_frames(samples, first))
        frames, dtype = waveforms[:, None].transpose(1, 2), self.conv_layers[-1].conv.weight.dtype  # one channel
        if self.config.feat_extract_filters == "learned":
            frames = frames.to(dtype)
        elif lengths is not None:  # windows of mel bands reach beyond the last frame
            frames = frames.masked_fill(~frame_mask(lengths, samples)[..., None], 0)
        frames = self.conv_layers[0](frames, mask).to(dtype)
        for layer in self.conv_layers[1:]:
            frames = layer(frames)
        return frames


class ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a constant (0.1 for the conv encoder)."""

    @staticmethod
    def forward(ctx, frames: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return frames.view_as(frames)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


class FeatureProjection(nn.Module):
    """Layer norm over channels, then a projection to the transformer's width."""

    def __init__(self, config: SSLSpeechConfig):
        super().__init__()
        has_norm = getattr(config, "feat_proj_layer_norm", True)
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps) if has_norm else nn.Identity()
        self.projection = UniformLinear(config.conv_dim[-1], config.hidden_size)
        self.dropout = Dropout(config.feat_proj_dropout)

    @block
    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The projected frames `(batch, frames, hidden)` and the normalised ones `(batch, frames, channels)`."""
        normalised = self.layer_norm(frames)
        return self.dropout(self.projection(normalised)), normalised


def feature_penalty_per_row(frames: Tensor, mask: Tensor | None) -> Tensor:
    """Mean square of each row's valid frames, `(batch,)`: keeps the conv encoder's output small (fairseq's penalty)."""
    squares = at_least_float32(frames).square().mean(-1)  # (batch, frames)
    if mask is None:
        return squares.mean(-1)
    return (squares * mask).sum(-1) / mask.sum(-1).clamp(min=1)
