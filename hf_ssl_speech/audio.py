"""Reads audio in all forms that `datasets` uses, as a 16 kHz mono waveform."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import numpy as np
import soxr

from hf_ssl_speech.containers import BadAudio
from hf_ssl_speech.decoders import AvDecoder, EncodedBytes, SoundFileDecoder, mono, open_encoded

SAMPLE_RATE = 16_000
MIN_RATE, MAX_RATE = 1_000, 1_000_000
INT16_SCALE = 32_768
# What the path of a row may name: files here, on the Hub, and inside archives of either, as streaming names them. Any
# other address was chosen by whoever wrote the dataset.
ROW_PROTOCOLS = {"file", "hf", "zip", "tar", "gzip", "bz2", "xz", "zstd", "lz4"}


def read_audio(audio: Any, start: int = 0, stop: int | None = None, channel: int | None = None) -> np.ndarray:
    """Reads, downmixes and resamples one audio, or a part of it.

    Args:
        audio: A path or URL, encoded bytes, a row of `datasets` (`{"bytes", "path"}`, either may be None, the path a
            file here or on the Hub), a decoded one (`{"array", "sampling_rate"}`, `array` as `(samples,)`,
            `(channels, samples)` or `(samples, channels)`, integers scaled by the range of their type) or the decoder
            object of a `datasets.Audio` column.
        start, stop: The part to read, in samples at 16 kHz; see `read_blocks`.
        channel: The channel to take, counted from 1, as of a telephone call whose sides were recorded apart; by default
            the mean of all.
    Returns:
        The waveform at 16 kHz, float32, `(samples,)`, in [-1, 1] as far as the source is.
    Raises:
        BadAudio: If it is missing, can't be decoded, is empty or cut short, holds NaN or infinite values or integers
            as floats, has channels that cancel each other, or is silent (all samples equal). Whatever else goes wrong
            in a decoder is a BadAudio too.
        TypeError: If it is none of the above kinds.
        ValueError: If an array comes without a sampling rate in whole Hz.
    """
    waveform = np.concatenate([np.zeros(0, np.float32), *read_blocks(audio, start, stop, channel)])
    if problem := silence(waveform):
        raise BadAudio(problem)
    return waveform


def read_blocks(
    audio: Any, start: int = 0, stop: int | None = None, channel: int | None = None
) -> Iterator[np.ndarray]:
    """The same block by block, which takes the memory of a block, silent or not.

    A part of a file is read without what lies before and after it, if `can_seek` holds. It is what the whole has there:
    exactly, if the file is at 16 kHz and not an MP3; else to less than 16-bit samples could tell, or within 1e-4 if the
    rate has few factors in common with 16 kHz, such as 16,001 Hz.

    Returns:
        Waveforms at 16 kHz, float32, `(samples,)`.
    """
    if not _is_file(audio):
        waveform, rate = _decoded(audio, channel)
        if rate != SAMPLE_RATE:
            _check_rate(rate)
            waveform = np.concatenate(list(_resample([waveform], rate)))
        yield waveform[start:stop]
        return
    decoder = _open(audio)
    if decoder.rate == SAMPLE_RATE:
        yield from _named(decoder.blocks(start, stop, channel))
        return
    _check_rate(decoder.rate)
    # Whole seconds are samples at any rate. The filter gets a second more on both sides, since it looks around.
    first = max(0, start // SAMPLE_RATE - 1)
    last = None if stop is None else (stop // SAMPLE_RATE + 2) * decoder.rate
    passed = first * SAMPLE_RATE
    for block in _resample(_named(decoder.blocks(first * decoder.rate, last, channel)), decoder.rate):
        yield block[max(0, start - passed) : None if stop is None else max(0, stop - passed)]
        passed += len(block)


def silence(waveform: np.ndarray) -> str | None:
    """Why a waveform, of floats or integers, is silent and can't be used; None if it is not silent."""
    if len(waveform) == 0:
        return "empty"
    return "silent: all samples are equal" if waveform.min() == waveform.max() else None


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """A waveform of floats as 16-bit samples, `(samples,)`; what is beyond [-1, 1] is clipped."""
    return np.rint(waveform * INT16_SCALE).clip(-INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def can_seek(audio: Any) -> bool:
    """Whether a part of an audio is read without decoding, or loading, what lies before it: if it is a local file.

    Raises:
        BadAudio: As `count_samples`.
    """
    return _is_file(audio) and _open(audio).seekable


def count_samples(audio: Any) -> int:
    """Counts the samples that `read_audio` gives, from the header where libsndfile reads it.

    Args:
        audio: As for `read_audio`.
    Returns:
        The length in samples at 16 kHz.
    Raises:
        BadAudio: If it is missing, empty, or its header can't be read, or its first seconds are integers stored as
            floats. What only decoding shows (silence, a damaged stream) is not noticed.
        TypeError: If it is none of the kinds `read_audio` knows.
    """
    if not _is_file(audio):
        return len(read_audio(audio, channel=1))
    decoder = _open(audio)
    with _naming():
        if isinstance(decoder, SoundFileDecoder):
            decoder.check_level()
        if not decoder.num_samples:
            raise BadAudio("empty")
        return _resampled_length(decoder.num_samples, decoder.rate)


def sampling_rate(audio: Any) -> int:
    """The rate at which an audio is stored, in Hz.

    Args:
        audio: As for `read_audio`.
    Raises:
        BadAudio: If it is missing, or its header can't be read.
    """
    return _open(audio).rate if _is_file(audio) else _decoded(audio, 1)[1]


@contextmanager
def _naming() -> Iterator[None]:
    """Turns any error of a decoder into a BadAudio: one bad file must not end a run over all."""
    try:
        yield
    except BadAudio:
        raise
    except Exception as error:
        raise BadAudio(f"unreadable: {type(error).__name__}: {error}") from error


def _named(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    with _naming():
        yield from blocks


def _is_file(audio: Any) -> bool:
    """Whether the audio is still encoded; else it is an array or an object that decodes itself."""
    return audio.get("array") is None if isinstance(audio, dict) else not hasattr(audio, "get_all_samples")


def _open(audio: Any) -> SoundFileDecoder | AvDecoder:
    """Opens encoded bytes, a path or a URL."""
    if isinstance(audio, dict):
        audio = _row_path(audio.get("path")) if audio.get("bytes") is None else audio["bytes"]
    if audio is None:
        raise BadAudio("missing: neither bytes nor a path")
    if isinstance(audio, (str, os.PathLike)):
        source = _locate(os.fspath(audio))
    elif isinstance(audio, (bytes, bytearray)):
        if not audio:
            raise BadAudio("empty")
        source = EncodedBytes(audio)
    else:
        raise TypeError(
            f"Got {type(audio).__name__} for an audio; expected a path, encoded bytes, or a dict with 'bytes' and "
            "'path' or with 'array' and 'sampling_rate'."
        )
    with _naming():
        return open_encoded(source)


def _row_path(path: str | os.PathLike | None) -> str | None:
    """The path of a row, unless it is a URL that somebody else chose and that would be downloaded."""
    path = None if path is None else os.fspath(path)
    strange = set(re.findall(r"([\w+.-]*)://", path or "")) - ROW_PROTOCOLS
    if strange:
        raise BadAudio(
            f"missing: the row names a {min(strange)}:// address, which is not fetched; download the file, or store "
            "its bytes in the row"
        )
    return path


def _locate(path: str) -> str | io.BytesIO:
    """The path itself, or what lies behind a URL: streamed datasets name files as `hf://...` or `zip://...`."""
    if os.path.isfile(path):
        return path
    if "://" not in path:  # what can't be a path at all is no file either: a NUL in it, or too long a name
        raise BadAudio("missing: no such file")
    try:
        with fsspec.open(path, "rb") as file:
            return EncodedBytes(file.read())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise BadAudio("missing: no such file") from error
    except (ImportError, ValueError) as error:
        raise BadAudio(f"missing: the address can't be opened ({type(error).__name__}); download the file") from error


def _decoded(audio: Any, channel: int | None) -> tuple[np.ndarray, int]:
    """Waveform and sampling rate of an array with its rate or of a decoder object (duck-typed: torchcodec's)."""
    if hasattr(audio, "get_all_samples"):
        with _naming():
            decoded = audio.get_all_samples()
        samples, rate = decoded.data.numpy().T, decoded.sample_rate
    else:
        samples, rate = _as_float(np.asarray(audio["array"])), audio.get("sampling_rate")
        if not rate:
            raise ValueError("The audio is an array without 'sampling_rate'; give its rate in Hz beside 'array'.")
    if samples.ndim not in (1, 2):
        raise ValueError(f"The array of the audio has {samples.ndim} dimensions; expected samples, or channels too.")
    if samples.size == 0:
        raise BadAudio("empty")
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.shape[0] < samples.shape[1]:  # no recording has more channels than samples
        samples = samples.T
    (waveform,) = mono([samples], channel)
    return waveform, _whole_rate(rate)


def _whole_rate(rate: Any) -> int:
    """A sampling rate as an integer, in whichever type a file or table had it.

    Raises:
        ValueError: If it is no whole number.
    """
    try:
        number = float(rate)
        if number != int(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"The sampling rate is {rate!r}; expected whole Hz, such as 16000.") from None
    return int(number)


def _as_float(samples: np.ndarray) -> np.ndarray:
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
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


def _check_rate(rate: int):
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadAudio(f"a sampling rate outside {MIN_RATE:,} to {MAX_RATE:,} Hz")


def _resample(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    # A filter for the ratio of any two rates takes soxr the same time and memory, which torchaudio's does not.
    stream, given, made = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32"), 0, 0
    for block in blocks:
        given += len(block)
        resampled = stream.resample_chunk(block)
        made += len(resampled)
        yield resampled
    # soxr rounds the length to the nearest sample; 10 ms of zeros at the end give it room, and the cut is exact.
    rest = stream.resample_chunk(np.zeros(rate // 100, np.float32), last=True)
    yield rest[: _resampled_length(given, rate) - made]
