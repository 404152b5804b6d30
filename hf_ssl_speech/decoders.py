"""Encoded audio as blocks of samples: through libsndfile, and other formats through PyAV."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
import soundfile

from hf_ssl_speech.containers import (
    CONVERT,
    CUT_SHORT,
    JOINED,
    BadAudio,
    bytes_of,
    check_header,
    check_pages,
    check_size,
    counted_mp3,
    is_joined,
)

SAMPLES_AT_ONCE = 2**20
# Samples beyond this are no overdriven floats any more, but integers that were stored as floats.
LOUDEST = 10
# Less of its channels' power is left in a mean only where one of them is the other's negative. It is looked for in
# windows of so many samples, and may concern so much of the power of all.
LEFT_OF_POWER, WINDOW_SAMPLES, MOST_CANCELLED = 1e-3, 8_000, 0.05
# Seconds that a container may tell too much of, for what encoders put before and after the audio.
PADDING_SECONDS = 0.5
TELL_DURATION = ("mov", "matroska", "flv", "rm", "wv", "apm", "kvag")
# What libsndfile says of a format, or of a codec in a WAV, CAF or Ogg, that it does not know.
UNKNOWN = re.compile(
    "format not recogni|unimplemented format|unsupported encoding|Malformed 'fmt '|unknown error in flac", re.IGNORECASE
)
GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class _StaysInside:
    """Of files: a seek to before their beginning moves nothing.

    A damaged header makes libraries try that. An error would be printed, with a traceback, and caught by nobody.
    """

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self.tell()


class EncodedBytes(_StaysInside, io.BytesIO):
    """An encoded audio in memory."""


class _EncodedFile(_StaysInside, io.BufferedReader):
    """An encoded audio on the disk."""


class SoundFileDecoder:
    """What libsndfile reads.

    Args:
        source: A local path or the encoded bytes.

    Attributes:
        rate: Sampling rate in Hz.
        num_samples: Length at that rate.
        seekable: Whether `blocks` from a later start costs no more than what it reads.
    Raises:
        BadAudio: If the header is damaged, or promises more than the file holds.
        soundfile.LibsndfileError: If the format is unknown.
    """

    def __init__(self, source: str | io.BytesIO):
        self.file = _Forward(source)
        if self.file.format == "MP3" and (counted := counted_mp3(source)):
            self.file, source = _Forward(counted), counted
        if self.file.format == "OGG":
            check_pages(source)
        self.source = source
        check_header(self.file, source)
        self.rate, self.num_samples = self.file.samplerate, self.file.frames
        self.seekable = isinstance(source, str) and soundfile.SoundFile.seekable(self.file)

    def blocks(self, start: int = 0, stop: int | None = None, channel: int | None = None) -> Iterator[np.ndarray]:
        """The samples from `start` to `stop`, block by block, since the header's length may be wrong.

        Args:
            start, stop: In samples at `rate`.
            channel: The channel to take, counted from 1; by default the mean of all.
        Raises:
            BadAudio: If they can't be decoded, or end before they should.
        """
        start = min(start, self.num_samples)
        stop = self.num_samples if stop is None else min(stop, self.num_samples)
        yield from mono(self._channels(start, stop), channel)

    def check_level(self):
        """Raises a BadAudio for integers stored as floats, and NaN, in the first block; floats need no decoding."""
        if self.file.subtype in ("FLOAT", "DOUBLE"):
            next(self.blocks(channel=1))

    def _channels(self, start: int, stop: int) -> Iterator[np.ndarray]:
        at_once, place = SAMPLES_AT_ONCE // self.file.channels, start
        try:
            if 0 < start < stop:
                self.file.seek(start)
            while place < stop:
                block = self.file.read(min(at_once, stop - place), dtype="float32", always_2d=True)
                if len(block) == 0:
                    raise BadAudio(CUT_SHORT)
                yield block
                place += len(block)
            if place == self.num_samples and is_joined(self.source, self.file.format):
                raise BadAudio(f"{JOINED}; split it")
        except soundfile.LibsndfileError as error:
            # Damage inside an MP3 is passed over: the only error is its end, met too early.
            ended = self.file.format == "MP3"
            raise BadAudio(CUT_SHORT if ended else f"unreadable: {error.error_string.rstrip('.')}") from error


class _Forward(soundfile.SoundFile):
    """Stays where it has read to: soundfile would seek there too, which an MP3 does not survive unharmed."""

    def seekable(self) -> bool:
        return False


class AvDecoder:
    """What FFmpeg reads, through PyAV: M4A, WebM, WMA, the sound of videos.

    Args:
        source: A local path or the encoded bytes.

    Attributes:
        rate: Sampling rate in Hz.
        seekable: False: its containers are not sought exactly.
    Raises:
        BadAudio: If PyAV is not installed, the format is unknown, or there is no sound.
    """

    seekable = False

    def __init__(self, source: str | io.BytesIO):
        self.source = source
        check_size(source)
        with self._opened() as (_, stream):
            self.rate = stream.rate
        if not self.rate:
            raise BadAudio(f"unreadable: the header has no sampling rate; {CONVERT}")

    @cached_property
    def num_samples(self) -> int:
        """Length in samples at `rate`. It is counted, since containers don't tell it exactly."""
        return sum(map(len, self.blocks(channel=1)))

    def blocks(self, start: int = 0, stop: int | None = None, channel: int | None = None) -> Iterator[np.ndarray]:
        """As `SoundFileDecoder.blocks`; all that lies before `start` is decoded too."""
        passed = 0
        for block in mono(self._channels(), channel):
            yield block[max(0, start - passed) : None if stop is None else max(0, stop - passed)]
            passed += len(block)

    def _channels(self) -> Iterator[np.ndarray]:
        import av

        with self._opened() as (container, stream):
            # The rate of the frames may be another than the container tells, as in HE-AAC.
            to_floats, length = av.AudioResampler(format="fltp", rate=self.rate), 0
            for frame in itertools.chain(container.decode(stream), [None]):
                for part in to_floats.resample(frame):
                    block = part.to_ndarray().T  # (samples, channels)
                    length += len(block)
                    yield block
            if is_joined(self.source, container.format.name):
                raise BadAudio(f"{JOINED}; split it")
            # The durations of other containers are estimates.
            claimed = container.duration if container.format.name.startswith(TELL_DURATION) else None
            if (claimed or 0) / av.time_base > length / self.rate + PADDING_SECONDS:
                raise BadAudio("cut short: the header says more seconds than the file has")

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container and its first stream of sound."""
        try:
            import av
        except ImportError as error:
            raise BadAudio(f"unreadable: the format is unknown without PyAV (pip install av); or {CONVERT}") from error
        is_path = isinstance(self.source, str)
        with _EncodedFile(io.FileIO(self.source)) if is_path else nullcontext(self.source) as file:
            file.seek(0)
            try:
                # No protocol but the open file: a playlist would make this machine ask for other files and addresses.
                with av.open(file, options={"protocol_whitelist": "none"}, metadata_errors="ignore") as container:
                    if not container.streams.audio:
                        raise BadAudio("empty: a video without audio")
                    if len(container.streams.audio) > 1:
                        raise BadAudio("several audio streams in one file; keep one with ffmpeg -map 0:a:0")
                    if container.streams.audio[0].codec_context is None:
                        raise BadAudio(f"unreadable: the codec is unknown; {CONVERT}")
                    yield container, container.streams.audio[0]
            except av.error.FFmpegError as error:
                raise BadAudio(f"unreadable: {error.strerror}; {CONVERT}") from error


def open_encoded(source: str | io.BytesIO) -> SoundFileDecoder | AvDecoder:
    """The decoder for a local path or encoded bytes.

    Raises:
        BadAudio: If there is none, or the header shows that the audio can't be used.
    """
    try:
        decoder = SoundFileDecoder(source)
        # Of an MP3 inside a WAV libsndfile guesses the length.
        is_guessed = decoder.file.subtype.startswith("MPEG") and decoder.file.format != "MP3"
        return AvDecoder(source) if is_guessed and find_spec("av") else decoder
    except soundfile.LibsndfileError as error:
        if isinstance(source, str) and _has_resource_fork(source):
            with bytes_of(source) as file:
                return open_encoded(EncodedBytes(file.read()))
        if not UNKNOWN.search(error.error_string):
            raise BadAudio(f"unreadable: {error.error_string.rstrip('.')}") from error
    with bytes_of(source) as file:
        if file.read(len(GIT_LFS_POINTER)) == GIT_LFS_POINTER:
            raise BadAudio("missing: there is only a Git LFS pointer; download the file with `git lfs pull`")
    return AvDecoder(source)


def _has_resource_fork(path: str) -> bool:
    """Whether `._name` lies beside a file, as macOS writes it, which libsndfile takes for a part of the sound."""
    folder, name = os.path.split(path)
    return os.path.exists(os.path.join(folder, f"._{name}"))


def mono(blocks: Iterable[np.ndarray], channel: int | None = None) -> Iterator[np.ndarray]:
    """One channel of blocks `(samples, channels)`, or the mean of all, as blocks `(samples,)` of float32.

    Args:
        channel: The channel to take, counted from 1; by default the mean.
    Raises:
        BadAudio: If there is no such channel, samples are NaN, infinite or far beyond full scale, or the channels
            cancel each other in more than a twentieth of what is heard.
    """
    power = cancelled = 0.0
    for block in blocks:
        if channel is not None:
            if not 1 <= channel <= block.shape[1]:
                raise BadAudio(f"without a channel {channel}: it has {block.shape[1]}")
            block = block[:, channel - 1 : channel]
        mean = block.mean(axis=1, dtype=np.float32)
        loudest = np.abs(mean).max(initial=0)
        if not np.isfinite(loudest):
            raise BadAudio("NaN or infinite samples")
        if loudest > LOUDEST:
            raise BadAudio("samples far beyond full scale, which is 1 for floats; store integers as integers")
        if block.shape[1] > 1 and len(block):
            windows = np.arange(0, len(block), WINDOW_SAMPLES)
            powers = np.add.reduceat(np.square(block).mean(axis=1, dtype=np.float64), windows)
            left = np.add.reduceat(np.square(mean, dtype=np.float64), windows)
            power += float(powers.sum())
            cancelled += float(powers[left < LEFT_OF_POWER * powers].sum())
        yield mean
    if cancelled > MOST_CANCELLED * power:
        raise BadAudio("its channels cancel each other; keep one of them, or take it with `audio_channel`")
