"""`hf-ssl-speech features`: the dataset holds what the source computes, and is written as it goes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import save_encoder
from datasets import load_dataset

from hf_ssl_speech import SSLHubertModel, load_speech, prepare_speech
from hf_ssl_speech.commands.main import run
from hf_ssl_speech.data.features import HiddenFeatures, MfccFeatures
from hf_ssl_speech.records import read_record
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.unit_text import without_repeats


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """70 recordings, more than are computed at once, one of which breaks off."""
    folder, generator = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    lines = ["file_name,speaker"]
    for number in range(70):
        wave = generator.normal(scale=0.1, size=generator.integers(3_000, 6_000))
        soundfile.write(folder / f"{number}.flac", wave, 16_000)
        lines.append(f"{number}.flac,{number % 3}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    whole = (folder / "5.flac").read_bytes()
    (folder / "5.flac").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"), SSLHubertModel)


def write(speech, folder, *more):
    run("features", ["--data", str(speech), "--output_dir", str(folder), "--disable_tqdm", "true", *more])
    return load_dataset(str(folder), split="train", cache_dir=str(folder / "cache")).with_format("numpy")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_layer_is_written_as_the_source_computes_it(speech, encoder, tmp_path, monkeypatch, workers):
    settings = ("--encoder", str(encoder), "--layer", "2", "--keep", "speaker", "--workers", workers)
    monkeypatch.chdir(tmp_path)
    strange = Path("a::b")  # which pyarrow and datasets take for an address
    run("features", ["--data", str(speech), "--output_dir", str(strange), "--disable_tqdm", "true", *settings])
    found = write(speech, strange.rename(tmp_path / "features"), *settings)
    rows, _ = prepare_speech(load_speech(str(speech)), min_seconds=0.1)
    expected = {
        row["name"]: frames.numpy()
        for row in rows
        if len(frames := HiddenFeatures.from_pretrained(encoder, 2).features([row])[0])
    }
    assert len(found) == 69 and set(found["name"]) == set(expected)
    for row in found:
        assert row["features"].shape == expected[row["name"]].shape
        assert np.allclose(row["features"], expected[row["name"]], atol=2e-4)  # rounding: other rows in the batch
    assert "speaker" in found.column_names
    record = read_record(tmp_path / "features")
    assert record["status"] == "complete" and len(record["skipped"]) == 1


def test_units_lose_their_repeats_and_nothing_else(speech, tmp_path, caplog):
    caplog.set_level("INFO")
    torch.manual_seed(0)
    source = MfccFeatures()
    units = KMeansUnits(10 * torch.randn(6, 39), torch.ones(6), source.description, {})
    units.save_pretrained(tmp_path / "units")
    short = write(speech, tmp_path / "short", "--units", str(tmp_path / "units"), "--workers", "0")
    whole = write(speech, tmp_path / "whole", "--units", str(tmp_path / "units"), "--keep_repeats", "true")
    rows = {row["name"]: row for row in prepare_speech(load_speech(str(speech)), min_seconds=0.1)[0]}
    for run_row, row in zip(short, whole):
        assert (np.repeat(run_row["units"], run_row["durations"]) == row["units"]).all()
        assert (np.diff(run_row["units"]) != 0).all()
        assert (row["units"] == units.predict_rows([rows[str(row["name"])]], source)[0]).all()
    caplog.clear()
    write(speech, tmp_path / "short", "--units", str(tmp_path / "units"), "--text_files", "true")
    assert "complete" in caplog.text
    labels = [line.split() for line in (tmp_path / "short/train.km").read_text().splitlines()]
    assert [len(each) for each in labels] == [len(row["units"]) for row in whole]
    _, *manifest = (tmp_path / "short/train.tsv").read_text().splitlines()
    for line, num_samples in zip(manifest, short["num_samples"], strict=True):
        path, samples = line.split("\t")
        assert int(samples) == num_samples == soundfile.info(path).frames
    with pytest.raises(ValueError, match="keep_repeats"):
        write(speech, tmp_path / "short", "--units", str(tmp_path / "units"), "--keep_repeats", "true")


def test_half_precision_is_read_back(speech, tmp_path):
    single, half = (
        write(speech, tmp_path / kind, "--number_format", kind, "--workers", "0") for kind in ("float32", "float16")
    )
    assert half.features["features"].feature.feature.dtype == "float16"
    assert np.allclose(half[3]["features"], single[3]["features"], rtol=1e-3, atol=1e-3)  # 11 bits


def test_runs_of_units():
    units, durations = without_repeats([4, 4, 0, 0, 0, 4])
    assert units.tolist() == [4, 0, 4] and durations.tolist() == [2, 3, 1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--layer", "2"), "Give encoder and layer"),
        (("--units", "nowhere", "--layer", "1"), "leave out encoder and layer"),
        (("--text_files", "true"), "give the unit set"),
        (("--keep", "phones"), r"no columns \['phones'\]"),
        (("--splits", "dev"), "no split 'dev'"),
    ],
)
def test_mistakes_are_told_in_words(speech, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        write(speech, tmp_path, *more)
