"""Trains a tiny wav2vec 2.0 on rows from disk, in one process or several, for the tests of exactness.

In float64: what is exact differs by rounding alone, which is 1e-16 there on every processor, so that a bound of 1e-10
leaves no room for anything else.
"""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import TINY, WAV2VEC2
from datasets import load_from_disk
from transformers import set_seed

import hf_ssl_speech

SETTINGS = dict(
    batch_seconds=8,
    max_seconds=4,
    min_seconds=1,
    max_steps=3,
    learning_rate=3e-4,
    warmup_steps=0,
    logging_steps=1,
    save_strategy="no",
    use_cpu=True,
    disable_tqdm=True,
    dataloader_num_workers=0,
    seed=1,
)
EXACT = dict(diversity_loss_weight=0.0, feature_gradient_scale=0.5)


def train(rows: str, output: str, settings: dict, config: dict, resume: str | None = None):
    """Trains, saves the model to `output` and returns the trainer."""
    set_seed(0)
    model = hf_ssl_speech.SSLWav2Vec2ForPreTraining(
        hf_ssl_speech.SSLWav2Vec2Config(**{**TINY, **WAV2VEC2, **EXACT, **config})
    ).double()
    arguments = hf_ssl_speech.SpeechPreTrainingArguments(output_dir=output, **{**SETTINGS, **settings})
    trainer = hf_ssl_speech.SpeechPreTrainer(model, arguments, train_dataset=load_from_disk(rows))
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return trainer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_in_processes(
    ranks: int, rows: str, output: Path, settings: dict, config: dict | None = None, train: Callable = train
):
    """`train` on so many ranks, each a process that is forked from one that has loaded the libraries."""
    arguments = (ranks, free_port(), train, rows, str(output), settings, config or {})
    torch.multiprocessing.start_processes(train_as_rank, arguments, nprocs=ranks, start_method="forkserver")


def train_as_rank(rank: int, ranks: int, port: int, train: Callable, *arguments):
    """What torchrun does for a rank."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    train(*arguments)
    torch.distributed.destroy_process_group()
