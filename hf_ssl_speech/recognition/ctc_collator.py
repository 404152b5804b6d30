"""From rows with labels to batches for CTC: masks of time and of channels, no crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soxr
import torch
from torch.nn.utils.rnn import pad_sequence

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio
from hf_ssl_speech.data.collators import SpeechCollator
from hf_ssl_speech.data.masking import draw_spans
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.frames import num_frames
from hf_ssl_speech.models.heads import check_labels
from hf_ssl_speech.models.objectives import frames_needed

SPEED_STREAM = 1  # of random numbers, beside that of masks


class CTCCollator(SpeechCollator):
    """Batches for `SSLWav2Vec2ForCTC` and `SSLHubertForCTC` from the rows of `add_labels`.

    In training, spans of frames and of channels are hidden as the config's `mask_time_*` and `mask_feature_*` say
    (wav2vec 2.0, section 4.3); audio no longer than a span stays whole. Where `speeds` are given, each row is played at
    one of them, drawn anew in each epoch; faster audio must leave a frame for each label, else the row stays as it is.
    In `evaluation` nothing of this is done, and the batch has the transcripts too.

    A batch holds `input_values` `(batch, samples)`, `attention_mask` (only if a row is padded), `labels`
    `(batch, tokens)` filled up with -100, `mask_time_indices` `(batch, frames)` and `mask_feature_indices`
    `(batch, hidden)`, or `texts`. A row whose audio turns out unusable becomes silence without labels; `skipped_rows`
    names it with the reason.

    Raises:
        ValueError: If a span of channels is as wide as the model, or, when it comes by, if a label is beyond its head.
    """

    def __init__(self, config: SSLSpeechConfig, speeds: Sequence[float] = (), **settings):
        super().__init__(config, **settings)
        self.speeds = [] if self.evaluation else list(speeds)
        if config.mask_feature_prob and config.mask_feature_length >= config.hidden_size:
            raise ValueError(
                f"A mask spans {config.mask_feature_length} channels but the model has {config.hidden_size}: lower "
                "mask_feature_length."
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        skipped = self.skipped_before(rows)
        waveforms, labels = zip(*(self.utterance(row, skipped) for row in rows))
        batch = {
            **self.pad_waveforms(waveforms),
            "labels": pad_sequence([torch.from_numpy(label) for label in labels], True, -100),
            "skipped_rows": skipped,
            **self.samples_of(rows, waveforms),
        }
        if self.evaluation:
            batch["texts"] = [row["text"] for row in rows]
        elif self.config.apply_spec_augment:
            frames, channels = zip(*(self.masks(row, len(wave)) for row, wave in zip(rows, waveforms)))
            batch["mask_time_indices"] = pad_sequence([torch.from_numpy(mask) for mask in frames], True)
            batch["mask_feature_indices"] = torch.from_numpy(np.stack(channels))
        return batch

    def utterance(self, row: Mapping[str, Any], skipped: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Waveform `(samples,)` float32 and labels `(tokens,)` int64 of a row."""
        try:
            waveform = self.waveform(row)
        except BadAudio as reason:
            skipped.append((row["name"], str(reason)))
            return np.zeros(row["num_samples"], np.float32), np.zeros(0, np.int64)
        labels = np.asarray(row["labels"], np.int64)
        check_labels(int(labels.max()), self.config)
        return (self.at_a_speed(waveform, labels, row) if self.speeds else waveform), labels

    def at_a_speed(self, waveform: np.ndarray, labels: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
        """The waveform at a speed drawn for the row in this epoch: slower is longer, and lower in pitch."""
        # Not the generator of the masks: these stay what they are without speeds, as far as lengths allow.
        draw = np.random.default_rng((SPEED_STREAM, *self.key(row)))
        speed = self.speeds[draw.integers(len(self.speeds))]
        frames = num_frames(int(len(waveform) / speed), self.config.conv_layers)
        if speed == 1 or int(frames_needed(torch.from_numpy(labels))) > frames:
            return waveform
        return soxr.resample(waveform, SAMPLE_RATE * speed, SAMPLE_RATE)

    def masks(self, row: Mapping[str, Any], num_samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Which frames `(frames,)` and which channels `(hidden,)` of a row are hidden."""
        config, generator = self.config, self.generator(row)
        frames = np.zeros(num_frames(num_samples, config.conv_layers), dtype=bool)
        channels = np.zeros(config.hidden_size, dtype=bool)
        if config.mask_time_prob:
            frames = draw_spans(
                len(frames),
                probability=config.mask_time_prob,
                length=config.mask_time_length,
                min_spans=config.mask_time_min_masks,
                generator=generator,
            )
        if config.mask_feature_prob:
            channels = draw_spans(
                config.hidden_size,
                probability=config.mask_feature_prob,
                length=config.mask_feature_length,
                min_spans=config.mask_feature_min_masks,
                generator=generator,
            )
        return frames, channels
