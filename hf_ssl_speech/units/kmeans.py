"""k-means in plain torch over a stream of features: on any device, in several processes, never holding all frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from hf_ssl_speech.data.processes import failing_together, in_several_processes, rank_and_size
from hf_ssl_speech.units.nearest import NearestCentroid, assign, split_into_blocks
from hf_ssl_speech.units.sampling import IdentifiedFrames, draw_sample
from hf_ssl_speech.units.seeding import SEEDINGS

# Starts are compared after this many iterations.
_TRIAL_ITERATIONS = 5

Stream = Callable[[], Iterator[Tensor]]
Batches = Tensor | Callable[[], Iterable[Tensor | IdentifiedFrames]]


@dataclass(frozen=True)
class KMeansResult:
    """What `fit_kmeans` found.

    Attributes:
        centroids: `(clusters, dims)` float32, on the device of the features.
        inertia: Mean squared distance of a frame to its centroid, for these centroids, over all frames.
        counts: Frames of each cluster, `(clusters,)` int64; they sum to all frames of all processes.
        history: The inertia that each pass over all frames measured.
        reseeded: How many empty clusters were restarted.
    """

    centroids: Tensor
    inertia: float
    counts: Tensor
    history: tuple[float, ...]
    reseeded: int

    @property
    def iterations(self) -> int:
        """Passes over all frames."""
        return len(self.history)


@torch.no_grad()
def fit_kmeans(
    batches: Batches,
    num_clusters: int,
    *,
    seed: int = 0,
    seeding: Literal["k-means++", "k-means||"] = "k-means++",
    restarts: int = 3,
    iterations: int = 100,
    tolerance: float = 2e-3,
    mini_batch: int | None = None,
    sample_frames: int | None = None,
    distance_dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> KMeansResult:
    """Fits `num_clusters` centroids to a stream of features (HuBERT, "Learning the Hidden Units").

    A first pass draws a random sample of the frames. Several starts are tried on the sample, the best is refined
    there, and from it every further pass goes over all frames.

    Where torch.distributed is initialised, every process streams its own part of the frames and all get the same
    result. If frames come with ids, and without mini-batches, it is the result that a single process would get, in
    whatever order and batches the frames come: the sample is chosen by the ids, and sums are taken in float64. Frames
    without ids are known by their process and their place in its stream: then only the batches make no difference.

    Args:
        batches: A function that starts the stream afresh and returns batches of any number of frames. A batch is
            either features `(frames, dims)`, or a pair of features and ids. Ids are int64 `(frames, 2)`: a number of
            the utterance, and a number of the frame in it. All features may also come as one tensor.
        num_clusters: Number of centroids. HuBERT takes 100 for MFCC and 500 for hidden layers.
        seed: Decides the sample and the starts.
        seeding: How a start is chosen: greedy k-means++, one centroid after the other, or k-means|| (Bahmani et
            al., 2012), in a few rounds.
        restarts: Number of starts tried; the one with the lowest inertia on the sample is kept.
        iterations: At most this many passes over all frames after the first.
        tolerance: Stop when a pass lowers the inertia by less than this share of it.
        mini_batch: Move the centroids each time every process has seen this many frames, instead of once per pass, and
            by less and less the more frames they have seen: for streams so long that one or two passes must suffice.
            The last pass then only measures the inertia.
        sample_frames: Frames in the sample, which is held in memory; by default 128 a cluster, at least 32,768.
        distance_dtype: Precision in which distances are compared. bfloat16 saves time with wide features on recent
            hardware and costs a little inertia, which is still measured exactly.
        device: Where to compute; by default where the batches are. It must know float64, which MPS does not.
        progress: Show a bar with pass and inertia, on the main process.
    Raises:
        ValueError: If there are fewer (different) frames than clusters, values that are not finite, batches that
            differ in width, or ids of another shape; or if the stream gives another number of frames the second time.
            What one process raises in a pass is raised in all of them.
    """
    if sample_frames is None:
        sample_frames = max(32_768, 128 * num_clusters)
    _check_options(num_clusters, sample_frames, seeding, restarts)
    with tqdm(unit=" frames", unit_scale=True, disable=not progress or rank_and_size()[0] > 0) as bar:
        stream = _stream(batches, num_clusters, device, bar)
        passes = _Passes.with_sample(stream, num_clusters, sample_frames, seed, distance_dtype, bar)
        centroids = passes.start(num_clusters, seeding, restarts, iterations, tolerance, seed)
        if mini_batch is None:
            return passes.lloyd(centroids, iterations, tolerance)
        return passes.mini_batch(centroids, mini_batch, iterations, tolerance)


def _check_options(num_clusters: int, sample_frames: int, seeding: str, restarts: int) -> None:
    if not 1 <= num_clusters <= sample_frames:
        raise ValueError(f"Expected 1 to {sample_frames:,} clusters (`sample_frames`), but got {num_clusters:,}.")
    if seeding not in SEEDINGS:
        raise ValueError(f"Expected `seeding` to be one of {list(SEEDINGS)}, but got {seeding!r}.")
    if restarts < 1:
        raise ValueError(f"restarts is {restarts}: k-means needs at least one start.")


class _ClusterSums:
    """Sums over the frames nearest to each centroid. In float64, so that order and processes hardly matter."""

    def __init__(self, centroids: Tensor, distance_dtype: torch.dtype) -> None:
        self.centroids = centroids
        self.nearest = NearestCentroid(centroids, distance_dtype)
        self.sums = torch.zeros_like(centroids, dtype=torch.float64)
        self.counts = torch.zeros(len(centroids), dtype=torch.int64, device=centroids.device)
        self.squares = self.sums.new_zeros(())

    def add(self, frames: Tensor) -> None:
        labels, frames = self.nearest(frames), frames.double()
        self.sums.index_add_(0, labels, frames)
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        values = frames.flatten()
        self.squares += torch.dot(values, values)

    def add_up_processes(self) -> None:
        for total in (self.sums, self.counts, self.squares):
            dist.all_reduce(total)

    def squared_error(self) -> float:
        """Summed squared distance of all frames: |x - c|^2 = |x|^2 - 2 x.c + |c|^2, exact whatever chose the labels."""
        centroids = self.centroids.double()
        per_cluster = self.counts * centroids.square().sum(1) - 2 * (self.sums * centroids).sum(1)
        return max(0.0, float(self.squares + per_cluster.sum()))

    def means(self) -> Tensor:
        return (self.sums / self.counts.clamp_min(1)[:, None]).float()


@dataclass
class _Passes:
    """Passes over a stream, of which every process holds a part (`shared`) or one process has all."""

    stream: Stream
    num_frames: int
    sample: Tensor
    distance_dtype: torch.dtype
    shared: bool
    bar: tqdm

    @classmethod
    def with_sample(
        cls,
        stream: Callable[[], Iterator[IdentifiedFrames]],
        num_clusters: int,
        sample_frames: int,
        seed: int,
        distance_dtype: torch.dtype,
        bar: tqdm,
    ) -> _Passes:
        """The first pass draws the sample and counts the frames."""
        bar.set_description("k-means, drawing a sample")
        sample, num_frames = draw_sample(stream, sample_frames, seed)
        # Equal frames, as digital silence has them, may fill any share of the sample: the seedings never choose one
        # that lies on a centroid already, so there only have to be enough others.
        different = len(sample.unique(dim=0))
        if different < num_clusters:
            raise ValueError(
                f"{num_clusters:,} clusters need at least as many different frames, but {num_frames:,} frames came, "
                f"and in a sample of {len(sample):,} only {different:,} are different. Take fewer clusters or more "
                "audio, and look for constant features."
            )

        def without_ids() -> Iterator[Tensor]:
            return (frames for frames, _ in stream())

        return cls(without_ids, num_frames, sample, distance_dtype, in_several_processes(), bar)

    def start(
        self, num_clusters: int, seeding: str, restarts: int, iterations: int, tolerance: float, seed: int
    ) -> Tensor:
        """The best of several starts, refined on the sample: the main process tries them, all get it."""
        self.bar.set_description("k-means, choosing the start")
        centroids = self.sample.new_zeros(num_clusters, self.sample.shape[1])
        with self._together():
            if rank_and_size()[0] == 0:
                blocks = split_into_blocks(self.sample, num_clusters)
                silent = tqdm(disable=True)
                on_sample = replace(
                    self, stream=lambda: iter(blocks), num_frames=len(self.sample), shared=False, bar=silent
                )
                generator = torch.Generator(self.sample.device).manual_seed(seed)
                starts = (SEEDINGS[seeding](self.sample, num_clusters, generator) for _ in range(restarts))
                trials = (on_sample.lloyd(start, _TRIAL_ITERATIONS, tolerance) for start in starts)
                best = min(trials, key=lambda trial: trial.inertia)
                # Passes over the sample cost little beside those that they save over all frames.
                centroids = on_sample.lloyd(best.centroids, iterations, tolerance / 10).centroids
        if self.shared:
            dist.broadcast(centroids, 0)
        return centroids

    def lloyd(self, centroids: Tensor, iterations: int, tolerance: float) -> KMeansResult:
        """After each pass the centroids move to the means of their frames, until the inertia stops falling."""
        history: list[float] = []
        reseeded = 0
        while True:
            totals = self._totals(self._pass(), centroids)
            self._record(history, totals.squared_error(), int(totals.counts.sum()))
            empty = totals.counts == 0
            if len(history) >= iterations or (not empty.any() and _settled(history, tolerance)):
                return KMeansResult(centroids, history[-1], totals.counts, tuple(history), reseeded)
            centroids = totals.means()
            if empty.any():
                centroids[empty] = self._worst_explained(centroids[~empty], int(empty.sum()))
                reseeded += int(empty.sum())

    def mini_batch(self, centroids: Tensor, size: int, iterations: int, tolerance: float) -> KMeansResult:
        """Passes in which the centroids move after every `size` frames of each process, then one that measures."""
        history: list[float] = []
        seen = torch.bincount(assign(self.sample, centroids)[0], minlength=len(centroids))
        while len(history) < iterations - 1 and not _settled(history, tolerance):
            squared_error, num_frames = 0.0, 0
            # A process that has run out goes on with empty mini-batches until all have.
            batches = chain(_regroup(self._pass(), size), repeat(centroids[:0]))
            while True:
                totals = self._totals(islice(batches, 1), centroids)
                if not totals.counts.any():
                    break
                squared_error += totals.squared_error()
                num_frames += int(totals.counts.sum())
                seen += totals.counts
                share = totals.counts.double() / seen.clamp_min(1)
                centroids = torch.lerp(centroids.double(), totals.means().double(), share[:, None]).float()
            self._record(history, squared_error, num_frames)
        measured = self.lloyd(centroids, 1, tolerance)
        return replace(measured, history=(*history, *measured.history))

    def _pass(self) -> Iterator[Tensor]:
        self.bar.set_description("k-means")
        self.bar.reset(total=self.bar.n)  # a pass has as many frames as the one before
        return self.stream()

    def _totals(self, stream: Iterable[Tensor], centroids: Tensor) -> _ClusterSums:
        totals = _ClusterSums(centroids, self.distance_dtype)
        with self._together():
            for frames in stream:
                totals.add(frames)
        if self.shared:
            totals.add_up_processes()
        return totals

    def _together(self) -> AbstractContextManager:
        return failing_together() if self.shared else nullcontext()

    def _record(self, history: list[float], squared_error: float, num_frames: int) -> None:
        if num_frames != self.num_frames:
            raise ValueError(
                f"The stream gave {self.num_frames:,} frames the first time and {num_frames:,} in a later pass. "
                "`batches` must start the same stream afresh whenever it is called."
            )
        history.append(squared_error / num_frames)
        self.bar.set_postfix_str(f"pass {len(history)}, inertia {history[-1]:.6g}")

    def _worst_explained(self, centroids: Tensor, number: int) -> Tensor:
        """The frames of the sample with the largest errors: new places for empty clusters."""
        worst = self.sample[assign(self.sample, centroids)[1].topk(number).indices]
        if self.shared:
            dist.broadcast(worst, 0)
        return worst


def _settled(history: list[float], tolerance: float) -> bool:
    return len(history) > 1 and history[-2] - history[-1] < tolerance * history[-1]


def _stream(
    batches: Batches, num_clusters: int, device: torch.device | str | None, bar: tqdm
) -> Callable[[], Iterator[IdentifiedFrames]]:
    """Checked float32 blocks of the batches with their ids, small enough to be worked on at once."""
    if not isinstance(batches, Tensor) and not callable(batches):
        raise TypeError(
            f"Expected one tensor or a function that returns batches of features, but got {type(batches).__name__}. "
            "For a list write `lambda: batches`."
        )

    def stream() -> Iterator[IdentifiedFrames]:
        width, num_frames = None, 0
        for index, batch in enumerate([batches] if isinstance(batches, Tensor) else batches()):
            frames, ids = (batch, None) if isinstance(batch, Tensor) else batch
            _check_batch(index, frames, ids, width)
            width = frames.shape[1]
            if ids is None:
                places = torch.arange(num_frames, num_frames + len(frames))
                ids = torch.stack([torch.full_like(places, rank_and_size()[0]), places], dim=1)
            num_frames += len(frames)
            frames = frames.to(device).float()
            _check_finite(index, frames)
            blocks = split_into_blocks(frames, num_clusters)
            for block, block_ids in zip(blocks, ids.split([len(block) for block in blocks])):
                yield block, block_ids
                bar.update(len(block))

    return stream


def _check_batch(index: int, frames: Tensor, ids: Tensor | None, width: int | None) -> None:
    if frames.dim() != 2 or width not in (None, frames.shape[1]):
        raise ValueError(
            f"Batch {index} has shape {tuple(frames.shape)}, but expected (frames, {width or 'dims'}): the "
            "frames of all its utterances one after the other, as wide as in the batches before."
        )
    if ids is not None and (ids.shape != (len(frames), 2) or ids.dtype != torch.int64):
        raise ValueError(
            f"Batch {index} has {len(frames):,} frames and ids of shape {tuple(ids.shape)} and {ids.dtype}; expected "
            f"int64 ({len(frames)}, 2): utterance and frame."
        )


def _check_finite(index: int, frames: Tensor) -> None:
    # Of the squares, which distances are made of: they overflow long before the values do.
    if not torch.linalg.vector_norm(frames, dtype=torch.float32).isfinite():  # cheaper than a look at each value
        num_bad = int((~frames.float().square().isfinite()).any(1).sum())
        raise ValueError(
            f"Batch {index} has NaN or infinite values, or such that their squares are infinite, in {num_bad:,} of its "
            f"{len(frames):,} frames. Look for broken audio in it, or compute its features in float32."
        )


def _regroup(stream: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same frames in batches of `size`; the last may have fewer."""
    waiting: list[Tensor] = []
    for piece in stream:
        waiting.append(piece)
        if sum(map(len, waiting)) >= size:
            *full, rest = torch.cat(waiting).split(size)
            yield from full
            waiting = [rest]
    if waiting:
        yield torch.cat(waiting)
