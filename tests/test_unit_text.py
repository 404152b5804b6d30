"""Units as text: what a tokenizer keeps, and what other programs read."""

import importlib.util
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_encoder
from datasets import Dataset

from hf_ssl_speech import HiddenFeatures, KMeansUnits, MfccFeatures, SSLHubertModel
from hf_ssl_speech.hub.publishing import prepared
from hf_ssl_speech.units.unit_text import as_text, unit_tokenizer, without_repeats, write_unit_texts


def test_a_tokenizer_keeps_one_unit_of_each_run_and_gives_the_units_back(tmp_path):
    generator = np.random.default_rng(0)
    tokenizer = unit_tokenizer(112)
    tokenizer.save_pretrained(tmp_path)
    read_again = type(tokenizer).from_pretrained(tmp_path)
    for _ in range(50):  # 1, 11 and 111 begin alike
        units = np.repeat(generator.choice([0, 1, 11, 111], size=20), generator.integers(1, 4, size=20))
        kept, durations = without_repeats(units)
        for each in (tokenizer, read_again):
            ids = each(as_text(units)).input_ids
            assert ids == [each.bos_token_id, *kept.tolist(), each.eos_token_id]
            assert each.decode(ids, skip_special_tokens=True) == as_text(kept)
        assert np.array_equal(np.repeat(kept, durations), units)
    assert len(tokenizer) == 116 and tokenizer.decode(tokenizer("1  1\n112").input_ids[1:-1]) == "1 <unk>"


def test_an_empty_set_has_no_tokenizer():
    with pytest.raises(ValueError, match="num_units is 0"):
        unit_tokenizer(0)


@pytest.mark.parametrize("repeats", [True, False])
def test_the_files_hold_all_units_whatever_the_rows_keep(tmp_path, repeats):
    frames = [[4, 4, 0, 0, 0, 4], [7]]
    rows = [{"name": name, "num_samples": 2000, "units": units} for name, units in zip("ab", frames)]
    if not repeats:
        rows = [row | dict(zip(("units", "durations"), without_repeats(row["units"]))) for row in rows]
    write_unit_texts(rows, {"a": str(tmp_path / "a.wav"), "b": None}, tmp_path / "train")
    assert (tmp_path / "train.txt").read_text() == "4 0 4\n7\n"
    assert (tmp_path / "train.km").read_text() == "4 4 0 0 0 4\n7\n"
    assert (tmp_path / "train.tsv").read_text() == f"/\n{tmp_path}/a.wav\t2000\nb\t2000\n"
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert lines[0] == {"name": "a", "num_samples": 2000, "units": [4, 0, 4], "durations": [2, 3, 1]}


def test_units_beside_their_encoder_travel_with_it(tmp_path):
    folder = save_encoder(tmp_path / "hubert", SSLHubertModel)
    source = HiddenFeatures.from_pretrained(folder, 1, device="cpu")
    units = KMeansUnits(torch.randn(5, source.description.width), torch.ones(5), source.description, {})
    units.save_pretrained(tmp_path / "alone")
    units.save_pretrained(folder)
    assert json.loads((tmp_path / "alone/kmeans.json").read_text())["features"]["encoder"] == str(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    shutil.rmtree(folder)
    moved = KMeansUnits.from_pretrained(tmp_path / "elsewhere")
    assert moved.open_features().description.weights_hash == source.description.weights_hash
    with prepared(tmp_path / "elsewhere", stock=False, encoder=None) as pushed:
        assert json.loads((pushed / "kmeans.json").read_text())["features"]["encoder"] == "."
        arrived = KMeansUnits.from_pretrained(pushed).open_features()
        assert arrived.description.weights_hash == source.description.weights_hash


def test_centroids_of_another_program_become_units(tmp_path):
    source = MfccFeatures()
    np.save(tmp_path / "km.npy", np.random.default_rng(0).normal(size=(7, 39)))
    units = KMeansUnits.from_centroids(tmp_path / "km.npy", source)
    assert units.predict(units.centroids + 1e-4).tolist() == list(range(7))
    np.save(tmp_path / "pickled.npy", np.array([{"centroids": 1}]), allow_pickle=True)
    np.save(tmp_path / "numbers.npy", np.arange(39))
    np.save(tmp_path / "nan.npy", np.full((7, 39), np.nan))
    np.save(tmp_path / "wide.npy", np.zeros((7, 40)))
    for name, message in (
        ("pickled", "nothing is unpickled"),
        ("numbers", "no array of centroids"),
        ("nan", "NaN"),
        ("wide", "do not belong"),
    ):
        with pytest.raises(ValueError, match=message):
            KMeansUnits.from_centroids(tmp_path / f"{name}.npy", source)


def test_a_language_model_learns_what_follows_what(tmp_path):
    """Units that mostly follow in a circle: a model that has learnt it needs little more than their entropy."""
    path = Path(__file__).parents[1] / "examples" / "unit_language_model.py"
    spec = importlib.util.spec_from_file_location("unit_language_model", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    source, generator = MfccFeatures(), np.random.default_rng(0)
    KMeansUnits(torch.randn(12, 39), torch.ones(12), source.description, {}).save_pretrained(tmp_path / "units")
    steps = generator.choice([1, 2], p=[0.9, 0.1], size=(260, 40))
    rows = (steps.cumsum(1) % 12).tolist()
    for name, part in (("train", rows[:200]), ("test", rows[200:])):
        Dataset.from_dict({"units": part, "durations": part}).to_parquet(tmp_path / name / "data" / "train-0.parquet")
    folders = [word for name in ("units", "train", "test") for word in (f"--{name}", str(tmp_path / name))]
    small = ["--updates", "100", "--width", "32", "--layers", "1", "--learning_rate", "1e-2", "--orders", "3"]
    script.main([*folders, "--output_dir", str(tmp_path / "lm"), *small])
    results = json.loads((tmp_path / "lm" / "results.json").read_text())["results"]
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert results["GPT-2"]["perplexity"] < 2 * math.exp(entropy) < 12 / 4
    assert results["GPT-2"]["real preferred, blocks of 5"] > 0.95
    if "3-grams" in results:  # flashlight-text is there
        assert results["3-grams"]["perplexity"] == pytest.approx(math.exp(entropy), rel=0.2)
