"""Dropout that takes little time on a CPU: each random number decides about four values."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def drop(values: Tensor, share: float) -> Tensor:
    """Sets a share of the values to zero and scales up the others, so that the mean stays.

    On CPUs each value is kept or dropped by 16 random bits, so the share is exact to 1/65,536: torch's own dropout
    spends most of its time on drawing numbers, one for each value.
    """
    if share == 0:
        return values
    if values.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return nn.functional.dropout(values, share)
    dropped = round(share * 2**16)
    if dropped == 2**16:
        return values * 0
    bits = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = bits.view(torch.int16)[: values.numel()].view(values.shape)
    # Written as numbers at once: to convert truths costs several times as much.
    kept = torch.ge(bits, dropped - 2**15, out=torch.empty_like(values))
    return values * kept.mul_(2**16 / (2**16 - dropped))


class Dropout(nn.Dropout):
    """`nn.Dropout`, computed by `drop`."""

    def forward(self, values: Tensor) -> Tensor:
        return drop(values, self.p) if self.training else values
