"""Features that units are made from: as many as the encoder's frames, each as if its row came alone."""

import logging
import threading
from dataclasses import asdict

import numpy as np
import pytest
import torch
from transformers import HubertModel, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from hf_ssl_speech import (
    SSLHubertConfig,
    SSLHubertForPreTraining,
    SSLHubertModel,
    SSLWav2Vec2Model,
    load_speech,
    prepare_speech,
)
from hf_ssl_speech.data.batching import inference_batches
from hf_ssl_speech.data.feature_description import FeatureDescription
from hf_ssl_speech.data.features import (
    FeatureStream,
    HiddenFeatures,
    MfccFeatures,
    open_features,
    weights_hash,
)
from hf_ssl_speech.data.mfcc import mfcc_features, num_mfcc_frames
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.models.frames import num_frames
from hf_ssl_speech.training import precision

CONV_LAYERS = SSLHubertConfig().conv_layers
ROUNDING = 2e-4  # of float32, in values of order 1, after some thousand operations; other frames differ by 0.1 and more
LENGTHS = (16_000, 7_000, 400, 16_000, 12_345)


def prepared_row(num_samples: int, seed: int = 0) -> dict:
    samples = np.random.default_rng(seed).integers(-8_000, 8_000, num_samples, dtype=np.int16)
    return {"name": f"row {seed}", "sample_id": seed, "num_samples": num_samples, "samples": samples}


@pytest.fixture
def rows() -> list[dict]:
    return [prepared_row(length, seed) for seed, length in enumerate(LENGTHS)]


