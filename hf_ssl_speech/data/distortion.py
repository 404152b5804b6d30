"""Speech among noise, other speech and echoes, as it is where it is recorded: what a collator makes of clean audio."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torchaudio.functional import fftconvolve

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio, sampling_rate
from hf_ssl_speech.data.data_facts import SkipReport
from hf_ssl_speech.data.noise_settings import NoiseSettings
from hf_ssl_speech.data.preparing import prepare_speech, row_waveform
from hf_ssl_speech.data.sources import load_speech

logger = logging.getLogger(__name__)

STREAM = 1  # of random numbers, beside that of crops, masks and negatives
RATES_CHECKED = 20
NOISE_SECONDS = 30.0  # noise of minutes is cut at pauses, so that less is read at a time
LEAST_POWER = 1e-10  # of a stretch that counts as sound: 100 dB below full scale


class Distortion:
    """Changes utterances as the settings say, each as its generator draws; no utterance gets longer or shorter.

    First the room: the utterance is convolved with an impulse response, from its strongest peak on, so that nothing is
    heard later than before, and keeps its power. Then noise, or another utterance, is added over a stretch of less than
    half of it, at a level that is drawn; as in WavLM, the level is that of the whole utterance's power above that of
    the whole noise. Last the gain.

    Args:
        settings: What is done, and how often.
        noise, impulses: Prepared rows, where the settings ask for some.
        speech: Prepared rows to take other utterances from; of a stream, whose rows come by once, the batch.
    """

    def __init__(
        self,
        settings: NoiseSettings,
        noise: Dataset | None = None,
        impulses: Dataset | None = None,
        speech: Dataset | None = None,
    ):
        self.settings = settings
        self.noise = noise
        self.impulses = impulses
        self.speech = speech

    def __call__(
        self, waveform: np.ndarray, row: Mapping[str, Any], key: Sequence[int], batch: Sequence[Mapping[str, Any]] = ()
    ) -> np.ndarray:
        """What is heard of an utterance.

        Args:
            waveform: Of the row, or a crop of it, `(samples,)` float32.
            row: Is not mixed with itself.
            key: Decides all that is drawn.
            batch: Rows to take another utterance from if there is no `speech`.
        Returns:
            `(samples,)` float32: the very waveform that was given if nothing was to be changed, else another.
        """
        settings = self.settings
        generator = np.random.default_rng(np.random.SeedSequence(key, spawn_key=(STREAM,)))
        heard = waveform
        room, what = generator.random(2)
        if self.impulses is not None and room < settings.reverberated:
            heard = reverberate(heard, _draw(self.impulses, generator))
        noisy = settings.share if self.noise is not None else 0.0
        if what < noisy:
            heard = self.mix(heard, _draw(self.noise, generator), settings.levels, generator)
        elif what < noisy + settings.utterances:
            others = batch if self.speech is None else self.speech
            heard = self.mix(heard, _draw(others, generator, row), settings.utterance_levels, generator)
        if settings.gain:
            heard = heard * np.float32(10 ** (generator.uniform(*settings.gain) / 20))
        return heard

    def mix(
        self, waveform: np.ndarray, other: np.ndarray, levels: Sequence[float], generator: np.random.Generator
    ) -> np.ndarray:
        """Adds a stretch of another sound to a stretch of a waveform."""
        longest = int(len(waveform) * self.settings.covered)
        length = min(int(generator.integers(1, max(longest, 1) + 1)), len(other))
        place, start = (int(generator.integers(0, len(each) - length + 1)) for each in (waveform, other))
        stretch = other[start : start + length]
        level = generator.uniform(*levels)
        if power(other) < LEAST_POWER or longest == 0:
            return waveform
        mixed = waveform.copy()
        mixed[place : place + length] += stretch * np.float32(scale_for(waveform, other, level))
        return mixed


def power(waveform: np.ndarray) -> float:
    """The mean square."""
    return float(np.square(waveform, dtype=np.float64).mean()) if len(waveform) else 0.0


def scale_for(speech: np.ndarray, noise: np.ndarray, level: float) -> float:
    """By what noise is multiplied so that the speech is so many decibels above it."""
    return float(np.sqrt(power(speech) / (power(noise) * 10 ** (level / 10))))


def reverberate(waveform: np.ndarray, impulse_response: np.ndarray) -> np.ndarray:
    """A waveform as it sounds in a room, with the direct sound where it was, as long and as powerful as before."""
    direct = int(np.abs(impulse_response).argmax())
    response = torch.from_numpy(np.ascontiguousarray(impulse_response[direct:]))
    heard = fftconvolve(torch.from_numpy(waveform), response)[: len(waveform)].numpy()
    if power(heard) < LEAST_POWER:
        return waveform
    return (heard * np.sqrt(power(waveform) / power(heard))).astype(np.float32)


def _draw(
    rows: Dataset | Sequence[Mapping[str, Any]], generator: np.random.Generator, but: Mapping[str, Any] | None = None
) -> np.ndarray:
    """The waveform of a row, not that of `but` if there are others; nothing where it can't be read."""
    place = int(generator.integers(len(rows)))
    row = rows[place]
    if but is not None and row["sample_id"] == but["sample_id"]:
        row = rows[(place + 1) % len(rows)]
    try:
        return row_waveform(row)
    except BadAudio as problem:
        logger.warning("%s can't be mixed in: %s", row["name"], problem)
        return np.zeros(1, np.float32)


def load_noise(sources: Sequence[str], what: str) -> tuple[Dataset, SkipReport]:
    """Rows of noise, or of impulse responses, decoded once.

    Args:
        what: `noise` or `impulse responses`, for messages.
    Raises:
        ValueError: If nothing is found, all of it is silent, or it was recorded at less than 16 kHz.
    """
    rows = load_speech(list(sources))
    for place in np.linspace(0, len(rows) - 1, min(len(rows), RATES_CHECKED)).astype(int).tolist():
        try:
            rate = sampling_rate(rows[place]["audio"])
        except BadAudio:
            continue
        if rate < SAMPLE_RATE:
            raise ValueError(
                f"The {what} {' '.join(sources)} are at {rate:,} Hz: they hold nothing above {rate // 2:,} Hz, by "
                f"which a model could tell them from the speech. Give some at {SAMPLE_RATE:,} Hz or more."
            )
    try:
        return prepare_speech(rows, min_seconds=0.0, max_seconds=NOISE_SECONDS, cache=True)
    except ValueError as error:
        raise ValueError(f"The {what} {' '.join(sources)} can't be used: {error}") from error
