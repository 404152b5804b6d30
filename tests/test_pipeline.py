"""What fine-tuning leaves behind works in transformers' pipeline: with us, through remote code, and without us."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor, pipeline

from hf_ssl_speech import SSLHubertForCTC, SSLWav2Vec2ForCTC, to_transformers
from hf_ssl_speech.recognition.transcription import load_recognizer, transcribe

TOKENS = ["<pad>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
MINUTES = 10


def make_processor(folder: Path, normalize: bool) -> Wav2Vec2Processor:
    file = folder / "vocab.json"
    file.write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(file), bos_token=None, eos_token=None)
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True), tokenizer)


def save_recognizer(model, folder: Path, normalize: bool = True) -> Path:
    """Saves a model, made to say something of noise, with a processor."""
    with torch.no_grad():  # what every frame has in common would drown what makes them differ
        model.lm_head.bias -= model(torch.randn(1, 32_000)).logits.mean((0, 1))
        model.lm_head.bias[TOKENS.index("<unk>")] = -100
    model.save_pretrained(folder)
    make_processor(folder, normalize).save_pretrained(folder)
    return folder


@pytest.fixture
def make_folder(make_tiny, tmp_path):
    """A folder with a recogniser of this class."""

    def make(model_class):
        model = make_tiny(model_class, vocab_size=len(TOKENS), feat_extract_norm="layer", do_stable_layer_norm=True)
        return save_recognizer(model, tmp_path / "model")

    return make


@pytest.fixture(params=[SSLWav2Vec2ForCTC, SSLHubertForCTC], ids=["wav2vec2", "hubert"])
def folder(request, make_folder):
    return make_folder(request.param)


def noise(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal(length) / 8).astype(np.float32) for length in lengths]


def test_the_pipeline_says_what_transcribe_says(folder):
    recognize = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    waveforms = noise(16_000, 12_000, 20_000)
    rows = [
        {"name": str(place), "num_samples": len(each), "audio": {"array": each, "sampling_rate": 16_000}}
        for place, each in enumerate(waveforms)
    ]
    expected = [each.text for each in transcribe(*load_recognizer(folder, device="cpu"), rows)]
    assert [" ".join(recognize(each.copy())["text"].split()) for each in waveforms] == expected
    assert len(set(expected)) == 3 and all(len(text) > 5 for text in expected)


def test_the_pipeline_says_in_a_batch_what_it_says_alone(folder):
    recognize = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    waveforms = noise(16_000, 16_000, 12_000)
    alone = [recognize(each.copy())["text"] for each in waveforms]
    batch = [each["text"] for each in recognize([each.copy() for each in waveforms], batch_size=3)]
    assert batch == alone


def test_the_pipeline_takes_dicts_of_any_rate_and_stereo(folder):
    recognize = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    (waveform,) = noise(16_000)
    mono = recognize({"raw": waveform, "sampling_rate": 16_000})["text"]
    assert recognize({"array": np.stack([waveform, waveform]), "sampling_rate": 16_000})["text"] == mono
    assert recognize({"raw": np.repeat(waveform, 3), "sampling_rate": 48_000})["text"]


@pytest.mark.parametrize("kind", ["char", "word"])
def test_the_times_of_the_pipeline_are_ours(folder, kind):
    recognize = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    (waveform,) = noise(24_000)
    chunks = recognize(waveform.copy(), return_timestamps=kind)["chunks"]
    row = {"name": "noise", "num_samples": 24_000, "audio": {"array": waveform, "sampling_rate": 16_000}}
    (transcript,) = transcribe(*load_recognizer(folder, device="cpu"), [row])
    spans = transcript.words if kind == "word" else transcript.characters
    theirs = [(chunk["text"], *chunk["timestamp"]) for chunk in chunks if chunk["text"] != " "]
    assert [text for text, *_ in theirs] == [span.text for span in spans] and len(spans) > 1
    assert [time for _, *times in theirs for time in times] == pytest.approx([t for span in spans for t in span[1:3]])


def test_ten_minutes_in_chunks_lose_nothing_at_the_joints(make_tiny, tmp_path):
    # Attention looks everywhere, so only a model without it can be the same in chunks: one frame then sees some 0.4 s.
    model = make_tiny(
        SSLWav2Vec2ForCTC,
        vocab_size=len(TOKENS),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_hidden_layers=1,
        num_attention_heads=1,
        conv_dim=(8,) * 7,
        hidden_size=8,
        intermediate_size=8,
        num_conv_pos_embedding_groups=2,
    )
    torch.nn.init.zeros_(model.base_model.encoder.layers[0].attention.out_proj.weight)
    folder = save_recognizer(model, tmp_path, normalize=False)
    recognize = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    (waveform,) = noise(MINUTES * 60 * 16_000 + 1_234)
    in_chunks = recognize(waveform.copy(), chunk_length_s=20, stride_length_s=2, return_timestamps="char")
    at_once = recognize(waveform.copy(), return_timestamps="char")
    assert in_chunks == at_once
    assert in_chunks["chunks"][-1]["timestamp"][1] > MINUTES * 60 - 1 and len(in_chunks["text"]) > 1_000


TRANSCRIBE = """
import sys, json, numpy
{before}
from transformers import pipeline
recognize = pipeline("automatic-speech-recognition", model=sys.argv[1], device="cpu", trust_remote_code={trust})
print(json.dumps([type(recognize.model).__module__.split(".")[0], recognize(numpy.load(sys.argv[2]))["text"]]))
"""


def run_python(code: str, *arguments, **environment) -> list[str]:
    """What a fresh Python prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-S" if "PYTHONPATH" in environment else "-E", "-c", code, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        cwd=Path(arguments[1]).parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def waveform_file(tmp_path):
    file = tmp_path / "noise.npy"
    np.save(file, noise(16_000)[0])
    return file


