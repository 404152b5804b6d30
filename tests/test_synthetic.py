"""Speech made on the spot has the columns, the labels and the sound of a corpus."""

import runpy
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from hf_ssl_speech.audio import SAMPLE_RATE, read_audio
from hf_ssl_speech.demo import synthetic
from hf_ssl_speech.demo.espeak import Espeak
from hf_ssl_speech.demo.sentences import LANGUAGES, compose_sentence
from hf_ssl_speech.demo.synthetic import MAX_UTTERANCE_SECONDS, MIN_UTTERANCE_SECONDS, SILENCE, synthesize_speech

MAKE_SPEECH = Path(__file__).parents[1] / "examples" / "make_speech.py"
VOWELS = tuple("aeiouyøɑɒæɐəɛɜɪɔœʊʉɨʌᵻɚɵʏ")
FRAME = SAMPLE_RATE // 100


@pytest.fixture(scope="module")
def espeakng_loader():
    return pytest.importorskip("espeakng_loader", reason="espeakng-loader (the demo extra) is not installed")


@pytest.fixture(scope="module")
def speech(espeakng_loader):
    return synthesize_speech(minutes=3, languages=list(LANGUAGES), speakers=16, seed=3)


def frame_decibels(row: dict) -> np.ndarray:
    """Energy of each 10 ms frame."""
    waveform = read_audio(row["audio"])
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME)
    return 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)


def frame_phones(row: dict) -> np.ndarray:
    """The phone at the middle of each 10 ms frame."""
    middles = np.arange(0.005, row["duration"] - 0.005, 0.01)
    ends = [phone["end"] for phone in row["phones"]]
    return np.array([phone["phone"] for phone in row["phones"]])[np.searchsorted(ends, middles, side="right")]


def vowels_over_pauses(row: dict, shift: int = 0) -> float:
    """Decibels of the vowels over the pauses, with the labels moved by some frames."""
    decibels, phones = frame_decibels(row), frame_phones(row)
    length = min(len(decibels), len(phones))
    decibels, phones = decibels[:length], np.roll(phones[:length], shift)
    is_vowel = np.array([phone.startswith(VOWELS) for phone in phones])
    return decibels[is_vowel].mean() - decibels[phones == SILENCE].mean()


def test_the_same_arguments_give_the_same_bytes(speech):
    again = synthesize_speech(minutes=3, languages=list(LANGUAGES), speakers=16, seed=3)
    assert again.to_dict() == speech.to_dict()


def test_another_seed_says_other_things(espeakng_loader):
    texts = [synthesize_speech(minutes=0.2, speakers=5, seed=seed)["text"][:] for seed in (0, 1)]
    assert not set(texts[0]) & set(texts[1])


def test_the_columns_are_those_of_a_real_corpus(speech, corpora):
    real = Dataset.from_parquet(str(next((corpora / "librispeech-mini").glob("train_10min*.parquet"))))
    assert speech.features == real.features
    assert speech.column_names == real.column_names


def test_the_durations_are_those_of_the_audio_and_add_up_to_the_minutes(speech):
    for row in speech:
        assert row["duration"] == pytest.approx(len(read_audio(row["audio"])) / SAMPLE_RATE)
        assert MIN_UTTERANCE_SECONDS <= row["duration"] <= MAX_UTTERANCE_SECONDS
    total = sum(speech["duration"])
    assert 180 <= total < 180 + speech[-1]["duration"]


def test_the_phones_cover_the_audio_without_gap_or_overlap(speech):
    for row in speech:
        phones = row["phones"]
        assert phones[0]["start"] == 0
        assert phones[-1]["end"] == row["duration"]
        assert all(left["end"] == right["start"] for left, right in pairwise(phones))
        assert all(phone["start"] < phone["end"] and phone["phone"] for phone in phones)


def test_each_utterance_starts_and_ends_in_a_pause_and_no_two_pauses_meet(speech):
    for row in speech:
        pauses = [phone["phone"] == SILENCE for phone in row["phones"]]
        assert pauses[0] and pauses[-1]
        assert not any(left and right for left, right in pairwise(pauses))


def test_pauses_are_much_quieter_than_vowels_in_every_utterance(speech):
    assert min(vowels_over_pauses(row) for row in speech) > 15


