"""ABX error rate: how well features discriminate phones without any training, computed by the library fastabx."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hf_ssl_speech.units.phones import SLACK_SECONDS, in_order, is_silence

# As in ZeroSpeech 2021: of each triphone of a speaker, and of other speakers that X may come from.
MOST_TOKENS, MOST_SPEAKERS = 10, 5
CONTEXT = ["previous", "next"]
CONDITIONS: dict[str, dict[str, list[str]]] = {
    "within": {"by": [*CONTEXT, "speaker"]},
    "across": {"by": CONTEXT, "across": ["speaker"]},
}


def import_fastabx() -> ModuleType:
    """The library, or an ImportError that tells how to get it."""
    try:
        import fastabx
    except ImportError as error:
        raise ImportError("ABX is measured by fastabx (Python 3.12 or newer): pip install fastabx") from error
    return fastabx


def abx_error(
    features: Sequence[Tensor | ArrayLike],
    phones: Sequence[Sequence[Mapping[str, Any]]],
    speakers: Sequence[str],
    *,
    hop_seconds: float = 0.02,
    window_seconds: float = 0.025,
    seed: int = 0,
    silence: Collection[str] = (),
) -> dict[str, float | int | None]:
    """How often a token of a triphone is closer to another triphone than to its own (ZeroSpeech 2021, ABX).

    A and X are tokens of one triphone, such as B-AE-T; B is one with another phone in the middle, B-IH-T. The
    distance is the mean angle between frames along the best alignment in time. The mean is taken over contexts, then
    speakers, then pairs of phones; silence is in no triphone.

    Args:
        features: Frames of each utterance, `(frames, width)`: MFCC, a hidden layer, or units as one-hot rows or as
            their centroids. Utterances without frames are skipped.
        phones: Of each utterance, `{"phone", "start", "end"}` in seconds.
        speakers: Of each utterance.
        hop_seconds: Time from one frame to the next: 0.02 in the encoder, and for every second MFCC frame.
        window_seconds: Audio that a frame sees, from `frame * hop_seconds` on.
        seed: Decides which tokens are compared where there are many.
        silence: Labels of silence beyond the usual ones (see `is_silence`).
    Returns:
        `within`: The error where A, B and X are of one speaker, 0.5 by chance. `across`: where X is of another one
        than A and B. Each is None if no tokens are such. `num_triphones`: tokens, and `num_speakers`: who say them.
    Raises:
        ImportError: If fastabx is not installed.
        ValueError: If there are not as many features, phones and speakers, features do not belong together or to the
            phones, or nothing can be compared.
    """
    fastabx = import_fastabx()
    import polars  # comes with fastabx

    frames = _check(features, phones, speakers)
    labels, places = [], []
    offset = 0  # tokens overlap, so all frames are kept once and tokens point into them
    for row, (row_frames, row_phones, speaker) in enumerate(zip(frames, phones, speakers)):
        _check_times(row, len(row_frames), row_phones, hop_seconds, window_seconds)
        centres = np.arange(len(row_frames)) * hop_seconds + window_seconds / 2
        for before, phone, after in _triphones(row_phones, hop_seconds, silence):
            first, end = np.searchsorted(centres, (before["start"], after["end"]))
            if first < end:
                labels.append((phone["phone"], before["phone"], after["phone"], speaker))
                places.append((offset + int(first), offset + int(end)))
        offset += len(row_frames)

    errors: dict[str, float | None] = dict.fromkeys(CONDITIONS)
    if labels:
        data = torch.cat(frames)
        accessor = fastabx.InMemoryAccessor(dict(enumerate(places)), data, data.device)
        columns = polars.DataFrame(labels, schema=["phone", *CONTEXT, "speaker"], orient="row")
        dataset = fastabx.Dataset(columns, accessor)
        errors = {name: _score(fastabx, dataset, conditions, seed) for name, conditions in CONDITIONS.items()}
    if not any(error is not None for error in errors.values()):
        raise ValueError(
            f"ABX needs triphones that differ in the middle phone only, one of them twice, but the {len(labels)} "
            "triphones here have no such pair: give more utterances with phones."
        )
    return {**errors, "num_triphones": len(labels), "num_speakers": len({label[-1] for label in labels})}


def _check(features: Sequence, phones: Sequence, speakers: Sequence) -> list[Tensor]:
    if not len(features) == len(phones) == len(speakers):
        raise ValueError(
            f"{len(features)} utterances came with {len(phones)} lists of phones and {len(speakers)} speakers; "
            "expected one of each."
        )
    frames = [torch.as_tensor(row).float() for row in features]
    for row, row_frames in enumerate(frames):
        if row_frames.dim() != 2 or row_frames.shape[1] != frames[0].shape[-1]:
            raise ValueError(
                f"Utterance {row} has features of shape {tuple(row_frames.shape)}; expected (frames, width), with the "
                f"width of utterance 0, whose shape is {tuple(frames[0].shape)}."
            )
        if not row_frames.isfinite().all():
            raise ValueError(f"Utterance {row} has features that are not finite; look at its audio and the encoder.")
    return frames


def _check_times(row: int, num_frames: int, phones: Sequence[Mapping], hop_seconds: float, window_seconds: float):
    seconds = (num_frames - 1) * hop_seconds + window_seconds
    end = max((phone["end"] for phone in phones), default=0.0)
    if num_frames and end > seconds + hop_seconds + SLACK_SECONDS:
        raise ValueError(
            f"Utterance {row} has phones up to {end:.2f} s, but its {num_frames} frames, one every "
            f"{1000 * hop_seconds:g} ms, end at {seconds:.2f} s: pass the `hop_seconds` of these features, and times "
            "in seconds."
        )


def _triphones(
    phones: Sequence[Mapping[str, Any]], hop_seconds: float, silence: Collection[str] = ()
) -> Iterator[tuple[Mapping, Mapping, Mapping]]:
    """Each phone with its neighbours, unless one is silence, there is a pause between them, or they overlap."""
    phones = in_order(phones)
    for triphone in zip(phones, phones[1:], phones[2:]):
        touch = all(abs(right["start"] - left["end"]) < hop_seconds for left, right in pairwise(triphone))
        if touch and not any(is_silence(phone["phone"], silence) for phone in triphone):
            yield triphone


def _score(fastabx: ModuleType, dataset: Any, conditions: Mapping[str, list[str]], seed: int) -> float | None:
    subsampler = fastabx.Subsampler(MOST_TOKENS, MOST_SPEAKERS, seed)
    try:
        task = fastabx.Task(dataset, on="phone", **conditions, subsampler=subsampler)
    except fastabx.EmptyTaskError:
        return None
    return fastabx.Score(task, "angular", progress=False).collapse(levels=[tuple(CONTEXT), "speaker"])
