"""Measures, before the run, how much memory a step takes, with the run's own model, which is left unchanged."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.rows import numbers
from hf_ssl_speech.models.frames import num_frames
from hf_ssl_speech.training.findings import Finding

if TYPE_CHECKING:
    from hf_ssl_speech.training.trainer import SpeechTrainer

MOST_MEMORY = 0.9
"""Share of the memory that a step may take before that is a warning."""


@contextlib.contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """Afterwards the model's buffers, modes and counters and all random states are as before; no gradient is left."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    plain = [
        (module, {k: v for k, v in vars(module).items() if isinstance(v, (bool, int, float, torch.Tensor, type(None)))})
        for module in model.modules()
    ]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = {weight.device for weight in model.parameters() if weight.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for module, attributes in plain:
                vars(module).update(attributes)
            random.setstate(python_state)
            np.random.set_state(numpy_state)


# Memory --------------------------------------------------------------------------------------------------------------


def check_memory(trainer: SpeechTrainer) -> Finding:
    """Whether a step on the largest batch fits into the device's memory, and how much it takes."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return Finding("memory", "not measured: the weights are split among the processes once training begins")
    rows = largest_rows(trainer)
    longest = max(min(row["num_samples"] / SAMPLE_RATE, trainer.args.max_seconds) for row in rows)
    batch = f"the largest batch ({len(rows)} rows of up to {longest:.1f} s)"
    try:
        peak = dry_step(trainer, rows)
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        return Finding("memory", f"{batch} does not fit. {WAY_OUT_OF_MEMORY}", "error")
    if peak is None:
        return Finding("memory", f"a step on {batch} fits")
    total = memory_of(trainer.args.device)
    found = f"a step on {batch} takes {peak / 1e9:.2f} of {total / 1e9:.2f} GB"
    if peak > MOST_MEMORY * total:
        return Finding("memory", f"{found}: little is left. {WAY_OUT_OF_MEMORY}", "warning")
    return Finding("memory", found)


WAY_OUT_OF_MEMORY = (
    "Lower batch_seconds (with hours_per_update an update stays the same), lower max_seconds, or set "
    "gradient_checkpointing to true."
)


def largest_rows(trainer: SpeechTrainer) -> list[dict[str, Any]]:
    """Rows of the largest batch that the sampler will make; for a stream, as many of the longest as a batch holds."""
    dataset, collator = trainer.train_dataset, trainer.data_collator
    if not isinstance(dataset, Dataset):
        return longest_rows(trainer)
    sampler = trainer.sampler(dataset, shuffle=True, crop=collator.crop_lengths)  # a mixture has the same one
    return with_units(trainer, [dataset[index] for index in sampler.largest_batch()])


def longest_rows(trainer: SpeechTrainer) -> list[dict[str, Any]]:
    """As many rows as the longest that a batch holds; of a stream, rows of `max_seconds`."""
    args, dataset = trainer.args, trainer.train_dataset
    if isinstance(dataset, Dataset):
        row = dataset[int(np.argmax(numbers(dataset, "num_samples")))]
    else:
        samples = np.random.default_rng(0).integers(-1000, 1000, round(args.max_seconds * SAMPLE_RATE), dtype=np.int16)
        row = {"name": "noise", "sample_id": 0, "num_samples": len(samples), "samples": samples}
    seconds = min(row["num_samples"] / SAMPLE_RATE, args.max_seconds)
    return with_units(trainer, [row] * int(args.batch_seconds / seconds + 1e-6))


def with_units(trainer: SpeechTrainer, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows; where units are still to be made, all frames have unit 0."""
    columns = getattr(trainer.data_collator, "unit_columns", ())
    conv_layers = trainer.model.config.conv_layers
    return [
        row
        | {
            column: np.zeros(num_frames(row["num_samples"], conv_layers), int)
            for column in columns
            if row.get(column) is None
        }
        for row in rows
    ]


def dry_step(trainer: SpeechTrainer, rows: list[dict[str, Any]]) -> int | None:
    """Computes loss and gradients of a batch, with as much extra memory as the optimizer will use; no weight changes.

    Returns:
        The most memory in use, in bytes; None where the system does not tell.
    """
    model, args = trainer.model, trainer.args
    inputs = trainer.data_collator(rows)
    inputs.pop("skipped_rows")
    inputs.pop("samples_of", None)
    with leaving_no_trace(model):
        model.train()
        model.set_update(getattr(model, "thaw_update", 0))  # the first update in which all learn
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs)
        reset_peak(args.device)
        # Two moments, as Adam keeps them.
        kept = [torch.ones_like(each) for each in model.parameters() if each.requires_grad for _ in range(2)]
        with trainer.accelerator.autocast():
            loss = model(**trainer._prepare_inputs(inputs)).loss
        loss.backward()
        peak = peak_memory(args.device)
        del kept, loss
    if args.device.type == "cuda":
        torch.cuda.empty_cache()
    return peak


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of the GPU or the machine, ran out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)


def reset_peak(device: torch.device):
    """Resets the peak of the memory in use, where it can be measured: on GPUs and under Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the process's own peak


def peak_memory(device: torch.device) -> int | None:
    """The most memory, in bytes, that tensors (on a GPU) or this process (else) had at one time; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or os.name != "posix":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else 1024 * peak


def memory_of(device: torch.device) -> int:
    """All the memory of a GPU, or of the machine, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
