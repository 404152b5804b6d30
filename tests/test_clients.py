"""What docs/clients.md says of the programs of others holds, for each that is installed."""

import importlib.util
import os
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import tiny_model
from datasets import Dataset
from test_pipeline import TOKENS, save_recognizer
from train_tiny import SETTINGS, free_port
from train_tiny_ctc import FINETUNING

import hf_ssl_speech
from hf_ssl_speech import SSLHubertForCTC, SSLWav2Vec2ForCTC, SSLWav2Vec2ForPreTraining, read_audio
from hf_ssl_speech.training.lora import bare_model

PAGE = (Path(__file__).parents[1] / "docs" / "clients.md").read_text()
SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
}
SECONDS = 2.0


def need(*modules: str):
    """Skips the test where a program is not installed; it is not imported, which can take seconds."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def noise(rng: np.random.Generator, length: int) -> np.ndarray:
    return (rng.standard_normal(length) * 3_000).astype(np.int16)


@pytest.fixture
def place(make_tiny, tmp_path, monkeypatch):
    """`place(model_class)`: the working folder holds `runs/recogniser`, its stock form and `audio.wav`."""

    def make(model_class=SSLWav2Vec2ForCTC):
        model = make_tiny(model_class, vocab_size=len(TOKENS), num_hidden_layers=2)
        save_recognizer(model, tmp_path / "runs" / "recogniser")
        noise = np.random.default_rng(0).standard_normal(int(SECONDS * 16_000)) / 10
        soundfile.write(tmp_path / "audio.wav", noise, 16_000)
        monkeypatch.chdir(tmp_path)
        names = {}
        run("Stock form", names)
        return names

    return make


def run(title: str, names: dict):
    """Runs the blocks of a section in one namespace, which holds what earlier sections left."""
    for block in SECTIONS[title]:
        exec(compile(block, f"docs/clients.md, {title}", "exec"), names)


def hidden(waveforms: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What our own encoder makes of normalised audio: its hidden states."""
    ours = hf_ssl_speech.load_recognizer("runs/recogniser", device="cpu")[0].base_model
    normal = (waveforms - waveforms.mean(-1, True)) / waveforms.std(-1, keepdim=True, correction=0)
    with torch.no_grad():
        return ours(normal, output_hidden_states=True).hidden_states


def test_the_stock_form_says_in_the_pipeline_what_our_model_says(place, capsys):
    names = place()
    model, processor = hf_ssl_speech.load_recognizer("runs/recogniser", device="cpu")
    audio = {"array": read_audio("audio.wav"), "sampling_rate": 16_000}
    rows = [{"name": "audio", "num_samples": len(audio["array"]), "audio": audio}]
    (expected,) = hf_ssl_speech.transcribe(model, processor, rows)
    assert len(expected.text) > 5
    assert " ".join(names["recognise"](audio["array"])["text"].split()) == expected.text
    assert expected.text in " ".join(capsys.readouterr().out.split())


def test_torchaudio_aligns_our_logits_and_imports_our_weights(place):
    names = place()
    run("Logits", names)
    run("torchaudio", names)
    tokens = [TOKENS[span.token] for span in names["spans"]]
    assert "".join(tokens) == "good|day"
    assert all(a.end <= b.start for a, b in zip(names["spans"], names["spans"][1:]))
    with torch.no_grad():
        theirs, _ = names["imported"](names["inputs"]["input_values"])
    torch.testing.assert_close(theirs.log_softmax(-1), names["emissions"], rtol=1e-4, atol=1e-4)


def test_a_model_in_pefts_own_wrapper_is_thawed_inside_it(place, tmp_path):
    need("peft")
    names = place()
    run("LoRA", names)
    rng = np.random.default_rng(0)
    rows = Dataset.from_list(
        [
            {"name": str(n), "sample_id": n, "num_samples": 32_000, "text": "ab",
             "samples": noise(rng, 32_000)}
            for n in range(4)
        ]
    )  # fmt: skip
    adapted, processor = names["adapted"], names["processor"]
    labelled, _, _ = hf_ssl_speech.add_labels(
        rows, processor.tokenizer, hf_ssl_speech.TextNormalization(), names["model"].config
    )
    before = {name: weight.detach().clone() for name, weight in adapted.named_parameters() if "lora_B" in name}
    learnt = {}
    for updates in (2, 3):
        args = hf_ssl_speech.SpeechCTCTrainingArguments(
            output_dir=str(tmp_path / f"{updates}"),
            **{**SETTINGS, **FINETUNING, "max_steps": updates, "freeze_transformer_updates": 2},
        )
        trainer = hf_ssl_speech.SpeechCTCTrainer(
            adapted, args, labelled, processing_class=processor, normalization=hf_ssl_speech.TextNormalization()
        )
        trainer.train()
        assert bare_model(adapted).thaw_update == 2
        now = dict(adapted.named_parameters())
        learnt[updates] = any(not torch.equal(now[name], weight) for name, weight in before.items())
    assert len(before) == 4 and learnt == {2: False, 3: True}  # two layers, two projections


