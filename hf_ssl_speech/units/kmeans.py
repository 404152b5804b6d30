"""k-means in plain torch over a stream of features: on any device, in several processes, never holding all frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from hf_ssl_speech.units.sampling import draw_sample, in_several_processes

# Frames x clusters worked on together: on a CPU what its cache holds, elsewhere 256 MB.
_CPU_SCORES, _DEVICE_SCORES = 2**19, 2**26
# Starts are compared after this many iterations, and k-means++ looks at this many frames for each cluster.
_TRIAL_ITERATIONS = 5
_SEEDING_FRAMES = 32

Stream = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class KMeansResult:
    """What `fit_kmeans` found.

    Attributes:
        centroids: `(clusters, dims)` float32, on the device of the features.
        inertia: Mean squared distance of a frame to its centroid: of these very centroids, over all frames.
        counts: Frames of each cluster, `(clusters,)` int64; they sum to all frames of all processes.
        history: The inertia that each pass over all frames measured.
        reseeded: How many empty clusters were started anew.
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
    batches: Tensor | Callable[[], Iterable[Tensor]],
    num_clusters: int,
    *,
    seed: int = 0,
    seeding: Literal["k-means++", "k-means||"] = "k-means++",
    restarts: int = 3,
    iterations: int = 100,
    tolerance: float = 1e-3,
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
    result; without mini-batches it is the one that a single process would get. For this the sample depends on the
    content of the frames, not on their order or on who holds them, and sums are taken in float64.

    Args:
        batches: A function that starts the stream afresh and returns batches of features, `(frames, dims)` each,
            of one width and any number of frames; or all features as one tensor.
        num_clusters: Number of centroids. HuBERT takes 100 for MFCC and 500 for hidden layers.
        seed: Decides the sample and the starts.
        seeding: How a start is chosen: greedy k-means++, one centroid after the other, or k-means|| (Bahmani et
            al., 2012), in a few rounds.
        restarts: Number of starts tried; the one with the lowest inertia on the sample is kept.
        iterations: At most this many passes over all frames after the first.
        tolerance: Stop when a pass finds the inertia lowered by less than this part of it.
        mini_batch: Move the centroids each time every process has seen this many frames, instead of once a pass,
            and ever less the more frames they have seen: for streams so long that one or two passes must do. The
            last pass then only measures the inertia.
        sample_frames: Frames in the sample, which is held in memory; by default 128 a cluster, at least 32,768.
        distance_dtype: What distances are compared in. bfloat16 saves time with wide features on recent hardware
            and costs a little inertia, which is still measured exactly.
        device: Where to compute; by default where the batches are. It must know float64, which MPS does not.
        progress: Show a bar with pass and inertia, on the main process.
    Raises:
        ValueError: If there are fewer (different) frames than clusters, values that are not finite, or batches that
            differ in width; or if the stream gives another number of frames the second time.
    """
    if sample_frames is None:
        sample_frames = max(32_768, 128 * num_clusters)
    if not 1 <= num_clusters <= sample_frames:
        raise ValueError(f"Expected 1 to {sample_frames:,} clusters (`sample_frames`), but got {num_clusters:,}.")
    if seeding not in _SEEDINGS:
        raise ValueError(f"Expected `seeding` to be one of {list(_SEEDINGS)}, but got {seeding!r}.")
    is_main = not in_several_processes() or dist.get_rank() == 0

    with tqdm(unit=" frames", unit_scale=True, disable=not (progress and is_main)) as bar:
        bar.set_description("k-means, drawing a sample")
        stream = _stream(batches, num_clusters, device, bar)
        sample, num_frames = draw_sample(stream, sample_frames, seed)
        if len(sample) < num_clusters:
            raise ValueError(
                f"{num_clusters:,} clusters need at least as many different frames, but {num_frames:,} frames came, "
                f"{len(sample):,} of them different. Take fewer clusters or more audio, and look for constant features."
            )

        bar.set_description("k-means, choosing the start")
        centroids = sample.new_zeros(num_clusters, sample.shape[1])
        if is_main:
            silent = tqdm(disable=True)
            blocks = _stream(sample, num_clusters, device, silent)
            on_sample = _Passes(blocks, len(sample), sample, distance_dtype, shared=False, bar=silent)
            centroids = on_sample.best_start(num_clusters, seeding, restarts, iterations, tolerance, seed)
        if in_several_processes():
            dist.broadcast(centroids, 0)

        passes = _Passes(stream, num_frames, sample, distance_dtype, shared=in_several_processes(), bar=bar)
        if mini_batch is None:
            return passes.lloyd(centroids, iterations, tolerance)
        return passes.mini_batch(centroids, mini_batch, iterations, tolerance)


@torch.no_grad()
def assign(features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of every frame.

    Args:
        features: `(frames, dims)`.
        centroids: `(clusters, dims)`; moved to the device of the features.
    Returns:
        Clusters `(frames,)` int64, and squared distances to their centroids `(frames,)` float32.
    Raises:
        ValueError: If features and centroids differ in width.
    """
    if features.dim() != 2 or features.shape[-1] != centroids.shape[-1]:
        raise ValueError(
            f"Features of shape {tuple(features.shape)} came, but centroids of shape {tuple(centroids.shape)} need "
            f"(frames, {centroids.shape[-1]}). Take features of the kind and layer that the centroids were fitted on."
        )
    features, centroids = features.float(), centroids.to(features.device, torch.float32)
    nearest = [_nearest(block, centroids) for block in _blocks(features, len(centroids))]
    scores, labels = (torch.cat(parts) for parts in zip(*nearest))
    return labels, (features.square().sum(1) + 2 * scores).clamp_min(0)


