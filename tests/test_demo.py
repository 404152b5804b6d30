"""The demo: small vocabularies, what is shown in the end, and the whole way in small."""

import re

import numpy as np
import pytest
import soundfile
import torch

from hf_ssl_speech.commands.demo import commands
from hf_ssl_speech.commands.main import main
from hf_ssl_speech.data.features import MfccFeatures
from hf_ssl_speech.demo.sentences import DIGITS, LANGUAGES, compose_digits
from hf_ssl_speech.recipes.demo import conclude, transcripts
from hf_ssl_speech.recipes.label_efficiency_report import write_results
from hf_ssl_speech.records import write_record
from hf_ssl_speech.units.kmeans_units import KMeansUnits

PARTS = ("train", "validation", "test")


def test_every_language_has_ten_digits():
    assert set(DIGITS) == set(LANGUAGES)
    generator = np.random.default_rng(0)
    for language, words in DIGITS.items():
        said = [compose_digits(language, generator).split() for _ in range(200)]
        assert set().union(*said) == set(words.split()) and len(words.split()) == 10
        assert {len(each) for each in said} == {3, 4, 5}


def test_utterances_are_shown_as_they_were_said_and_as_each_recogniser_heard_them():
    said = [f"one {number}" for number in range(9)]
    heard = {
        start: {"references": said, "heard": [text, *[""] * 8]} for start, text in (("scratch", "o"), ("mine", "one 0"))
    }
    first, second, _ = transcripts(heard)
    assert first == "said     one 0\nscratch  o\nmine     one 0"
    assert second.endswith("mine     (nothing)")


def test_the_steps_lie_in_the_folder_that_was_asked_for(tmp_path):
    folder = tmp_path / "two words"
    for command in commands(folder, seed=3, minutes=5).values():
        assert f"'{folder}" in command and re.search(r"--seeds? 3\b", command)


def test_the_end_shows_table_transcripts_picture_and_the_way_on(tmp_path):
    wave = np.random.default_rng(0).normal(scale=0.1, size=16_000)
    (tmp_path / "speech" / "validation").mkdir(parents=True)
    soundfile.write(tmp_path / "speech" / "validation" / "0.wav", wave, 16_000)
    torch.manual_seed(0)
    units = KMeansUnits(torch.randn(5, 39), torch.ones(5), MfccFeatures().description, {})
    units.save_pretrained(tmp_path / "units")
    starts, lengths = {"scratch": 2, "pretrained": 0}, {"words": np.array([2]), "characters": np.array([7])}
    cells = []
    for start, wrong in starts.items():
        errors = {"words": [wrong], "characters": [wrong]}
        test = {"errors": errors, "heard": ["one two"], "references": ["one two"]}
        write_record({"test": test}, tmp_path / "recognisers" / start)
        cells.append(
            {"start": start, "minutes": "2", "minutes_used": 2.0, "seed": 0, "folder": start, "errors": errors}
        )
    data = {part: {"source": str(tmp_path / "speech"), "rows": 1, "hours": 1.0} for part in PARTS}
    about = {"starts": {}, "updates": 1, "data": data}
    write_results(cells, lengths, about, tmp_path / "recognisers")
    shown = conclude(tmp_path)
    assert re.search(r"\| scratch +\| 2.0 +\| 100.0 ", shown) and "said        one two" in shown
    assert f"transcribe {tmp_path / 'recognisers' / 'pretrained'} my_recording.wav" in shown
    assert (tmp_path / "demo.png").stat().st_size > 5_000


@pytest.mark.slow
def test_the_demo_goes_from_made_speech_to_a_recogniser_that_transcribes_a_file(tmp_path, capsys, caplog, monkeypatch):
    pytest.importorskip("espeakng_loader", reason="espeakng-loader (the demo extra) is not installed")
    monkeypatch.chdir(tmp_path)
    updates = ["--pretraining_updates", "2", "--finetuning_updates", "2"]
    words = ["demo", "--output_dir", "runs/small", "--minutes", "6", *updates]
    main(words)
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("$ ")] != [] and "said " in shown
    assert re.search(r"\| pretrained +\| 1\.0", shown) and (tmp_path / "runs" / "small" / "demo.png").exists()
    transcribe = re.search(r"    hf-ssl-speech (transcribe \S+) my_recording.wav", shown)[1].split()
    soundfile.write("my_recording.wav", np.random.default_rng(0).normal(scale=0.1, size=16_000), 16_000)
    main([*transcribe, "my_recording.wav"])
    assert capsys.readouterr().out.startswith("my_recording")
    caplog.set_level("INFO")
    main(words)  # all is there
    assert sum(message.endswith(" is finished") for message in caplog.messages) == 2
