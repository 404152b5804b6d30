"""What audio.py promises of any audio: 16 kHz, mono, float32, or a reason in words."""

import io
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from datasets import Dataset

import hf_ssl_speech.audio as audio_module
import hf_ssl_speech.decoders as decoders_module
from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio, count_samples, read_audio
from hf_ssl_speech.data.preparing import prepare_speech, row_waveform
from hf_ssl_speech.data.sources import load_speech


def tone(num_samples: int, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(num_samples) / rate)).astype(np.float32)


def encode(waveform: np.ndarray, rate: int = SAMPLE_RATE, format: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=format, subtype=subtype)
    return file.getvalue()


def test_bytes_path_and_row_of_the_same_audio_give_the_same_waveform(tmp_path):
    encoded = encode(tone(8_000))
    path = tmp_path / "tone.wav"
    path.write_bytes(encoded)
    expected = read_audio(encoded)
    assert expected.dtype == np.float32 and expected.shape == (8_000,)
    row = {"bytes": None, "path": path}
    for audio in (path, str(path), path.as_uri(), {"bytes": encoded, "path": None}, row, row | {"path": str(path)}):
        np.testing.assert_array_equal(read_audio(audio), expected)
        assert count_samples(audio) == 8_000


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_the_header_tells_exactly_how_long_the_waveform_will_be(rate):
    for num_samples in (rate // 50 + 1, rate + 1, 2 * rate + 7, 3 * rate - 1):
        encoded = encode(tone(num_samples, rate), rate, "FLAC")
        assert count_samples(encoded) == len(read_audio(encoded))


@pytest.mark.parametrize(
    ("format", "subtype", "rate"),
    [("OGG", "OPUS", 16_000), ("OGG", "OPUS", 48_000), ("OGG", "VORBIS", 44_100), ("MP3", "MPEG_LAYER_III", 44_100)],
)
def test_lossy_headers_tell_the_length_too(format, subtype, rate):
    encoded = encode(tone(rate + 123, rate), rate, format, subtype)
    assert count_samples(encoded) == len(read_audio(encoded))


def test_a_minute_at_44100_hz_loses_no_sample_to_single_precision():
    # 160 / 441 x 2,646,091 is 960,033.0158...: one more sample begins, but float32 rounds it away.
    encoded = encode(tone(2_646_091, 44_100), 44_100)
    assert count_samples(encoded) == len(read_audio(encoded)) == 960_034


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_resampling_keeps_a_tone_where_it_was(rate):
    waveform = read_audio(encode(tone(rate, rate), rate, subtype="FLOAT"))
    middle = slice(2_000, 14_000)  # the ends ring
    np.testing.assert_allclose(waveform[middle], tone(SAMPLE_RATE)[middle], atol=5e-3)


def pass_band_noise(rate: int, edge: float) -> np.ndarray:
    """Two seconds of noise of standard deviation 0.1 up to `edge` of the lower of the two Nyquist frequencies."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(2 * rate))
    spectrum[np.fft.rfftfreq(2 * rate, 1 / rate) > edge * min(rate, SAMPLE_RATE) / 2] = 0
    noise = np.fft.irfft(spectrum)
    return (0.1 * noise / noise.std()).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_resampling_agrees_with_a_long_torchaudio_filter_in_the_pass_band(rate):
    noise = pass_band_noise(rate, edge=0.8)
    reference = torchaudio.functional.resample(
        torch.from_numpy(noise), rate, SAMPLE_RATE, lowpass_filter_width=64
    ).numpy()
    middle = slice(2_000, 30_000)  # the ends ring
    ours = read_audio({"array": noise, "sampling_rate": rate})
    np.testing.assert_allclose(ours[middle], reference[middle], atol=1e-3)


@pytest.mark.parametrize("rate", [15_999, 16_001, 22_257, 44_101, 95_999])
def test_a_rate_that_shares_no_factor_with_16_khz_keeps_a_tone_and_its_length(rate):
    waveform = read_audio({"array": tone(rate, rate), "sampling_rate": rate})
    assert waveform.shape == (SAMPLE_RATE,)
    middle = slice(2_000, 14_000)  # the ends ring
    np.testing.assert_allclose(waveform[middle], tone(SAMPLE_RATE)[middle], atol=1e-3)


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_a_rate_that_no_recorder_has_is_a_bad_audio(rate):
    with pytest.raises(BadAudio, match="sampling rate"):
        read_audio({"array": tone(1_000), "sampling_rate": rate})


def test_stereo_is_averaged_whether_channels_come_first_or_last():
    left, right = tone(4_000), tone(4_000, hertz=300.0)
    expected = (left + right) / 2
    for array in (np.stack([left, right]), np.stack([left, right], axis=1)):
        np.testing.assert_allclose(read_audio({"array": array, "sampling_rate": SAMPLE_RATE}), expected, atol=1e-7)
    encoded = encode(np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(read_audio(encoded), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "half"),
    [(np.int16, 2**14), (">i2", 2**14), (np.int32, 2**30), (np.int8, 64), (np.uint8, 192), (np.float64, 0.5)],
)
def test_half_of_full_scale_is_one_half_in_every_sample_type(dtype, half):
    zero = 128 if dtype == np.uint8 else 0
    waveform = read_audio({"array": np.array([half, zero], dtype), "sampling_rate": SAMPLE_RATE})
    np.testing.assert_array_equal(waveform, np.array([0.5, 0.0], np.float32))


def test_an_object_that_decodes_itself_is_asked_for_its_samples():
    class Samples:
        data, sample_rate = torch.from_numpy(np.stack([tone(8_000, 8_000)] * 2)), 8_000

    class Decoder:
        def get_all_samples(self):
            return Samples()

    assert read_audio(Decoder()).shape == (SAMPLE_RATE,)
    assert count_samples(Decoder()) == SAMPLE_RATE


FLAC = encode(tone(40_000), format="FLAC")
PIPED_FLAC = FLAC[:21] + bytes([FLAC[21] & 0xF0, 0, 0, 0, 0]) + FLAC[26:]  # STREAMINFO's length field set to unknown
# STREAMINFO's length field: 36 bits, the largest but one.
BOASTFUL_FLAC = FLAC[:21] + bytes([FLAC[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFE]) + FLAC[26:]


@pytest.mark.parametrize("count", [count_samples, read_audio])
def test_a_flac_that_claims_2_to_the_36_samples_is_refused_before_they_are_allocated(count):
    with pytest.raises(BadAudio, match="more samples than the file can hold"):
        count(BOASTFUL_FLAC)


def test_a_flac_that_claims_more_than_it_holds_is_refused_without_memory_for_the_claim():
    claimed = FLAC[:22] + (2**27).to_bytes(4, "big") + FLAC[26:]
    assert count_samples(claimed) == 2**27  # 38 kB of FLAC could hold as many
    tracemalloc.start()
    with pytest.raises(BadAudio, match=r"cut short|unreadable"):
        read_audio(claimed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27  # a byte for each claimed sample; as float32 they would take four


@pytest.mark.parametrize(
    "format", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "W64", "NIST", "VOC", "AVR", "MAT4", "MAT5", "SVX"]
)
def test_half_a_file_is_cut_short_by_its_header_alone(format):
    encoded = encode(tone(32_000), format=format)
    assert count_samples(encoded) == 32_000
    for count in (count_samples, read_audio):
        with pytest.raises(BadAudio, match="cut short"):
            count(encoded[: len(encoded) // 2])


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_whose_size_was_left_open_is_whole(size):
    encoded = encode(tone(8_000))
    at = encoded.index(b"data") + 4
    piped = encoded[:at] + size.to_bytes(4, "little") + encoded[at + 4 :]
    assert count_samples(piped) == len(read_audio(piped)) == 8_000


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW"])
def test_telephone_codecs_are_read(subtype):
    encoded = encode(tone(16_000, 8_000), 8_000, subtype=subtype)
    assert count_samples(encoded) == len(read_audio(encoded))


@pytest.mark.parametrize(("format", "subtype"), [("FLAC", None), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_reading_in_blocks_gives_what_reading_at_once_does(format, subtype, monkeypatch):
    encoded = encode(tone(40_000), format=format, subtype=subtype)
    expected = read_audio(encoded)
    monkeypatch.setattr(decoders_module, "SAMPLES_AT_ONCE", 3_001)
    np.testing.assert_array_equal(read_audio(encoded), expected)


@pytest.mark.parametrize("path", ["nul\0.wav", "a" * 5_000 + ".wav", "nothing://there/a.wav"])
def test_a_name_that_cannot_be_opened_is_a_bad_audio(path):
    for audio in (path, {"bytes": None, "path": path}):
        with pytest.raises(BadAudio, match="missing"):
            read_audio(audio)


@pytest.mark.parametrize(
    "path",
    ["http://h/a.wav", "HTTPS://h/a.wav", "s3://b/a.wav", "zip://a.wav::https://h/a.zip", "simplecache::ftp://h/a"],
)
def test_an_address_in_a_row_is_not_fetched(path, monkeypatch):
    monkeypatch.setattr(audio_module.fsspec, "open", lambda *args: pytest.fail("fetched"))
    with pytest.raises(BadAudio, match="not fetched; download the file"):
        read_audio({"bytes": None, "path": path})


def test_streamed_rows_may_lie_inside_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.flac", FLAC)
    row = {"bytes": None, "path": f"zip://a.flac::{tmp_path}/a.zip"}
    np.testing.assert_array_equal(read_audio(row), read_audio(FLAC))


def test_a_dangling_link_and_a_loop_of_links_are_missing(tmp_path):
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    for name in ("dangling.wav", "loop.wav"):
        with pytest.raises(BadAudio, match="missing: no such file"):
            read_audio(tmp_path / name)


NEEDS_AV = "M4A, WebM and the like are decoded by PyAV, the extra [codecs]"


def encode_with_av(
    waveform: np.ndarray, container: str, codec: str, rate: int = SAMPLE_RATE, muxer: dict | None = None, **options
) -> bytes:
    """Audio `(channels, samples)` in a container of FFmpeg's."""
    av = pytest.importorskip("av", reason=NEEDS_AV)
    file, layout = io.BytesIO(), ["mono", "stereo"][len(waveform) - 1]
    with av.open(file, "w", format=container, options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout, **options)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=stream.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(part))
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "container", "codec", "rate"),
    [
        ("m4a", "ipod", "aac", 44_100),
        ("mp4", "mp4", "aac", 16_000),
        ("webm", "webm", "libopus", 48_000),
        ("aac", "adts", "aac", 16_000),
        ("mka", "matroska", "ac3", 48_000),
        ("wma", "asf", "wmav2", 44_100),
    ],
)
def test_what_phones_and_browsers_record_is_decoded_by_pyav(tmp_path, suffix, container, codec, rate):
    expected = np.stack([tone(3 * rate, rate), 0.5 * tone(3 * rate, rate)])
    encoded = encode_with_av(expected, container, codec, rate, bit_rate=128_000)
    path = tmp_path / f"tone.{suffix}"
    path.write_bytes(encoded)
    waveform = read_audio(path)
    np.testing.assert_array_equal(waveform, read_audio({"bytes": encoded, "path": None}))
    assert count_samples(path) == count_samples(encoded) == len(waveform)
    assert abs(len(waveform) / SAMPLE_RATE - 3) < 0.2  # encoders put some silence before and after it
    # Whatever the delay, the mean of both channels is there: a sine of .375.
    assert np.sqrt(2 * np.mean(waveform[8_000:40_000] ** 2)) == pytest.approx(0.375, rel=0.02)
    np.testing.assert_array_equal(read_audio(path, 20_001, 30_000), waveform[20_001:30_000])


