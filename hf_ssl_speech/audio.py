"""Audio in any shape that `datasets` holds it, as a 16 kHz mono waveform."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import fsspec
import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000
MIN_RATE, MAX_RATE = 1_000, 1_000_000
SAMPLES_AT_ONCE = 2**20
# What a byte holds at the most: of FLAC the longest block of one value, which no other format beats; of MP3 24, so that
# 50 leave room.
SAMPLES_A_BYTE, SAMPLES_A_BYTE_OF_MP3 = 65_536 / 10, 50
# How libsndfile's log of a header names the size of the samples, or in W64 and RF64 of the file, where it is wrong.
WRONG_SIZE = re.compile(r"^\s*(?:data|Data Size|SSND|riff|Riff size)\s*: (-?\w+) \(should be (\d+)\)", re.MULTILINE)
# What the path of a row may name: files here, on the Hub, and inside archives of either, as streaming names them. Any
# other address was chosen by whoever wrote the dataset.
ROW_PROTOCOLS = {"file", "hf", "zip", "tar", "gzip", "bz2", "xz", "zstd", "lz4"}
CONVERT = "convert it with ffmpeg, for example to FLAC"


class BadAudio(ValueError):
    """An audio that nothing can be learnt from. The message is the reason, without the audio's name."""


def read_audio(audio: Any) -> np.ndarray:
    """Reads, downmixes and resamples one audio.

    Args:
        audio: A path or URL, encoded bytes, a row of `datasets` (`{"bytes", "path"}`, either may be None, the path a
            file here or on the Hub), a decoded one (`{"array", "sampling_rate"}`, `array` as `(samples,)`,
            `(channels, samples)` or `(samples, channels)`, integers scaled by the range of their type) or the decoder
            object of a `datasets.Audio` column.
    Returns:
        The waveform at 16 kHz, float32, `(samples,)`, in [-1, 1] as far as the source is.
    Raises:
        BadAudio: If it is missing, can't be decoded, is empty or cut short, holds NaN or infinite values, or is silent
            (all samples equal).
        TypeError: If it is none of the above kinds.
    """
    if _is_file(audio):
        with _open(audio) as file:
            waveform, rate = _decode(file), file.samplerate
    else:
        waveform, rate = _decoded(audio)
    if waveform.size == 0:
        raise BadAudio("empty")
    if not np.isfinite(waveform).all():
        raise BadAudio("NaN or infinite samples")
    if waveform.min() == waveform.max():
        raise BadAudio("silent: all samples are equal")
    return waveform if rate == SAMPLE_RATE else _resample(waveform, rate)


def count_samples(audio: Any) -> int:
    """Counts the samples that `read_audio` gives, from the header alone where the audio is a file.

    Args:
        audio: As for `read_audio`.
    Returns:
        The length in samples at 16 kHz.
    Raises:
        BadAudio: If it is missing, empty, or its header can't be read. What only decoding shows (silence, a damaged
            stream) is not noticed.
        TypeError: If it is none of the kinds `read_audio` knows.
    """
    if not _is_file(audio):
        return len(read_audio(audio))
    with _open(audio) as file:
        return _resampled_length(file.frames, file.samplerate)


def _is_file(audio: Any) -> bool:
    """Whether the audio is still encoded; else it is an array or an object that decodes itself."""
    return audio.get("array") is None if isinstance(audio, dict) else not hasattr(audio, "get_all_samples")


def _open(audio: Any) -> soundfile.SoundFile:
    """Opens encoded bytes, a path or a URL; what it returns has a length."""
    if isinstance(audio, dict):
        audio = _row_path(audio.get("path")) if audio.get("bytes") is None else audio["bytes"]
    if audio is None:
        raise BadAudio("missing: neither bytes nor a path")
    if isinstance(audio, (str, os.PathLike)):
        source = _locate(os.fspath(audio))
    elif isinstance(audio, (bytes, bytearray)):
        if not audio:
            raise BadAudio("empty")
        source = _Encoded(audio)
    else:
        raise TypeError(
            f"Got {type(audio).__name__} for an audio; expected a path, encoded bytes, or a dict with 'bytes' and "
            "'path' or with 'array' and 'sampling_rate'."
        )
    try:
        file = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        unknown = "format not recogni" in error.error_string.lower()
        way_out = f"; {CONVERT}" if unknown else ""
        raise BadAudio(f"unreadable: {error.error_string.rstrip('.')}{way_out}") from error
    size = os.path.getsize(source) if isinstance(source, str) else source.getbuffer().nbytes
    _check_header(file, size)
    return file


def _row_path(path: str | None) -> str | None:
    """The path of a row, unless it would make this machine ask a stranger's address."""
    strange = set(re.findall(r"([\w+.-]*)://", path or "")) - ROW_PROTOCOLS
    if strange:
        raise BadAudio(
            f"missing: the row names a {min(strange)}:// address, which is not fetched; download the file, or store "
            "its bytes in the row"
        )
    return path


