"""Inputs and frames of transformers' speech models, by family.

`docs/families.md` says what works with which; `tests/test_families.py` proves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from transformers import (
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.frames import ConvLayer, hop_samples, window_samples

# Log mel spectra of 25 ms every 10 ms, as Whisper's and w2v-BERT's feature extractors make them.
SPECTRUM = ConvLayer(400, 160)
# Written in Moonshine's code, not in its configuration: a frame every 24 ms.
MOONSHINE = (ConvLayer(127, 64), ConvLayer(7, 3), ConvLayer(3, 2))


@dataclass(frozen=True)
class Family:
    """What all models of one type in transformers have in common.

    Attributes:
        name: Its usual name.
        layers: Name of the list of transformer layers in the encoder.
        writes: Whether it writes text through a CTC head (`ctc`) or token after token (`tokens`).
    """

    name: str
    layers: str = "encoder.layers"
    writes: str = "ctc"


# By `config.model_type`.
FAMILIES = {
    "ssl-wav2vec2": Family("wav2vec 2.0 of this package"),
    "ssl-hubert": Family("HuBERT of this package"),
    "wav2vec2": Family("wav2vec 2.0, XLS-R, MMS"),
    "hubert": Family("HuBERT"),
    "wavlm": Family("WavLM"),
    "unispeech": Family("UniSpeech"),
    "unispeech-sat": Family("UniSpeech-SAT"),
    "data2vec-audio": Family("data2vec audio"),
    "wav2vec2-conformer": Family("wav2vec 2.0 Conformer"),
    "wav2vec2-bert": Family("w2v-BERT 2.0"),
    "sew": Family("SEW"),
    "sew-d": Family("SEW-D", layers="encoder.encoder.layer"),
    "whisper": Family("Whisper", layers="layers", writes="tokens"),
    "moonshine": Family("Moonshine", layers="layers", writes="tokens"),
}
USES = {"features": "give features for units", "ctc": "write through a CTC head", "tokens": "write token after token"}
# With layer norm in the conv encoder these leave padding out of every frame; with group norm, none of stock's does.
_MASKED_THROUGHOUT = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")


@dataclass(frozen=True)
class Hearing:
    """The input of a model, and its frames.

    Attributes:
        family: The family of the model.
        frame_layers: From samples to the frames of the hidden layers.
        output_layers: From samples to the outputs of a CTC head. An adapter makes them fewer than the frames; SEW has
            half as many frames.
        leaves_padding_out: Whether each row has the same outputs in a padded batch as alone.
        takes_spectra: Whether the feature extractor returns spectra instead of waveforms.
        longest_samples: The most audio that it takes at a time, to which shorter audio is padded; None if any length.
    """

    family: Family
    frame_layers: tuple[ConvLayer, ...]
    output_layers: tuple[ConvLayer, ...]
    leaves_padding_out: bool
    takes_spectra: bool = False
    longest_samples: int | None = None

    @property
    def output_seconds(self) -> float:
        """Time from one output to the next. `config.inputs_to_logits_ratio` leaves adapters out in most families."""
        return hop_samples(self.output_layers) / SAMPLE_RATE

    @property
    def first_output_seconds(self) -> float:
        """Where the first output's time begins: at 0, or so that its middle is that of the audio an adapter sees."""
        hop, window = hop_samples(self.output_layers), window_samples(self.output_layers)
        return min(0, window - hop) / 2 / SAMPLE_RATE

    @property
    def shortest_samples(self) -> int:
        """The shortest audio that has both a frame and an output."""
        return max(window_samples(self.frame_layers), window_samples(self.output_layers))

    def inputs(self, extractor: FeatureExtractionMixin, waveforms: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """The model's arguments for a batch of waveforms `(samples,)`, on the CPU.

        Args:
            extractor: The model's feature extractor.
            waveforms: Of one length, unless padding is left out.
        """
        extracted = extractor(
            list(waveforms),
            sampling_rate=SAMPLE_RATE,
            padding="max_length" if self.longest_samples else True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        of_one_length = len({len(waveform) for waveform in waveforms}) == 1
        # w2v-BERT's mask also covers the half of a frame that an odd spectrum ends with.
        if of_one_length and not self.takes_spectra:
            extracted.pop("attention_mask", None)
        return dict(extracted)


def hearing_of(config: PreTrainedConfig, use: str = "features") -> Hearing:
    """The input and frames of a model.

    Args:
        config: The model's configuration.
        use: What for: `features` (of a hidden layer), `ctc` or `tokens` (speech to text).
    Raises:
        ValueError: If models of its type do not support this use.
    """
    kind = config.model_type
    family = FAMILIES.get(kind)
    if family is None or use not in ("features", family.writes):
        able = [name for name, each in FAMILIES.items() if use in ("features", each.writes)]
        raise ValueError(
            f"{config._name_or_path or 'The model'} is of type {kind!r}, which can't {USES[use]} here; expected one of "
            f"{', '.join(able)}."
        )
    if kind == "whisper":
        longest = config.max_source_positions * 2 * SPECTRUM.stride
        frames = (ConvLayer(SPECTRUM.kernel, 2 * SPECTRUM.stride),)
        return Hearing(family, frames, frames, True, takes_spectra=True, longest_samples=longest)
    if kind == "moonshine":
        return Hearing(family, MOONSHINE, MOONSHINE, False)
    adapter = _adapter_layers(config)
    if kind == "wav2vec2-bert":
        frames = (SPECTRUM, ConvLayer(2, 2))
        return Hearing(family, frames, frames + adapter, not adapter, takes_spectra=True)
    frames = tuple(ConvLayer(*each) for each in zip(config.conv_kernel, config.conv_stride))
    if kind in ("sew", "sew-d"):
        squeeze = ConvLayer(config.squeeze_factor, config.squeeze_factor)
        return Hearing(family, (*frames, squeeze), frames, False)
    masked = kind in _MASKED_THROUGHOUT and config.feat_extract_norm == "layer" and not adapter
    masked = masked and not getattr(config, "conv_pos_batch_norm", False)
    return Hearing(family, frames, frames + adapter, masked or isinstance(config, SSLSpeechConfig))


def _adapter_layers(config: PreTrainedConfig) -> tuple[ConvLayer, ...]:
    """The convs between encoder and head; what they pad at both ends is taken off the kernel."""
    if not getattr(config, "add_adapter", False):
        return ()
    padded = config.adapter_stride // 2 if config.model_type == "wav2vec2-bert" else 1
    return (ConvLayer(config.adapter_kernel_size - 2 * padded, config.adapter_stride),) * config.num_adapter_layers


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder in a model, without head or decoder."""
    return model.base_model.get_encoder() if model.config.is_encoder_decoder else model.base_model


def layers_of(encoder: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of an encoder."""
    return encoder.get_submodule(FAMILIES[encoder.config.model_type].layers)


def extractor_of(config: PreTrainedConfig, *, normalize: bool) -> FeatureExtractionMixin:
    """The feature extractor that goes with a model, where none was saved with it.

    Args:
        config: The model's configuration.
        normalize: Whether waveforms get zero mean and unit variance; spectra are as their family has them.
    """
    if config.model_type == "whisper":
        seconds = hearing_of(config).longest_samples // SAMPLE_RATE
        return WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)
    if config.model_type == "wav2vec2-bert":
        return SeamlessM4TFeatureExtractor()
    return Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
