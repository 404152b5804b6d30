"""What audio.py promises of any audio: 16 kHz, mono, float32, or a reason in words."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

import hf_ssl_speech.audio as audio_module
import hf_ssl_speech.decoders as decoders_module
from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio, count_samples, read_audio


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
    for audio in (path, str(path), path.as_uri(), {"bytes": encoded, "path": None}, {"bytes": None, "path": str(path)}):
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
    ("dtype", "half"), [(np.int16, 2**14), (np.int32, 2**30), (np.int8, 64), (np.uint8, 192), (np.float64, 0.5)]
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


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "W64"])
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


def test_a_format_that_cannot_be_decoded_tells_the_way_out():
    m4a = b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + bytes(1_000)
    with pytest.raises(BadAudio, match="convert it with ffmpeg"):
        read_audio(m4a)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (b"", "empty"),
        (encode(np.zeros(0)), "empty"),
        (b"no audio at all" * 100, "unreadable"),
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
