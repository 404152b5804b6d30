"""What containers of audio tell of their length, compared with what is there, so that no part passes for the whole."""

from __future__ import annotations

import io
import os
import re
import zlib
from contextlib import AbstractContextManager

import numpy as np
import soundfile

BYTES_AT_ONCE = 2**20
# What a byte holds at the most: of FLAC the longest block of one value, which no other format beats; of MP3 24, so that
# 50 leave room.
SAMPLES_A_BYTE, SAMPLES_A_BYTE_OF_MP3 = 65_536 / 10, 50
# A MIDI sample dump has packets of 127 bytes, whose samples take 2, 3 or 4 of 120; libsndfile fills up what is missing.
SAMPLES_OF_A_PACKET = {"PCM_S8": 60, "PCM_16": 40, "PCM_24": 30}
# How libsndfile's log of a header names the size of the samples, or in W64 and RF64 of the file, where it is wrong.
WRONG_SIZE = re.compile(
    r"^\s*(?:data|Data Size|SSND|BODY|riff|Riff size)\s*: (-?\w+) \(should be (\d+)\)", re.MULTILINE
)
# How it says that a VOC, MAT4 or WVE is cut, of which it reads what there is; and how it names the length in headers of
# other formats, which it does not hold against the file.
CUT = re.compile(r"seems to be (?:a )?truncated|^Data length \d+ should be", re.MULTILINE | re.IGNORECASE)
TOLD_SAMPLES = re.compile(r"\b(?:Frames|Cols)\s*: (\d+)")
TELL_SAMPLES = ("AVR", "MPC2K", "MAT4", "MAT5")
NIST_SAMPLES = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)  # of one channel; libsndfile's log has it not
CUT_SHORT = "cut short: fewer samples than its header says"
FEWER_BYTES = "cut short: the header tells more bytes than the file has"
JOINED = "several recordings joined into one file, of which players know the first alone"
CONVERT = "convert it with ffmpeg, for example to FLAC"
# Where files were joined, decoders read the first alone of these formats, as libsndfile and FFmpeg name them; and how
# many bytes at the beginning of a file occur in no sound.
FIRST_BYTES = {
    **{"FLAC": 8, "AU": 8, "CAF": 8, "RF64": 8, "SDS": 8, "MAT4": 39},
    **{"flv": 8, "asf": 8, "tta": 8, "nut": 24, "au": 8, "caf": 8, "adx": 8, "wtv": 16},
}
# How an ASF (WMA) begins, and its table that tells the size of the file.
ASF, ASF_PROPERTIES = bytes.fromhex("3026b2758e66cf11"), bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
HEAD_BYTES = 2**13
# In kbit/s, of layer III in MPEG 1 and in MPEG 2 and 2.5; and the sampling rates of MPEG 1, in Hz.
MP3_BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
MP3_RATES = (44_100, 48_000, 32_000)
# What comes after an MP3 and is less than this is a tag, or a second of audio at the most.
JOINED_MP3_BYTES = 4_096
_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class BadAudio(ValueError):
    """An audio that nothing can be learnt from. The message is the reason, without the audio's name."""


def check_header(file: soundfile.SoundFile, source: str | io.BytesIO):
    """Refuses a header whose length is unknown, or more than the file's bytes hold."""
    size = os.path.getsize(source) if isinstance(source, str) else source.getbuffer().nbytes
    if file.frames == 0:
        raise BadAudio("empty")
    # A FLAC written to a pipe leaves its length open, which libsndfile reports as the largest integer.
    if file.frames == np.iinfo(np.int64).max:
        raise BadAudio("unreadable: the header does not tell the length")
    a_byte = SAMPLES_OF_A_PACKET[file.subtype] / 127 if file.format == "SDS" else SAMPLES_A_BYTE
    if file.frames > size * (SAMPLES_A_BYTE_OF_MP3 if file.format == "MP3" else a_byte):
        raise BadAudio("cut short: the header tells more samples than the file can hold")
    wrong = WRONG_SIZE.search(file.extra_info)
    if wrong and int(wrong[1], 0) > int(wrong[2]) and not _left_open(int(wrong[1], 0)):
        raise BadAudio(FEWER_BYTES)
    if CUT.search(file.extra_info) or _told_samples(file, source) > file.frames:
        raise BadAudio(CUT_SHORT)


def _told_samples(file: soundfile.SoundFile, source: str | io.BytesIO) -> int:
    """The samples of a channel that a header tells where libsndfile goes by the size of the file; 0 elsewhere."""
    told: list = [0]
    if file.format == "NIST":
        with bytes_of(source) as header:
            told += NIST_SAMPLES.findall(header.read(1_024))
    elif file.format in TELL_SAMPLES:
        told += TOLD_SAMPLES.findall(file.extra_info)  # the sound is the last array of a MAT file
    return int(told[-1])


