"""The precision of a training: what is asked for, and which one is faster on a device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from transformers.utils import is_torch_bf16_gpu_available

if TYPE_CHECKING:
    from hf_ssl_speech.training.arguments import SpeechTrainingArguments


def computes_bf16(use_cpu: bool) -> bool:
    """Whether bfloat16 makes training faster on the device that is used.

    On the CPU that takes instructions of its own. Measured on two cores with AVX-512's alone, without AMX, a step of
    HuBERT TINY, SMALL and BASE was 1.5, 1.6 and 2.7 times as fast as in float32.
    """
    if use_cpu or not torch.accelerator.is_available():
        return cpu_computes_bf16()
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return is_torch_bf16_gpu_available()


def cpu_computes_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16; every CPU with AMX has those of AVX-512 too."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return torch.cpu._is_avx512_bf16_supported()


def encoder_dtype(bf16: bool | str, device: torch.device) -> torch.dtype | None:
    """The lower precision that an encoder computes features in.

    Labels are then those of float32 for all frames but some that lie between two units: 98% of the frames of untrained
    encoders with 100 units.

    Args:
        bf16: Whether to use bfloat16, or "auto": if that is faster on the device.
        device: Where the encoder runs.
    Returns:
        bfloat16, or None for float32.
    """
    wanted = computes_bf16(device.type == "cpu") if bf16 == "auto" else bf16
    return torch.bfloat16 if wanted else None


def decide_precision(args: SpeechTrainingArguments):
    """Sets the precision: that of the arguments, or, where they ask for none, that of Accelerate's launcher.

    Raises:
        ValueError: If the launcher asks for one that these models were never tried in.
    """
    if args.bf16 == "auto":
        args.bf16 = not args.fp16 and computes_bf16(args.use_cpu)
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", "bf16", "fp16"):
        raise ValueError(
            f"Accelerate's settings ask for mixed_precision {launched!r}, which was never tested with these models: "
            "use bf16, fp16 or no."
        )
    if not (args.bf16 or args.fp16):
        args.bf16, args.fp16 = launched == "bf16", launched == "fp16"
    if args.bf16 and not torch.accelerator.is_available():
        args.use_cpu = True  # without this word transformers takes bf16 for a GPU's alone


def refuse_low_precision(model: torch.nn.Module):
    """Raises a ValueError if weights that are to learn are bfloat16 or float16, which rounds most updates away."""
    low = {weight.dtype for weight in model.parameters() if weight.requires_grad and weight.dtype.itemsize < 4}
    if low:
        raise ValueError(
            f"The model's weights are {', '.join(sorted(map(str, low)))}, in which most updates are rounded away: "
            "train `model.float()`, and set bf16 to compute in bfloat16."
        )
