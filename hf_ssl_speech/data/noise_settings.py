"""The settings of noise in pretraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

MOST_COVERED = 0.5  # more of an utterance under other speech, and it is unknown which of the two is meant


@dataclass(frozen=True)
class NoiseSettings:
    """What is heard beside the speech, and how often; units, masks and negatives stay those of the clean audio.

    Attributes:
        data: Sources of noise, in any form that training takes. Each row may be long.
        share: Share of the utterances that get noise, where there is `data`.
        levels: Lowest and highest level of the speech above the noise, in decibels. WavLM's are the default.
        utterances: Share of the utterances that another utterance is mixed into, as in WavLM.
        utterance_levels: The same levels for utterances.
        covered: The most of an utterance that noise or another utterance covers, below a half. WavLM's is a half.
        impulse_responses: Sources of impulse responses of rooms.
        reverberated: Share of the utterances that are played in one of the rooms.
        gain: Lowest and highest gain in decibels, which every utterance gets; nothing for none. Models whose input is
            normalised don't hear it.
    """

    data: Sequence[str] = ()
    share: float = 0.2
    levels: Sequence[float] = (-5.0, 20.0)
    utterances: float = 0.0
    utterance_levels: Sequence[float] = (-5.0, 5.0)
    covered: float = 0.5
    impulse_responses: Sequence[str] = ()
    reverberated: float = 0.2
    gain: Sequence[float] = field(default_factory=tuple)

    def __post_init__(self):
        for name in ("data", "impulse_responses"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, [getattr(self, name)])
        for name in ("share", "utterances", "reverberated"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"noise.{name} is {getattr(self, name)}: give a share of the utterances, from 0 to 1.")
        if self.share + self.utterances > 1 and self.data:
            raise ValueError(
                f"noise.share {self.share:g} and noise.utterances {self.utterances:g} are more than 1 together: an "
                "utterance gets noise or another utterance, not both."
            )
        if not 0 < self.covered <= MOST_COVERED:
            raise ValueError(f"noise.covered is {self.covered}: give a share of the audio, above 0 and at most 0.5.")
        for name in ("levels", "utterance_levels", "gain"):
            pair = getattr(self, name)
            if not (name == "gain" and not pair) and not (len(pair) == 2 and pair[0] <= pair[1]):
                raise ValueError(f"noise.{name} is {pair}: give the lowest and the highest in decibels.")
        if not (self.data or self.utterances or self.impulse_responses or self.gain):
            raise ValueError(
                "noise changes nothing: give `data` (noise), `utterances` (a share), `impulse_responses` or `gain`."
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> NoiseSettings:
        """The settings with these names.

        Raises:
            ValueError: If one is unknown, or makes no sense.
        """
        known = [each.name for each in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"noise has no setting {', '.join(unknown)}; there are {', '.join(known)}.")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """All settings, as JSON knows them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
