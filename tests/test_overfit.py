"""A recogniser must be able to learn a handful of rows by heart; what can't is found before the run."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from test_training import noise_rows
from train_tiny_ctc import CHARACTERS, make_trainer

from hf_ssl_speech import SSLWav2Vec2Config, TextNormalization, add_labels, make_processor, prepare_speech
from hf_ssl_speech.training.dry_step import check_memory
from hf_ssl_speech.training.overfit import check_overfit, deaf_loss


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Noise, each row with other words of four letters."""
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list(CHARACTERS), 6)) for _ in range(4)]
    noise = noise_rows([0.5, 0.6, 0.6, 0.7]).add_column("text", texts)
    prepared, _ = prepare_speech(noise, min_seconds=0.5, cache=True, keep=["text"])
    return add_labels(prepared, make_processor([CHARACTERS]).tokenizer, TextNormalization(), SSLWav2Vec2Config())[0]


@pytest.fixture
def trainer(rows, tmp_path):
    config = {"mask_time_prob": 0.3, "hidden_dropout": 0.1, "layerdrop": 0.3}
    settings = {"batch_seconds": 2, "max_seconds": 1, "min_seconds": 0.5, "freeze_transformer_updates": 2}
    return lambda: make_trainer(str(tmp_path), settings, config, rows)


def test_a_sound_recogniser_learns_a_few_rows_by_heart_and_stays_as_it_was(trainer):
    untouched, checked = trainer(), trainer()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert check_memory(checked).level == "ok"
    found = check_overfit(checked)
    assert found.level == "ok", found
    assert "loss of 4 rows for each token in 40 updates: from " in found.finding
    assert torch.equal(torch.get_rng_state(), state)
    for each in (untouched, checked):
        torch.manual_seed(1)
        each.train()
    for name, value in untouched.model.state_dict().items():
        assert torch.equal(value, checked.model.state_dict()[name]), name


@torch.no_grad()
def cut_the_head_off(model):
    """Only the bias of the head learns: the same answer to all that is heard."""
    model.requires_grad_(False)
    model.lm_head.weight.zero_()
    model.lm_head.bias.requires_grad = True


@torch.no_grad()
def spoil(model):
    model.base_model.encoder.layers[0].attention.q_proj.weight.fill_(math.nan)


def freeze(model):
    model.requires_grad_(False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(cut_the_head_off, "without listening"), (spoil, "to nan"), (freeze, "all are frozen")],
)
def test_a_recogniser_that_is_deaf_spoilt_or_frozen_is_an_error(trainer, damage, message):
    broken = trainer()
    damage(broken.model)
    found = check_overfit(broken)
    assert found.level == "error" and message in found.finding


def test_the_loss_without_listening_is_that_of_the_best_constant_output():
    """Four rows of one frame and one token each: the best guess is their frequency."""
    labels, config = torch.tensor([[1], [1], [1], [2]]), SSLWav2Vec2Config(vocab_size=3, pad_token_id=0)
    best = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert best <= deaf_loss(labels, torch.ones(4, dtype=torch.long), config) <= 1.01 * best
