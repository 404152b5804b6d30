"""ABX errors of features whose answer is known, and of the units that the script makes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_ssl_speech import load_speech
from hf_ssl_speech.units.abx import abx_error

HOP = 0.02
MIDDLES = ("AA", "IY", "UW")
SPEAKERS = ("ann", "bob", "eve")


@pytest.fixture
def fastabx():
    return pytest.importorskip("fastabx", reason="ABX needs the extra [abx] and Python 3.12 or newer")


def say(middle: str, frames_each: int = 4) -> list[dict]:
    """The phones of silence, T, the middle, K, silence."""
    names = ("SIL", "T", middle, "K", "SIL")
    step = frames_each * HOP
    return [{"phone": name, "start": step * place, "end": step * (place + 1)} for place, name in enumerate(names)]


@pytest.fixture
def speech(fastabx):
    """Phones of four tokens of each triphone by each speaker, and the speakers."""
    utterances = [(say(middle), speaker) for speaker in SPEAKERS for middle in MIDDLES for _ in range(4)]
    return [phones for phones, _ in utterances], [speaker for _, speaker in utterances]


def as_features(phones, rng, noise=0.1):
    """A direction for each phone, and noise: `(20, 16)` an utterance."""
    directions = {name: rng.normal(size=16) for name in ("SIL", "T", "K", *MIDDLES)}
    return [
        np.stack([directions[phone["phone"]] for phone in row]).repeat(4, 0) + noise * rng.normal(size=(20, 16))
        for row in phones
    ]


def test_phones_that_stand_apart_have_no_error(speech):
    errors = abx_error(as_features(speech[0], np.random.default_rng(0)), *speech)
    assert errors == {"within": 0.0, "across": 0.0, "num_triphones": 36, "num_speakers": 3}


def test_noise_is_right_half_the_time(speech):
    phones, speakers = [column * 4 for column in speech]
    rng = np.random.default_rng(0)
    errors = abx_error([rng.normal(size=(20, 16)) for _ in phones], phones, speakers)
    assert errors["within"] == pytest.approx(0.5, abs=0.06)
    assert errors["across"] == pytest.approx(0.5, abs=0.06)


def test_the_length_of_frames_makes_no_difference_but_their_direction(speech):
    features = as_features(speech[0], np.random.default_rng(0), noise=1.5)
    louder = [row * (1 + place) for place, row in enumerate(features)]
    assert abx_error(louder, *speech) == pytest.approx(abx_error(features, *speech))


def test_features_that_tell_of_the_speaker_err_across_speakers_only(speech):
    phones, speakers = speech
    # The middle sounds as another one does in the mouth of the next speaker.
    heard = [
        say(MIDDLES[(MIDDLES.index(row[2]["phone"]) + SPEAKERS.index(speaker)) % 3])
        for row, speaker in zip(phones, speakers)
    ]
    errors = abx_error(as_features(heard, np.random.default_rng(0)), phones, speakers)
    assert errors["within"] == 0
    assert errors["across"] > 0.4


def test_units_are_compared_as_one_hot_rows(speech):
    phones, speakers = speech
    units = {name: place for place, name in enumerate(("SIL", "T", "K", *MIDDLES))}
    told_apart = [np.eye(6)[[units[phone["phone"]] for phone in row]].repeat(4, 0) for row in phones]
    assert abx_error(told_apart, phones, speakers)["within"] == 0
    all_alike = [torch.eye(6)[torch.zeros(20, dtype=torch.long)] for _ in phones]
    assert abx_error(all_alike, phones, speakers)["within"] == 0.5


def test_a_triphone_is_made_of_the_frames_whose_centres_lie_in_it(speech):
    phones, speakers = speech
    features = as_features(phones, np.random.default_rng(0))
    # T starts at 0.08 s: the first frame with its centre inside is the 4th, with a centre at 0.0925 s.
    for row in features:
        row[:4], row[16:] = np.random.default_rng(1).normal(size=(2, 4, 16)) * 100
    expected = abx_error(features, phones, speakers)
    assert expected["within"] == 0
    for row in features:
        row[:4] = row[16:] = 0
    assert abx_error(features, phones, speakers) == expected


def test_silence_and_pauses_are_in_no_triphone(fastabx):
    late = [{**phone, "start": phone["start"] + 0.05, "end": phone["end"] + 0.05} for phone in say("AA")[3:]]
    rows = [say("AA"), say("AA"), say("IY"), [*say("AA")[:3], *late], say("AA")[:3]]
    features = [np.random.default_rng(0).normal(size=(23, 8)) for _ in rows]
    errors = abx_error(features, rows, ["ann"] * 5)
    assert errors["num_triphones"] == 3
    assert errors["across"] is None  # one speaker


def test_the_same_tokens_are_chosen_every_time(speech):
    phones, speakers = [column * 5 for column in speech]  # 20 tokens of each, of which 10 are taken
    features = as_features(phones, np.random.default_rng(0), noise=3.0)
    first = abx_error(features, phones, speakers)
    assert first == abx_error(features, phones, speakers)
    assert first["within"] != abx_error(features, phones, speakers, seed=1)["within"]


@pytest.mark.parametrize("condition", ["within", "across"])
def test_the_error_is_that_of_zerospeech_from_files(fastabx, speech, tmp_path, condition):
    phones, speakers = speech
    features = as_features(phones, np.random.default_rng(0), noise=3.0)
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for row, (row_phones, speaker) in enumerate(zip(phones, speakers)):
        torch.save(torch.from_numpy(features[row]).float(), tmp_path / f"{row}.pt")
        lines.append(f"{row} 0.08 0.32 {row_phones[2]['phone']} T K {speaker}")
    (tmp_path / "triphones.item").write_text("\n".join(lines))
    expected = fastabx.zerospeech_abx(
        tmp_path / "triphones.item", tmp_path, max_size_group=10, max_x_across=5, speaker=condition, progress=False
    )
    found = abx_error(features, phones, speakers, window_seconds=HOP)  # there frames see as much as they move on
    assert found[condition] == pytest.approx(expected, abs=1e-6)
    assert 0.05 < expected < 0.45


def test_what_can_not_be_compared_is_refused_in_words(speech):
    phones, speakers = speech
    features = as_features(phones, np.random.default_rng(0))
    with pytest.raises(ValueError, match="36 utterances came with 36 lists of phones and 35 speakers"):
        abx_error(features, phones, speakers[1:])
    with pytest.raises(ValueError, match=r"Utterance 1 has features of shape \(20, 8\)"):
        abx_error([features[0], features[1][:, :8]], phones[:2], speakers[:2])
    with pytest.raises(ValueError, match="Utterance 0 has features that are not finite"):
        abx_error([features[0] * np.nan], phones[:1], speakers[:1])
    with pytest.raises(ValueError, match=r"Utterance 0 has phones up to 0.40 s, but its 10 frames, one every 20 ms"):
        abx_error([features[0][::2]], phones[:1], speakers[:1])
    with pytest.raises(ValueError, match="the 1 triphones here have no such"):
        abx_error(features[:1], phones[:1], speakers[:1])


def test_the_script_measures_features_and_units(fastabx, tmp_path, corpora, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import make_units

    source = load_speech(f"{corpora}/librispeech-mini/validation*.parquet").select(range(0, 250, 10))
    source.to_parquet(tmp_path / "few.parquet")
    data = str(tmp_path / "few.parquet")
    arguments = ["--train_data", data, "--output_dir", str(tmp_path / "units"), "--num_units", "20", "--abx", "True"]
    with pytest.raises(ValueError, match="there is no phones and no speaker"):
        make_units.main(arguments)
    make_units.main([*arguments, "--validation_data", data])
    quality = json.loads((tmp_path / "units" / "run.json").read_text())["quality"]
    assert 0 < quality["abx_within_features"] < quality["abx_across_features"] < 0.5
    assert (
        quality["abx_within_features"] < quality["abx_within_units"] < 0.5
    )  # units tell less than what they come from


def test_without_fastabx_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastabx", None)
    with pytest.raises(ImportError, match=r"Python 3.12 or newer\): pip install fastabx"):
        abx_error([np.zeros((20, 2))], [say("AA")], ["ann"])
