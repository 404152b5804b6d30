"""Speech among silence and music: the stretches of recordings in which somebody speaks, each a row of its own."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from datasets import Audio, Dataset, Features, Value

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio, can_seek, read_blocks
from hf_ssl_speech.data.pieces import as_flac, piece_name
from hf_ssl_speech.data.rows import each_row, part_of, row_name, undecoded

logger = logging.getLogger(__name__)

DETECTORS = ("silero", "energy")
AT_ONCE_SECONDS = 600  # that Silero's model gets; a stretch of speech may go on in the next block
# How stretches are made from what a detector says, in seconds.
SHORTEST, PAUSE, MARGIN = 0.25, 0.5, 0.1
FRAME, HOP = 400, 160  # of the energy, in samples: 25 and 10 ms
# Frames are speech above a level between the quietest tenth and the loudest twentieth of a recording, in decibels.
QUIET, LOUD = 10, 95
STEADY = 9.0  # with less between the two nobody pauses or rises: noise, a hum, silence
RISE = 0.4  # of the way from quiet to loud
SECONDS = Value("float64")


@dataclass
class VoiceReport:
    """What a detector of speech kept and left out."""

    detector: str
    recordings: int = 0
    segments: int = 0
    seconds: float = 0.0
    kept_seconds: float = 0.0
    without_speech: list[str] = field(default_factory=list)
    """Names of the recordings in which nobody speaks."""

    @property
    def share_dropped(self) -> float:
        """The share of the audio that is no speech."""
        return 1 - self.kept_seconds / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For a run's record."""
        return {
            "detector": self.detector,
            "recordings": self.recordings,
            "segments": self.segments,
            "hours": self.seconds / 3600,
            "share_dropped": self.share_dropped,
            "without_speech": self.without_speech,
        }

    def __str__(self) -> str:
        text = (
            f"{self.segments:,} stretches of speech in {self.recordings:,} recordings, found by {self.detector}: "
            f"{self.share_dropped:.1%} of {self.seconds / 3600:.2f} hours is dropped"
        )
        if self.without_speech:
            text += f"; {len(self.without_speech):,} have none: {', '.join(self.without_speech[:4])}"
            text += ", ..." * (len(self.without_speech) > 4)
        return text


def find_speech(
    dataset: Dataset, *, detector: str | None = None, num_proc: int | None = None, channel: int | None = None
) -> tuple[Dataset, VoiceReport]:
    """The stretches of speech in each row's audio, as rows for `prepare_speech`.

    Stretches begin and end a tenth of a second around the speech; pauses of less than half a second belong to them.

    Args:
        dataset: Rows with encoded audio, as `load_speech` gives them.
        detector: `silero` (the package `silero-vad`, with ONNX Runtime), which tells speech from music and noise, or
            `energy`, which only tells loud from quiet. By default silero where it is installed.
        num_proc: Processes to listen with.
        channel: The channel to listen to, counted from 1; by default the mean of all.
    Returns:
        A row for each stretch, with the columns of its recording, an `id` that tells where it begins, and
        `speech_start` and `speech_end` in seconds in the recording. `segment_start` and `segment_end` tell the part of
        the audio; where a file can't be read from the middle, the audio is the stretch itself, as 16-bit FLAC. Rows
        whose audio can't be read come back as they are, for `prepare_speech` to report. And what was kept and dropped.
    Raises:
        ValueError: If there is no such detector, or nobody speaks at all.
        ImportError: If silero is asked for and not installed.
    """
    detector = choose_detector(detector)
    rows = undecoded(dataset)
    features = Features(
        {name: kind for name, kind in rows.features.items() if name not in ("id", "audio")}
        | {"id": Value("string"), "audio": Audio(decode=False)}
        | {"segment_start": SECONDS, "segment_end": SECONDS, "speech_start": SECONDS, "speech_end": SECONDS}
    )
    told = {"told_row": Value("int64"), "told_seconds": SECONDS, "told_empty": Value("bool")}
    found = rows.map(
        _stretches,
        with_indices=True,
        batched=True,
        batch_size=1,
        writer_batch_size=64,
        fn_kwargs={"detector": detector, "channel": channel},
        remove_columns=rows.column_names,
        features=Features(features | told),
        num_proc=num_proc,
        desc="Finding speech",
    )
    report = _report(found, detector)
    kept = found.select(np.flatnonzero(~np.array(found["told_empty"], bool))).remove_columns(list(told))
    if not len(kept):
        raise ValueError(f"{report}. Take another detector, or none.")
    return kept, report


def choose_detector(detector: str | None) -> str:
    """The detector that was asked for, or the best that is installed.

    Raises:
        ValueError: If there is none of this name.
        ImportError: If it is not installed.
    """
    if detector not in (None, *DETECTORS):
        raise ValueError(f"There is no detector {detector!r} of speech: give {' or '.join(DETECTORS)}.")
    missing = [name for name in ("silero_vad", "onnxruntime") if importlib.util.find_spec(name) is None]
    if detector == "silero" and missing:
        raise ImportError("The detector silero needs two packages: pip install silero-vad onnxruntime")
    if detector is None and missing:
        logger.warning("Speech is found by its energy alone, which music has too: pip install silero-vad onnxruntime")
    return detector or ("energy" if missing else "silero")


