"""Refuses NaN and infinity before they are turned into symbols, which would look valid."""

from __future__ import annotations

from torch import Tensor


def check_finite(numbers: Tensor, what: str, *, logarithms: bool = False):
    """Refuses NaN and infinity.

    Args:
        numbers: `(frames, values)`.
        what: Name of the numbers, at the beginning of the message.
        logarithms: Whether minus infinity is allowed, as the logarithm of zero.
    Raises:
        ValueError: If there are some.
    """
    sound = ~numbers.isnan() & (numbers != float("inf")) if logarithms else numbers.isfinite()
    if not sound.all():
        frames = int((~sound).any(-1).sum())
        raise ValueError(
            f"{what} hold NaN or infinity in {frames:,} of {len(numbers):,} frames: no symbol can be chosen there. "
            "Look for NaN in the model's weights and in the audio, or compute in float32."
        )
