"""Truths of mel bands as the first layer: torchaudio's numbers, no leak from padding, the same at any loudness."""

import math

import pytest
import torch
import torchaudio
from huggingface_hub.errors import StrictDataclassClassValidationError
from test_encoder import EXACT, OURS, all_hidden_states, difference, gradients, padded_batch
from transformers import AutoModel, AutoModelForPreTraining

import hf_ssl_speech
from hf_ssl_speech import SSLHubertConfig, SSLHubertForPreTraining, SSLHubertModel, to_transformers
from hf_ssl_speech.models.mel_bands import DEVIATION, FLOOR, LOWEST_HERTZ, MEAN, MelBands, _tables

MEL = dict(feat_extract_filters="mel", conv_dim=(40, 16), conv_kernel=(240, 2), conv_stride=(160, 2))


@pytest.fixture
def bands() -> MelBands:
    return MelBands(SSLHubertConfig(**MEL))


def test_they_are_those_of_torchaudio_relative_to_the_mean_power_of_the_recording(bands):
    waveform = torch.randn(1, 16_000, dtype=torch.float64) * torch.linspace(0.01, 1, 16_000)
    found = bands(waveform[..., None])
    spectrogram = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=512, win_length=400, hop_length=160, f_min=LOWEST_HERTZ, f_max=8_000.0, n_mels=40, center=False,
        window_fn=lambda length: torch.hann_window(length, periodic=False),
    )  # fmt: skip
    # It has its window in the middle of 512 samples.
    around = torch.nn.functional.pad(waveform.float(), (80 + 56, 80 + 56))
    powers = spectrogram(around).mT.double()
    logs = (powers / powers.mean() + FLOOR).log()
    expected = (logs - MEAN) / DEVIATION
    assert found.shape == (1, 99, 40) and found.dtype == torch.float64
    assert difference(found, expected) < 1e-4  # torchaudio computes in float32


def test_frames_are_where_those_of_the_papers_conv_stack_are(make_tiny):
    mel, learned = make_tiny(SSLHubertModel, **MEL), make_tiny(SSLHubertModel)
    assert mel.config.window_samples == learned.config.window_samples == 400
    for samples in (400, 719, 720, 16_000, 16_159, 33_333):
        assert mel.num_frames(samples) == learned.num_frames(samples)
        assert mel(torch.randn(1, samples)).last_hidden_state.shape[1] == mel.num_frames(samples)


@pytest.mark.parametrize("our_class", OURS)
def test_a_padded_utterance_gets_the_frames_it_gets_alone_whatever_fills_the_padding(our_class, make_tiny):
    model = make_tiny(our_class, **MEL).double()
    waveforms, attention_mask = padded_batch([12_000, 7_003, 400, 200])
    waveforms = waveforms.double()
    filled = waveforms.masked_fill(attention_mask == 0, torch.nan)
    together = all_hidden_states(model, filled, attention_mask=attention_mask)
    assert all(torch.isfinite(hidden).all() for hidden in together)  # also of a row too short for a frame
    for row, length in enumerate(attention_mask.sum(-1).tolist()[:3]):
        alone = all_hidden_states(model, waveforms[row : row + 1, :length])
        for in_batch, single in zip(together, alone):
            assert difference(in_batch[row, : single.shape[1]], single[0]) < EXACT


def test_loudness_does_not_matter_and_silence_is_no_error(make_tiny):
    model = make_tiny(SSLHubertModel, **MEL).double()
    waveform = torch.randn(1, 16_000, dtype=torch.float64)
    waveform[:, 4_000:9_000] = 0
    loud, quiet, silent = (model(waveform * scale).last_hidden_state for scale in (1.0, 1e-3, 0.0))
    assert difference(loud, quiet) < EXACT
    assert torch.isfinite(silent).all()


def test_nothing_is_made_of_bands_in_which_there_is_nothing(bands):
    lowest = (math.log(FLOOR) - MEAN) / DEVIATION
    assert difference(bands(torch.zeros(1, 8_000, 1)), torch.full((1, 49, 40), lowest)) < 1e-5
    telephone = torch.sin(2 * torch.pi * 700 / 16_000 * torch.arange(16_000)) * torch.linspace(0.1, 1, 16_000)
    rounded = (telephone * 2**15).round().clamp(max=2**15 - 1) / 2**15
    assert (bands(rounded[None, :, None])[..., -5:] - lowest).abs().max() < 0.1


