"""The explorer: what a page is made of, and bad input, which gets a sentence."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hf_ssl_speech
from hf_ssl_speech.audio import to_int16
from hf_ssl_speech.commands.main import run
from hf_ssl_speech.data.collators import Wav2Vec2PretrainingCollator
from hf_ssl_speech.data.masking import sample_negatives
from hf_ssl_speech.explorer.adapters import Letters
from hf_ssl_speech.explorer.contrast import HiddenFrames, accuracies, collapse, hide_frames, similarities
from hf_ssl_speech.explorer.few_labels import examples
from hf_ssl_speech.explorer.measures import Measured, frame_map, map_places, quality
from hf_ssl_speech.explorer.page import WEB, load_hubert, load_units
from hf_ssl_speech.explorer.page_models import Context, Frames, write_models
from hf_ssl_speech.explorer.runs import record_of, short_names
from hf_ssl_speech.models import objectives
from hf_ssl_speech.models.frames import ConvLayer, num_frames
from hf_ssl_speech.records import write_record

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explorer"
MEGABYTES = 8
GRAPHS = ("frames.onnx.gz", "context.onnx.gz", "letters.onnx.gz")


def answer(folder, name, **inputs):
    """What a graph of a page computes."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    for packed in folder.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    return onnxruntime.InferenceSession(folder / name).run(None, inputs)[0]


def fine_tuned(model, **shifts):
    """A recogniser of the model's encoder in which matrices are shifted by others of rank 2, and all that is named."""
    recognizer = hf_ssl_speech.SSLHubertForCTC(model.config).eval()
    recognizer.hubert.load_state_dict(model.hubert.state_dict())
    for name, weight in recognizer.hubert.encoder.named_parameters():
        if weight.dim() == 2 and "proj" in name:
            weight.data += 0.1 * torch.randn(len(weight), 2) @ torch.randn(2, weight.shape[1])
    for name, shift in shifts.items():
        recognizer.hubert.get_parameter(name.replace("__", ".")).data += shift
    return recognizer


