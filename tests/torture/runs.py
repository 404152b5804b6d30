"""Tiny runs of the scripts in forked children: each starts in a moment, since the imports are done already."""

import json
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import numpy as np
import soundfile
from datasets import Dataset
from transformers import TrainerCallback

from hf_ssl_speech import KMeansUnits, prepare_speech
from hf_ssl_speech.commands.ending import tidy_errors
from hf_ssl_speech.data.features import MfccFeatures
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.training.trainer import SpeechTrainer
from torture.processes import fork

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import finetune_ctc
import pretrain

SCRIPTS = {"pretrain": pretrain.main, "finetune_ctc": finetune_ctc.main}
UPDATES = 13
LONGEST_RUN = 600  # seconds, after which a run counts as hanging
SIZES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=[16] * 7,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, layerdrop=0.2, hidden_dropout=0.1,
)  # fmt: skip
QUANTIZER = dict(codevector_dim=16, proj_codevector_dim=16, num_negatives=5, num_codevectors_per_group=8)
COMMON = (
    "--preset", "tiny", "--batch_seconds", "4", "--max_seconds", "2", "--min_seconds", "0.5",
    "--max_steps", str(UPDATES), "--logging_steps", "2", "--save_steps", "3", "--save_total_limit", "2",
    "--learning_rate", "1e-3", "--use_cpu", "--disable_tqdm", "true",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A kind of run: its script, its arguments, its processes and loader workers."""

    script: str
    arguments: tuple[str, ...]
    config: dict[str, Any]
    workers: int = 0
    ranks: int = 1


PRETRAINING = ("--warmup_steps", "2")
CTC = ("--eval_strategy", "no", "--load_best_model_at_end", "false")
RUNS = {
    "wav2vec 2.0": Run("pretrain", (*PRETRAINING, "--cache_audio"), SIZES | QUANTIZER),
    "wav2vec 2.0, 2 workers": Run("pretrain", PRETRAINING, SIZES | QUANTIZER, workers=2),
    "wav2vec 2.0, streamed": Run(
        "pretrain", (*PRETRAINING, "--streaming", "--buffer_seconds", "8"), SIZES | QUANTIZER, workers=2
    ),
    "wav2vec 2.0, 2 processes": Run("pretrain", (*PRETRAINING, "--cache_audio"), SIZES | QUANTIZER, ranks=2),
    "HuBERT": Run("pretrain", (*PRETRAINING, "--objective", "hubert", "--units", "UNITS"), SIZES),
    "HuBERT, 2 workers": Run(
        "pretrain", (*PRETRAINING, "--cache_audio", "--objective", "hubert", "--units", "UNITS"), SIZES, workers=2
    ),
    "CTC": Run("finetune_ctc", (*CTC, "--cache_audio"), SIZES),
    "CTC, 2 workers": Run("finetune_ctc", CTC, SIZES, workers=2),
}


def make_speech(folder: Path):
    """Two Parquet files of tones and noise with transcripts, and a unit set."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(14):
        times = np.arange(12_000 + 1_500 * index) / 16_000
        wave = np.sin(2 * np.pi * (200 + 90 * index) * times) / 4 + generator.normal(size=len(times)) / 16
        soundfile.write(folder / "one.flac", wave, 16_000)
        rows.append({"id": f"row-{index}", "audio": (folder / "one.flac").read_bytes(), "text": "abc ab"[index % 4 :]})
    for name, part in (("a", rows[:7]), ("b", rows[7:])):
        Dataset.from_list(part).to_parquet(folder / f"{name}.parquet")
    prepared, _ = prepare_speech(load_speech(f"{folder}/*.parquet"), min_seconds=0.5)
    KMeansUnits.fit(prepared, MfccFeatures(2), 6, progress=False).save_pretrained(folder / "units")


class Announce(TrainerCallback):
    """Writes a letter to a pipe at each event of a training: b(egin), u(pdate), e(poch), s(aving), k(ept), l(ast)."""

    def __init__(self, pipe: int):
        self.pipe = pipe

    def tell(self, letter: str):
        os.write(self.pipe, letter.encode())

    def on_train_begin(self, args, state, control, **kwargs):
        self.tell("b")

    def on_step_end(self, args, state, control, **kwargs):
        self.tell("u")

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.tell("e")

    def on_epoch_end(self, args, state, control, **kwargs):
        self.tell("e")

    def on_save(self, args, state, control, **kwargs):
        self.tell("l" if state.global_step == state.max_steps else "k")


def start(run: Run, speech: Path, output: Path, pipe: int | None = None) -> list[int]:
    """Starts a run, or goes on with it, in one forked child for each rank; their logs lie beside the output.

    Args:
        pipe: Where rank 0 writes its events to.
    Returns:
        The children's process ids.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = output.with_suffix(".log")
    return [
        fork(lambda rank=rank: _train(run, speech, output, rank, port, pipe if rank == 0 else None), log)
        for rank in range(run.ranks)
    ]


def _train(run: Run, speech: Path, output: Path, rank: int, port: int, pipe: int | None):
    if run.ranks > 1:
        names = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=run.ranks, LOCAL_WORLD_SIZE=run.ranks, MASTER_PORT=port)
        os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    arguments = [str(speech / "units") if word == "UNITS" else word for word in run.arguments]
    command = ["--train_data", f"{speech}/*.parquet", "--output_dir", str(output), *COMMON, *arguments]
    command += ["--config", json.dumps(run.config), "--dataloader_num_workers", str(run.workers)]
    made, save = SpeechTrainer.__init__, SpeechTrainer._save_checkpoint
    announce = Announce(os.open(os.devnull, os.O_WRONLY) if pipe is None else pipe)

    def make(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.add_callback(announce)

    def announce_and_save(self, *args, **kwargs):
        announce.tell("s")
        save(self, *args, **kwargs)

    logging.getLogger().handlers.clear()
    with (
        # The seconds that `datasets` sleeps whenever it closes a stream of several files have no part in what is tried.
        patch.object(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.01),
        patch.object(SpeechTrainer, "__init__", make),
        patch.object(SpeechTrainer, "_save_checkpoint", announce_and_save),
        tidy_errors(),
    ):
        SCRIPTS[run.script](command)


def finish(children: list[int], log: Path):
    """Waits for the end of a run that nobody disturbs.

    Raises:
        RuntimeError: If it fails or hangs; the end of its log is told.
    """
    codes, deadline = {}, time.monotonic() + LONGEST_RUN
    while len(codes) < len(children):
        for child in set(children) - codes.keys():
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = status
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    if any(codes.values()):
        raise RuntimeError(f"A run ended with {codes}: {log.read_text(errors='replace')[-3000:]}")


def weights(output: Path) -> bytes:
    """The final weights of a run, bit by bit."""
    return (output / "model.safetensors").read_bytes()
