"""A checkpoint is whole or does not count, and what is no number is never saved as one."""

import logging
import resource
import shutil
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import train_tiny
from conftest import TINY, WAV2VEC2
from datasets import load_from_disk
from safetensors.torch import load_file
from test_exactness import largest_difference, save_rows  # noqa: F401
from train_tiny import train, train_in_processes
from transformers import TrainerCallback

import hf_ssl_speech
from hf_ssl_speech.data.data_facts import SkipReport, split_facts
from hf_ssl_speech.recipes.pretraining import pretrain
from hf_ssl_speech.recipes.splits import Split
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training import trainer as trainer_module
from hf_ssl_speech.training.checkpoints import MANIFEST_FILE, damage, newest_whole
from hf_ssl_speech.training.outcomes import UnhealthyRun

SETTINGS = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "batch_seconds": 4}


@pytest.fixture(scope="module")
def two_checkpoints(save_rows, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("run")
    train(save_rows([1.9, 2.3, 2.4]), str(folder), SETTINGS, {})
    return folder


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("model.safetensors", flip_a_bit, "has changed since it was written"),
        ("optimizer.pt", lambda path: path.unlink(), "optimizer.pt is missing"),
        ("rng_state.pth", lambda path: path.unlink(), "rng_state.pth is missing"),
        ("scheduler.pt", truncate, "scheduler.pt has another size"),
        ("trainer_state.json", flip_a_bit, "trainer_state.json has changed"),
        (MANIFEST_FILE, lambda path: path.unlink(), "it was not written to its end"),
        (MANIFEST_FILE, truncate, "does not hold the files of a checkpoint"),
        (MANIFEST_FILE, lambda path: path.write_text('{"files": {"model.safetensors": 1}}'), "has another size"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(name, spoil, reason, two_checkpoints, tmp_path, caplog):
    folder = shutil.copytree(two_checkpoints, tmp_path / "run")
    assert newest_whole(folder).endswith("checkpoint-2")
    spoil(folder / "checkpoint-2" / name)
    with caplog.at_level(logging.WARNING):
        assert newest_whole(folder).endswith("checkpoint-1")
    assert "Passed over" in caplog.text and reason in caplog.text


def test_the_manifest_holds_the_files_of_every_rank(save_rows, tmp_path):  # noqa: F811
    rows = save_rows([1.9, 2.3, 2.4, 2.0])
    train_in_processes(2, rows, tmp_path / "run", SETTINGS)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert damage(checkpoint) is None
    (checkpoint / "rng_state_1.pth").unlink()
    assert damage(checkpoint) == "rng_state_1.pth is missing"


def test_the_last_whole_checkpoint_stays_until_the_next_is_whole(save_rows, tmp_path, monkeypatch):  # noqa: F811
    written = trainer_module.write_manifest

    def killed(checkpoint):
        if checkpoint.name == "checkpoint-2":
            raise KeyboardInterrupt
        written(checkpoint)

    monkeypatch.setattr(trainer_module, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        train(save_rows([1.9, 2.3]), str(tmp_path / "run"), {**SETTINGS, "save_total_limit": 1}, {})
    assert newest_whole(tmp_path / "run").endswith("checkpoint-1")


class FillTheDisk(TrainerCallback):
    """From the second update on no file can grow beyond a share of the weights' size, until the test ends."""

    def __init__(self, share: float):
        self.share = share

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            weights = Path(args.output_dir, "checkpoint-1", "model.safetensors").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(self.share * weights), resource.RLIM_INFINITY))


@pytest.fixture
def unlimited():
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("share", [0.5, 1.5], ids=["weights", "optimizer"])
def test_a_full_disk_ends_the_run_in_words_and_keeps_the_last_checkpoint(share, save_rows, tmp_path, unlimited):  # noqa: F811
    rows = load_from_disk(save_rows([1.9, 2.3]))
    facts = split_facts("tones", rows, SkipReport(total=2))

    def begin(*callbacks):
        model = hf_ssl_speech.SSLWav2Vec2ForPreTraining(hf_ssl_speech.SSLWav2Vec2Config(**TINY, **WAV2VEC2))
        settings = {**train_tiny.SETTINGS, **SETTINGS, "save_total_limit": 1}
        args = hf_ssl_speech.SpeechPreTrainingArguments(output_dir=str(tmp_path / "run"), **settings)
        with patch.object(trainer_module, "HealthCheck", lambda: callbacks[0]) if callbacks else nullcontext():
            return pretrain(model, args, Split(rows, facts))

    with pytest.raises(UnhealthyRun, match=r"checkpoint-2 can't be written.*goes on from .*checkpoint-1, which is"):
        begin(FillTheDisk(share))
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert begin().state.global_step == 2 and read_record(tmp_path / "run")["status"] == "complete"


class Spoil(TrainerCallback):
    """Makes one weight a NaN after an update, as a bad step does, where no log looks."""

    def __init__(self, update: int):
        self.update = update

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.update:
            next(model.parameters()).data.view(-1)[0] = torch.nan


def test_a_model_with_a_nan_is_never_saved_as_a_checkpoint(save_rows, tmp_path, monkeypatch):  # noqa: F811
    made = trainer_module.SpeechTrainer.__init__

    def with_spoil(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.add_callback(Spoil(2))

    monkeypatch.setattr(trainer_module.SpeechTrainer, "__init__", with_spoil)
    settings = {**SETTINGS, "save_total_limit": 1, "logging_steps": 100}
    with pytest.raises(UnhealthyRun, match=r"not finite at update 2.*checkpoint-1 "):
        train(save_rows([1.9, 2.3]), str(tmp_path / "run"), settings, {})
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    weights = load_file(tmp_path / "run" / "checkpoint-1" / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
