"""However a run ends, its record says so; and what is no number is never evaluated, kept as the best or saved."""

import pytest
import train_tiny
from conftest import TINY, WAV2VEC2
from datasets import load_from_disk
from test_exactness import save_rows  # noqa: F401
from test_whole_checkpoints import Spoil
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState

import hf_ssl_speech
from hf_ssl_speech.data.data_facts import SkipReport, split_facts
from hf_ssl_speech.recipes.pretraining import pretrain
from hf_ssl_speech.recipes.splits import Split
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training import stopping
from hf_ssl_speech.training import trainer as trainer_module
from hf_ssl_speech.training.checkpoints import newest_whole, write_manifest
from hf_ssl_speech.training.health import HealthCheck
from hf_ssl_speech.training.outcomes import UnhealthyRun
from hf_ssl_speech.training.record_keeper import RecordKeeper

SHORT = {**train_tiny.SETTINGS, "batch_seconds": 2, "max_seconds": 1, "min_seconds": 0.5, "max_steps": 4}


@pytest.fixture
def run(save_rows, tmp_path, monkeypatch):  # noqa: F811
    """`run(*callbacks, **settings)`: a short run with its record, and with these callbacks."""
    rows = load_from_disk(save_rows([0.6, 0.8, 1.0]))
    made = trainer_module.SpeechTrainer.__init__

    def begin(*callbacks, **settings):
        def with_callbacks(self, *args, **kwargs):
            made(self, *args, **kwargs)
            for callback in callbacks:
                self.add_callback(callback)

        monkeypatch.setattr(trainer_module.SpeechTrainer, "__init__", with_callbacks)
        model = hf_ssl_speech.SSLWav2Vec2ForPreTraining(hf_ssl_speech.SSLWav2Vec2Config(**TINY, **WAV2VEC2))
        args = hf_ssl_speech.SpeechPreTrainingArguments(output_dir=str(tmp_path / "run"), **{**SHORT, **settings})
        split = Split(rows, split_facts("tones", rows, SkipReport(len(rows))))
        return pretrain(model, args, split, split)

    return begin


class RaiseAfter(TrainerCallback):
    """Raises an exception when an update is done."""

    def __init__(self, update: int, error: BaseException | None = None):
        self.update = update
        self.error = error or ZeroDivisionError("by chance")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.update:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (ZeroDivisionError("by chance"), "failed", "ZeroDivisionError: by chance"),
        (UnhealthyRun("it diverged"), "failed", "it diverged"),
        (KeyboardInterrupt(), "stopped", "interrupted from the keyboard"),
    ],
)
def test_whatever_ends_a_run_the_record_says_so_with_the_cause(error, status, cause, run, tmp_path):
    with pytest.raises(type(error)):
        run(RaiseAfter(2, error))
    record = read_record(tmp_path / "run")
    assert (record["status"], record["cause"], record["updates"]) == (status, cause, 2)


def test_of_a_run_whose_first_process_is_lost_the_next_one_writes_the_record(run, tmp_path, monkeypatch):
    trainer = run()
    keeper = RecordKeeper(trainer, {"model_type": "ssl-wav2vec2"}, {})
    monkeypatch.setattr(type(trainer.args), "world_size", 3)
    cases = [(1, (), False), (1, (0,), True), (2, (0,), False), (2, (0, 1), True), (0, (0,), True)]
    for rank, missing, writes in cases:
        monkeypatch.setattr(type(trainer.args), "process_index", rank)
        keeper.keep(f"{rank} {missing}", missing=missing)
        assert (read_record(tmp_path / "run")["status"] == f"{rank} {missing}") == writes


def test_the_watch_tells_of_the_loss_before_it_ends_the_process(monkeypatch):
    events = []
    monkeypatch.setattr(stopping, "end_stopped", lambda pids: ["pid 7"])
    monkeypatch.setattr(stopping.os, "_exit", events.append)
    stopping.RollCall(60, lambda error: events.append(str(error))).give_up()
    assert "Its loader worker pid 7 is stopped" in events[0] and events[1:] == [1]


# What is no number ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"save_strategy": "no", "keep_failed_step": False},  # only the final model, and no look at each update
        {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no"},
        {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "save_strategy": "steps"}
        | {"load_best_model_at_end": True},
    ],
    ids=["end", "evaluation", "best"],
)
def test_a_model_with_a_nan_is_neither_evaluated_nor_kept(settings, run, tmp_path):
    with pytest.raises(UnhealthyRun, match=r"not finite at update \d.*nothing of this update is kept"):
        run(Spoil(3), logging_steps=100, **settings)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    record = read_record(tmp_path / "run")
    assert record["status"] == "failed" and "not finite" in record["cause"]
    assert not any("eval_loss" in log for log in record["curves"])


@pytest.mark.parametrize("name", ["eval_loss", "eval_clean_loss", "loss", "grad_norm"])
def test_a_logged_loss_that_is_no_number_stops_the_run(name, tmp_path):
    args = hf_ssl_speech.SpeechPreTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    check = HealthCheck()
    check.check_numbers(args, TrainerState(), {name: 1.0, "eval_changed": float("nan")})
    with pytest.raises(UnhealthyRun, match=f"{name} is nan at update 0: the run diverged"):
        check.check_numbers(args, TrainerState(), {name: float("nan")})


# Weights alone ----------------------------------------------------------------------------------------------------


def test_a_run_that_saved_weights_alone_is_not_continued_and_the_way_out_is_named(run, tmp_path):
    weights_alone = {"save_strategy": "steps", "save_steps": 2, "save_only_model": True}
    with pytest.raises(ZeroDivisionError):
        run(RaiseAfter(3), **weights_alone)
    way_out = r"checkpoint-2 holds the weights without optimizer and schedule.*--model_name_or_path .*checkpoint-2"
    with pytest.raises(ValueError, match=way_out):
        run(**weights_alone)
    with pytest.raises(ValueError, match=way_out):
        run(**weights_alone, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_checkpoints_of_weights_alone_are_passed_over_for_an_earlier_one_with_all(run, tmp_path, caplog):
    saving = {"save_strategy": "steps", "save_steps": 1}
    with pytest.raises(ZeroDivisionError):
        run(RaiseAfter(3), **saving)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / "optimizer.pt").unlink()
    write_manifest(checkpoint)  # as save_only_model would have left it
    assert newest_whole(tmp_path / "run", to_resume=True).endswith("checkpoint-1")
    assert "checkpoint-2: it holds the weights without optimizer and schedule" in caplog.text
    assert newest_whole(tmp_path / "run").endswith("checkpoint-2")


def test_python_too_is_refused_a_resume_from_weights_alone(save_rows, tmp_path):  # noqa: F811
    saving = {**SHORT, "save_strategy": "steps", "save_steps": 2, "save_only_model": True}
    train_tiny.train(save_rows([0.6, 0.8, 1.0]), str(tmp_path / "run"), saving, {})
    with pytest.raises(ValueError, match="without optimizer and schedule"):
        checkpoint = str(tmp_path / "run" / "checkpoint-2")
        train_tiny.train(save_rows([0.6, 0.8, 1.0]), str(tmp_path / "on"), saving, {}, resume=checkpoint)
