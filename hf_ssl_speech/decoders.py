"""Encoded audio as blocks of samples: through libsndfile, and other formats through PyAV."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import soundfile

SAMPLES_AT_ONCE = 2**20
# What a byte holds at the most: of FLAC the longest block of one value, which no other format beats; of MP3 24, so that
# 50 leave room.
SAMPLES_A_BYTE, SAMPLES_A_BYTE_OF_MP3 = 65_536 / 10, 50
# How libsndfile's log of a header names the size of the samples, or in W64 and RF64 of the file, where it is wrong.
WRONG_SIZE = re.compile(r"^\s*(?:data|Data Size|SSND|riff|Riff size)\s*: (-?\w+) \(should be (\d+)\)", re.MULTILINE)
# Samples beyond this are not overdriven floats but integers that were stored as floats.
LOUDEST = 10
# Less of its channels' power is left in a mean only where one of them is the other's negative. It is looked for in
# windows of so many samples, and may concern so much of the power of all.
LEFT_OF_POWER, WINDOW_SAMPLES, MOST_CANCELLED = 1e-3, 8_000, 0.05
# Seconds that a container may tell too much of, for what encoders put before and after the audio.
PADDING_SECONDS = 0.5
CUT_SHORT = "cut short: fewer samples than its header says"
GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
JOINED = "several recordings joined into one file, of which players play only the first"
CONVERT = "convert it with ffmpeg, for example to FLAC"
# In kbit/s, of layer III in MPEG 1 and in MPEG 2 and 2.5; and the sampling rates of MPEG 1, in Hz.
MP3_BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
MP3_RATES = (44_100, 48_000, 32_000)
# What comes after an MP3 and is less than this is a tag, or a second of audio at the most.
JOINED_MP3_BYTES = 4_096


class BadAudio(ValueError):
    """An audio that can't be used. The message is the reason, without the audio's name."""


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
        if self.file.format == "MP3" and (counted := _counted_mp3(source)):
            self.file, source = _Forward(counted), counted
        if self.file.format == "OGG":
            _check_pages(source)
        self.source = source
        _check_header(self.file, os.path.getsize(source) if isinstance(source, str) else source.getbuffer().nbytes)
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
            if place == self.num_samples and self.file.format == "FLAC" and _is_joined_flac(self.source):
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
        with self._opened() as (_, stream):
            self.rate = stream.rate
        if not self.rate:
            raise BadAudio(f"unreadable: the header has no sampling rate; {CONVERT}")

    @cached_property
    def num_samples(self) -> int:
        """Length in samples at `rate`. It is counted, since containers don't tell it exactly."""
        return sum(map(len, self._channels()))

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
            # The durations of other containers are estimates.
            claimed = container.duration if container.format.name.startswith(("mov", "matroska")) else None
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
        return SoundFileDecoder(source)
    except soundfile.LibsndfileError as error:
        if "format not recogni" not in error.error_string.lower():
            raise BadAudio(f"unreadable: {error.error_string.rstrip('.')}") from error
    with _bytes_of(source) as file:
        if file.read(len(GIT_LFS_POINTER)) == GIT_LFS_POINTER:
            raise BadAudio("missing: there is only a Git LFS pointer; download the file with `git lfs pull`")
    return AvDecoder(source)


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


def _check_header(file: soundfile.SoundFile, size: int):
    """Refuses a header whose length is unknown, or more than the file's bytes can hold."""
    if file.frames == 0:
        raise BadAudio("empty")
    # A FLAC written to a pipe leaves its length open, which libsndfile reports as the largest integer.
    if file.frames == np.iinfo(np.int64).max:
        raise BadAudio("unreadable: the header does not say the length")
    if file.frames > size * (SAMPLES_A_BYTE_OF_MP3 if file.format == "MP3" else SAMPLES_A_BYTE):
        raise BadAudio("cut short: the header says more samples than the file can hold")
    wrong = WRONG_SIZE.search(file.extra_info)
    if wrong and int(wrong[1], 0) > int(wrong[2]) and not _left_open(int(wrong[1], 0)):
        raise BadAudio("cut short: the header says more bytes than the file has")


def _left_open(size: int) -> bool:
    """Whether a header's size is what programs write that can't go back to correct it, as in a pipe."""
    return 0x7FFFF000 <= size <= 0x7FFFFFFF or 0xFFFFF000 <= size <= 0xFFFFFFFF or size >= 2**62


def _bytes_of(source: str | io.BytesIO) -> AbstractContextManager[io.BufferedIOBase]:
    """A file of its own over a path or encoded bytes, so that nothing else is moved."""
    return open(source, "rb") if isinstance(source, str) else io.BytesIO(source.getbuffer())