def _blocks(frames: Tensor, num_clusters: int) -> tuple[Tensor, ...]:
    scores = _CPU_SCORES if frames.device.type == "cpu" else _DEVICE_SCORES
    return frames.split(max(1, scores // num_clusters))


def _nearest(frames: Tensor, centroids: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Nearest centroid: half the squared distance to it less half the frame's squared norm, and which one it is."""
    if dtype != torch.float32:  # what all frames share would use up the few digits
        origin = centroids.mean(0)
        frames, centroids = frames - origin, centroids - origin
    with torch.autocast(frames.device.type, enabled=False):  # precision is chosen here, not by who calls
        half_norms = centroids.square().sum(1) / 2
        return torch.addmm(half_norms.to(dtype), frames.to(dtype), centroids.T.to(dtype), alpha=-1).min(dim=1)


class _ClusterSums:
    """Sums over the frames nearest to each centroid. In float64, so that order and processes hardly matter."""

    def __init__(self, centroids: Tensor, distance_dtype: torch.dtype) -> None:
        self.centroids = centroids
        self.distance_dtype = distance_dtype
        self.sums = torch.zeros_like(centroids, dtype=torch.float64)
        self.counts = torch.zeros(len(centroids), dtype=torch.int64, device=centroids.device)
        self.squares = self.sums.new_zeros(())

    def add(self, frames: Tensor) -> None:
        labels = _nearest(frames, self.centroids, self.distance_dtype)[1]
        self.sums.index_add_(0, labels, frames.double())
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        self.squares += frames.square().sum(1).double().sum()

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

    def lloyd(self, centroids: Tensor, iterations: int, tolerance: float) -> KMeansResult:
        """After each pass the centroids move to the means of their frames, until the inertia stays."""
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
            for frames in chain(_regroup(self._pass(), size), repeat(centroids[:0])):
                totals = self._totals([frames], centroids)
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

    def best_start(
        self, num_clusters: int, seeding: str, restarts: int, iterations: int, tolerance: float, seed: int
    ) -> Tensor:
        """The best of several starts, refined; where the stream is the sample."""
        generator = torch.Generator(self.sample.device).manual_seed(seed)
        starts = (_SEEDINGS[seeding](self.sample, num_clusters, generator) for _ in range(restarts))
        trials = (self.lloyd(start, _TRIAL_ITERATIONS, tolerance) for start in starts)
        best = min(trials, key=lambda trial: trial.inertia)
        # Passes over the sample cost little beside those that they save over all frames.
        return self.lloyd(best.centroids, iterations, tolerance / 10).centroids

    def _pass(self) -> Iterator[Tensor]:
        self.bar.set_description("k-means")
        self.bar.reset(total=self.bar.n)  # a pass has as many frames as the one before
        return self.stream()

    def _totals(self, stream: Iterable[Tensor], centroids: Tensor) -> _ClusterSums:
        totals = _ClusterSums(centroids, self.distance_dtype)
        for frames in stream:
            totals.add(frames)
        if self.shared:
            totals.add_up_processes()
        return totals

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


def _seed_one_by_one(
    sample: Tensor, num_clusters: int, generator: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Greedy k-means++ (Arthur and Vassilvitskii, 2007): each next centroid is a frame drawn by its squared distance
    to those before, the best of a few such draws. `(frames, dims)`, in random order -> `(clusters, dims)`."""
    if weights is None:
        sample = sample[: _SEEDING_FRAMES * num_clusters]
        weights = sample.new_ones(len(sample))
    centred = sample - sample.mean(0)  # far from the origin, differences of norms would lose digits
    norms = centred.square().sum(1)
    num_draws = 2 + int(math.log(num_clusters))

    chosen = torch.multinomial(weights, 1, generator=generator)
    nearest = (centred - centred[chosen]).square().sum(1)  # (frames,)
    for _ in range(1, num_clusters):
        # The floor keeps the draw possible where rounding has made all distances zero.
        chances = (weights * nearest).clamp_min(torch.finfo(torch.float32).tiny)
        draws = torch.multinomial(chances, num_draws, replacement=True, generator=generator)
        distances = torch.addmm(norms, centred[draws], centred.T, alpha=-2) + norms[draws, None]
        distances = torch.minimum(distances.clamp_min(0), nearest)  # (draws, frames)
        best = (distances @ weights).argmin()
        nearest = distances[best]
        chosen = torch.cat([chosen, draws[best, None]])
    return sample[chosen]


def _seed_in_rounds(sample: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """k-means|| (Bahmani et al., 2012): five rounds draw about two candidates a cluster each, by squared distance;
    k-means++ then chooses among them, each weighted by the frames it is nearest to."""
    tiny = torch.finfo(torch.float32).tiny
    candidates = sample[torch.randint(len(sample), (1,), generator=generator, device=sample.device)]
    owners, nearest = assign(sample, candidates)
    for _ in range(5):
        chances = 2 * num_clusters * nearest / nearest.sum().clamp_min(tiny)
        drawn = sample[torch.rand(len(sample), generator=generator, device=sample.device) < chances]
        if len(drawn):
            new_owners, distances = assign(sample, drawn)
            owners = torch.where(distances < nearest, len(candidates) + new_owners, owners)
            nearest = torch.minimum(distances, nearest)
            candidates = torch.cat([candidates, drawn])
    if len(candidates) < num_clusters:  # so few frames that most of them are needed
        return _seed_one_by_one(sample, num_clusters, generator)
    weights = torch.bincount(owners, minlength=len(candidates)).float()
    return _seed_one_by_one(candidates, num_clusters, generator, weights)


_SEEDINGS = {"k-means++": _seed_one_by_one, "k-means||": _seed_in_rounds}


def _stream(
    batches: Tensor | Callable[[], Iterable[Tensor]], num_clusters: int, device: torch.device | str | None, bar: tqdm
) -> Stream:
    """Checked float32 blocks of the batches, small enough to be worked on at once."""
    if not isinstance(batches, Tensor) and not callable(batches):
        raise TypeError(
            f"Expected one tensor or a function that returns batches of features, but got {type(batches).__name__}. "
            "For a list write `lambda: batches`."
        )

    def stream() -> Iterator[Tensor]:
        width = None
        for index, batch in enumerate([batches] if isinstance(batches, Tensor) else batches()):
            if batch.dim() != 2 or width not in (None, batch.shape[1]):
                raise ValueError(
                    f"Batch {index} has shape {tuple(batch.shape)}, but expected (frames, {width or 'dims'}): the "
                    "frames of all its utterances one after the other, as wide as in the batches before."
                )
            width = batch.shape[1]
            batch = batch.to(device).float()
            if not batch.sum().isfinite():  # cheaper than a look at each value
                num_bad = int((~batch.isfinite()).any(1).sum())
                raise ValueError(
                    f"Batch {index} has NaN or infinite values in {num_bad:,} of its {len(batch):,} frames. Look for "
                    "broken audio in it, or compute its features in float32."
                )
            for block in _blocks(batch, num_clusters):
                yield block
                bar.update(len(block))

    return stream


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
