"""Gumbel noise that is a function of a seed, and a temperature that is a function of the update."""

import math

import pytest
import torch

from hf_ssl_speech.models.quantizer import gumbel_noise


def test_gumbel_noise_of_a_row_is_a_function_of_its_seed_alone():
    seeds = torch.tensor([11, 12, 13])
    like = torch.empty(3, 9, 2, 8, dtype=torch.float64)
    noise, alone = gumbel_noise(like, seeds), gumbel_noise(like[:1, :5], seeds[1:2])
    torch.testing.assert_close(noise[1, :5], alone[0], rtol=0, atol=1e-10)
    assert torch.equal(noise, gumbel_noise(like, seeds))


@pytest.mark.parametrize("seeds", [torch.arange(20), None], ids=["seeds", "generator"])
def test_gumbel_noise_has_the_mean_spread_and_shape_of_a_gumbel_distribution(seeds):
    noise = gumbel_noise(torch.empty(20, 100, 2, 50), seeds).double()
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.01)
    below = torch.tensor([(noise < level).double().mean() for level in (-1.0, 0.0, 1.0, 3.0)])
    expected = torch.exp(-torch.exp(-torch.tensor([-1.0, 0.0, 1.0, 3.0])))
    torch.testing.assert_close(below.float(), expected, rtol=0, atol=0.005)


def test_gumbel_noise_of_neighbouring_seeds_and_frames_is_independent():
    noise = gumbel_noise(torch.empty(64, 1_000), torch.arange(64))
    correlations = torch.corrcoef(noise) - torch.eye(64)
    assert correlations.abs().max() < 5 / math.sqrt(1_000)
    shifted = torch.corrcoef(torch.stack([noise[:, 1:].flatten(), noise[:, :-1].flatten()]))
    assert shifted[0, 1].abs() < 0.02


def test_the_temperature_is_a_pure_function_of_the_update(tiny_wav2vec2):
    temperatures = {}
    for update in (0, 1_000, 10**6, 1_000, 0):
        tiny_wav2vec2.set_update(update)
        temperatures.setdefault(update, set()).add(tiny_wav2vec2.quantizer.temperature.item())
    assert all(len(values) == 1 for values in temperatures.values())
    assert temperatures[0] == {2.0} and temperatures[10**6] == {0.5}
    assert temperatures[1_000].pop() == pytest.approx(2 * 0.999995**1_000)