def _left_open(size: int) -> bool:
    """Whether a header's size is what programs write that can't go back to correct it, as in a pipe."""
    return 0x7FFFF000 <= size <= 0x7FFFFFFF or 0xFFFFF000 <= size <= 0xFFFFFFFF or size >= 2**62


def bytes_of(source: str | io.BytesIO) -> AbstractContextManager[io.BufferedIOBase]:
    """A file of its own over a path or encoded bytes, so that nothing else is moved."""
    return open(source, "rb") if isinstance(source, str) else io.BytesIO(source.getbuffer())


def is_joined(source: str | io.BytesIO, format_name: str) -> bool:
    """Whether a file begins anew after its first recording, in a format of which decoders read no more than that."""
    size = FIRST_BYTES.get(format_name)
    if size is None:
        return False
    with bytes_of(source) as file:
        file.seek(_id3_bytes(file.read(10)))  # some tools put an ID3 tag before a FLAC
        start = file.read(size)
        # Of a FLAC, the first block may be the only one before the sound, which a bit tells.
        starts = [start[:4] + last + start[5:] for last in (b"\0", b"\x80")] if format_name == "FLAC" else [start]
        before = b""
        while block := file.read(BYTES_AT_ONCE):
            if any(start in before + block for start in starts):
                return True
            before = block[1 - size :]
    return False


def check_pages(source: str | io.BytesIO):
    """Refuses an Ogg whose pages end too early, or that holds one stream after another: the first alone is read.

    So is one with a damaged page: libsndfile passes over it, and over all that it needs of the next ones.
    """
    begun = ended = False  # whether sound has come by, and whether the page that was read last ends a stream
    with bytes_of(source) as file:
        while (head := file.read(27)).startswith(b"OggS") and len(head) == 27:
            first, ended = head[5] & 2, bool(head[5] & 4)
            if first and begun:
                raise BadAudio(f"{JOINED}; {CONVERT}")
            begun |= not first
            sizes = file.read(head[26])
            body = file.read(sum(sizes))
            if len(sizes) < head[26] or len(body) < sum(sizes):
                ended = False
                break
            if _ogg_checksum(head[:22] + bytes(4) + head[26:] + sizes + body) != int.from_bytes(head[22:26], "little"):
                raise BadAudio("damaged: the checksum of one of its pages is wrong")
    if not ended:
        raise BadAudio("cut short: no page of it is marked as the last; if it is whole, rewrite it with ffmpeg -c copy")


def _ogg_checksum(page: bytes) -> int:
    """The checksum of a page: zlib's, with the bits of each byte the other way round."""
    turned = zlib.crc32(page.translate(_TURNED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{turned:032b}"[::-1], 2)


def check_size(source: str | io.BytesIO):
    """Refuses what FFmpeg reads a part of: a file with fewer bytes than it tells, and joined files but AVI."""
    with bytes_of(source) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(HEAD_BYTES)
        told = _told_size(head)
        if told > size + 1:
            raise BadAudio(FEWER_BYTES)
        if head.startswith(b"OggS"):
            check_pages(source)
        file.seek(told)
        if told and head[:4] in file.read(5) and head[8:12] != b"AVI ":  # of 5 bytes, one may fill up the last chunk
            raise BadAudio(f"{JOINED}; split it")
        place = begun = 0
        while head[4:8] == b"ftyp" or begun:
            file.seek(place)
            head = file.read(16)
            begun += head[4:8] == b"ftyp"
            if begun > 1:
                raise BadAudio(f"{JOINED}; split it")
            told = int.from_bytes(head[:4], "big")
            told = int.from_bytes(head[8:], "big") if told == 1 else told
            if told < 8:  # 0: to the end of the file
                break
            place += told


def _told_size(head: bytes) -> int:
    """The bytes of a whole file as its beginning tells them; 0 if it does not."""
    number = int.from_bytes(head[4:8], "little")
    if head.startswith(b"RIFF"):  # WAV, AVI
        return 0 if _left_open(number) else number + 8
    if head.startswith(b".SoX"):  # the header's size, and the number of samples, of 4 bytes
        return 4 + number + 4 * int.from_bytes(head[8:16], "little")
    if head.startswith((b".snd", b"MMMD")):  # AU: where the sound begins, and its size; MMF: the size of the rest
        first, second = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
        told = first + second if head.startswith(b".snd") else 8 + first
        return 0 if _left_open(second) else told
    place = head.find(ASF_PROPERTIES) if head.startswith(ASF) else -1
    table = head[place:] if place >= 0 else b""
    is_live = int.from_bytes(table[88:92], "little") & 1  # its size was not known yet
    return 0 if is_live else int.from_bytes(table[40:48], "little")


def counted_mp3(source: str | io.BytesIO) -> io.BytesIO | None:
    """An MP3 with its frames counted and the number put in front, as libsndfile would guess it; None if it is there.

    Where files were joined, the number of the first is not that of all.

    Raises:
        BadAudio: If the MP3 tells how many bytes it has, and has less.
    """
    with bytes_of(source) as file:
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
