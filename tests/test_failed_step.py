"""An update whose gradient is no number is kept instead of made, and comes out of a replay to the last bit."""

import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, WAV2VEC2
from safetensors.torch import load_file, save_file
from test_training import SETTINGS, noise_rows
from transformers import TrainerCallback

from hf_ssl_speech import (
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertConfig,
    SSLHubertForPreTraining,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForPreTraining,
    prepare_speech,
)
from hf_ssl_speech.commands.main import run
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training import failed_step
from hf_ssl_speech.training.failed_step import replay
from hf_ssl_speech.training.outcomes import UnhealthyRun

DROPS = dict(hidden_dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, layerdrop=0.3, final_dropout=0.1)


def trainer_of(folder, model, **settings) -> SpeechPreTrainer:
    rows = prepare_speech(noise_rows([1.5, 2.0, 2.5, 3.0, 3.5, 4.0]), min_seconds=1, cache=True)[0]
    if "ssl-hubert" in model.config.model_type:
        units = [[unit % 10 for unit in range(int(n // 320))] for n in rows["num_samples"][:]]
        rows = rows.add_column("units", [each[: (n - 80) // 320] for each, n in zip(units, rows["num_samples"][:])])
    arguments = SpeechPreTrainingArguments(folder, **{**SETTINGS, "max_steps": 3, **settings})
    return SpeechPreTrainer(model, arguments, rows)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_replay_gives_loss_and_gradient_of_the_run_to_the_last_bit(kind, bf16, tmp_path, monkeypatch):
    if kind == "wav2vec2":
        model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**{**TINY, **WAV2VEC2, **DROPS}))
    else:
        model = SSLHubertForPreTraining(SSLHubertConfig(**{**TINY, **DROPS}, num_units=[10], unit_embedding_dim=12))
    trainer = trainer_of(tmp_path, model, gradient_accumulation_steps=2, bf16=bf16, max_grad_norm=0.01)
    third_fails = SimpleNamespace(isfinite=lambda norm: trainer.state.global_step < 2)
    monkeypatch.setattr(failed_step, "math", third_fails)
    with pytest.raises(UnhealthyRun, match="in update 3: the run diverged, and this update is not made"):
        trainer.train()
    monkeypatch.undo()
    found = replay(tmp_path / "failed-step")
    assert found.is_exact and len(found.losses) == 2 and math.isfinite(found.norm) and found.norm > 0.01
    assert found.first is None and found.weights == []

    # Other random numbers give something else: the equality above says something.
    file = tmp_path / "failed-step" / "rank-0-step.safetensors"
    states = load_file(file)
    torch.manual_seed(7)
    save_file({name: torch.get_rng_state() if ".random." in name else each for name, each in states.items()}, file)
    assert not replay(tmp_path / "failed-step").is_exact


class Spoil(TrainerCallback):
    """Before the second update, a weight of the second layer is infinite."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            model.wav2vec2.encoder.layers[1].final_layer_norm.weight.data[3] = math.inf


def test_a_gradient_that_is_no_number_ends_the_run_before_its_update_and_is_traced_to_its_module(
    tiny_wav2vec2, tmp_path, capsys
):
    trainer = trainer_of(tmp_path, tiny_wav2vec2)
    trainer.add_callback(Spoil())
    with pytest.raises(UnhealthyRun, match=r"`hf-ssl-speech replay .*failed-step`"):
        trainer.train()
    assert trainer.state.global_step == 1 and "not finite" not in capsys.readouterr().out
    assert all(weight.isfinite().all() for name, weight in tiny_wav2vec2.named_parameters() if "layers.1" not in name)
    record = read_record(tmp_path)
    assert record["status"] == "failed" and "diverged" in record["cause"]
    run("replay", [str(tmp_path / "failed-step")])
    told = capsys.readouterr().out
    assert "first output that is not finite: wav2vec2.encoder.layers.1.final_layer_norm" in told
    assert "All is as it was in the run." in told
    shutil.rmtree(tmp_path / "failed-step")
    with pytest.raises(ValueError, match="holds no update that failed"):
        replay(tmp_path / "failed-step")
