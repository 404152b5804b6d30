"""A random sample of a stream of features: the same whatever the order of its frames and whichever process has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from hf_ssl_speech.data.processes import failing_together, in_several_processes


def draw_sample(stream: Callable[[], Iterable[Tensor]], size: int, seed: int) -> tuple[Tensor, int]:
    """A random sample of the different frames of all processes.

    Each frame gets a random key from its content, and the smallest keys are taken. So equal frames (as digital
    silence has them) count once, and every process gets the same sample in the same random order.

    Args:
        stream: Starts the stream of this process, float32 `(frames, dims)` each.
        size: At most so many frames are drawn.
        seed: Decides which frames are drawn.
    Returns:
        The sample, `(frames, dims)`, and how many frames all processes have together.
    Raises:
        ValueError: If a process has no frames, if the stream raised one, or if widths differ between processes. What
            one process raises is raised in all of them.
    """
    with failing_together():
        keys, frames, num_frames = _smallest_keys(stream, size, seed)
    reports = [(keys.cpu(), num_frames, frames.shape[1])]
    if in_several_processes():
        report, reports = reports[0], [None] * dist.get_world_size()
        dist.all_gather_object(reports, report)
    all_keys, nums_frames, widths = zip(*reports)
    if len(set(widths)) > 1:
        raise ValueError(f"The processes have features of different widths: {widths}. They need the same `batches`.")

    smallest = torch.cat(all_keys).unique()[:size].to(keys.device)
    taken = keys <= smallest[-1]
    # Every process puts its frames in their places; the maximum over processes then has them all.
    sample = frames.new_full((len(smallest), frames.shape[1]), -math.inf)
    sample[torch.searchsorted(smallest, keys[taken])] = frames[taken]
    if in_several_processes():
        dist.all_reduce(sample, dist.ReduceOp.MAX)
    return sample, sum(nums_frames)


def _smallest_keys(stream: Callable[[], Iterable[Tensor]], size: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """The `size` smallest keys of this process in rising order, their frames, and the number of all its frames."""
    waiting: list[tuple[Tensor, Tensor]] = []
    highest = torch.iinfo(torch.int64).max
    num_frames = 0

    def smallest() -> tuple[Tensor, Tensor]:
        keys, frames = map(torch.cat, zip(*waiting))
        keys, order = keys.sort()
        different = torch.ones_like(keys, dtype=torch.bool)
        different[1:] = keys[1:] != keys[:-1]
        return keys[different][:size], frames[order[different][:size]]

    for frames in stream():
        num_frames += len(frames)
        keys = _content_keys(frames, seed)
        low = keys < highest
        waiting.append((keys[low], frames[low]))
        if sum(len(keys) for keys, _ in waiting) > 2 * size:
            waiting = [smallest()]
            highest = waiting[0][0][-1]
    if not num_frames:
        raise ValueError("The stream of features has no frames. Give every process some audio.")
    return *smallest(), num_frames


def _content_keys(frames: Tensor, seed: int) -> Tensor:
    """A random number for each frame, decided by its values and the seed: `(frames, dims)` -> `(frames,)` int64."""
    generator = torch.Generator().manual_seed(seed)
    multipliers = 2 * torch.randint(-(2**62), 2**62, (frames.shape[1],), generator=generator) + 1
    keys = (frames.contiguous().view(torch.int32) * multipliers.to(frames.device)).sum(1)
    keys ^= keys >> 32  # products mix upwards only: bring the high bits down and mix again
    keys *= 0x2545F4914F6CDD1D
    return keys ^ (keys >> 29)
