"""Which layer of an encoder is best: all layers at once, both criteria, and one held against the other."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from tones import spoilt_rows, tone_rows

import hf_ssl_speech
from hf_ssl_speech import KMeansUnits, SpeechPreTrainingArguments
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.data.features import HiddenFeatures, MfccFeatures
from hf_ssl_speech.data.preparing import prepare_speech, row_waveform
from hf_ssl_speech.recipes.hubert_iterations import HubertIterations, HubertIterationsArguments
from hf_ssl_speech.recipes.inputs import SpeechDataArguments, SpeechModelArguments
from hf_ssl_speech.units.layers import (
    EveryLayer,
    OneLayer,
    compare_layers,
    disturb,
    first_hours,
    measure_units,
)
from hf_ssl_speech.units.remembered import Remembered

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rows():
    """Prepared rows to fit on and to measure on."""
    return [
        prepare_speech(tone_rows(count, seed), min_seconds=1, cache=True, keep=["phones"])[0]
        for count, seed in ((8, 2), (4, 3))
    ]


@pytest.mark.parametrize("prenorm", [False, True])
def test_all_layers_at_once_are_the_layers_one_by_one(rows, prenorm):
    model = tiny_model(hf_ssl_speech.SSLHubertModel, do_stable_layer_norm=prenorm)
    every = EveryLayer(model, normalize=True, batch_seconds=4)
    batch = list(rows[0])
    for layer in range(1, model.config.num_hidden_layers + 1):
        one = OneLayer(every, layer, model.config.hidden_size)
        alone = HiddenFeatures(model, layer, normalize=True, batch_seconds=4)
        assert one.description == alone.description
        for ours, theirs in zip(one.features(batch), alone.features(batch)):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("memory_bytes", [0, 20_000, 1e9])
def test_features_are_the_same_however_much_is_remembered(rows, memory_bytes, monkeypatch):
    source = MfccFeatures()
    remembered = Remembered(source, memory_bytes)
    expected = source.features(list(rows[0]))
    for _ in range(2):
        for ours, theirs in zip(remembered.features(list(rows[0])), expected):
            assert torch.equal(ours, theirs)
    kept = sum(frames.nbytes for frames in remembered.kept.values())
    assert kept <= memory_bytes
    if memory_bytes == 1e9:
        monkeypatch.setattr(source, "features", None)  # not called any more
        remembered.features(list(rows[0]))


def test_noise_lies_15_decibels_below_the_speech_and_belongs_to_the_row(rows):
    clean = row_waveform(rows[0][0])
    noisy = disturb(clean, sample_id=0)
    gain = (noisy @ clean) / (clean @ clean)
    noise = noisy / gain - clean
    assert 10 * np.log10(np.square(clean).mean() / np.square(noise).mean()) == pytest.approx(15, abs=0.3)
    assert abs(20 * np.log10(gain)) < 6.1
    assert np.array_equal(disturb(clean, 0), noisy)
    assert not np.array_equal(disturb(clean, 1), noisy)
    assert not np.array_equal(disturb(clean, 0, seed=1), noisy)


def test_every_source_gives_no_frames_of_unusable_rows_and_names_them_once(caplog):
    """Decoded as they come by: a silent row and one whose file is damaged behind its header."""
    dataset = spoilt_rows(tone_rows(5, 0), silent=1, unreadable=3)
    prepared = list(prepare_speech(dataset, min_seconds=1)[0])
    model = tiny_model(hf_ssl_speech.SSLHubertModel)
    every = EveryLayer(model, normalize=True)
    one = OneLayer(Remembered(every, 1e9), 2, model.config.hidden_size)
    for source in (MfccFeatures(), HiddenFeatures(model, 1, normalize=True), every):
        for given in (source, source.with_changed_audio(disturb), Remembered(source, 1e9)):
            assert_unusable_are_empty(given, prepared)
    assert_unusable_are_empty(one, prepared)
    # Once by each of the three sources.
    assert caplog.text.count("Skipped 0-1: ") == caplog.text.count("Skipped 0-3: ") == 3


def assert_unusable_are_empty(source, rows):
    features = source.features(rows)
    width = source.description.width
    assert [frames.shape[1] for frames in features] == [width] * 5
    assert [len(frames) > 0 for frames in features] == [True, False, True, False, True]
    assert torch.cat(features).shape[1] == width
    assert set(source.skipped) == {"0-1", "0-3"}
    assert [tuple(frames.shape) for frames in source.features([rows[1], rows[3]])] == [(0, width)] * 2


def test_units_of_tones_tell_the_tone_and_units_of_chance_agree_on_nothing(rows):
    source = MfccFeatures()
    units = KMeansUnits.fit(rows[0], source, 8, progress=False)
    quality = measure_units(units, source, source.with_changed_audio(disturb), rows[1])
    assert quality["pnmi"] > 0.5
    assert 0.1 < quality["agreement"] < 1
    blind = measure_units(units, source, Chance(), rows[1])
    assert blind["agreement"] < 0.15
    without = measure_units(units, source, source.with_changed_audio(disturb), rows[1].remove_columns("phones"))
    assert without == {name: quality[name] for name in ("agreement", "effective_rank", "davies_bouldin")}


class Chance(MfccFeatures):
    """Features that tell nothing of the audio."""

    def features(self, rows):
        generator = torch.Generator().manual_seed(0)
        return [frames[torch.randperm(len(frames), generator=generator)] for frames in super().features(rows)]


def test_each_layer_is_measured_and_the_memory_changes_nothing(rows):
    model = tiny_model(hf_ssl_speech.SSLHubertModel)
    encoder = HiddenFeatures(model, 1, normalize=True)
    settings = dict(seed=0, progress=False)
    layers = compare_layers(encoder, *rows, 6, memory_bytes=1e9, **settings)
    assert [layer["layer"] for layer in layers] == [1, 2, 3]
    assert layers == compare_layers(encoder, *rows, 6, memory_bytes=0, **settings)
    alone = HiddenFeatures(model, 2, normalize=True)
    units = KMeansUnits.fit(rows[0], alone, 6, share=1.0, **settings)
    assert layers[1]["pnmi"] == measure_units(units, alone, alone.with_changed_audio(disturb), rows[1])["pnmi"]


def test_first_hours_draws_whole_rows_up_to_the_hours(rows):
    seconds = rows[0][0]["num_samples"] / 16_000  # all are equally long
    assert len(first_hours(rows[0], 2.5 * seconds / 3600, seed=0)) == 3
    assert len(first_hours(rows[0], 1.0, seed=0)) == len(rows[0])
    drawn = {tuple(first_hours(rows[0], seconds / 3600, seed=seed)["name"]) for seed in range(20)}
    assert len(drawn) > 3


@pytest.mark.slow
def test_on_real_speech_the_label_free_choice_is_a_layer_that_has_learnt(corpora, tmp_path):
    """The short version of `examples/configs/hubert_iterations_tiny.yaml`.

    Agreement does not order the layers of so young a model reliably: they differ by a few percent in PNMI. So the
    layers of the same model before its training stand for comparison: agreement must not choose one of them.
    """
    folder = corpora / "librispeech-mini"
    arguments = parse_arguments(
        [
            str(ROOT / "examples" / "configs" / "hubert_iterations_tiny.yaml"),
            "--train_data", f"{folder}/train*.parquet", "--validation_data", f"{folder}/validation*.parquet",
            "--output_dir", str(tmp_path), "--iterations", "1",
            "--batch_seconds", "12", "--max_seconds", "4", "--max_steps", "500", "--eval_steps", "500",
            "--warmup_steps", "60", "--choice_hours", "0.15", "--disable_tqdm", "true",
        ],
        SpeechModelArguments, SpeechDataArguments, SpeechPreTrainingArguments, HubertIterationsArguments,
    )  # fmt: skip
    arguments[0].objective = "hubert"
    iterations = HubertIterations(*arguments)
    new = iterations.new_model().eval()
    iterations.run()
    layers = json.loads((tmp_path / "1-layers" / "run.json").read_text())["layers"]
    trained = HiddenFeatures.from_pretrained(tmp_path / "1-model", 1, device="cpu", center=True)
    untrained = HiddenFeatures(new, 1, normalize=trained.normalize, center=True)
    few = first_hours(iterations.train[0], 0.15, seed=42)
    new_layers = compare_layers(untrained, few, iterations.measured, 100, seed=42, memory_bytes=1e9, progress=False)
    assert min(layer["agreement"] for layer in layers) > max(layer["agreement"] for layer in new_layers)
    chosen = max(layers + new_layers, key=lambda layer: layer["agreement"])
    assert chosen["pnmi"] > max(layer["pnmi"] for layer in new_layers)
