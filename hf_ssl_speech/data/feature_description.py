"""What features are, in a form that is saved with the units made from them and compared before they are used."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.models.frames import ConvLayer, num_frames

MEMORY_GB = 4.0  # of features, to be kept from one pass over the audio to the next


@dataclass(frozen=True)
class FeatureDescription:
    """What the frames of features are. Only frames of equal descriptions belong to the same centroids.

    Attributes:
        kind: MFCC, mel bands, or a hidden layer of an encoder (or, where no layer is named, all).
        width: Values in a frame.
        hop_samples: Samples from one frame to the next; 320 are 20 ms.
        window_samples: Samples that a frame is made from; in an encoder, what its conv stack sees.
        layer: Index into the encoder's `hidden_states`; 0 is the transformer's input.
        normalize: Whether the encoder gets waveforms of zero mean and unit variance.
        weights_hash: `weights_hash` of the encoder.
        encoder: Folder or Hub id of the encoder. The same weights may lie in several places, so this makes no
            difference.
        center: Whether each utterance's mean is subtracted from its frames (cepstral mean normalisation), so that they
            depend less on speaker, channel and loudness.
    """

    kind: Literal["mfcc", "mel", "hidden"]
    width: int
    hop_samples: int
    window_samples: int
    layer: int | None = None
    normalize: bool = False
    weights_hash: str | None = None
    encoder: str | None = field(default=None, compare=False)
    center: bool = False

    @property
    def frames_per_second(self) -> float:
        """50 for frames every 20 ms."""
        return SAMPLE_RATE / self.hop_samples

    @property
    def times(self) -> dict[str, float]:
        """Where frames lie, as `phones_to_frames` and `abx_error` take it."""
        return {"hop_seconds": self.hop_samples / SAMPLE_RATE, "window_seconds": self.window_samples / SAMPLE_RATE}

    def num_frames(self, num_samples: int) -> int:
        """Frames of an audio of `num_samples` at 16 kHz; zero or less if it is shorter than one window."""
        return num_frames(num_samples, [ConvLayer(self.window_samples, self.hop_samples)])

    def differences(self, other: FeatureDescription) -> list[str]:
        """The differences of `other` from this description, in words; empty if both are equal."""
        names = [each.name for each in fields(self) if each.compare]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        unlike = [f"{name} {theirs} instead of {ours}" for name, (ours, theirs) in pairs.items() if ours != theirs]
        return [text.replace("weights_hash", "made with other weights, hash") for text in unlike]

    def __str__(self) -> str:
        every = f"{self.width} values every {1000 / self.frames_per_second:g} ms{', centred' if self.center else ''}"
        if self.kind != "hidden":
            return f"{'MFCC' if self.kind == 'mfcc' else 'mel bands'} ({every})"
        return f"{'all layers' if self.layer is None else f'layer {self.layer}'} of {self.encoder} ({every})"
