"""ONNX files give what the models give, at every length and with padding, and need no torch to be used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_pipeline import save_recognizer
from transformers import HubertForSequenceClassification

import hf_ssl_speech
from hf_ssl_speech import export_onnx
from hf_ssl_speech.commands.main import main
from hf_ssl_speech.recognition.transcription import load_recognizer, transcribe

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SCRIPT = Path(__file__).parents[1] / "examples" / "onnx_transcribe.py"
WITHOUT_TORCH = "import runpy, sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
# Batch, samples, and real samples of its last row: from a single frame to seconds, with and without padding.
SHAPES = ((1, 400, 400), (1, 16_000, 16_000), (3, 33_333, 20_000), (2, 5_000, 700))


@torch.no_grad()
def assert_same_in_onnxruntime(model, path):
    session = onnxruntime.InferenceSession(path)
    for batch, samples, last in SHAPES:
        waveforms, mask = torch.randn(batch, samples), torch.ones(batch, samples, dtype=torch.long)
        mask[-1, last:] = 0
        output = model(waveforms, mask)
        expected = output.logits if "logits" in output else output.last_hidden_state
        (found,) = session.run(None, {"input_values": waveforms.numpy(), "attention_mask": mask.numpy()})
        # Certain blanks on padded frames are the lowest number there is on both sides.
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


def test_a_recogniser_exported_by_the_command_says_without_torch_what_it_says_here(make_tiny, tmp_path):
    model = make_tiny(hf_ssl_speech.SSLWav2Vec2ForCTC, vocab_size=29, num_hidden_layers=1)
    folder = save_recognizer(model, tmp_path / "model")
    path = tmp_path / "onnx" / "model.onnx"
    main(["export", str(folder), str(path), "--format", "onnx"])
    assert_same_in_onnxruntime(model, path)
    waveform = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) / 8
    soundfile.write(tmp_path / "noise.wav", waveform, 16_000, subtype="FLOAT")
    row = {"name": "noise", "num_samples": 16_000, "audio": {"array": waveform, "sampling_rate": 16_000}}
    (expected,) = transcribe(*load_recognizer(folder, device="cpu"), [row])
    arguments = [str(path), str(tmp_path / "noise.wav")]
    command = f"{WITHOUT_TORCH}sys.argv[1:] = {arguments}; runpy.run_path({str(SCRIPT)!r})"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert " ".join(said.split()) == expected.text and len(expected.text) > 5


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["Wav2Vec2", "Hubert"])
@pytest.mark.parametrize("head", ["Model", "ForCTC", "ForPreTraining"])
def test_every_kind_is_the_same_in_onnxruntime(objective, head, architecture, make_tiny, tmp_path):
    model = make_tiny(getattr(hf_ssl_speech, f"SSL{objective}{head}"), **architecture)
    path = export_onnx(model, tmp_path / "model.onnx")
    assert_same_in_onnxruntime(model.base_model if head == "ForPreTraining" else model, path)


@pytest.mark.slow
def test_a_stock_classifier_is_exported_from_its_folder(make_tiny, tmp_path):
    stock = make_tiny(HubertForSequenceClassification, feat_extract_norm="layer", num_labels=4)
    stock.save_pretrained(tmp_path / "stock")
    path = export_onnx(tmp_path / "stock", tmp_path / "model.onnx")
    assert_same_in_onnxruntime(hf_ssl_speech.from_transformers(stock), path)


def test_a_wrong_name_and_a_wrong_folder_are_refused_in_words(make_tiny, tmp_path):
    model = make_tiny(hf_ssl_speech.SSLHubertModel)
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        export_onnx(model, tmp_path / "model.bin")