def test_a_cut_unknown_or_soundless_container_is_a_bad_audio():
    encoded = encode_with_av(tone(5 * SAMPLE_RATE)[None], "matroska", "aac")
    with pytest.raises(BadAudio, match="cut short"):
        read_audio(encoded[: len(encoded) // 2])
    with pytest.raises(BadAudio, match="codec is unknown"):
        read_audio(encoded.replace(b"A_AAC", b"A_XYZ"))
    av, file = pytest.importorskip("av", reason=NEEDS_AV), io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        output.mux(stream.encode(None))
    with pytest.raises(BadAudio, match="video without audio"):
        read_audio(file.getvalue())


def test_a_playlist_in_disguise_opens_no_other_file(tmp_path):
    pytest.importorskip("av", reason=NEEDS_AV)
    (tmp_path / "secret.wav").write_bytes(encode(tone(SAMPLE_RATE)))
    (tmp_path / "list.m4a").write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n")
    with pytest.raises(BadAudio, match="unreadable"):
        read_audio(tmp_path / "list.m4a")


def test_a_format_that_cannot_be_decoded_tells_the_way_out(monkeypatch):
    m4a = b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + bytes(1_000)
    with pytest.raises(BadAudio, match="convert it with ffmpeg"):
        read_audio(m4a)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BadAudio, match=r"pip install av.*or convert it with ffmpeg"):
        read_audio(m4a)


def test_a_container_with_two_streams_of_sound_is_named():
    av, file = pytest.importorskip("av", reason=NEEDS_AV), io.BytesIO()
    samples = (tone(16_000)[None] * 1_000).astype(np.int16)
    with av.open(file, "w", format="matroska") as output:
        streams = [output.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = 16_000
            output.mux([*stream.encode(frame), *stream.encode(None)])
    for read in (count_samples, read_audio):
        with pytest.raises(BadAudio, match="several audio streams"):
            read(file.getvalue())


@pytest.mark.parametrize("tag", [b"", b"ID3\x03\0\0\0\0\x27\x08" + bytes(5_000)], ids=["", "tag"])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("loud_first", [True, False])
def test_an_mp3_that_does_not_tell_its_length_is_whole(tag, mode, loud_first):
    halves = [np.random.default_rng(0).normal(0, sigma, 80_000) for sigma in (0.2, 1e-4)]
    file, settings = io.BytesIO(), {"bitrate_mode": mode, "compression_level": 0.5}
    with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1, format="MP3", **settings) as output:
        output.write(np.concatenate(halves if loud_first else halves[::-1]))
    told = file.getvalue()
    # As streams and recorders write it: without libsndfile's first frame, which tells the number of the others.
    frames = told[told.index(b"\xff\xf3", max(told.find(b"Xing"), told.find(b"Info"))) :]
    untold = tag + frames + b"TAG" + bytes(125)
    decoded, expected = read_audio(untold), read_audio(told)
    assert count_samples(untold) == len(decoded)
    assert 160_000 <= len(decoded) < 160_000 + 4 * 576  # in frames of 576
    # That frame may also tell how many samples the encoder put before the audio.
    middle = expected[4_000:150_000]
    assert min(np.abs(decoded[start : start + 146_000] - middle).max() for start in range(2_500, 5_500)) < 1e-5


@pytest.mark.parametrize("tag", [b"", b"ID3\x03\0\0\0\0\x27\x08" + bytes(5_000)], ids=["", "tag"])
def test_an_mp3_that_tells_its_length_is_read_as_libsndfile_does(tmp_path, tag):
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLE_RATE)
    path = tmp_path / "noise.mp3"
    path.write_bytes(tag + encode(noise, format="MP3"))
    expected, _ = soundfile.read(path, dtype="float32")
    for audio in (path, path.read_bytes()):
        np.testing.assert_allclose(read_audio(audio), expected, rtol=0, atol=1e-6)