def test_in_training_it_gives_the_same_and_every_weight_learns(make_tiny):
    model = make_tiny(SSLHubertModel, **MEL, feature_gradient_scale=1).double()
    waveforms, attention_mask = padded_batch([12_000, 7_003])
    inputs = dict(input_values=waveforms.double(), attention_mask=attention_mask)
    inputs["mask_time_indices"] = torch.rand(2, model.num_frames(12_000)) < 0.3
    expected, slow = model(**inputs).last_hidden_state, gradients(model.eval(), **inputs)
    model.train()
    assert difference(model(**inputs).last_hidden_state, expected) < EXACT
    fast = gradients(model, **inputs)
    assert fast.keys() == slow.keys() == dict(model.named_parameters()).keys()
    assert all(torch.allclose(fast[name], slow[name], rtol=1e-8, atol=1e-10) for name in slow)
    model.gradient_checkpointing_enable()
    again = gradients(model, **inputs)
    assert all(torch.allclose(again[name], slow[name], rtol=1e-8, atol=1e-10) for name in slow)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bands_stay_precise_in_a_model_of_low_precision(dtype, make_tiny):
    model = make_tiny(SSLHubertModel, **MEL)
    waveform = torch.randn(1, 16_000)
    found = []
    model.feature_extractor.conv_layers[0].register_forward_hook(lambda module, given, frames: found.append(frames))
    model(waveform)
    with torch.autocast("cpu", dtype):
        model(waveform)
    model.to(dtype)(waveform)
    assert all(frames.dtype == torch.float32 and torch.equal(frames, found[0]) for frames in found)


def test_auto_classes_give_back_what_was_saved(make_tiny, tmp_path):
    model = make_tiny(SSLHubertForPreTraining, **MEL)
    model.save_pretrained(tmp_path)
    waveform = torch.randn(1, 16_000)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again) is SSLHubertForPreTraining and again.config.feat_extract_filters == "mel"
    encoder, loading = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert torch.equal(encoder.eval()(waveform).last_hidden_state, model.hubert(waveform).last_hidden_state)


def test_what_can_not_be_is_refused_in_words(make_tiny):
    with pytest.raises(StrictDataclassClassValidationError, match="needs a conv layer after the bands"):
        SSLHubertConfig(**MEL | dict(conv_dim=(40,), conv_kernel=(400,), conv_stride=(320,)))
    with pytest.raises(ValueError, match=r"497 of 512 mel bands .* would be empty in windows of 15 samples"):
        SSLHubertModel(SSLHubertConfig(feat_extract_filters="mel"))
    with pytest.raises(StrictDataclassClassValidationError, match="expected 'learned' or 'mel'"):
        SSLHubertConfig(feat_extract_filters="bark")
    with pytest.raises(ValueError, match="Stock models have no mel bands"):
        to_transformers(make_tiny(SSLHubertModel, **MEL))


def test_the_preset_is_tiny_on_mel_bands():
    for config_class in (hf_ssl_speech.SSLHubertConfig, hf_ssl_speech.SSLWav2Vec2Config):
        mel, tiny = config_class.preset("tiny-mel").to_diff_dict(), config_class.preset("tiny").to_diff_dict()
        differing = {name for name in mel.keys() | tiny.keys() if mel.get(name) != tiny.get(name)}
        assert differing == {"feat_extract_filters", "conv_dim", "conv_kernel", "conv_stride"}


@pytest.mark.slow
@pytest.mark.parametrize("head", ["Model", "ForCTC"])
def test_an_onnx_file_gives_the_same(head, make_tiny, tmp_path):
    onnx = pytest.importorskip("test_onnx_export", reason="the extra onnx is not installed")
    model = make_tiny(getattr(hf_ssl_speech, f"SSLHubert{head}"), **MEL)
    _tables.cache_clear()  # what is made while the graph is traced must not stay
    onnx.assert_same_in_onnxruntime(model, hf_ssl_speech.export_onnx(model, tmp_path / "model.onnx"))
