"""Random spans and negatives, drawn with a generator of their own so that an utterance's are the same in any batch."""

from __future__ import annotations

import numpy as np


def draw_spans(
    num_frames: int, *, probability: float, length: int, min_spans: int, generator: np.random.Generator
) -> np.ndarray:
    """Masks spans of frames (wav2vec 2.0, section 3.1; HuBERT the same) or of channels (SpecAugment).

    `probability * num_frames / length` spans start at different random frames and may overlap, so that .65 masks about
    49% of the frames. The fraction of a span that is left over is rounded up or down at random, row by row.

    At least one frame always stays visible as context: if the spans would hide all of a short utterance, the last ones
    drawn are left out, and an utterance no longer than one span is not masked.

    Args:
        num_frames: Frames of the utterance, padding not counted.
        probability: Share of the frames that the spans would cover if none overlapped.
        length: Frames of a span.
        min_spans: The least number of spans, as far as there is room.
    Returns:
        `(frames,)` bool, True where masked, never everywhere.
    """
    if num_frames <= length:
        return np.zeros(num_frames, dtype=bool)
    room = num_frames - length + 1
    num_spans = max(int(probability * num_frames / length + generator.random()), min_spans)
    starts = generator.choice(room, min(num_spans, room), replace=False)
    mask = cover(num_frames, starts, length)
    while mask.all():
        starts = starts[:-1]
        mask = cover(num_frames, starts, length)
    return mask


def cover(num_frames: int, starts: np.ndarray, length: int) -> np.ndarray:
    """True on the frames of the spans of `length` frames that begin at `starts`, `(frames,)` bool."""
    mask = np.zeros(num_frames, dtype=bool)
    mask[starts[:, None] + np.arange(length)] = True
    return mask


def sample_negatives(num_masked: int, num_negatives: int, generator: np.random.Generator) -> np.ndarray:
    """Negatives of each masked frame, drawn uniformly from the utterance's other masked frames (section 3.2).

    Returns:
        `(masked, negatives)` int64, indices into the utterance's masked frames, never a frame's own.
    """
    others = generator.integers(0, max(num_masked - 1, 1), (num_masked, num_negatives))
    return others + (others >= np.arange(num_masked)[:, None]) * (num_masked > 1)
