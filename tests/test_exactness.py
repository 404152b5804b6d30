"""The same weights whatever the ranks, the accumulation, the padding and the interruptions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from train_tiny import train, train_in_processes

from hf_ssl_speech import prepare_speech


@pytest.fixture(scope="module")
def save_rows(tmp_path_factory):
    """`save_rows(seconds)`: a folder of prepared rows of these lengths, noise and tones that differ."""

    def save(seconds: list[float]) -> str:
        generator = np.random.default_rng(0)
        rows = []
        for index, length in enumerate(seconds):
            times = np.arange(int(length * 16_000)) / 16_000
            wave = np.sin(2 * np.pi * (200 + 50 * index) * times) + generator.normal(size=times.shape)
            rows.append({"id": f"tone-{index}", "audio": {"array": wave / 8, "sampling_rate": 16_000}})
        folder = str(tmp_path_factory.mktemp("rows"))
        prepare_speech(Dataset.from_list(rows), min_seconds=0.5, cache=True)[0].save_to_disk(folder)
        return folder

    return save


def largest_difference(first: Path, second: Path) -> float:
    ours, theirs = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def test_one_batch_of_four_four_micro_batches_and_two_ranks_give_the_same_weights(save_rows, tmp_path):
    rows = save_rows([2.0] * 4)
    train(rows, str(tmp_path / "1x4"), {"batch_seconds": 8}, {})
    train(
        rows,
        str(tmp_path / "accumulated"),
        {"batch_seconds": 2, "max_seconds": 2, "gradient_accumulation_steps": 4},
        {},
    )
    train_in_processes(2, rows, tmp_path / "2x2", {"batch_seconds": 4})
    assert largest_difference(tmp_path / "1x4", tmp_path / "accumulated") < 1e-10
    assert largest_difference(tmp_path / "1x4", tmp_path / "2x2") < 1e-10


@pytest.mark.parametrize("crop_to_frames", [0, 16], ids=["padded", "equal lengths"])
def test_ranks_times_accumulation_may_be_shared_out_in_any_way(save_rows, tmp_path, crop_to_frames):
    rows = save_rows([1.2, 1.9, 2.3, 2.4, 3.1, 3.3, 3.8, 3.9, 2.8, 1.4])
    config, settings = {"layerdrop": 0.4}, {"crop_to_frames": crop_to_frames}
    train(rows, str(tmp_path / "one"), settings | {"gradient_accumulation_steps": 2}, config)
    train_in_processes(2, rows, tmp_path / "two", settings | {"gradient_accumulation_steps": 1}, config)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-10


def test_padding_changes_no_weight(save_rows, tmp_path):
    rows = save_rows([1.5, 3.9, 2.0, 2.7])
    train(rows, str(tmp_path / "padded"), {"batch_seconds": 16}, {})
    train(rows, str(tmp_path / "alone"), {"batch_seconds": 4, "gradient_accumulation_steps": 3}, {})
    assert largest_difference(tmp_path / "padded", tmp_path / "alone") < 1e-10


@pytest.mark.parametrize("crop_to_frames", [0, 16], ids=["padded", "equal lengths"])
def test_an_interrupted_run_ends_with_the_very_weights_of_an_uninterrupted_one(save_rows, tmp_path, crop_to_frames):
    rows = save_rows([1.2, 1.9, 2.3, 2.4, 3.1, 3.3, 3.8])
    config = {"layerdrop": 0.3, "hidden_dropout": 0.1, "diversity_loss_weight": 0.1}
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 5, "batch_seconds": 4}
    settings |= {"crop_to_frames": crop_to_frames}
    whole = train(rows, str(tmp_path / "whole"), settings, config)
    resumed = train(rows, str(tmp_path / "resumed"), settings, config, resume=str(tmp_path / "whole" / "checkpoint-5"))
    assert largest_difference(tmp_path / "whole", tmp_path / "resumed") == 0.0
    assert whole.tally.hours_seen == resumed.tally.hours_seen > 0
    assert torch.isfinite(torch.tensor(whole.state.log_history[0]["loss"]))
