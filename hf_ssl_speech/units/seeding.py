"""The first centroids of k-means: frames of the sample that lie far from each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_ssl_speech.units.nearest import assign

# k-means++ chooses among this many frames for each cluster.
_SEEDING_FRAMES = 32


def seed_one_by_one(
    sample: Tensor, num_clusters: int, generator: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Greedy k-means++ (Arthur and Vassilvitskii, 2007): each next centroid is a frame drawn by its squared distance
    to those before, the best of a few such draws. `(frames, dims)`, in random order -> `(clusters, dims)`."""
    if weights is None:
        sample = sample[: _SEEDING_FRAMES * num_clusters]
        weights = sample.new_ones(len(sample))
    # In float64, because differences of large norms would lose the distances within groups that are far apart.
    centred = sample.double() - sample.mean(0, dtype=torch.float64)
    weights = weights.double()
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


def seed_in_rounds(sample: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
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
        return seed_one_by_one(sample, num_clusters, generator)
    weights = torch.bincount(owners, minlength=len(candidates)).float()
    return seed_one_by_one(candidates, num_clusters, generator, weights)


SEEDINGS = {"k-means++": seed_one_by_one, "k-means||": seed_in_rounds}