def _stretches(rows: dict[str, list], indices: list[int], detector: str, channel: int | None) -> dict[str, list]:
    """The rows of one recording's stretches; of one without any, or that can't be read, itself."""
    (row,), (index,) = each_row(rows), indices
    name = row_name(row) or f"row {index}"
    first, stop = part_of(row)
    places = {"segment_start": row.get("segment_start"), "segment_end": row.get("segment_end")}
    whole = row | places | {"id": name, "speech_start": None, "speech_end": None}
    told = {"told_row": index, "told_seconds": None, "told_empty": False}
    try:
        waveform = np.concatenate([np.zeros(0, np.float32), *read_blocks(row["audio"], first, stop, channel)])
        seekable = can_seek(row["audio"])
    except BadAudio:
        made = [whole | told]
    else:
        told["told_seconds"] = len(waveform) / SAMPLE_RATE
        made = []
        for start, end in _speech(waveform, detector):
            stretch = whole | told
            stretch |= {"id": piece_name(name, first + start)}
            stretch |= {"speech_start": (first + start) / SAMPLE_RATE, "speech_end": (first + end) / SAMPLE_RATE}
            if seekable:
                stretch |= {"segment_start": stretch["speech_start"], "segment_end": stretch["speech_end"]}
            else:
                stretch |= {"audio": {"bytes": as_flac(waveform[start:end]), "path": None}}
                stretch |= {"segment_start": None, "segment_end": None}
            made.append(stretch)
        made = made or [whole | told | {"told_empty": True}]
    return {column: [each[column] for each in made] for column in made[0]}


def _speech(waveform: np.ndarray, detector: str) -> list[tuple[int, int]]:
    """First and last sample of each stretch of speech."""
    find = {"silero": silero_speech, "energy": energy_speech}[detector]
    return as_stretches(find(waveform), len(waveform))


def as_stretches(found: list[tuple[int, int]], num_samples: int) -> list[tuple[int, int]]:
    """What a detector found, in order, without short pauses and short sounds, with a margin on both sides."""
    joined: list[list[int]] = []
    for start, end in found:
        if joined and start - joined[-1][1] < PAUSE * SAMPLE_RATE:
            joined[-1][1] = max(end, joined[-1][1])
        else:
            joined.append([start, end])
    margin = round(MARGIN * SAMPLE_RATE)
    return [
        (max(0, start - margin), min(num_samples, end + margin))
        for start, end in joined
        if end - start >= SHORTEST * SAMPLE_RATE
    ]


def silero_speech(waveform: np.ndarray) -> list[tuple[int, int]]:
    """First and last samples of what Silero's model takes for speech."""
    from silero_vad import get_speech_timestamps

    found, at_once = [], AT_ONCE_SECONDS * SAMPLE_RATE
    for place in range(0, len(waveform), at_once):
        block = torch.from_numpy(waveform[place : place + at_once])
        told = get_speech_timestamps(block, _silero(), sampling_rate=SAMPLE_RATE, speech_pad_ms=0)
        found += [(place + each["start"], place + each["end"]) for each in told]
    return found


@lru_cache(maxsize=1)
def _silero() -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad(onnx=True)


def energy_speech(waveform: np.ndarray) -> list[tuple[int, int]]:
    """First and last samples of what is clearly louder than the quiet parts of a recording."""
    if len(waveform) < FRAME:
        return []
    squares = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    starts = np.arange(0, len(waveform) - FRAME + 1, HOP)
    decibels = 10 * np.log10((squares[starts + FRAME] - squares[starts]) / FRAME + 1e-10)
    quiet, loud = np.percentile(decibels, [QUIET, LOUD])
    if loud - quiet < STEADY:
        return []
    is_loud = np.concatenate([[False], decibels > quiet + RISE * (loud - quiet), [False]])
    edges = np.flatnonzero(is_loud[1:] != is_loud[:-1])
    return [(int(starts[first]), int(starts[last - 1]) + FRAME) for first, last in zip(edges[::2], edges[1::2])]


def _report(found: Dataset, detector: str) -> VoiceReport:
    told = found.select_columns(["told_row", "told_seconds", "told_empty", "speech_start", "speech_end", "id"])
    columns = told.with_format(None)[:]
    lengths = dict(zip(columns["told_row"], columns["told_seconds"]))
    kept = [end - start for start, end in zip(columns["speech_start"], columns["speech_end"]) if end is not None]
    return VoiceReport(
        f"silero-vad {version('silero-vad')}" if detector == "silero" else "their energy",
        recordings=len(lengths),
        segments=len(kept),
        seconds=sum(length for length in lengths.values() if length),
        kept_seconds=sum(kept),
        without_speech=[name for name, is_empty in zip(columns["id"], columns["told_empty"]) if is_empty],
    )