def test_phones_are_where_they_sound(speech):
    gaps = {shift: np.mean([vowels_over_pauses(row, shift) for row in speech]) for shift in range(-4, 5)}
    assert max(gaps, key=gaps.get) == 0


def test_a_stop_begins_where_the_mouth_closes():
    waveform = np.concatenate([np.ones(100), np.zeros(50), np.ones(30)]).astype(np.float32)
    assert synthetic._with_closures(waveform, [0, 150]) == [0, 100]


def test_pauses_in_a_row_are_one_and_a_nameless_moment_belongs_to_the_phone_before():
    phones = synthetic._phones([("", 1600), ("", 1600), ("a", 800), ("", 160), ("t", 480), ("", 3200)])
    assert [(phone["phone"], phone["start"], phone["end"]) for phone in phones] == [
        (SILENCE, 0, 0.2),
        ("a", 0.2, 0.26),
        ("t", 0.26, 0.29),
        (SILENCE, 0.29, 0.49),
    ]


def test_nothing_is_clipped_and_no_silence_is_digital(speech):
    for row in speech:
        waveform = read_audio(row["audio"])
        assert np.abs(waveform).max() < 0.95
        opening = waveform[: int(row["phones"][0]["end"] * SAMPLE_RATE)]
        assert opening.std() > 1e-4


def test_speakers_take_turns_keep_to_one_language_and_differ_in_level(speech):
    turns = speech["speaker"][:]
    assert len(set(turns[:16])) == 16
    assert turns[16:] == turns[: len(turns) - 16]
    assert all(row["speaker"].startswith(row["language"]) for row in speech.remove_columns("audio"))
    assert set(speech["language"]) == set(LANGUAGES)
    levels = [read_audio(audio).std() for audio in speech["audio"][:16]]
    assert max(levels) > 1.5 * min(levels)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_thousands_of_sentences(language):
    generator = np.random.default_rng(0)
    sentences = {compose_sentence(language, generator) for _ in range(1000)}
    assert len(sentences) > 900
    assert all(sentence[0].isupper() and sentence[-1] == "." and "{" not in sentence for sentence in sentences)


def test_every_accent_and_variant_is_in_the_library(espeakng_loader):
    variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    assert not [name for name in synthetic._VARIANTS if not (variants / name).exists()]
    with closing(Espeak()) as espeak:
        for accent in {accent for language in LANGUAGES.values() for accent in language.accents}:
            samples, phones = espeak.say("a", voice=accent)
            assert samples and phones


def test_a_voice_that_is_not_there_is_named(espeakng_loader):
    with closing(Espeak()) as espeak, pytest.raises(RuntimeError, match="nobody"):
        espeak.say("a", voice="nobody")


def test_a_stopped_espeak_is_told(espeakng_loader):
    with closing(Espeak()) as espeak:
        espeak._process.kill()
        espeak._process.wait()
        with pytest.raises(RuntimeError, match="stopped"):
            espeak.say("a", voice="en")


def test_without_espeakng_loader_the_way_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match="pip install espeakng-loader"):
        synthesize_speech(minutes=1)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"languages": ["en", "xx"]}, "xx.*en, de, es"),
        ({"languages": "en"}, "list"),
        ({"languages": []}, "list"),
        ({"languages": ["en", "en"]}, "list"),
        ({"minutes": 0}, "above 0"),
        ({"speakers": 2}, "2 speakers cannot speak 5 languages"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_in_words(request_, message):
    with pytest.raises(ValueError, match=message):
        synthesize_speech(**{"minutes": 1, **request_})


def test_the_example_writes_a_dataset_with_its_own_speakers_for_validation(
    espeakng_loader, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "speech"
    monkeypatch.setattr(sys, "argv", [str(MAKE_SPEECH), str(folder), "--minutes", "2", "--speakers", "10"])
    runpy.run_path(str(MAKE_SPEECH), run_name="__main__")
    assert "validation: " in capsys.readouterr().out

    splits = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(splits) == {"train", "validation"}
    assert splits["train"].features == synthetic.FEATURES
    assert not set(splits["train"]["speaker"]) & set(splits["validation"]["speaker"])
    assert len(splits["train"]) > len(splits["validation"]) > 0

    runpy.run_path(str(MAKE_SPEECH), run_name="__main__")
    assert "already holds this speech" in capsys.readouterr().out