@pytest.fixture
def without_us(tmp_path):
    """A folder of all installed packages but this one."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "hf_ssl_speech" not in entry.name:
            (folder / entry.name).symlink_to(entry)
    return folder


def test_remote_code_transcribes_where_nobody_imports_us(make_folder, waveform_file, tmp_path):
    folder = make_folder(SSLWav2Vec2ForCTC)
    expected = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")(np.load(waveform_file))["text"]
    code = TRANSCRIBE.format(before="", trust=True)
    module, text = run_python(code, folder, waveform_file, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert (module, text) == ("hf_ssl_speech", expected)


def test_an_exported_recognizer_transcribes_where_we_are_not_installed(
    make_folder, waveform_file, without_us, tmp_path
):
    folder = make_folder(SSLHubertForCTC)
    model, processor = load_recognizer(folder, device="cpu")
    to_transformers(model).save_pretrained(tmp_path / "stock")
    processor.save_pretrained(tmp_path / "stock")
    expected = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")(np.load(waveform_file))["text"]
    absent = "import importlib.util; assert importlib.util.find_spec('hf_ssl_speech') is None"
    code = TRANSCRIBE.format(before=absent, trust=False)
    module, text = run_python(code, tmp_path / "stock", waveform_file, PYTHONPATH=str(without_us))
    assert (module, text) == ("transformers", expected)


def test_audio_shorter_than_a_frame_is_told_in_words(folder):
    recognize = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    with pytest.raises(ValueError, match="399 samples"):
        recognize(noise(399)[0])


def test_a_model_that_hears_only_blanks_gives_an_empty_text(make_tiny, tmp_path):
    model = make_tiny(SSLWav2Vec2ForCTC, vocab_size=len(TOKENS))
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias.data = torch.eye(len(TOKENS))[0]
    model.save_pretrained(tmp_path)
    make_processor(tmp_path, normalize=True).save_pretrained(tmp_path)
    recognize = pipeline("automatic-speech-recognition", model=str(tmp_path), device="cpu")
    assert recognize(np.zeros(16_000, np.float32), return_timestamps="word") == {"text": "", "chunks": []}