def _check_header(file: soundfile.SoundFile, size: int):
    """Refuses a header whose length is unknown, or more than the file's bytes can hold."""
    if file.frames == 0:
        raise BadAudio("empty")
    # A FLAC written to a pipe leaves its length open, which libsndfile reports as the largest integer.
    if file.frames == np.iinfo(np.int64).max:
        raise BadAudio("unreadable: the header does not tell the length")
    if file.frames > size * (SAMPLES_A_BYTE_OF_MP3 if file.format == "MP3" else SAMPLES_A_BYTE):
        raise BadAudio("cut short: the header tells more samples than the file can hold")
    wrong = WRONG_SIZE.search(file.extra_info)
    if wrong and int(wrong[1], 0) > int(wrong[2]) and not _left_open(int(wrong[1], 0)):
        raise BadAudio("cut short: the header tells more bytes than the file has")


def _left_open(size: int) -> bool:
    """Whether a header's size is what programs write that can't go back to correct it, as in a pipe."""
    return 0x7FFFF000 <= size <= 0x7FFFFFFF or 0xFFFFF000 <= size <= 0xFFFFFFFF or size >= 2**62


class _Encoded(io.BytesIO):
    """Bytes of an audio file, in which a seek to before their beginning moves nothing.

    A damaged header makes libsndfile try that. An error would be printed, with a traceback, and caught by nobody.
    """

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _locate(path: str) -> str | io.BytesIO:
    """The path itself, or what lies behind a URL: streamed datasets name files as `hf://...` or `zip://...`."""
    if os.path.isfile(path):
        return path
    if "://" not in path:  # what can't be a path at all is no file either: a NUL in it, or too long a name
        raise BadAudio("missing: no such file")
    try:
        with fsspec.open(path, "rb") as file:
            return _Encoded(file.read())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise BadAudio("missing: no such file") from error
    except (ImportError, ValueError) as error:
        raise BadAudio(f"missing: the address can't be opened ({type(error).__name__}); download the file") from error


def _decode(file: soundfile.SoundFile) -> np.ndarray:
    """Reads block by block, since what the header says of the length may be wrong."""
    blocks, length = [], 0
    # soundfile seeks after each read, which an MP3 does not survive unharmed; its length is well bounded by its bytes.
    at_once = file.frames if file.format == "MP3" else SAMPLES_AT_ONCE // file.channels
    try:
        while length < file.frames:
            block = file.read(min(at_once, file.frames - length), dtype="float32", always_2d=True)
            if len(block) == 0:
                raise BadAudio("cut short: fewer samples than its header says")
            blocks.append(block.mean(axis=1))
            length += len(block)
    except soundfile.LibsndfileError as error:
        raise BadAudio(f"unreadable: {error.error_string.rstrip('.')}") from error
    return np.concatenate(blocks)


def _decoded(audio: Any) -> tuple[np.ndarray, int]:
    """Waveform and sampling rate of an array with its rate or of a decoder object (duck-typed: torchcodec's)."""
    if hasattr(audio, "get_all_samples"):
        decoded = audio.get_all_samples()
        return decoded.data.numpy().mean(axis=0, dtype=np.float32), decoded.sample_rate
    rate = audio.get("sampling_rate")
    if not rate:
        raise ValueError("The audio is an array without 'sampling_rate'; give its rate in Hz beside 'array'.")
    samples = _as_float(np.asarray(audio["array"]))
    if samples.ndim == 2:
        # No recording has more channels than samples, so the shorter side holds the channels.
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    if samples.ndim != 1:
        raise ValueError(f"The array of the audio has {samples.ndim} dimensions; expected samples, or channels too.")
    return samples, rate


def _as_float(samples: np.ndarray) -> np.ndarray:
    if np.issubdtype(samples.dtype, np.floating):
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int8, np.int16, np.int32):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    raise TypeError(
        f"The array of the audio is {samples.dtype}, whose full scale is unknown; expected floats in [-1, 1], int16 or "
        "int32."
    )


def _resampled_length(num_samples: int, rate: int) -> int:
    """Samples at 16 kHz: every one that begins before the audio ends."""
    return -(-num_samples * SAMPLE_RATE // rate)


def _resample(waveform: np.ndarray, rate: int) -> np.ndarray:
    # A filter for the ratio of any two rates takes soxr the same time and memory, which torchaudio's does not.
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadAudio(f"a sampling rate outside {MIN_RATE:,} to {MAX_RATE:,} Hz")
    length = _resampled_length(len(waveform), rate)
    # soxr rounds the length to the nearest sample; 10 ms of zeros at the end give it room, and the cut is exact.
    padded = np.pad(waveform, (0, rate // 100))
    return np.ascontiguousarray(soxr.resample(padded, rate, SAMPLE_RATE)[:length])
