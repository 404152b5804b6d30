"""Stretches of speech: where they are, what is dropped, what bad input gets."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset

import hf_ssl_speech
from hf_ssl_speech import find_speech, load_speech, prepare_speech, read_audio
from hf_ssl_speech.data import voice
from hf_ssl_speech.data.voice import as_stretches, choose_detector
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.recipes.splits import hold_out, load_split
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments

SECOND = 16_000
BURSTS = [(2.0, 4.0), (7.0, 10.0)]  # seconds of a recording of 12 in which it is loud


def recording(bursts=BURSTS, seconds: float = 12.0, seed: int = 0) -> np.ndarray:
    """Silence, nearly, with bursts of noise that rise and fall as syllables do."""
    generator, times = np.random.default_rng(seed), np.arange(int(seconds * SECOND)) / SECOND
    loud = sum(((times >= start) & (times < end)) * 1.0 for start, end in bursts) if bursts else 0 * times
    return (1e-3 + 0.2 * loud * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * times))) * generator.normal(size=len(times))


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", recording(seed=ord(name)), SECOND)
    (tmp_path / "metadata.csv").write_text("file_name,language\na.wav,ru\nb.wav,de\n")
    return tmp_path


def test_the_loud_parts_of_a_recording_are_found_with_their_times_and_the_rest_is_told(folder):
    found, report = find_speech(load_speech(str(folder)), detector="energy")
    assert found["language"] == ["ru", "ru", "de", "de"]
    for row, (start, end) in zip(found, BURSTS * 2):
        assert row["speech_start"] == pytest.approx(start - 0.1, abs=0.05)
        assert row["speech_end"] == pytest.approx(end + 0.1, abs=0.05)
        assert (row["segment_start"], row["segment_end"]) == (row["speech_start"], row["speech_end"])
    assert report.share_dropped == pytest.approx(1 - 5.4 / 12, abs=0.01)
    assert (report.recordings, report.segments, report.without_speech) == (2, 4, [])
    assert json.loads(json.dumps(report.to_dict()))["hours"] == pytest.approx(24 / 3600)
    assert "4 stretches of speech in 2 recordings" in str(report) and "is dropped" in str(report)


def test_stretches_are_prepared_like_other_rows_and_belong_to_their_recording(folder):
    found, _ = find_speech(load_speech(str(folder)), detector="energy")
    rows, report = prepare_speech(found, min_seconds=1)
    assert report.num_skipped == 0
    assert [round(samples / SECOND, 1) for samples in rows["num_samples"]] == [2.2, 3.2] * 2
    assert re.fullmatch(r"a at 1\.[89]\d s", rows["name"][0])


def test_audio_inside_a_table_is_stored_stretch_by_stretch():
    file = io.BytesIO()
    soundfile.write(file, recording(), SECOND, format="WAV")
    rows = Dataset.from_list([{"id": "call", "audio": {"bytes": file.getvalue(), "path": None}}])
    found, _ = find_speech(rows.cast_column("audio", Audio(decode=False)), detector="energy")
    assert len(found) == 2 and found["segment_start"][:] == [None, None]
    whole = read_audio(file.getvalue())
    for row in found:
        stretch = whole[round(row["speech_start"] * SECOND) : round(row["speech_end"] * SECOND)]
        np.testing.assert_allclose(read_audio(row["audio"]), stretch, atol=1 / 32768)


def test_short_pauses_belong_to_a_stretch_and_short_sounds_to_none():
    half, tenth = SECOND // 2, SECOND // 10
    found = as_stretches([(0, 3 * half), (4 * half - 1, 6 * half), (20 * half, 20 * half + tenth)], 30 * half)
    assert found == [(0, 6 * half + tenth)]


def test_recordings_without_speech_are_named_and_those_that_can_not_be_read_are_left_to_be_reported(folder):
    soundfile.write(folder / "hum.wav", 0.1 * np.sin(np.arange(5 * SECOND) / 9), SECOND)
    (folder / "broken.wav").write_bytes(b"no sound")
    (folder / "metadata.csv").unlink()
    found, report = find_speech(load_speech(str(folder)), detector="energy")
    assert [Path(name).stem for name in report.without_speech] == ["hum"]
    rows, skipped = prepare_speech(found, min_seconds=1)
    assert len(rows) == 4 and skipped.num_skipped == 1


def test_silero_is_asked_block_by_block_and_its_places_are_those_of_the_recording(folder, monkeypatch):
    pytest.importorskip("silero_vad")
    monkeypatch.setattr(voice, "AT_ONCE_SECONDS", 6)
    asked = []

    def told(block, model, **settings):
        asked.append(len(block))
        return [{"start": SECOND, "end": 2 * SECOND}]

    monkeypatch.setattr("silero_vad.get_speech_timestamps", told)
    monkeypatch.setattr(voice, "_silero", lambda: None)
    found, report = find_speech(load_speech(str(folder / "a.wav")), detector="silero")
    assert asked == [6 * SECOND, 6 * SECOND]
    assert [(row["speech_start"], row["speech_end"]) for row in found] == [(0.9, 2.1), (6.9, 8.1)]
    assert report.detector.startswith("silero-vad ")


def test_silero_tells_real_speech_from_a_tune(corpora, tmp_path):
    pytest.importorskip("silero_vad")
    pytest.importorskip("onnxruntime")
    row = load_speech(str(corpora / "librispeech-mini" / "validation*.parquet"))[0]
    speech, times = read_audio(row["audio"]), np.arange(6 * SECOND) / SECOND
    tune = 0.2 * np.sin(2 * np.pi * 440 * 2 ** ((times * 2).astype(int) % 5 / 12) * times)
    soundfile.write(tmp_path / "radio.wav", np.concatenate([tune, speech, tune]), SECOND)
    found, _ = find_speech(load_speech(str(tmp_path)), detector="silero")
    assert min(found["speech_start"]) > 5 and max(found["speech_end"]) < 7 + len(speech) / SECOND


def test_a_run_keeps_only_speech_and_its_record_says_what_was_dropped(folder):
    data = SpeechDataArguments(train_data=[str(folder)], voice_detector="energy", validation_share=0.5)
    args = SpeechPreTrainingArguments(output_dir="unused", use_cpu=True, max_steps=1, min_seconds=1)
    split = load_split("train", data, args)
    assert len(split.rows) == 4 and split.facts["voice"]["share_dropped"] > 0.5
    train, validation = hold_out(split, load_split("validation", data, args), data)
    assert len(train.rows) == len(validation.rows) == 2  # whole recordings are held out


def test_what_can_not_be_cut_is_refused(folder, monkeypatch):
    args = SpeechPreTrainingArguments(output_dir="unused", use_cpu=True, max_steps=1, min_seconds=1)
    data = SpeechDataArguments(train_data=[str(folder)], voice_detector="energy")
    with pytest.raises(ValueError, match="the columns language tell of whole rows"):
        load_split("train", data, args, need=["language"])
    data.streaming = True
    with pytest.raises(ValueError, match="a stream is not gone through"):
        load_split("train", data, args)
    with pytest.raises(ValueError, match="no detector 'ears'"):
        find_speech(load_speech(str(folder)), detector="ears")
    soundfile.write(folder / "only.wav", recording(bursts=[]), SECOND)
    with pytest.raises(ValueError, match=r"100\.0% of 0\.00 hours is dropped; 1 have none"):
        find_speech(load_speech(str(folder / "only.wav")), detector="energy")
    monkeypatch.setattr(voice.importlib.util, "find_spec", lambda name: None)
    assert choose_detector(None) == "energy"
    with pytest.raises(ImportError, match="pip install silero-vad onnxruntime"):
        choose_detector("silero")


def test_the_detector_is_public():
    assert hf_ssl_speech.find_speech is find_speech
