"""Thousands of files, some damaged in twelve ways: exactly those are lost, each by name and with a reason."""

import io
import logging
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from hf_ssl_speech import SSLWav2Vec2Config, prepare_speech
from hf_ssl_speech.data.batching import DurationBatchSampler
from hf_ssl_speech.data.collators import pretraining_collator
from hf_ssl_speech.data.preparing import prepare_stream
from hf_ssl_speech.data.sources import load_speech
from torture.processes import Trial

RATE = 16_000


def encode(waveform: np.ndarray, form: str = "FLAC", **settings) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE, format=form, **settings)
    return file.getvalue()


def zero_the_second_half(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes(len(content) - half)


def claim_an_hour(content: bytes) -> bytes:
    """The number of samples in the header of a FLAC file: 36 bits that end at byte 26."""
    before, after = struct.unpack(">Q", content[18:26])[0] >> 36 << 36, 2**35
    return content[:18] + struct.pack(">Q", before | after) + content[26:]


DAMAGES: dict[str, Callable[[np.ndarray], bytes | None]] = {
    "an empty file": lambda wave: b"",
    "a file of text": lambda wave: b"this is no audio, whatever its name says\n" * 50,
    "half of a FLAC header": lambda wave: encode(wave)[:20],
    "half of a FLAC file": lambda wave: encode(wave)[: len(encode(wave)) // 2],
    "zeros in the second half of a FLAC file": lambda wave: zero_the_second_half(encode(wave)),
    "a FLAC header that claims 2^35 samples": lambda wave: claim_an_hour(encode(wave)),
    "half of a WAV file": lambda wave: encode(wave, "WAV")[:8_000],
    "half of an AIFF file": lambda wave: encode(wave, "AIFF")[:8_000],
    "silence": lambda wave: encode(np.zeros_like(wave)),
    "NaN among the samples": lambda wave: encode(
        np.where(np.arange(len(wave)) == 99, np.nan, wave), "WAV", subtype="FLOAT"
    ),
    "audio of 50 ms": lambda wave: encode(wave[:800]),
    "a link to a file that is gone": lambda wave: None,
}


def make_files(folder: Path, number: int, share: float) -> dict[str, set[str]]:
    """Writes so many files of half a second, a share of them damaged, in all ways equally often.

    Returns:
        The names of the damaged ones for each way.
    """
    generator = np.random.default_rng(0)
    times = np.arange(RATE // 2) / RATE
    damaged = generator.choice(number, round(share * number), replace=False)
    ways = {index: list(DAMAGES)[place % len(DAMAGES)] for place, index in enumerate(sorted(damaged))}
    names: dict[str, set[str]] = {way: set() for way in DAMAGES}
    for index in range(number):
        path = folder / f"{index // 1_000:02}" / f"{index:05}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = np.sin(2 * np.pi * generator.uniform(100, 3_000) * times) / 4 + generator.normal(size=len(times)) / 99
        way = ways.get(index)
        content = DAMAGES[way](wave) if way else encode(wave)
        if content is None:
            path.symlink_to("gone.flac")
        else:
            path.write_bytes(content)
        if way:
            names[way].add(path.stem)
    return names


def lose_files(folder: Path, number: int, share: float = 0.01) -> list[Trial]:
    """Prepares the files map-style, cached and streamed, and batches all of them; compares what is lost by name.

    Returns:
        A trial for each way to read.
    """
    names = make_files(folder / "speech", number, share)
    damaged = set().union(*names.values())
    trials = []
    for way, lose in {"map-style": lose_without_cache, "cached": lose_with_cache, "streamed": lose_in_a_stream}.items():
        lost, kept = lose(folder / "speech")
        lost = {Path(name).name: reason for name, reason in lost.items()}  # names have their folders before them
        problems = [f"{name} is lost without damage" for name in lost.keys() - damaged]
        for kind, its_names in names.items():
            problems += [f"{name}, {kind}, is not lost by name" for name in its_names - lost.keys()]
        problems += [f"{name} has no reason" for name, reason in lost.items() if not reason]
        expected = {path.stem for path in (folder / "speech").glob("*/*.flac")} - damaged
        if sorted(Path(name).name for name in kept) != sorted(expected):
            problems.append(f"{len(kept)} rows are kept, not the {number - len(damaged)} undamaged ones, each once")
        remark = f"{len(damaged)} damaged in {len(names)} ways, {len(lost)} lost by name, {len(kept):,} kept"
        trials.append(Trial(f"{number:,} files", way, number, problems, remark))
    return trials


def reasons_of(report) -> dict[str, str]:
    return {name: reason for reason, names in report.skipped.items() for name in names}


def lose_without_cache(folder: Path) -> tuple[dict[str, str], list[str]]:
    """What a training loses: some when headers are read, the others when the collator decodes them."""
    rows, report = prepare_speech(load_speech(str(folder)), min_seconds=0.1)
    collate = pretraining_collator(SSLWav2Vec2Config(mask_time_length=2), normalize=False, max_seconds=1, seed=0)
    lengths = rows.with_format("numpy")["num_samples"][:]
    lost = reasons_of(report)
    for batch in DurationBatchSampler(lengths, batch_seconds=32, max_seconds=1, seed=0):
        lost |= collate([rows[int(place)] for place in batch])["skipped_rows"]
    return lost, [name for name in rows["name"] if name not in lost]


def lose_with_cache(folder: Path) -> tuple[dict[str, str], list[str]]:
    rows, report = prepare_speech(load_speech(str(folder)), min_seconds=0.1, cache=True)
    return reasons_of(report), rows["name"][:]


def lose_in_a_stream(folder: Path) -> tuple[dict[str, str], list[str]]:
    """What a stream loses is told in the log."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("hf_ssl_speech.data.rows")
    logger.addHandler(handler)
    kept = [row["name"] for row in prepare_stream(load_speech(str(folder), streaming=True), min_seconds=0.1)]
    logger.removeHandler(handler)
    return dict(re.match("Skipped (.*?): (.*)", line).groups() for line in lines), kept
