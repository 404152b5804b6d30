"""Trains a tiny wav2vec 2.0 on rows from disk, as one process or several: what the tests of exactness launch.

In float64: what is exact differs by rounding alone, which is 1e-16 there on every processor, so that a bound of 1e-10
leaves no room for anything else.

torchrun --nproc_per_node 2 tests/train_tiny.py ROWS OUTPUT '{"batch_seconds": 4}' '{"layerdrop": 0.5}'
"""

import json
import sys

from conftest import TINY, WAV2VEC2
from datasets import load_from_disk
from transformers import set_seed

import hf_ssl_speech
from hf_ssl_speech.commands.ending import tidy_errors

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


def run_as_script(train):
    """Trains in a process of its own, one of several, as the command line says: rows, output, settings and config."""
    rows, output, settings, config = sys.argv[1:]
    with tidy_errors():
        train(rows, output, json.loads(settings), json.loads(config))


if __name__ == "__main__":
    run_as_script(train)
