"""Product quantisation with Gumbel softmax (wav2vec 2.0, section 2 and appendix C)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hf_ssl_speech.models.configuration import SSLWav2Vec2Config
from hf_ssl_speech.models.precision import at_least_float32
from hf_ssl_speech.models.products import linear


class Quantized(NamedTuple):
    """The codebook entries that were chosen for some frames.

    Attributes:
        vectors: The chosen entries of all groups side by side, `(..., codevector_dim)`.
        codes: Index of the chosen entry in each group, `(..., groups)`.
        probabilities: Softmax without noise, at least float32, `(..., groups, entries)`: the input of the diversity
            loss.
    """

    vectors: Tensor
    codes: Tensor
    probabilities: Tensor


class CodeLogits(nn.Linear):
    """Scores of all codebook entries; they start far apart, so that the first choices are nearly random."""

    def set_initial_values(self):
        """Weight N(0, 1), bias zero."""
        init.normal_(self.weight)
        init.zeros_(self.bias)


class GumbelQuantizer(nn.Module):
    """Chooses one entry in each group of a codebook; differentiable through the straight-through estimator."""

    def __init__(self, config: SSLWav2Vec2Config):
        super().__init__()
        self.num_groups = config.num_codevector_groups
        self.num_entries = config.num_codevectors_per_group
        self.codevectors = nn.Parameter(
            torch.empty(1, self.num_groups * self.num_entries, config.codevector_dim // self.num_groups)
        )
        self.weight_proj = CodeLogits(config.conv_dim[-1], self.num_groups * self.num_entries)
        self.temperature_start = float(config.gumbel_temperature_start)
        # A tensor, so that a new temperature in every update does not recompile the model.
        self.register_buffer("temperature", torch.tensor(self.temperature_start), persistent=False)

    def set_initial_values(self):
        """Codebook entries uniform in [0, 1), and the temperature of the first update."""
        init.uniform_(self.codevectors)
        init.constant_(self.temperature, self.temperature_start)

    def forward(self, frames: Tensor, seeds: Tensor | None = None) -> Quantized:
        """Quantises frames.

        Args:
            frames: `(batch, masked, channels)`.
            seeds: `(batch,)` int64; the noise of a row is a function of its seed alone. None draws from torch's
                generator. There is no noise in eval mode.
        """
        with torch.autocast(frames.device.type, enabled=False):
            weight, bias = map(at_least_float32, (self.weight_proj.weight, self.weight_proj.bias))
            logits = (linear if self.training else nn.functional.linear)(at_least_float32(frames), weight, bias)
            logits = logits.unflatten(-1, (self.num_groups, self.num_entries))  # (batch, masked, groups, entries)
            probabilities = logits.softmax(-1)
            if self.training:
                noisy = ((logits + gumbel_noise(logits, seeds)) / self.temperature).softmax(-1)
                codes = noisy.argmax(-1)
                chosen = one_hot(codes, noisy) - noisy.detach() + noisy
            else:
                codes = logits.argmax(-1)
                chosen = one_hot(codes, logits)
            codebook = at_least_float32(self.codevectors).view(self.num_groups, self.num_entries, -1)
            vectors = torch.einsum("bmgv,gvd->bmgd", chosen, codebook).flatten(2)  # (batch, masked, dim)
        return Quantized(vectors.to(self.codevectors.dtype), codes, probabilities)


def one_hot(codes: Tensor, like: Tensor) -> Tensor:
    """1 at the codes and 0 elsewhere, in the shape of `like`. Torch's own checks the codes and gives integers."""
    return torch.zeros_like(like).scatter(-1, codes[..., None], 1)


def gumbel_noise(like: Tensor, seeds: Tensor | None = None) -> Tensor:
    """Standard Gumbel noise in the shape of `like`, `(batch, ...)`.

    With seeds, the i-th value of a row is a hash of (its seed, i), the same on every device, whatever batch, rank or
    padding the row is in. So training does not depend on how a batch is split.
    """
    if seeds is None:
        uniform = torch.rand_like(like, dtype=torch.float32).clamp(2**-24, 1 - 2**-24)
    else:
        counters = torch.arange(like[0].numel(), device=like.device)
        uniform = (mix_bits(mix_bits(counters) + mix_bits(seeds)[:, None]) >> 9).float()  # 23 bits stay exact
        uniform = ((uniform + 0.5) * 2**-23).view(like.shape)
    uniform = uniform.to(torch.promote_types(like.dtype, uniform.dtype))
    return -torch.log(-torch.log(uniform))


def mix_bits(integers: Tensor) -> Tensor:
    """A well-mixed hash of the low 32 bits of int64s, in [0, 2**32)."""
    low = 0xFFFFFFFF
    integers = integers & low
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        integers = ((integers ^ (integers >> shift)) * factor) & low
    return integers ^ (integers >> 16)