@pytest.mark.slow
def test_whisperx_gives_the_words_times(place, monkeypatch):
    need("whisperx", "nltk")
    from nltk.tokenize.punkt import PunktSentenceTokenizer
    from whisperx import alignment

    monkeypatch.setattr(alignment, "nltk_load", lambda name: PunktSentenceTokenizer())
    names = place()
    run("WhisperX", names)
    assert [word["word"] for word in names["words"]] == ["good", "day"]
    first, second = names["words"]
    assert 0 <= first["start"] < first["end"] <= second["start"] < second["end"] <= SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("model_class", [SSLWav2Vec2ForCTC, SSLHubertForCTC])
def test_speechbrain_gives_what_our_encoder_gives(model_class, place):
    need("speechbrain")
    names = place(model_class)
    if model_class is SSLWav2Vec2ForCTC:
        run("SpeechBrain", names)
        encoder = names["encoder"]
        assert names["features"].shape == (2, 49, 32)
    else:
        from speechbrain.integrations.huggingface.hubert import HuBERT

        encoder = HuBERT("runs/stock", save_path="runs/speechbrain", freeze=True)
    waveforms = torch.randn(2, 16_000)
    torch.testing.assert_close(encoder(waveforms), hidden(waveforms)[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_class", "expert"), [(SSLWav2Vec2ForCTC, "hf_wav2vec2"), (SSLHubertForCTC, "hf_hubert")]
)
def test_s3prls_experts_give_our_hidden_states(model_class, expert, place):
    need("s3prl")
    names = place(model_class)
    if expert == "hf_wav2vec2":
        run("s3prl", names)
        assert len(names["hidden_states"]) == 3
    module = importlib.import_module(f"s3prl.upstream.{expert}.expert")
    waveforms = torch.randn(2, 16_000)
    with torch.no_grad():
        theirs = module.UpstreamExpert("runs/stock").eval()(list(waveforms))["hidden_states"]
    for found, expected in zip(theirs, hidden(waveforms), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_ctc_segmentation_finds_utterances_in_order(place):
    need("ctc_segmentation")
    names = place()
    run("Logits", names)
    run("ctc-segmentation", names)
    (first, day, _), (night, last, _) = names["segments"]
    assert 0 <= first < day <= night < last <= SECONDS


@pytest.mark.slow
def test_pyctcdecode_writes_words_of_our_language_model(place, capsys):
    need("pyctcdecode", "kenlm")
    names = place()
    run("Logits", names)
    run("pyctcdecode", names)
    words = capsys.readouterr().out.splitlines()[-1].split()
    assert words and set(words) <= {"good", "day", "night"}


@pytest.mark.slow
def test_gradio_calls_the_pipeline_with_a_file(place):
    need("gradio")
    names = place()
    run("Gradio", names)
    assert names["page"].fn("audio.wav") == names["recognise"](read_audio("audio.wav"))["text"]


def pretrain(folder: Path, settings: dict) -> hf_ssl_speech.SpeechPreTrainer:
    """Three updates of a tiny wav2vec 2.0; the trainer."""
    rng = np.random.default_rng(0)
    lengths = [16_000 + 1_000 * number for number in range(8)]
    rows = [
        {"name": f"{length}", "sample_id": length, "num_samples": length, "samples": noise(rng, length)}
        for length in lengths
    ]
    args = hf_ssl_speech.SpeechPreTrainingArguments(output_dir=str(folder), **{**SETTINGS, **settings})
    model = tiny_model(SSLWav2Vec2ForPreTraining)
    trainer = hf_ssl_speech.SpeechPreTrainer(model, args, train_dataset=Dataset.from_list(rows))
    trainer.train()
    return trainer


def pretrained_weights(folder: Path, settings: dict, environment: dict[str, str]) -> dict[str, np.ndarray]:
    """The weights after the same updates, in a process that is one's own: DeepSpeed leaves its mark on it."""
    os.environ.update(environment)
    weights = pretrain(folder, settings).model.state_dict()
    return {name: weight.float().numpy() for name, weight in weights.items()}


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_deepspeed_with_auto_trains_the_same_weights(accumulation, tmp_path):
    need("deepspeed")
    settings = {"gradient_accumulation_steps": accumulation, "max_grad_norm": 1.0}
    expected = pretrain(tmp_path / "plain", settings).model.state_dict()
    names = {}
    run("DeepSpeed", names)
    launch = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    launch["MASTER_PORT"] = str(free_port())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        settings["deepspeed"] = names["deepspeed"]
        found = pool.submit(pretrained_weights, tmp_path / "deepspeed", settings, launch).result()
    for name, weight in expected.items():  # three updates of at most 3e-4 in float32
        torch.testing.assert_close(torch.from_numpy(found[name]), weight, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["mlflow", "wandb", "trackio"])
def test_trackers_get_the_logs(tracker, tmp_path, monkeypatch):
    need(tracker)
    folder = tmp_path / "tracked"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.as_uri())
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(folder))
    trainer = pretrain(tmp_path / "run", {"report_to": tracker, "run_name": "tiny", "project": "speech"})
    loss = [log["loss"] for log in trainer.state.log_history if "loss" in log][-1]
    if tracker == "mlflow":
        import mlflow

        mlflow.end_run()
        assert mlflow.MlflowClient().search_runs(["0"])[0].data.metrics["loss"] == pytest.approx(loss)
    elif tracker == "wandb":
        import wandb

        logged = dict(wandb.run.summary)["train/loss"]
        wandb.finish()
        assert logged == pytest.approx(loss)
    else:  # whatever it names its file
        assert any(path.suffix == ".db" and path.stat().st_size for path in folder.rglob("speech*"))
