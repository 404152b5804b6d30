"""A run that goes on from a checkpoint is the run that was never interrupted: its weights, its logs, its end."""

import io
import json

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from test_exactness import largest_difference, save_rows  # noqa: F401
from train_tiny import train

from hf_ssl_speech import prepare_speech

RANDOM = {"layerdrop": 0.3, "hidden_dropout": 0.1, "diversity_loss_weight": 0.1}
SECONDS = [1.2, 1.9, 2.3, 2.4, 3.1, 3.3, 3.8]  # 5 batches an epoch


@pytest.fixture
def settings():
    return {"max_steps": 7, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 9, "batch_seconds": 4}


@pytest.mark.parametrize("persistent", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_workers_change_no_weight_whenever_a_run_is_interrupted(save_rows, settings, persistent, tmp_path):  # noqa: F811
    rows = save_rows(SECONDS)
    settings |= {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent}
    train(rows, str(tmp_path / "whole"), settings, RANDOM)
    for update in (4, 5, 6):  # before, at and after the end of the first epoch
        output = tmp_path / str(update)
        train(rows, str(output), settings, RANDOM, resume=str(tmp_path / "whole" / f"checkpoint-{update}"))
        assert largest_difference(tmp_path / "whole", output) == 0.0


def test_audio_that_is_decoded_as_it_is_needed_is_gone_on_with_exactly(settings, tmp_path):
    rows = []
    for index, seconds in enumerate(SECONDS):
        file = io.BytesIO()
        noise = np.random.default_rng(index).normal(scale=0.1, size=int(16_000 * seconds))
        soundfile.write(file, noise, 16_000, format="FLAC")
        rows.append({"id": str(index), "audio": {"bytes": file.getvalue(), "path": None}})
    prepare_speech(Dataset.from_list(rows), min_seconds=0.5)[0].save_to_disk(tmp_path / "rows")
    train(str(tmp_path / "rows"), str(tmp_path / "whole"), settings, RANDOM)
    train(str(tmp_path / "rows"), str(tmp_path / "on"), settings, RANDOM, resume=str(tmp_path / "whole/checkpoint-4"))
    assert largest_difference(tmp_path / "whole", tmp_path / "on") == 0.0


def test_logs_go_on_as_if_nothing_had_happened(save_rows, settings, tmp_path):  # noqa: F811
    rows = save_rows(SECONDS)
    settings |= {"logging_steps": 3, "logging_first_step": False}
    whole = train(rows, str(tmp_path / "whole"), settings, RANDOM).state.log_history
    resumed = train(rows, str(tmp_path / "on"), settings, RANDOM, resume=str(tmp_path / "whole" / "checkpoint-4"))
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "audio_seconds_per_second")

    def told(history):
        return [{name: value for name, value in log.items() if name not in timed} for log in history]

    assert told(resumed.state.log_history) == told(whole)
    assert [log["step"] for log in whole] == [3, 6, 7]


def test_a_run_interrupted_after_its_last_update_trains_no_other(save_rows, settings, tmp_path):  # noqa: F811
    rows = save_rows(SECONDS)
    train(rows, str(tmp_path / "whole"), settings, RANDOM)
    trainer = train(rows, str(tmp_path / "on"), settings, RANDOM, resume=str(tmp_path / "whole" / "checkpoint-7"))
    assert trainer.state.global_step == 7
    assert largest_difference(tmp_path / "whole", tmp_path / "on") == 0.0
    assert json.loads((tmp_path / "on" / "config.json").read_text())
