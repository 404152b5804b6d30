"""What is heard beside the speech: levels, stretches, rooms; clean targets; bad noise."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import tiny_model
from datasets import Dataset, Features, List, Value
from test_exactness import largest_difference
from train_tiny import train

import hf_ssl_speech
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.data.collators import HubertPretrainingCollator, Wav2Vec2PretrainingCollator
from hf_ssl_speech.data.distortion import Distortion, load_noise, power, reverberate
from hf_ssl_speech.data.noise_settings import NoiseSettings
from hf_ssl_speech.records import read_record

SECOND = 16_000
ROW = Features({"name": Value("string"), "sample_id": Value("int64"), "num_samples": Value("int64"),
                "samples": List(Value("int16")), "units": List(Value("int32"))})  # fmt: skip


def rows_of(*waveforms: np.ndarray) -> Dataset:
    rows = [
        {"name": f"row {number}", "sample_id": number, "num_samples": len(samples), "samples": samples,
         "units": [number % 10] * ((len(samples) - 400) // 320 + 1)}
        for number, samples in enumerate(waveforms)
    ]  # fmt: skip
    return Dataset.from_list(rows, features=ROW).with_format("numpy", ["samples"], output_all_columns=True, dtype=None)


def noise(seconds: float, seed: int, scale: float = 2000) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=round(seconds * SECOND))).astype(np.int16)


@pytest.fixture(scope="module")
def speech() -> Dataset:
    return rows_of(*(noise(seconds, seed) for seed, seconds in enumerate([2.0, 3.0, 2.5, 4.0])))


@pytest.fixture(scope="module")
def sounds() -> Dataset:
    return rows_of(noise(5, 10, 300), noise(1, 11, 900))


# What is heard -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [-5.0, 0.0, 20.0])
def test_noise_covers_at_most_half_of_the_audio_and_has_the_level_that_was_drawn(level):
    hum = rows_of((1000 * np.sin(np.arange(20 * SECOND) / 5)).astype(np.int16))  # as loud in every stretch
    distortion = Distortion(NoiseSettings(data=["hum"], share=1, levels=[level, level]), hum)
    clean = noise(4, 0).astype(np.float32) / 32768
    for key in range(20):
        added = distortion(clean, {"sample_id": 0}, (0, 0, key)) - clean
        covered = np.flatnonzero(np.abs(added) > 1e-6)
        assert 0 < np.ptp(covered) + 1 <= len(clean) / 2
        if len(covered) > SECOND:
            stretch = added[covered[0] : covered[-1] + 1]
            assert 10 * np.log10(power(clean) / power(stretch)) == pytest.approx(level, abs=0.1)


def test_about_as_many_utterances_as_asked_are_changed_and_by_the_key_alone(speech, sounds):
    settings = NoiseSettings(data=["noise"], share=0.3, utterances=0.2)
    distortion, clean = Distortion(settings, sounds, speech=speech), noise(2, 5).astype(np.float32) / 32768
    heard = [distortion(clean, {"sample_id": 9}, (0, 1, key)) for key in range(1000)]
    changed = np.mean([each is not clean for each in heard])
    assert changed == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / 1000))
    for key in (3, 4, 5):
        np.testing.assert_array_equal(heard[key], distortion(clean, {"sample_id": 9}, (0, 1, key)))
    assert len(clean) == len(heard[0])


def test_an_utterance_is_mixed_with_another_one(speech):
    distortion = Distortion(NoiseSettings(utterances=1, utterance_levels=[0, 0]), speech=speech.select([0, 1]))
    clean = speech[0]["samples"].astype(np.float32) / 32768
    other = speech[1]["samples"].astype(np.float32) / 32768
    added = distortion(clean, speech[0], (0, 0, 1)) - clean
    covered = np.flatnonzero(added)
    stretch = added[covered[0] : covered[-1] + 1]
    correlation = np.correlate(other, stretch, "valid") / np.sqrt(power(stretch) * power(other)) / len(stretch)
    assert correlation.max() > 0.9


def test_a_room_keeps_the_direct_sound_in_its_place_and_the_power():
    click = np.zeros(SECOND, np.float32)
    click[4000] = 0.5
    response = np.zeros(3000, np.float32)
    response[[100, 900, 2500]] = [1.0, 0.5, -0.25]  # the sound takes 100 samples to the microphone
    heard = reverberate(click, response)
    assert np.flatnonzero(np.abs(heard) > 1e-4).tolist() == [4000, 4800, 6400]
    assert power(heard) == pytest.approx(power(click), rel=1e-5)


def test_gain_is_drawn_between_its_bounds():
    clean = noise(1, 0).astype(np.float32) / 32768
    distortion = Distortion(NoiseSettings(gain=[-6, 6]))
    gains = [20 * np.log10(np.abs(distortion(clean, {}, (0, 0, key))).max() / np.abs(clean).max()) for key in range(50)]
    assert -6.01 < min(gains) < -3 and 3 < max(gains) < 6.01


# Clean targets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["hubert", "wav2vec2"])
def test_units_negatives_and_masks_are_those_of_the_clean_audio(speech, sounds, objective):
    hubert = objective == "hubert"
    model = hf_ssl_speech.SSLHubertForPreTraining if hubert else hf_ssl_speech.SSLWav2Vec2ForPreTraining
    make = HubertPretrainingCollator if hubert else Wav2Vec2PretrainingCollator
    settings = NoiseSettings(data=["noise"], share=0.5, utterances=0.5, reverberated=1, gain=[-3, 3])
    distortion = Distortion(settings, sounds, rows_of(noise(0.1, 3)), speech)
    rows = [speech[place] for place in range(len(speech))]
    clean, noisy = (
        make(tiny_model(model).config, normalize=True, max_seconds=2.2, distortion=each)(rows)
        for each in (None, distortion)
    )
    differing = {name for name in clean if name != "skipped_rows" and not (clean[name] == noisy[name]).all()}
    assert differing == {"input_values"}


def test_an_evaluation_hears_clean_audio(speech, sounds):
    config = tiny_model(hf_ssl_speech.SSLWav2Vec2ForPreTraining).config
    distortion = Distortion(NoiseSettings(data=["noise"], share=1), sounds)
    evaluation = Wav2Vec2PretrainingCollator(config, normalize=True, evaluation=True, distortion=distortion)
    clean = Wav2Vec2PretrainingCollator(config, normalize=True, evaluation=True)
    rows = [speech[0], speech[1]]
    assert (evaluation(rows)["input_values"] == clean(rows)["input_values"]).all()


def test_an_utterance_sounds_the_same_in_any_company(speech, sounds):
    config = tiny_model(hf_ssl_speech.SSLWav2Vec2ForPreTraining).config
    settings = NoiseSettings(data=["noise"], share=0.5, utterances=0.5)
    collator = Wav2Vec2PretrainingCollator(
        config, normalize=True, distortion=Distortion(settings, sounds, None, speech)
    )
    alone, together = collator([speech[0]]), collator([speech[3], speech[0], speech[2]])
    length = speech[0]["num_samples"]
    assert (alone["input_values"][0] == together["input_values"][1, :length]).all()


# A run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "noise").mkdir()
    for number in range(2):
        soundfile.write(tmp_path / "noise" / f"{number}.wav", noise(1.5, number), SECOND)
    return tmp_path


def test_an_interrupted_run_with_noise_ends_with_the_very_same_weights(folder, speech):
    speech.save_to_disk(folder / "rows")
    settings = {
        "noise": {"data": str(folder / "noise"), "share": 0.5, "utterances": 0.5}, "max_steps": 2,
        "save_strategy": "steps", "save_steps": 1,
    }  # fmt: skip
    rows = str(folder / "rows")
    train(rows, str(folder / "whole"), settings, {})
    train(rows, str(folder / "resumed"), settings, {}, str(folder / "whole" / "checkpoint-1"))
    assert largest_difference(folder / "whole", folder / "resumed") == 0.0
    record = read_record(folder / "whole")
    assert record["recipe"]["noise"]["utterances"] == 0.5
    assert (record["data"]["noise"]["rows"], record["data"]["noise"]["source"]) == (2, [str(folder / "noise")])


def test_the_command_line_takes_noise_as_json(folder):
    words = ["--noise", '{"data": "musan", "levels": [0, 10]}', "--output_dir", "unused", "--use_cpu"]
    (args,) = parse_arguments(words, hf_ssl_speech.SpeechPreTrainingArguments)
    assert args.noise["data"] == ["musan"] and args.noise["levels"] == [0, 10]


# Bad input -----------------------------------------------------------------------------------------------------------


def test_silent_missing_and_narrow_noise_is_refused(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(SECOND), SECOND)
    soundfile.write(tmp_path / "telephone.wav", noise(1, 0), 8_000)
    for source, message in (
        ("silent.wav", "The noise .*silent.wav can't be used: No row can be used.*silent"),
        ("telephone.wav", "are at 8,000 Hz: they hold nothing above 4,000 Hz"),
        ("gone.wav", "Nothing found"),
    ):
        with pytest.raises(ValueError, match=message):
            load_noise([str(tmp_path / source)], "noise")


def test_noise_at_a_higher_rate_is_resampled(tmp_path):
    soundfile.write(tmp_path / "studio.wav", noise(3, 0), 48_000)
    rows, _ = load_noise([str(tmp_path / "studio.wav")], "noise")
    assert rows["num_samples"] == [SECOND]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"daat": ["x"]}, "no setting daat; there are data, share"),
        ({"share": 0.5}, "changes nothing"),
        ({"data": ["x"], "share": 1.5}, "a share of the utterances, from 0 to 1"),
        ({"data": ["x"], "share": 0.7, "utterances": 0.7}, "more than 1 together"),
        ({"utterances": 0.1, "covered": 0.8}, "at most 0.5"),
        ({"gain": [6, -6]}, "the lowest and the highest"),
        ({"data": ["x"], "levels": [5]}, "the lowest and the highest"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        NoiseSettings.of(given)