def naive_hidden(model, row, layer: int, normalize: bool) -> torch.Tensor:
    """The layer for one row alone, `(frames, hidden)`."""
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    inputs = extractor(row_waveform(row), sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        return model(inputs, output_hidden_states=True).hidden_states[layer][0]


def test_every_second_mfcc_frame_is_one_per_encoder_frame_for_every_length():
    description = MfccFeatures().description
    for num_samples in (*range(400, 2_401), 16_000, 249_999, 250_000, 1_000_000):
        frames = num_frames(num_samples, CONV_LAYERS)
        assert description.num_frames(num_samples) == frames
        assert len(range(num_mfcc_frames(num_samples))[::2]) == frames
    assert description.num_frames(16_000) == 49
    assert description.num_frames(250_000) == 781
    assert MfccFeatures(every=1).description.num_frames(250_000) == 1_561


@pytest.mark.parametrize("num_samples", [400, 559, 560, 719, 720, 1_039, 1_040, 2_399, 2_400])
def test_features_have_the_frames_that_the_description_tells(num_samples, make_tiny):
    hidden = HiddenFeatures(make_tiny(SSLHubertModel), 1, normalize=False)
    for source in (MfccFeatures(), MfccFeatures(every=1), hidden):
        (features,) = source.features([prepared_row(num_samples)])
        assert features.shape == (source.description.num_frames(num_samples), source.description.width)


def test_mfcc_features_are_every_second_frame_from_the_first_on(rows):
    for row, features in zip(rows, MfccFeatures().features(rows)):
        assert torch.equal(features, mfcc_features(torch.from_numpy(row_waveform(row)))[::2])


@pytest.mark.parametrize("model_class", [SSLWav2Vec2Model, Wav2Vec2Model, HubertModel])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_layer_of_padded_rows_is_what_each_row_gives_alone(model_class, layer, architecture, make_tiny, rows):
    model = make_tiny(model_class, **architecture)
    normalize = architecture["feat_extract_norm"] == "layer"
    source = HiddenFeatures(model, layer, normalize=normalize, batch_seconds=3)
    for row, features in zip(rows, source.features(rows)):
        torch.testing.assert_close(features, naive_hidden(model, row, layer, normalize), rtol=0, atol=ROUNDING)


def test_rows_share_batches_unless_stock_group_norm_would_see_their_padding(make_tiny):
    lengths, ours, stock = list(LENGTHS), make_tiny(SSLHubertModel).config, make_tiny(HubertModel).config
    assert list(inference_batches(lengths, ours, 2)) == [[0, 3], [4, 1], [2]]
    assert list(inference_batches(lengths, stock, 2)) == [[0, 3], [4], [1], [2]]
    assert list(inference_batches(lengths, ours, 0.5)) == [[0], [3], [4], [1], [2]]
    assert list(inference_batches([0, *lengths], ours, 2)) == [[1, 4], [5, 2], [3]], "nothing is in an empty row"


def test_layers_above_are_not_run_and_the_model_is_left_as_it_was(make_tiny, rows):
    model = make_tiny(SSLHubertForPreTraining, hidden_dropout=0.5, layerdrop=0.9).train()
    ran = []
    model.hubert.encoder.layers[2].register_forward_pre_hook(lambda *_: ran.append(True))
    source = HiddenFeatures(model, 2, normalize=False)
    first, again = source.features(rows), source.features(rows)
    assert all(torch.equal(one, other) for one, other in zip(first, again)), "dropout was on"
    assert not ran
    assert model.training and model.hubert.training
    assert not first[0].requires_grad
    model.eval()(torch.zeros(1, 800))
    assert ran


def test_a_lower_precision_still_gives_float32_features(make_tiny, rows):
    model = make_tiny(SSLHubertModel)
    exact = HiddenFeatures(model, 2, normalize=False).features(rows)[0]
    rough = HiddenFeatures(model, 2, normalize=False, autocast_dtype=torch.bfloat16).features(rows)[0]
    assert rough.dtype == torch.float32
    assert 1e-5 < (rough - exact).abs().max() < 0.5


def test_a_layer_that_is_not_there_is_refused_with_the_number_of_layers(make_tiny):
    for layer in (4, -1):
        with pytest.raises(ValueError, match=f"no layer {layer}: this encoder has 3"):
            HiddenFeatures(make_tiny(SSLHubertModel), layer, normalize=False)


def test_a_row_of_another_length_than_it_says_is_an_error_with_its_name(rows):
    rows[1]["num_samples"] += 640
    with pytest.raises(ValueError, match=r"Row row 1 should make 23 frames.*makes 21"):
        MfccFeatures().features(rows)
    with pytest.raises(ValueError, match="prepare_speech"):
        MfccFeatures().features([{"name": "a", "samples": rows[0]["samples"]}])


def test_a_row_shorter_than_a_frame_is_an_error_with_its_name():
    with pytest.raises(ValueError, match="Row row 7 has 399 samples, fewer than the 400"):
        MfccFeatures().features([prepared_row(399, 7)])


def test_unusable_audio_gives_no_frames_and_is_named_once(rows, caplog):
    rows[1] = {"name": "broken one", "num_samples": 7_000, "audio": {"bytes": b"this is no audio", "path": None}}
    source = MfccFeatures()
    with caplog.at_level(logging.WARNING):
        features = source.features(rows)
        source.features(rows)
    assert [len(frames) for frames in features] == [49, 0, 1, 49, 38]
    assert caplog.text.count("broken one") == 1
    assert "unreadable" in source.skipped["broken one"]
    assert [len(frames) for frames in source.features(rows[1:2])] == [0]


def test_the_hash_follows_the_weights_not_their_class_or_number_format(make_tiny, randomize):
    ours, stock = make_tiny(SSLHubertModel), make_tiny(HubertModel)
    stock.load_state_dict(ours.state_dict())
    inside = make_tiny(SSLHubertForPreTraining)
    inside.hubert.load_state_dict(ours.state_dict())
    original = weights_hash(ours)
    assert weights_hash(stock) == weights_hash(inside) == original
    assert weights_hash(ours.double()) == original
    with torch.no_grad():
        ours.encoder.layers[2].final_layer_norm.bias[0] += 1e-4
    assert weights_hash(ours) != original


def test_descriptions_survive_json_and_differ_in_words():
    description = FeatureDescription("hidden", 32, 320, 400, 6, True, "abc", "some/encoder")
    assert FeatureDescription(**asdict(description)) == description
    assert FeatureDescription(**{**asdict(description), "encoder": "a copy"}) == description
    other = FeatureDescription(**{**asdict(description), "layer": 9, "weights_hash": "def"})
    assert description.differences(other) == [
        "layer 9 instead of 6",
        "made with other weights, hash def instead of abc",
    ]
    assert str(description) == "layer 6 of some/encoder (32 values every 20 ms)"
    assert str(MfccFeatures(every=1).description) == "MFCC (39 values every 10 ms)"


def test_an_encoder_is_opened_from_its_folder_and_refused_when_its_weights_changed(tmp_path, make_tiny, rows):
    model = make_tiny(SSLHubertForPreTraining)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json"):
        HiddenFeatures.from_pretrained(tmp_path, 2, device="cpu")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    source = HiddenFeatures.from_pretrained(tmp_path, 2, device="cpu")
    assert source.normalize
    opened = open_features(source.description, device="cpu", batch_seconds=1.0)
    for features, again in zip(source.features(rows), opened.features(rows)):
        torch.testing.assert_close(features, again, rtol=0, atol=ROUNDING)

    make_tiny(SSLHubertForPreTraining, seed=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="made with other weights"):
        open_features(source.description, device="cpu")
    assert open_features(MfccFeatures(every=3).description).every == 3
    with pytest.raises(ValueError, match="No encoder can be loaded"):
        HiddenFeatures.from_pretrained(tmp_path / "nothing", 2)


def test_a_stream_of_features_starts_anew_and_counts_its_utterances(corpora):
    speech = load_speech(f"{corpora}/digits/test*.parquet").select(range(70))
    dataset, _ = prepare_speech(speech, min_seconds=0.1)
    stream = FeatureStream(dataset, MfccFeatures())
    (first, ids), (again, same_ids) = (map(torch.cat, zip(*stream())) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(ids, same_ids)
    assert stream.utterances == len(dataset)
    lengths = [num_frames(length, CONV_LAYERS) for length in dataset["num_samples"]]
    assert ids.tolist() == [
        [row, frame] for row, length in zip(dataset["sample_id"], lengths) for frame in range(length)
    ]
    assert len(first) == sum(num_frames(length, CONV_LAYERS) for length in dataset["num_samples"])


@pytest.mark.parametrize("kind", ["mfcc", "hidden"])
def test_centred_features_leave_each_utterances_mean_out(kind, make_tiny):
    def source(**settings):
        if kind == "mfcc":
            return MfccFeatures(**settings)
        return HiddenFeatures(make_tiny(SSLHubertModel), 2, normalize=False, **settings)

    rows = [prepared_row(length, length) for length in (9_000, 5_000)]
    for plain, centred in zip(source().features(rows), source(center=True).features(rows)):
        torch.testing.assert_close(plain - plain.mean(0), centred)
        assert plain.mean(0).abs().max() > 0.1
    assert source().description.differences(source(center=True).description) == ["center True instead of False"]


def test_a_marked_row_is_named_by_every_source_and_the_others_get_their_features(make_tiny, rows):
    marked = {"name": "broken", "problem": "cut short", "num_samples": 0, "sample_id": 99, "samples": []}
    for source in (MfccFeatures(), HiddenFeatures(make_tiny(SSLHubertModel), 2, normalize=False)):
        found = source.features([*rows[:1], marked, *rows[1:]])
        assert source.skipped == {"broken": "cut short"}
        assert list(map(len, found)) == [source.description.num_frames(row["num_samples"]) for row in rows[:1]] + [
            0, *(source.description.num_frames(row["num_samples"]) for row in rows[1:]),
        ]  # fmt: skip


def test_batches_are_computed_while_later_audio_is_still_being_decoded(make_tiny, rows, monkeypatch):
    first_is_computed = threading.Event()
    source = HiddenFeatures(make_tiny(SSLHubertModel), 2, normalize=False, batch_seconds=0.1)
    last = source.batches([row["num_samples"] for row in rows])[-1][0]
    decode, compute = source._waveform, source.compute

    def slowly(row):
        if row["sample_id"] == rows[last]["sample_id"]:
            assert first_is_computed.wait(30)
        return decode(row)

    def counted(waveforms):
        found = compute(waveforms)
        first_is_computed.set()
        return found

    monkeypatch.setattr(source, "_waveform", slowly)
    monkeypatch.setattr(source, "compute", counted)
    assert all(map(len, source.features(rows)))


def test_an_encoder_computes_in_bf16_if_told_to_or_if_that_is_faster(monkeypatch):
    cpu = torch.device("cpu")
    for is_faster in (True, False):
        monkeypatch.setattr(precision, "cpu_computes_bf16", lambda is_faster=is_faster: is_faster)
        assert precision.encoder_dtype("auto", cpu) == (torch.bfloat16 if is_faster else None)
        assert precision.encoder_dtype(True, cpu) == torch.bfloat16
        assert precision.encoder_dtype(False, cpu) is None