def test_the_models_of_a_page_are_pytorchs(make_tiny, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    model = make_tiny(hf_ssl_speech.SSLHubertForPreTraining, num_units=[20], num_hidden_layers=1)
    recognizer = fine_tuned(model)
    write_models(model, tmp_path, normalize=True, letters=Letters(model, recognizer))
    waveform = torch.randn(1, 9_000)
    with torch.no_grad():
        frames = Frames(model, normalize=True)(waveform)
        hidden = (torch.arange(frames.shape[1]) % 3 == 0).float()[None]
        expected, _ = Context(model)(frames, hidden)
        letters = recognizer((waveform - waveform.mean()) / waveform.var(correction=0).sqrt()).logits

    found = answer(tmp_path, "frames.onnx", waveforms=waveform.numpy())
    logits = answer(tmp_path, "context.onnx", frames=found, hidden_frames=hidden.numpy())
    cosines = model.config.unit_logits_temperature * torch.from_numpy(logits - expected.numpy())
    # Weights of 15 bits are off by at most 1 in 32,000 of the largest; a dozen products add up to no more than this.
    assert cosines.abs().max() < 1e-3
    spelt = torch.from_numpy(answer(tmp_path, "letters.onnx", frames=found))
    assert (spelt.softmax(-1) - letters.softmax(-1)).abs().max() < 1e-3


def test_a_recogniser_beside_its_model_takes_little_room(make_tiny, tmp_path):
    model = make_tiny(hf_ssl_speech.SSLHubertForPreTraining, num_units=[20], num_hidden_layers=1, hidden_size=64)
    letters = Letters(model, fine_tuned(model))
    added = [weight.numel() for name, weight in letters.named_parameters() if name.endswith((".up", ".down"))]
    assert sum(added) == 4 * 2 * (64 + 64)  # four projections, rank 2
    for name, weight in letters.transformer.named_parameters():
        if not name.endswith((".up", ".down")):
            assert torch.equal(weight, model.hubert.encoder.get_parameter(name.replace(".layer.", "."))), name


@pytest.mark.parametrize("changed", ["feature_projection__projection__weight", "encoder__layer_norm__weight"])
def test_a_recogniser_that_learnt_more_than_adapters_is_refused(make_tiny, changed):
    model = make_tiny(hf_ssl_speech.SSLHubertForPreTraining, num_units=[20], num_hidden_layers=1)
    with pytest.raises(ValueError, match=f"{changed.replace('__', '.')}.*fine-tune it from the run with --lora"):
        Letters(model, fine_tuned(model, **{changed: 0.1}))


def test_units_that_are_phones_have_all_information_about_them():
    measured = quality(np.array([3, 3, 5, 5, 7]), ["AA", "AA", "B", "B", "SIL"])
    assert measured["pnmi"] == measured["purity"] == 1
    assert measured["frames"] == 4 and sorted(measured["units"]) == [3, 5]
    assert np.array(measured["shares"]).sum(0).tolist() == [100, 100]


def test_the_rows_to_read_lie_evenly_among_those_that_differ():
    references = ["two", "one", "one", "three", "four", "five"]
    shown = examples(references, [each.upper() for each in references])
    assert shown == [{"said": each, "heard": each.upper()} for each in ("five", "one", "two")]


def test_the_source_of_labels_is_told_without_the_machine_that_held_them():
    assert short_names("$SPEECH_CORPORA/digits/test*.parquet") == "digits/test"
    assert short_names(["/data/a/train_1h-00000-of-00001.parquet", "me/speech"]) == "a/train_1h, me/speech"


def test_the_map_shows_the_same_moments_at_any_frame_rate():
    phones = [["SIL", "AA", "B", "SIL"], ["K"]]
    places = map_places(Measured([], phones, hop=0.02), points=9, seed=0)
    assert places == [(0, 0.02), (0, 0.04), (1, 0.0)]
    finer = Measured(
        [torch.arange(8.0)[:, None] + torch.zeros(3), torch.ones(2, 3)], [list("abcdefgh"), list("kl")], 0.01
    )
    assert frame_map(finer, places, seed=0)["phones"] == ["c", "e", "k"]


def test_the_accuracy_over_all_draws_is_that_of_many_draws():
    generator = np.random.default_rng(0)
    codes = torch.from_numpy(generator.integers(0, 3, (12, 2)))
    alike = (codes[:, None] == codes).all(-1)
    cosines = torch.from_numpy(generator.uniform(-1, 1, (12, 12)))
    true = cosines.diagonal()
    hidden = HiddenFrames(torch.arange(12), true, cosines.masked_fill(alike, -torch.inf), codes)
    expected = accuracies([hidden], most=4)
    for draws in (1, 4):
        negatives = torch.from_numpy(np.stack([sample_negatives(12, draws, generator) for _ in range(4_000)]))
        others = hidden.others.expand(4_000, -1, -1).gather(2, negatives)
        logits = torch.cat([true.expand(4_000, -1)[..., None], others], dim=-1)
        picked = objectives.picks_the_true_frame(logits).double().mean()
        assert abs(picked - expected[draws - 1]) < 0.01  # 48,000 draws: a standard error of at most 0.0023


def test_hidden_frames_are_compared_as_in_training(tiny_wav2vec2):
    waveform = np.random.default_rng(0).normal(size=12_000).astype(np.float32)
    row = {"name": "noise", "sample_id": 0, "num_samples": len(waveform), "samples": to_int16(0.1 * waveform)}
    (hidden,) = hide_frames(tiny_wav2vec2, [row], seed=0)
    collator = Wav2Vec2PretrainingCollator(tiny_wav2vec2.config, normalize=True, evaluation=True)
    batch = {name: value for name, value in collator([row]).items() if name != "skipped_rows"}
    with torch.no_grad():
        correct = tiny_wav2vec2(**batch).statistics["correct"]
    others = hidden.others.gather(1, batch["sampled_negative_indices"][0])
    logits = torch.cat([hidden.true[:, None], others], dim=-1)
    assert objectives.picks_the_true_frame(logits).sum() == correct
    same = similarities(hidden)
    assert torch.equal(same.diagonal(), hidden.true) and same.abs().max() <= 1 + 1e-6


def test_a_collapse_is_told_with_the_settings_that_made_it(tmp_path):
    collapsed = write_run(tmp_path / "collapsed", 0, [(10, 60.0, 61.0), (20, 1.0, 1.5)], cause="It collapsed.")
    healthy = write_run(tmp_path / "healthy", 0.1, [(10, 60.0, 61.0)])
    told = collapse(str(collapsed), record_of(str(healthy), "its codebook"))
    assert told["curve"] == [[10, 60.0, 61.0], [20, 1.0, 1.5]] and told["cause"] == "It collapsed."
    assert told["settings"] == {"diversity_loss_weight": [0.1, 0]}
    with pytest.raises(ValueError, match="no use of a codebook"):
        collapse(str(write_run(tmp_path / "other", 0, [])), record_of(str(healthy), "its codebook"))


def write_run(folder, weight, curve, **facts):
    """A folder with the record of a wav2vec 2.0 pretraining."""
    points = [{"step": step, "hard_perplexity_1": one, "hard_perplexity_2": two} for step, one, two in curve]
    folder.mkdir()
    write_record(
        {"format": 1, "identity": {"config": {"diversity_loss_weight": weight}}, "curves": points, **facts}, folder
    )
    return folder


def test_a_collapse_without_a_run_to_compare_it_with_is_refused(capsys):
    given = ["runs/hubert", "--units", "u", "--train_data", "t", "--validation_data", "v", "--output_dir", "page"]
    with pytest.raises((SystemExit, ValueError)) as refused:
        run("explore", [*given, "--credit", "me", "--collapsed", "runs/collapsed"])
    assert "--wav2vec2" in f"{refused.value}{capsys.readouterr().err}"


def test_a_run_that_is_no_hubert_pretraining_is_named(make_tiny, tmp_path):
    make_tiny(hf_ssl_speech.SSLWav2Vec2ForPreTraining).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a HuBERT pretraining"):
        load_hubert(str(tmp_path))


def test_a_run_without_units_is_told_what_to_give(make_tiny):
    config = make_tiny(hf_ssl_speech.SSLHubertForPreTraining, num_units=[20]).config
    with pytest.raises(ValueError, match="give --units"):
        load_units([], config)
    with pytest.raises(ValueError, match="units"):
        run("explore", ["runs/none", "--output_dir", "page"])


def page_data():
    return json.loads(gzip.decompress((PAGE / "data.json.gz").read_bytes()))


def test_the_page_is_whole_and_small_and_of_this_version():
    sizes = {file.relative_to(PAGE).as_posix(): file.stat().st_size for file in PAGE.rglob("*") if file.is_file()}
    assert sum(sizes.values()) <= MEGABYTES * 1e6
    assert {*WEB, "data.json.gz", "weights.bin.gz", *GRAPHS, "audio/utterance.wav"} <= sizes.keys()
    built = ROOT / "hf_ssl_speech" / "explorer" / "web" / "built"
    assert all((PAGE / name).read_bytes() == (built / name).read_bytes() for name in WEB), "make the page again"
    data = page_data()
    layers = [ConvLayer(*layer) for layer in data["conv"]]
    assert len(data["masking"]["targets"]) == num_frames(data["utterance"]["samples"], layers)
    audio = [clip["audio"] for clip in data["units"]["clips"]] + [data["iterations"]["sound"]["audio"]]
    assert all((PAGE / name).exists() for name in audio)
    assert "$" not in json.dumps(data), "the name of a variable says nothing to a reader"
    assert "CC BY 4.0" in data["credit"]