def _is_joined_flac(source: str | io.BytesIO) -> bool:
    """Whether a second FLAC follows the first, of which libsndfile reads nothing."""
    starts = [b"fLaC" + last_block + b"\0\0\x22" for last_block in (b"\0", b"\x80")]
    with _bytes_of(source) as file:
        file.seek(_id3_bytes(file.read(10)) + 4)  # some tools put an ID3 tag before it
        before = b""
        while block := file.read(SAMPLES_AT_ONCE):
            if any(start in before + block for start in starts):
                return True
            before = block[-7:]
    return False


def _check_pages(source: str | io.BytesIO):
    """Refuses an Ogg whose pages end too early, or that holds one stream after another: the first alone is read."""
    begun = ended = False  # whether sound has come by, and whether the page that was read last ends a stream
    with _bytes_of(source) as file:
        while (head := file.read(27)).startswith(b"OggS") and len(head) == 27:
            first, ended = head[5] & 2, bool(head[5] & 4)
            if first and begun:
                raise BadAudio(f"{JOINED}; {CONVERT}")
            begun |= not first
            sizes = file.read(head[26])
            if len(sizes) < head[26] or len(file.read(sum(sizes))) < sum(sizes):
                ended = False
                break
    if not ended:
        raise BadAudio("cut short: no page of it is marked as the last; if it is whole, rewrite it with ffmpeg -c copy")


def _counted_mp3(source: str | io.BytesIO) -> io.BytesIO | None:
    """An MP3 with its frames counted and the number put in front, as libsndfile would guess it; None if it is there.

    Where files were joined, the number of the first is not that of all.

    Raises:
        BadAudio: If the MP3 tells how many bytes it has, and has less.
    """
    with _bytes_of(source) as file:
        start = _id3_bytes(file.read(10))
        file.seek(start)
        head = file.read(4)
        size = _mp3_frame_bytes(head)
        if not size:
            return None
        first = head + file.read(size - 4)
        counted, told = any(name in first for name in (b"Xing", b"Info", b"VBRI")), _told_bytes(first)
        there = file.seek(0, os.SEEK_END) - start
        if told and there < told - size:
            raise BadAudio(CUT_SHORT)
        if counted and not told < there - JOINED_MP3_BYTES:
            return None
        file.seek(start)
        frames = file.read()
    if counted and not (told and _another_mp3(frames[told:])):
        return None
    count = place = 0
    while place >= 0:
        size = _mp3_frame_bytes(frames[place : place + 4])
        # The version, the layer and the sampling rate never change: other bytes that look like a header are none.
        if size and frames[place + 1] | 1 == head[1] | 1 and (frames[place + 2] ^ head[2]) & 0x0C == 0:
            count += place + size <= len(frames)
            place += size
        else:
            place = frames.find(b"\xff", place + 1)
    # A frame of silence at the highest bit rate, which has room for the number, without a checksum.
    header = bytes([0xFF, head[1] | 1, 0xE0 | head[2] & 0x0C, head[3]])
    mpeg1, one_channel = bool(head[1] & 8), head[3] >> 6 == 3
    side_bytes = (17 if one_channel else 32) if mpeg1 else (9 if one_channel else 17)
    told = header + bytes(side_bytes) + b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return io.BytesIO(told.ljust(_mp3_frame_bytes(header), b"\0") + frames)


def _told_bytes(frame: bytes) -> int:
    """The bytes of a whole MP3, as its first frame tells them; 0 if it does not."""
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    flags = int.from_bytes(frame[place + 4 : place + 8], "big") if place >= 0 else 0
    if not flags & 2:
        return 0
    place += 12 if flags & 1 else 8
    return int.from_bytes(frame[place : place + 4], "big")


def _another_mp3(rest: bytes) -> bool:
    """Whether frames follow one another in what comes after an MP3; tags hold none."""
    place = rest.find(b"\xff")
    while 0 <= place < len(rest) - 4:
        size = _mp3_frame_bytes(rest[place : place + 4])
        if size and _mp3_frame_bytes(rest[place + size : place + size + 4]):
            return True
        place = rest.find(b"\xff", place + 1)
    return False


def _id3_bytes(tag: bytes) -> int:
    """The size of the ID3v2 tag that begins with these 10 bytes; its length holds 7 bits in a byte."""
    if not tag.startswith(b"ID3"):
        return 0
    size = sum(byte << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0)))
    return 10 + size + (10 if tag[5] & 0x10 else 0)


def _mp3_frame_bytes(header: bytes) -> int:
    """The size of the frame of layer III with this header of 4 bytes; 0 if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2 or header[1] >> 3 & 3 == 1:
        return 0
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if bitrate in (0, 15) or rate == 3:
        return 0
    mpeg1 = version == 3
    hertz = MP3_RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    return (144 if mpeg1 else 72) * 1000 * MP3_BITRATES[not mpeg1][bitrate] // hertz + (header[2] >> 1 & 1)
