"""Probes: what a linear layer reads off frozen features, exactly as the head that takes it over, and told in words."""

import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import save_encoder
from test_features import prepared_row
from transformers import AutoModelForAudioClassification, pipeline

from hf_ssl_speech import SSLHubertForPreTraining, SSLHubertForSequenceClassification, SSLHubertModel, create_model_card
from hf_ssl_speech.commands.main import run
from hf_ssl_speech.evaluation.probe_features import EveryHiddenState, Frames, MelFeatures, collect_frames
from hf_ssl_speech.evaluation.probes import Probe, Targets, error_rate, errors, fit_probe
from hf_ssl_speech.recipes.probing import classes_of, make_targets, read_labels
from hf_ssl_speech.records import read_record

SHORT = (
    "--updates",
    "60",
    "--batch_rows",
    "16",
    "--projected",
    "8",
    "--learning_rates",
    "3e-2",
    "--disable_tqdm",
    "true",
)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Rows of two tones by two voices, one louder than the other."""
    folder, generator = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for split, number in (("train", 60), ("test", 20)):
        (folder / split).mkdir()
        lines = ["file_name,keyword,voice,same"]
        for row in range(number):
            word, voice = row % 2, row // 2 % 2
            time = np.arange(int(16_000 * generator.uniform(0.3, 0.5))) / 16_000
            wave = np.sin(2 * np.pi * (300, 1200)[word] * time + generator.uniform(0, 6)) * (0.1, 0.4)[voice]
            soundfile.write(folder / split / f"{row}.wav", wave + generator.normal(size=len(time)) / 100, 16_000)
            lines.append(f"{row}.wav,{('low', 'high')[word]},{'ab'[voice]},always")
        (folder / split / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"), SSLHubertForPreTraining)


# Exactness -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "attentive"])
def test_the_classifier_gives_what_the_probe_gave(pooling, make_tiny, tmp_path):
    config = dict(use_weighted_layer_sum=True, classifier_pooling=pooling, classifier_proj_size=8, num_labels=3)
    model = make_tiny(SSLHubertForSequenceClassification, **config).double()
    rows = [prepared_row(length, seed) for seed, length in enumerate((9_000, 16_000, 12_345))]
    source = EveryHiddenState(model, normalize=False)
    frames = source.features(rows)
    probe = Probe(4, 32, 8, 3, pooling).double()
    with torch.no_grad():
        for weight in probe.parameters():
            weight.normal_()
        probe.mean.normal_()
        probe.scale.uniform_(0.5, 2)
        probe.deviation.uniform_(0.5, 2)
    model.load_state_dict(probe.weights_of_head(), strict=False)
    for row, states in zip(rows, frames):
        waveform = torch.from_numpy(row["samples"] / 2**15)[None]
        states = states.double().reshape(1, len(states), 4, 32).transpose(1, 2)
        ours = probe(states, torch.ones(1, states.shape[2], dtype=torch.bool))
        # Features are float32: their rounding, in values of order 1, is all that differs.
        assert torch.allclose(ours, model(waveform).logits, atol=1e-4)


def test_the_mean_of_frames_is_all_that_a_mean_pooled_probe_sees(make_tiny):
    torch.manual_seed(0)
    values = torch.randn(2, 4, 9, 6, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    probe = Probe(4, 6, 5, 3, "mean").double()
    averaged = torch.stack([row[:, real].mean(1, keepdim=True) for row, real in zip(values, mask)])
    one = torch.ones(2, 1, dtype=torch.bool)
    assert torch.allclose(probe(values, mask), probe(averaged, one), atol=1e-10)


@pytest.mark.parametrize("pooling", ["mean", "attentive", None])
def test_padding_changes_no_answer(pooling):
    torch.manual_seed(0)
    probe = Probe(2, 6, 5, 3, pooling).double()
    states = torch.randn(1, 2, 7, 6, dtype=torch.float64)
    padded = torch.nn.functional.pad(states, (0, 0, 0, 5), value=9.0)
    alone, beside = probe(states, torch.ones(1, 7).bool()), probe(padded, torch.arange(12)[None] < 7)
    assert torch.allclose(alone, beside if pooling else beside[:, :7], atol=1e-10)


def test_features_in_a_file_are_those_in_memory_and_rows_that_can_not_be_read_are_left_out(make_tiny, tmp_path):
    source = EveryHiddenState(make_tiny(SSLHubertModel), normalize=True)
    rows = [prepared_row(length, seed) for seed, length in enumerate((9_000, 16_000, 12_345))]
    rows[1]["problem"] = "no audio"

    class Rows(list):
        def __getitem__(self, part):
            return {name: [row.get(name) for row in rows[part]] for name in (*rows[0], "problem")}

    settings = dict(folder=tmp_path, progress=False)
    whole = collect_frames(Rows(rows), source, 4, averaged=False, **settings)
    means = collect_frames(Rows(rows), source, 4, averaged=True, **settings)
    assert whole.places == means.places == [0, 2] and isinstance(whole.values, np.memmap)
    states, mask = whole.batch(np.array([1, 0]))
    expected = source.features([rows[2]])[0].reshape(-1, 4, 32)
    assert torch.allclose(states[0, :, mask[0]].transpose(0, 1), expected, atol=2e-3)  # float16, values of order 1
    assert torch.allclose(means.batch(np.array([1]))[0][0, :, 0], expected.mean(0), atol=1e-5)
    assert not list(tmp_path.iterdir())


def test_mel_bands_are_one_for_each_ten_milliseconds():
    source = MelFeatures()
    for length in (400, 7_999, 16_000):
        (frames,) = source.features([prepared_row(length)])
        assert frames.shape == (source.description.num_frames(length), 80)


# Learning ------------------------------------------------------------------------------------------------------------


def frames_of(rows: list[np.ndarray]) -> Frames:
    return Frames(np.concatenate(rows)[:, None], np.cumsum([len(row) for row in rows]), list(range(len(rows))))


def test_a_sequence_is_learnt_by_ctc_and_scored_by_its_edits():
    generator = np.random.default_rng(0)
    data = {}
    for part, number in (("train", 80), ("validation", 20)):
        labels = [generator.integers(1, 4, generator.integers(1, 5)).tolist() for _ in range(number)]
        rows = []
        for label in labels:
            heard = [np.eye(4)[each] for one in label for each in (0, one, one, 0)]
            rows.append(np.array(heard) + generator.normal(scale=0.1, size=(len(heard), 4)))
        data[part] = frames_of(rows), Targets(labels, ["<blank>", "a", "b", "c"], True)
    probe, chosen = fit_probe(
        data["train"], data["validation"], projected=8, pooling=None, updates=300, batch_rows=16,
        learning_rates=[3e-2], seed=0,
    )  # fmt: skip
    wrong, length = errors(probe, *data["validation"], 7)
    assert length.sum() == sum(map(len, data["validation"][1].rows))
    assert chosen["validation_error"] == wrong.sum() / length.sum() < 0.05


def test_the_rate_of_an_error_has_its_interval():
    rate = error_rate(np.array([1, 0] * 50), np.ones(100, int))
    assert rate["low"] < rate["value"] == 0.5 < rate["high"]
    # The normal approximation of a binomial proportion: 1.96 sqrt(.25 / 100) to each side.
    assert rate["high"] - rate["low"] == pytest.approx(0.196, abs=0.03)


def test_a_probe_from_the_command_line_becomes_a_classifier_with_a_card(tones, encoder, tmp_path, caplog):
    caplog.set_level("INFO")
    command = ["--encoders", f"tiny={encoder}", "--train_data", str(tones), "--output_dir", str(tmp_path), *SHORT]
    run("probe", [*command, "--label_column", "keyword"])
    results = json.loads((tmp_path / "results.json").read_text())["KS"]
    assert set(results) == {"tiny", "untrained", "mfcc", "mel"}
    assert all(each["error"]["value"] <= 0.1 for each in (results["mfcc"], results["mel"]))
    report = (tmp_path / "report.md").read_text()
    assert "KS accuracy, %" in report and "| mel |" in report and (tmp_path / "layers.png").exists()

    folder = tmp_path / "KS" / "tiny"
    record = read_record(folder)
    assert sum(record["probe"]["layer_weights"]) == pytest.approx(1)
    assert record["probe"]["pooling"] == "mean" and record["data"]["test"]["rows"] == 20
    classify = pipeline("audio-classification", model=str(folder))
    wave, _ = soundfile.read(tones / "test" / "0.wav", dtype="float32")
    assert {each["label"] for each in classify({"raw": wave, "sampling_rate": 16_000})} == {"low", "high"}
    model = AutoModelForAudioClassification.from_pretrained(folder).train()
    model(torch.randn(2, 4_000), labels=torch.tensor([0, 1])).loss.backward()
    assert model.hubert.encoder.layers[0].attention.q_proj.weight.grad.abs().sum() > 0
    card = str(create_model_card(folder))
    correct = 100 * (1 - record["probe"]["error"]["value"])
    assert "pipeline_tag: audio-classification" in card and f"{correct:.2f} [" in card

    run("probe", [*command, "--label_column", "voice", "--baselines", "mfcc", "--pooling", "attentive"])
    assert "| features | KS accuracy, % | voice accuracy, % |" in (tmp_path / "report.md").read_text()
    caplog.clear()
    run("probe", [*command, "--label_column", "keyword"])
    assert sum(message.endswith(": complete") for message in caplog.messages) == 4


# Labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--label_column", "emotion"), r"no columns \['emotion'\]"),
        (("--label_column", "same"), "Every training row has 'always' in the column 'same'"),
        (("--label_column", "voice", "--baselines", "fbank"), "baselines names fbank"),
        (("--label_column", "voice", "--baselines", "mfcc", "--encoders", "mfcc=x"), "Two of the features"),
        (("--label_column", "voice", "--test_split", "train"), "give test_data"),
    ],
)
def test_mistakes_are_told_before_any_feature_is_computed(tones, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        run("probe", ["--train_data", str(tones), "--output_dir", str(tmp_path), *SHORT, *more])


def test_phones_are_sequences_without_silence_and_unknown_ones_are_errors():
    from datasets import Dataset

    phones = [
        [{"phone": each, "start": 0.0, "end": 0.1} for each in row] for row in (["SIL", "a", "b", "b"], ["sp", "c"])
    ]
    rows = Dataset.from_dict({"name": ["x", "y"], "phones": phones})
    labels = read_labels(rows, "phones", [])
    assert labels == [["a", "b", "b"], ["c"]]
    classes = classes_of(labels[:1], "phones")
    assert classes == ["<blank>", "a", "b"]
    assert make_targets(labels, classes, "test").rows == [[1, 2, 2], [3]]
    with pytest.raises(ValueError, match="None of the labels of the test rows"):
        make_targets(labels[1:], classes, "test")
