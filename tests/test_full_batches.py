"""`batch_seconds: auto` takes the largest batches that fit, the same on all processes and after an interruption."""

import numpy as np
import pytest
from test_training import noise_rows, trainer_of

from hf_ssl_speech import SpeechPreTrainingArguments, prepare_speech
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training import full_batches

HOURS = 64 / 3600  # 16 batches of the longest rows, of 4 s
AUTO = dict(batch_seconds="auto", hours_per_update=HOURS)
BYTES_OF_A_SECOND = 1e9


@pytest.fixture(scope="module")
def rows():
    return prepare_speech(noise_rows([1.5, 2.0, 2.5, 3.0, 3.5, 6.0] * 4), min_seconds=1, cache=True)[0]


@pytest.fixture
def memory(monkeypatch):
    """`memory(seconds)` lets a step on so many seconds fit; the sizes that are tried are in `memory.tried`."""

    def allow(seconds: float):
        def step(trainer, given):
            allow.tried.append(sum(min(row["num_samples"] / 16_000, trainer.args.max_seconds) for row in given))
            return allow.tried[-1] * BYTES_OF_A_SECOND

        monkeypatch.setattr(full_batches, "memory_limit", lambda device: seconds * BYTES_OF_A_SECOND)
        monkeypatch.setattr(full_batches, "dry_step", step)

    allow.tried = []
    return allow


@pytest.mark.parametrize("seconds", [3, 4, 9, 16, 22, 40, 64, 1000])
def test_batches_are_as_large_as_fit_and_an_update_stays_the_same(seconds, rows, memory, tmp_path):
    memory(seconds)
    trainer = trainer_of(rows, tmp_path, **AUTO)
    full_batches.settle_batches(trainer)
    args = trainer.args
    fewest = next((number for number in range(1, 17) if 4 * (64 / number // 4) <= seconds), 16)
    assert args.gradient_accumulation_steps == fewest
    assert args.batch_seconds * args.gradient_accumulation_steps == pytest.approx(64)
    assert trainer.training_sampler().batch_seconds == args.batch_seconds
    assert all(tried <= max(seconds, 4) for tried in memory.tried)  # on a CPU nothing too large is tried


def test_a_step_that_runs_out_of_memory_is_too_large_and_another_error_is_one(rows, memory, tmp_path, monkeypatch):
    memory(1000)
    trainer = trainer_of(rows, tmp_path, **AUTO)
    step = full_batches.dry_step

    def failing(trainer, given):
        if len(given) > 5:
            raise MemoryError
        return step(trainer, given)

    monkeypatch.setattr(full_batches, "dry_step", failing)
    full_batches.settle_batches(trainer)
    assert trainer.args.batch_seconds == pytest.approx(64 / 3)  # five rows of 4 s, not six
    monkeypatch.setattr(full_batches, "dry_step", lambda *_: [][0])
    with pytest.raises(IndexError):
        full_batches.settle_batches(trainer_of(rows, tmp_path, **AUTO))


def test_all_processes_take_what_fits_on_each(rows, memory, tmp_path, monkeypatch):
    memory(64)
    monkeypatch.setattr(full_batches, "gather_object", lambda mine: [*mine, 4])
    trainer = trainer_of(rows, tmp_path, **AUTO)
    full_batches.settle_batches(trainer)
    assert trainer.args.batch_seconds == 16


def test_a_run_that_goes_on_keeps_its_batches(rows, memory, tmp_path):
    memory(17)
    settings = AUTO | dict(save_strategy="steps", save_steps=1, max_steps=1)
    first = trainer_of(rows, tmp_path, **settings)
    first.train()
    kept = read_record(tmp_path)["recipe"]
    assert (kept["batch_seconds"], kept["gradient_accumulation_steps"]) == (16, 4)
    memory(64)
    again = trainer_of(rows, tmp_path, **settings)
    full_batches.settle_batches(again)
    assert (again.args.batch_seconds, again.args.gradient_accumulation_steps) == (16, 4)


def test_a_real_step_is_measured(rows, tmp_path):
    trainer = trainer_of(rows, tmp_path, batch_seconds="auto", hours_per_update=8 / 3600)
    weights = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    full_batches.settle_batches(trainer)
    assert trainer.args.batch_seconds == 8
    for name, weight in trainer.model.named_parameters():
        assert np.array_equal(weight.detach(), weights[name].detach()) and weight.grad is None


def test_auto_is_understood_and_wants_to_know_the_update(tmp_path):
    given = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--batch_seconds", "auto", "--max_seconds", "4"]
    (args,) = parse_arguments([*given, "--hours_per_update", "0.5"], SpeechPreTrainingArguments)
    assert args.fills_memory and args.batch_seconds == 1800
    with pytest.raises(ValueError, match="hours_per_update"):
        parse_arguments(given, SpeechPreTrainingArguments)
