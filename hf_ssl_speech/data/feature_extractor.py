"""What prepares waveforms for a model."""

from __future__ import annotations

import contextlib

from transformers import AutoFeatureExtractor, FeatureExtractionMixin, PreTrainedConfig, Wav2Vec2FeatureExtractor

from hf_ssl_speech.audio import SAMPLE_RATE


def feature_extractor_for(config: PreTrainedConfig, start: str | None = None) -> Wav2Vec2FeatureExtractor:
    """The feature extractor a model is trained and saved with: that of the checkpoint it starts from, if it has one.

    Other models, and new ones, get normalised waveforms if they have layer norm.

    Raises:
        ValueError: If the checkpoint was trained at another sampling rate than 16 kHz.
    """
    if start:
        with contextlib.suppress(OSError):
            found = AutoFeatureExtractor.from_pretrained(start)
            check_rate(found, start)
            return found
    return Wav2Vec2FeatureExtractor(do_normalize=config.feat_extract_norm == "layer", return_attention_mask=True)


def check_rate(feature_extractor: FeatureExtractionMixin, source: str):
    """Raises a ValueError if a model's feature extractor has another sampling rate than 16 kHz.

    Args:
        source: Where it comes from, for the message.
    """
    rate = feature_extractor.sampling_rate
    if rate != SAMPLE_RATE:
        shown = f"{rate:,}" if isinstance(rate, int | float) else repr(rate)  # a damaged file may hold anything
        raise ValueError(
            f"{source} was trained at {shown} Hz, but audio is read at {SAMPLE_RATE:,} Hz here: use a model with that "
            "sampling rate."
        )
