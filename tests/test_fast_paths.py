"""What is computed another way because it is faster gives what the plain way gives, gradients too."""

import pytest
import torch
import torch.nn.functional as F

from hf_ssl_speech import SSLHubertModel
from hf_ssl_speech.models.block_convolution import convolve_in_blocks
from hf_ssl_speech.models.channels_last import conv_and_norm, conv_frames
from hf_ssl_speech.models.conv_encoder import ValidGroupNorm
from hf_ssl_speech.models.dropout import drop
from hf_ssl_speech.models.products import linear, onednn_is_faster, product, product_of_heads
from hf_ssl_speech.models.transformer import eager_attention

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


@pytest.mark.parametrize("shape", [(5,), (3, 64, 5), (2, 40, 5)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_linear_layer_on_rounded_rows_is_that_of_torch(shape, biased, monkeypatch):
    monkeypatch.setattr("hf_ssl_speech.models.products.onednn_is_faster", lambda: True)
    bias = [numbers(6)] if biased else []
    assert_same(linear, F.linear, numbers(*shape[:-1] or (1,), 5), numbers(6, 5), *bias)


@pytest.mark.parametrize("faster", [False, True])
def test_float32_products_are_right_whichever_library_computes_them(faster, monkeypatch):
    if faster and not onednn_is_faster():
        pytest.skip("oneDNN's product is not used on this processor")
    monkeypatch.setattr("hf_ssl_speech.models.products.onednn_is_faster", lambda: faster)
    left, right, bias = torch.randn(40, 70), torch.randn(70, 30), torch.randn(30)
    wide = torch.randn(70, 60)
    for one, other in ((left, right), (left.T.contiguous().T, right.T.contiguous().T), (left, wide[:, 10:40])):
        for added in (None, bias):
            true = one.double() @ other.double() + (0 if added is None else added.double())
            # Each of the 70 sums rounds, at most by the sum of the absolute terms.
            bound = 71 * torch.finfo(torch.float32).eps * (one.abs().double() @ other.abs().double() + bias.abs().max())
            assert ((product(one, other, added) - true).abs() <= bound).all()


@pytest.mark.parametrize(("kernel", "length"), [(8, 33), (7, 19), (1, 5), (16, 3), (128, 64)])
def test_the_positional_convolution_in_blocks_is_that_of_torch(kernel, length):
    def plain(frames, weight):
        positions = F.conv1d(frames.transpose(1, 2), weight, padding=kernel // 2, groups=3)
        return positions[..., :length].transpose(1, 2)

    inputs = numbers(2, length, 12), numbers(12, 4, kernel)
    assert_same(lambda *inputs: convolve_in_blocks(*inputs, 3), plain, *inputs)


def test_products_of_heads_are_products_of_each(monkeypatch):
    inputs = numbers(2, 3, 7, 4), numbers(2, 3, 5, 4)

    def product_of_each(left, right):
        return product_of_heads(left, right.mT)

    assert_same(product_of_each, lambda left, right: left @ right.mT, *inputs)
    # In float32 each product by itself, if oneDNN is the faster: here with torch's, which every processor has.
    monkeypatch.setattr("hf_ssl_speech.models.products.onednn_is_faster", lambda: True)
    monkeypatch.setattr("hf_ssl_speech.models.products.onednn_product", lambda left, right, bias: left @ right)
    single = [each.detach().float().requires_grad_() for each in inputs]
    scores = product_of_each(*single)
    bound = 6 * torch.finfo(torch.float32).eps  # each of at most 7 sums of products rounds, relative to its size
    for mine, true in zip(
        (scores, *torch.autograd.grad(scores.square().sum(), single)),
        (expected := inputs[0] @ inputs[1].mT, *torch.autograd.grad(expected.square().sum(), inputs)),
    ):
        assert (mine - true).abs().max() < 4 * bound * true.abs().max()


def test_what_is_hung_on_a_convolution_is_heard_in_training_too(make_tiny):
    model = make_tiny(SSLHubertModel).train()
    convolutions = [model.encoder.pos_conv_embed.conv, model.feature_extractor.conv_layers[1].conv]
    for conv in convolutions:
        called = []
        handle = conv.register_forward_hook(lambda *call, called=called: called.append(call[-1]))
        model(torch.randn(1, 8000, dtype=model.dtype))
        handle.remove()
        assert len(called) == 1


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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_attention_written_out_is_the_attention_of_torch(masked, training):
    module = torch.nn.Module().train(training)
    mask = torch.ones(2, 1, 7, 7, dtype=torch.bool)
    mask[1, ..., 5:] = not masked

    def plain(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, mask, scale=0.3).transpose(1, 2)

    def fast(query, key, value):
        return eager_attention(module, query, key, value, mask if masked else None, 0.3, 0.0)[0]

    assert_same(fast, plain, numbers(2, 3, 7, 4), numbers(2, 3, 7, 4), numbers(2, 3, 7, 4))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    dropped = drop(torch.ones(1_000_003, dtype=torch.float64), share)
    deviation = (share * (1 - share) / len(dropped)) ** 0.5
    for part in (dropped, *(dropped[place::4] for place in range(4))):  # four values come from one random number
        assert ((part == 0).double().mean() - share).abs() < 6 * 2 * deviation + 2**-16
    assert dropped.max().item() == pytest.approx(1 / (1 - share), rel=2**-12)
    kept = (dropped != 0).double() - (dropped != 0).double().mean()
    for distance in (1, 2, 3, 4):  # neighbours know nothing of each other
        assert (kept[distance:] * kept[:-distance]).mean().abs() < 6 * share * (1 - share) / len(dropped) ** 0.5


def test_dropout_follows_the_seed_and_gives_its_gradient_to_what_is_kept():
    values = torch.ones(50, requires_grad=True)
    torch.manual_seed(1)
    first = drop(values, 0.5)
    torch.manual_seed(1)
    assert torch.equal(first, drop(values, 0.5))
    first.sum().backward()
    assert torch.equal(values.grad, first.detach())
    assert drop(values, 0.0) is values
    assert drop(values, 1.0).abs().sum() == 0
