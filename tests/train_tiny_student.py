"""Trains a tiny student of a tiny teacher on rows from disk, in one process or several; see train_tiny.py."""

from conftest import tiny_model
from datasets import load_from_disk
from train_tiny import SETTINGS
from transformers import set_seed

import hf_ssl_speech


def make_distiller(output: str, settings: dict, config: dict, rows=None, evaluation=None, teacher=None):
    """A trainer of a student of one layer that learns two layers of its teacher, both in float64."""
    teacher = (teacher or tiny_model(hf_ssl_speech.SSLHubertModel)).double()
    set_seed(0)
    student = hf_ssl_speech.make_student(teacher, [1, 3], **{"num_hidden_layers": 1, **config}).double()
    arguments = hf_ssl_speech.SpeechPreTrainingArguments(output_dir=output, **{**SETTINGS, **settings})
    return hf_ssl_speech.SpeechDistiller(student, teacher, arguments, rows, evaluation)


def train(rows: str, output: str, settings: dict, config: dict, resume: str | None = None):
    """Trains, saves the model to `output` and returns the trainer."""
    trainer = make_distiller(output, settings, config, load_from_disk(rows))
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return trainer
