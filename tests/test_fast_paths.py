"""What is computed another way because it is faster gives what the plain way gives, gradients too."""

import pytest
import torch
import torch.nn.functional as F

from hf_ssl_speech.models.channels_last import conv_and_norm, conv_frames
from hf_ssl_speech.models.conv_encoder import ValidGroupNorm

EXACT = 1e-10  # in float64


def assert_same(fast, plain, *inputs):
    """Both functions of the inputs, which require gradients, agree in value and gradients."""
    given = torch.randn_like(plain(*inputs))
    for mine, theirs in zip(
        (fast(*inputs), *torch.autograd.grad((fast(*inputs) * given).sum(), inputs)),
        (plain(*inputs), *torch.autograd.grad((plain(*inputs) * given).sum(), inputs)),
    ):
        assert mine.shape == theirs.shape
        assert (mine - theirs).abs().max() < EXACT


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (10, 5), (3, 1), (1, 1), (2, 3), (5, 3)])
@pytest.mark.parametrize("length", [30, 31])
def test_a_convolution_over_frames_is_the_convolution_of_torch(kernel, stride, length):
    def plain(frames, weight, bias):
        return F.conv1d(frames.transpose(1, 2), weight, bias, stride).transpose(1, 2)

    assert_same(
        lambda *inputs: conv_frames(*inputs, stride), plain, numbers(3, length, 4), numbers(6, 4, kernel), numbers(6)
    )


@pytest.mark.parametrize("padded", [False, True])
def test_the_folded_norm_is_the_norm_of_the_convolution(padded):
    waveforms = torch.randn(3, 400, dtype=torch.float64) + 2  # an offset must not matter
    mask = torch.arange(79) < torch.tensor([79, 50, 20])[:, None] if padded else None

    def plain(weight, gain, shift):
        norm = ValidGroupNorm(8).double()
        frames = F.conv1d(waveforms[:, None], weight, stride=5)
        frames = torch.func.functional_call(norm, {"weight": gain, "bias": shift}, (frames, mask))
        return frames.transpose(1, 2)

    def fast(weight, gain, shift):
        return conv_and_norm(waveforms, weight, 5, gain, shift, 1e-5, mask)

    assert_same(fast, plain, numbers(8, 1, 10), numbers(8), numbers(8))