def test_channels_that_cancel_each_other_are_named():
    left = tone(16_000)
    stereo = np.stack([left, -1.0001 * left], axis=1)
    for audio in (encode(stereo), {"array": stereo, "sampling_rate": SAMPLE_RATE}):
        with pytest.raises(BadAudio, match="channels cancel each other; keep one"):
            read_audio(audio)
    other = np.random.default_rng(0).normal(0, 0.1, 16_000)  # of its own: nothing cancels
    assert len(read_audio(encode(np.stack([left, other], axis=1)))) == 16_000


def test_channels_that_cancel_in_a_part_of_the_file_are_named_and_one_of_them_can_be_taken():
    left = tone(64_000)
    right = np.where(np.arange(64_000) < 48_000, left, -left)
    stereo = encode(np.stack([left, right], axis=1))
    with pytest.raises(BadAudio, match="channels cancel each other; keep one"):
        read_audio(stereo)
    one, other = (read_audio(stereo, channel=channel) for channel in (1, 2))
    np.testing.assert_allclose(one[:48_000], other[:48_000], atol=2**-15)
    np.testing.assert_allclose(one[48_000:], -other[48_000:], atol=2**-15)
    for bad in (0, 3):
        with pytest.raises(BadAudio, match=f"without a channel {bad}: it has 2"):
            read_audio(stereo, channel=bad)


