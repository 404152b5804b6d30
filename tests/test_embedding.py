"""Frames measured without labels: rank and clusters, against their definitions and scikit-learn, however they come."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import davies_bouldin_score
from test_training import SETTINGS, noise_rows

from hf_ssl_speech import SpeechPreTrainer, SpeechPreTrainingArguments
from hf_ssl_speech.models.objectives import effective_rank, gram_matrix
from hf_ssl_speech.units.embedding import EmbeddingSums


def test_the_effective_rank_is_the_perplexity_of_singular_values_in_however_many_parts_frames_come():
    frames = torch.randn(500, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    shares = torch.linalg.svdvals(frames) / torch.linalg.svdvals(frames).sum()
    naive = math.exp(-(shares * shares.log()).sum())
    parts = sum(gram_matrix(part) for part in frames.split(77))
    assert float(effective_rank(parts)) == pytest.approx(naive, rel=1e-10)
    assert float(effective_rank(gram_matrix(torch.eye(12)))) == pytest.approx(12, rel=1e-10)
    line = torch.linspace(-1, 1, 50)[:, None] * torch.randn(12)
    assert float(effective_rank(gram_matrix(line))) == pytest.approx(1, abs=1e-4)


def test_cluster_quality_is_that_of_scikit_learn_and_adds_up_over_processes():
    frames, units = torch.randn(400, 5), torch.randint(4, (400,))
    frames += 3 * torch.nn.functional.one_hot(units, 5)
    means = torch.stack([frames[units == unit].double().mean(0) for unit in range(4)])
    unused = torch.cat([means, torch.full((1, 5), 9.0)])  # a cluster without frames counts for nothing
    first, second = EmbeddingSums(unused), EmbeddingSums(unused)
    first.add(frames[:100], units[:100])
    second.add(frames[100:], units[100:])
    first.join(second)
    expected = davies_bouldin_score(frames.double().numpy(), units.numpy())
    assert first.measures["davies_bouldin"] == pytest.approx(expected, rel=1e-10)


def test_an_evaluation_tells_the_rank_of_real_frames_alone(tiny_wav2vec2, tmp_path):
    rows = noise_rows([1.5, 2.0, 3.5])
    trainers = []
    for seconds in (4, 16):  # each row alone, or all in one padded batch
        settings = SETTINGS | dict(batch_seconds=seconds)
        trainers.append(
            SpeechPreTrainer(tiny_wav2vec2, SpeechPreTrainingArguments(tmp_path, **settings), eval_dataset=rows)
        )
    ranks = [trainer.evaluate()["eval_effective_rank"] for trainer in trainers]
    assert ranks[0] == pytest.approx(ranks[1], rel=1e-4) and 1 < ranks[0] < 32
    assert np.isfinite(ranks).all()
