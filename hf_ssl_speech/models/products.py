"""Float32 products on CPUs by the faster of torch's libraries, and of few sizes: each size costs a new kernel."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hf_ssl_speech.models.precision import in_autocast

# oneDNN makes machine code for every number of rows, which takes as long as a product of a tiny model. The lengths of
# batches differ all the time: rounded up, few numbers are left.
ROWS = 32


def is_fast(tensor: Tensor) -> bool:
    """Whether the ways of this package are faster: measured on CPUs only; compilers choose layouts themselves.

    Models take them in training, where a rounding of the last bit does not matter; out of training they compute what
    stock models compute, bit by bit.
    """
    return tensor.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def is_plain(conv: nn.Module) -> bool:
    """Whether a convolution computes nothing but its own: no adapter around it, no hook, no other `forward`."""
    own = getattr(type(conv), "forward", None) is nn.Conv1d.forward
    return own and not (conv._forward_hooks or conv._forward_pre_hooks)


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN computes float32 products faster than MKL, to which torch leaves them.

    On AMD processors with AVX-512 MKL uses half of its width. oneDNN's product has no public name in torch: where there
    is none, torch's own serves.
    """
    facts = Path("/proc/cpuinfo")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():
        return False
    if not facts.exists() or "AuthenticAMD" not in facts.read_text():
        return False
    try:
        matrix = torch.eye(2, dtype=torch.float32, device="cpu")
        return torch.equal(onednn_product(matrix, matrix), matrix)
    except (AttributeError, RuntimeError, TypeError):
        return False


def onednn_product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """`left @ right + bias` in float32; with gaps between the rows or columns of `right` it takes very long."""
    return torch.ops.mkldnn._linear_pointwise(left, right.T, bias, "none", [], "")


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """`left @ right + bias` of two matrices, without gradients."""
    if left.dtype == torch.float32 and left.numel() and right.numel() and onednn_is_faster():
        right = right if right.is_contiguous() or right.T.is_contiguous() else right.contiguous()
        return onednn_product(left, right, bias)
    return left @ right if bias is None else torch.addmm(bias, left, right)


def batched_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` of two batches of matrices, `(batch, rows, columns)`, without gradients."""
    if left.dtype == torch.float32 and onednn_is_faster():
        return torch.stack([product(one, other) for one, other in zip(left, right)])
    return left @ right


class BatchedProduct(torch.autograd.Function):
    """`batched_product`, with its gradients."""

    @staticmethod
    def forward(ctx, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return batched_product(left, right)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return (
            batched_product(gradient, right.mT) if needed[0] else None,
            batched_product(left.mT, gradient) if needed[1] else None,
        )


def product_of_heads(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right`, both `(batch, heads, rows, columns)`, by the faster of the libraries."""
    if not is_fast(left) or in_autocast(left[:0]).dtype != torch.float32 or not onednn_is_faster():
        return left @ right
    return BatchedProduct.apply(left.flatten(0, 1), right.flatten(0, 1)).unflatten(0, left.shape[:2])


class LinearFunction(torch.autograd.Function):
    """A linear layer whose products are of few sizes."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = rounded_up(inputs.flatten(0, -2))
        ctx.save_for_backward(rows, weight)
        ctx.shape = inputs.shape
        return product(rows, weight.T, bias)[: inputs.shape[:-1].numel()].view(*inputs.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        gradient = rounded_up(gradient.flatten(0, -2))
        needed, of_inputs, of_weight, of_bias = ctx.needs_input_grad, None, None, None
        if needed[0]:
            of_inputs = product(gradient, weight)[: ctx.shape[:-1].numel()].view(ctx.shape)
        if needed[1]:
            of_weight = product(gradient.T, rows)
        if needed[2]:
            of_bias = gradient.sum(0)
        return of_inputs, of_weight, of_bias


def rounded_up(rows: Tensor) -> Tensor:
    """The rows `(rows, width)`, contiguous, and zeros until their number is a multiple of `ROWS`."""
    missing = -len(rows) % ROWS
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows.contiguous()


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`; in bf16 torch's own is the faster."""
    if not is_fast(inputs) or in_autocast(inputs[:0]).itemsize == 2 or not onednn_is_faster():
        return F.linear(inputs, weight, bias)
    return LinearFunction.apply(inputs, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear`; in training computed by `linear`."""

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight, self.bias) if self.training else super().forward(inputs)