def test_stereo_whose_channels_differ_is_no_cancelling():
    rng = np.random.default_rng(0)
    assert len(read_audio(encode(rng.uniform(-0.5, 0.5, (64_000, 2))))) == 64_000


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("FLAC", None)])
def test_a_file_cut_in_two_is_cut_short_and_no_shorter_recording(format, subtype):
    whole = encode(np.random.default_rng(0).uniform(-0.5, 0.5, 48_000), format=format, subtype=subtype)
    for share in (0.4, 0.7, 0.99):
        with pytest.raises(BadAudio, match=r"cut short|unreadable"):
            read_audio(whole[: int(len(whole) * share)])


@pytest.mark.parametrize(
    ("format", "subtype"),
    [("OGG", "VORBIS"), ("OGG", "OPUS"), *((name, None) for name in ("FLAC", "AU", "CAF", "RF64", "SDS", "MAT4"))],
)
def test_of_joined_files_it_is_said_that_only_the_first_would_be_read(tmp_path, format, subtype):
    parts = [encode(tone(16_000, hertz=hertz), format=format, subtype=subtype) for hertz in (200, 400)]
    assert len(read_audio(parts[0])) == 16_000
    (tmp_path / "joined").write_bytes(b"".join(parts))
    for audio in (parts[0] * 2, b"".join(parts), str(tmp_path / "joined")):
        with pytest.raises(BadAudio, match="several recordings joined"):
            read_audio(audio)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_is_damaged_inside_is_no_shorter_recording(subtype):
    whole = bytearray(encode(np.random.default_rng(0).uniform(-0.5, 0.5, 48_000), format="OGG", subtype=subtype))
    assert len(read_audio(bytes(whole))) == 48_000
    pages = [place for place in range(len(whole)) if whole[place : place + 4] == b"OggS"]
    middle = (pages[-1] + len(whole)) // 2 if len(pages) < 5 else (pages[3] + pages[4]) // 2
    whole[middle] ^= 0x55
    with pytest.raises(BadAudio, match=r"damaged: the checksum|unreadable"):
        read_audio(bytes(whole))


