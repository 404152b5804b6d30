"""Recordings of any length: heard in windows, with the frames, texts and times of the whole, in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from transformers import Wav2Vec2ConformerConfig, WavLMForCTC

from hf_ssl_speech import SSLWav2Vec2ForCTC
from hf_ssl_speech.data.families import hearing_of
from hf_ssl_speech.models.frames import hop_samples, num_frames
from hf_ssl_speech.recognition import transcription
from hf_ssl_speech.recognition.alignment import add_alignment
from hf_ssl_speech.recognition.text import make_processor
from hf_ssl_speech.recognition.transcription import compute_logits, cut_windows, transcribe

LARGE = dict(feat_extract_norm="layer", do_stable_layer_norm=True)
SAMPLE_RATE = 16_000


def recognizer(model_class=SSLWav2Vec2ForCTC, **fields):
    """A recogniser without attention, which looks everywhere: a frame sees half a second, so windows lose nothing."""
    processor = make_processor(["abcd efgh"])
    model = tiny_model(
        model_class,
        vocab_size=len(processor.tokenizer),
        pad_token_id=processor.tokenizer.pad_token_id,
        **LARGE,
        **fields,
    )
    for layer in model.base_model.encoder.layers:
        others = (None,) * (2 if model_class is WavLMForCTC else 1)
        layer.attention.forward = lambda hidden, *_, others=others, **__: (torch.zeros_like(hidden), *others)
    return model, processor


def recording(samples: int) -> Dataset:
    rng = np.random.default_rng(0)
    loudness = np.linspace(500, 5_000, samples)  # so that a window alone would be normalised otherwise
    waveform = (rng.standard_normal(samples) * loudness).astype(np.int16)
    return Dataset.from_dict({"name": ["long"], "num_samples": [samples], "samples": [waveform]}).with_format("numpy")


@pytest.fixture
def short_windows(monkeypatch):
    """Windows of three seconds that overlap by one at each end, for whatever is longer than four."""
    for name, seconds in (("LONGEST_SECONDS", 4), ("WINDOW_SECONDS", 3), ("OVERLAP_SECONDS", 1)):
        monkeypatch.setattr(transcription, name, seconds)


@pytest.mark.parametrize("stride", [320, 640, 2560])
def test_windows_use_each_output_once_at_its_own_place(stride):
    """With an output for each frame, and with one for two or eight of them, as an adapter makes them."""
    layers = {"num_adapter_layers": {320: 0, 640: 1, 2560: 3}[stride], "add_adapter": stride > 320}
    hearing = hearing_of(Wav2Vec2ConformerConfig(**layers), "ctc")
    assert hop_samples(hearing.output_layers) == stride
    for samples in (640_001, 650_000, 800_000, 960_000, 960_320, 3_333_333, 57_600_000):
        used = []
        for window in cut_windows(samples, hearing):
            assert window.start % stride == 0
            assert window.last <= num_frames(window.stop - window.start, hearing.output_layers)
            used += [window.start // stride + output for output in range(window.first, window.last)]
        assert used == list(range(num_frames(samples, hearing.output_layers)))
        assert window.stop == samples and window.stop - window.start <= 30 * SAMPLE_RATE


@pytest.mark.parametrize("model_class", [SSLWav2Vec2ForCTC, WavLMForCTC])
@pytest.mark.parametrize("batch_seconds", [1.0, 7.0])
def test_a_long_recording_gets_the_outputs_of_the_whole(model_class, batch_seconds, short_windows, monkeypatch):
    model, processor = recognizer(model_class)
    model.double()
    rows = recording(11 * SAMPLE_RATE + 123)
    heard = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: heard.append(kwargs["input_values"].shape), with_kwargs=True
    )
    ((places, logits, frames),) = compute_logits(model, processor, rows, batch_seconds)
    assert max(batch * samples for batch, samples in heard) <= max(batch_seconds, 3) * SAMPLE_RATE
    monkeypatch.setattr(transcription, "LONGEST_SECONDS", 60)
    ((_, whole, all_frames),) = compute_logits(model, processor, rows, batch_seconds)
    assert places == [0] and frames.tolist() == all_frames.tolist() == [whole.shape[1]]
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-4)  # the normalised waveform is float32


def test_a_long_recording_gets_the_text_and_the_times_of_the_whole(short_windows, monkeypatch):
    parts, rows = recognizer(), recording(20 * SAMPLE_RATE)
    in_windows = transcribe(*parts, rows)
    aligned, _ = add_alignment(rows.add_column("text", ["abba cad " * 8]), *parts)
    monkeypatch.setattr(transcription, "LONGEST_SECONDS", 60)
    assert [span[:3] for span in in_windows[0].characters] == [
        span[:3] for span in transcribe(*parts, rows)[0].characters
    ]
    whole, _ = add_alignment(rows.add_column("text", ["abba cad " * 8]), *parts)
    for there, here in zip(whole[0]["characters"], aligned[0]["characters"], strict=True):
        assert (there["text"], there["start"], there["end"]) == (here["text"], here["start"], here["end"])


HOUR = """
import json, resource, sys
import numpy as np
from datasets import Dataset, Features, List, Value
from test_long_recordings import SAMPLE_RATE, add_alignment, recognizer, transcription
minutes, longest = int(sys.argv[1]), int(sys.argv[2])
transcription.LONGEST_SECONDS = longest
parts, samples = recognizer(conv_dim=(8,) * 7, num_hidden_layers=1), minutes * 60 * SAMPLE_RATE
waveform = (np.random.default_rng(0).standard_normal(samples, dtype=np.float32) * 3_000).astype(np.int16)
features = Features({"name": Value("string"), "num_samples": Value("int64"), "samples": List(Value("int16"))})
columns = {"name": ["long"], "num_samples": [samples], "samples": [waveform]}
rows = Dataset.from_dict(columns, features=features).with_format("numpy")
rows = rows.add_column("text", ["abba cad " * (20 * minutes)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
aligned, _ = add_alignment(rows, *parts)
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"gigabytes": more / 1e6, "times": [word["start"] for word in aligned.with_format(None)["words"][0]]}))
"""


def align_in_a_process(minutes: int, longest: int = 40) -> dict:
    command = [sys.executable, "-c", HOUR, str(minutes), str(longest)]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.slow
def test_an_hour_is_aligned_in_the_memory_of_its_waveform_and_with_the_times_of_the_whole():
    hour = align_in_a_process(60)
    # An hour of samples is 0.23 GB in float32; it is there as read, normalised and while it is squared. The way back
    # through 180,000 frames and 20,000 tokens would be 7 GB as a table.
    assert hour["gigabytes"] < 1.5
    whole = align_in_a_process(60, longest=100_000)
    assert len(hour["times"]) == 2_400
    assert max(abs(one - other) for one, other in zip(hour["times"], whole["times"], strict=True)) <= 0.02 + 1e-9
