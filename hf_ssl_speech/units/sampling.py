"""A random sample of a stream of features that depends neither on their order nor on the number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from hf_ssl_speech.data.processes import failing_together, in_several_processes, rank_and_size

# Frames with their ids: float32 `(frames, dims)`, and int64 `(frames, 2)`: the utterance, and the frame in it.
IdentifiedFrames = tuple[Tensor, Tensor]


def draw_sample(stream: Callable[[], Iterable[IdentifiedFrames]], size: int, seed: int) -> tuple[Tensor, int]:
    """A random sample of the frames of all processes.

    Each frame gets a random key from its id, and the frames with the smallest keys are taken. So the choice does not
    depend on the values of the frames, whose last bits change with the batches that an encoder gets, and every process
    gets the same sample in the same random order. Of several frames with the same id, at most one is taken.

    Args:
        stream: Starts the stream of this process, which gives frames and their ids.
        size: The most frames to draw.
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
    # If several processes have a frame, it comes from the first of them.
    of_others = torch.cat([keys[:0].cpu(), *all_keys[: rank_and_size()[0]]]).to(keys.device)
    taken = (keys <= smallest[-1]) & ~torch.isin(keys, of_others)
    # Every process puts its frames in their places; the maximum over processes then has them all.
    sample = frames.new_full((len(smallest), frames.shape[1]), -math.inf)
    sample[torch.searchsorted(smallest, keys[taken])] = frames[taken]
    if in_several_processes():
        dist.all_reduce(sample, dist.ReduceOp.MAX)
    return sample, sum(nums_frames)


def _smallest_keys(
    stream: Callable[[], Iterable[IdentifiedFrames]], size: int, seed: int
) -> tuple[Tensor, Tensor, int]:
    """The `size` smallest keys of this process in rising order, their frames, and the number of all its frames."""
    waiting: list[tuple[Tensor, Tensor]] = []
    highest = torch.iinfo(torch.int64).max
    num_frames = num_waiting = 0

    def smallest() -> tuple[Tensor, Tensor]:
        keys, frames = map(torch.cat, zip(*waiting))
        keys, order = keys.sort(stable=True)
        different = torch.ones_like(keys, dtype=torch.bool)
        different[1:] = keys[1:] != keys[:-1]
        return keys[different][:size], frames[order[different][:size]]

    for frames, ids in stream():
        num_frames += len(frames)
        keys = _keys(ids.to(frames.device), seed)
        low = keys < highest
        waiting.append((keys[low], frames[low]))
        num_waiting += len(waiting[-1][0])
        if num_waiting > 2 * size:
            waiting = [smallest()]
            highest, num_waiting = waiting[0][0][-1], len(waiting[0][0])
    if not num_frames:
        raise ValueError("The stream of features has no frames. Give every process some audio.")
    return *smallest(), num_frames


def _keys(ids: Tensor, seed: int) -> Tensor:
    """A random number for each frame, decided by its id and the seed: `(frames, 2)` -> `(frames,)` int64."""
    utterances, frames = ids.unbind(1)
    key = _mix(torch.tensor(seed, dtype=torch.int64, device=ids.device))
    return _mix(_mix(key + utterances) + frames)


def _mix(numbers: Tensor) -> Tensor:
    """Spreads int64 over all of their range, one to one (the finaliser of SplitMix64; products wrap around)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        numbers = (numbers ^ (numbers >> shift)) * factor
    return numbers ^ (numbers >> 31)