def test_a_midi_sample_dump_that_was_cut_is_not_filled_up():
    whole = encode(tone(16_000), format="SDS", subtype="PCM_16")
    assert count_samples(whole) == 16_000
    with pytest.raises(BadAudio, match="cut short"):
        count_samples(whole[: len(whole) // 2])


@pytest.mark.parametrize(("container", "codec"), [("wav", "g726"), ("wav", "libmp3lame"), ("avi", "pcm_s16le")])
def test_a_wav_or_avi_that_only_ffmpeg_knows_is_read_whole_or_refused_as_cut(container, codec):
    rate = 8_000 if codec == "g726" else SAMPLE_RATE
    whole = encode_with_av(tone(2 * rate, rate)[None], container, codec, rate)
    assert count_samples(whole) == len(read_audio(whole)) == pytest.approx(2 * SAMPLE_RATE, abs=3_000)
    with pytest.raises(BadAudio, match="cut short"):
        read_audio(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("container", "codec", "rate", "is_read_on"),
    [
        ("flv", "libmp3lame", 44_100, False),
        ("asf", "libmp3lame", 44_100, False),
        ("tta", "tta", SAMPLE_RATE, False),
        ("sox", "pcm_s32le", SAMPLE_RATE, False),
        ("rm", "ac3", 48_000, False),
        ("au", "adpcm_g722", SAMPLE_RATE, False),
        ("mmf", "adpcm_yamaha", 8_000, False),
        ("wv", "wavpack", SAMPLE_RATE, False),
        ("kvag", "adpcm_ima_ssi", SAMPLE_RATE, True),
        ("wav", "adpcm_yamaha", SAMPLE_RATE, False),
        ("wav", "mp2", SAMPLE_RATE, False),
        ("avi", "aac", SAMPLE_RATE, True),
        ("wtv", "mp2", 48_000, False),
        # What libsndfile knows, but not as FFmpeg writes it.
        ("caf", "alac", SAMPLE_RATE, False),
        ("ogg", "flac", SAMPLE_RATE, False),
    ],
)
def test_what_ffmpeg_reads_in_part_is_refused(container, codec, rate, is_read_on):
    whole = encode_with_av(tone(4 * rate, rate)[None], container, codec, rate)
    assert count_samples(whole) == len(read_audio(whole)) == pytest.approx(4 * SAMPLE_RATE, abs=3_000)
    for share in (0.3, 0.5, 0.8):
        for read in (count_samples, read_audio):
            with pytest.raises(BadAudio, match=r"cut short|unreadable"):
                read(whole[: int(len(whole) * share)])
    if is_read_on:  # FFmpeg takes the two for one
        assert len(read_audio(whole + whole)) == pytest.approx(8 * SAMPLE_RATE, abs=6_000)
    else:
        with pytest.raises(BadAudio, match=r"several recordings joined|unreadable"):
            read_audio(whole + whole)


@pytest.mark.parametrize("options", [{}, {"movflags": "frag_keyframe+empty_moov"}])
def test_joined_mp4_files_are_named(options):
    pytest.importorskip("av", reason=NEEDS_AV)
    whole = encode_with_av(tone(SAMPLE_RATE)[None], "mp4", "aac", muxer=options)
    assert len(read_audio(whole)) == pytest.approx(SAMPLE_RATE, abs=3_000)
    with pytest.raises(BadAudio, match="several recordings joined"):
        read_audio(whole + whole)


def test_a_flac_after_an_id3_tag_is_one_recording_and_two_are_two():
    flac, tag = encode(tone(16_000), format="FLAC"), b"ID3\x03\0\0" + bytes([0, 0, 1, 0]) + bytes(128)
    assert count_samples(tag + flac) == len(read_audio(tag + flac)) == 16_000
    with pytest.raises(BadAudio, match="several recordings joined"):
        read_audio(tag + flac + flac)


@pytest.mark.parametrize("fork", [b"", b"\0\x05\x16\x07\0\2\0\0Mac OS X        ".ljust(4_096, b"\0")])
def test_what_macos_writes_beside_a_file_is_no_part_of_it(tmp_path, fork):
    mp3 = encode(tone(32_000), format="MP3")
    (tmp_path / "one.mp3").write_bytes(mp3)
    (tmp_path / "._one.mp3").write_bytes(fork)
    np.testing.assert_array_equal(read_audio(tmp_path / "one.mp3"), read_audio(mp3))
    assert len(load_speech([str(tmp_path)])) == 1


def test_joined_mp3_files_are_read_to_the_end():
    one = encode(np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), format="MP3")
    assert count_samples(one * 3) == len(read_audio(one * 3))
    assert abs(len(read_audio(one * 3)) - 96_000) < 3 * 3 * 1_152  # a frame of count and the codec's delay at each seam
    with_tag = one + b"TAG" + bytes(125)
    assert count_samples(with_tag) == count_samples(one) == 32_000


@pytest.mark.parametrize("kind", [float, np.float32, np.uint16, np.int64, str, np.array])
def test_a_sampling_rate_may_have_any_type(kind):
    audio = {"array": np.random.default_rng(0).uniform(-0.5, 0.5, 44_100), "sampling_rate": kind(44_100)}
    assert len(read_audio(audio)) == SAMPLE_RATE
    for bad in (44_100.5, float("nan"), "fast"):
        with pytest.raises(ValueError, match="expected whole Hz"):
            read_audio({**audio, "sampling_rate": bad})


def test_whatever_a_decoder_raises_is_a_bad_audio(monkeypatch):
    audio = encode(tone(16_000))
    for error in (RuntimeError("lost"), IndexError("out"), MemoryError("full"), OSError("torn")):

        def fail(*_, error=error, **__):
            raise error

        for place in ("SoundFileDecoder._channels", "SoundFileDecoder.__init__"):
            with monkeypatch.context() as patch:
                patch.setattr(f"hf_ssl_speech.decoders.{place}", fail)
                with pytest.raises(BadAudio, match=f"unreadable: {type(error).__name__}: {error}"):
                    read_audio(audio)


@pytest.mark.parametrize("peak", [32_768 / 4, 2**31 / 4])
def test_integers_stored_as_floats_are_named(peak):
    for read in (count_samples, read_audio):
        with pytest.raises(BadAudio, match="far beyond full scale"):
            read(encode(tone(16_000) * peak, subtype="FLOAT"))
    overdriven = encode(tone(16_000) * 4, subtype="FLOAT")
    assert read_audio(overdriven).max() > 1.9
    assert count_samples(overdriven) == 16_000


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF"])
def test_integers_stored_as_floats_are_left_out_whether_rows_are_decoded_before_a_run_or_during_it(container, subtype):
    rows = [encode(tone(16_000) * level, format=container, subtype=subtype) for level in (4, 16_000)]
    data = Dataset.from_dict({"audio": [{"bytes": row, "path": None} for row in rows]})
    heard = []
    for cache in (False, True):
        prepared, report = prepare_speech(data, min_seconds=0, cache=cache)
        assert "1 of 2 rows skipped: 1 samples far beyond full scale" in str(report)
        heard.append(row_waveform(prepared[0]))
    # The overdriven one is clipped both ways.
    np.testing.assert_allclose(*heard, rtol=0, atol=1 / 32_768)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (b"", "empty"),
        (encode(np.zeros(0)), "empty"),
        (b"no audio at all" * 100, "unreadable"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "there is only a Git LFS pointer"),
        (FLAC[: len(FLAC) // 2], "unreadable|cut short"),
        (PIPED_FLAC, "does not tell the length"),
        (None, "missing: neither"),
        ({"bytes": None, "path": None}, "missing: neither"),
        (Path("no/such/file.wav"), "missing: no such file"),
        ({"bytes": None, "path": "file:///no/such/file.wav"}, "missing: no such file"),
        (encode(np.zeros(1_000)), "silent"),
        ({"array": np.full(1_000, 0.25), "sampling_rate": SAMPLE_RATE}, "silent"),
        ({"array": np.array([0.0, np.nan]), "sampling_rate": SAMPLE_RATE}, "NaN or infinite"),
        ({"array": np.array([0.0, np.inf]), "sampling_rate": SAMPLE_RATE}, "NaN or infinite"),
        ({"array": [], "sampling_rate": SAMPLE_RATE}, "empty"),
    ],
)
def test_a_bad_audio_is_refused_with_its_reason(audio, reason):
    with pytest.raises(BadAudio, match=reason):
        read_audio(audio)


def test_an_mp3_cut_in_half_is_refused_since_its_header_promises_more():
    encoded = encode(tone(40_000), format="MP3")
    with pytest.raises(BadAudio, match="cut short"):
        read_audio(encoded[: len(encoded) // 2])


def test_what_is_no_audio_is_the_callers_mistake_and_not_a_bad_audio():
    for audio in (7, {"array": np.arange(100), "sampling_rate": SAMPLE_RATE}):
        with pytest.raises(TypeError, match="expected"):
            read_audio(audio)
    for audio in ({"array": tone(100)}, {"array": np.zeros((2, 2, 2)), "sampling_rate": SAMPLE_RATE}):
        with pytest.raises(ValueError, match="array") as caught:
            read_audio(audio)
        assert not isinstance(caught.value, BadAudio)
