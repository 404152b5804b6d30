"""How good frames are without any label: their effective rank, and how well they fall into clusters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_ssl_speech.models.objectives import effective_rank, gram_matrix


class EmbeddingSums:
    """Sums over frames, from which effective rank and cluster quality follow (Whetten et al., arXiv:2501.05966).

    Args:
        centroids: Of the clusters, `(units, width)`.
    """

    def __init__(self, centroids: Tensor):
        self.centroids = centroids.double().cpu()
        units, width = centroids.shape
        self.gram = torch.zeros(width, width, dtype=torch.float64)
        self.counts = torch.zeros(units, dtype=torch.float64)
        self.distances = torch.zeros(units, dtype=torch.float64)

    def add(self, frames: Tensor, units: Tensor):
        """Counts more frames, `(frames, width)`, whose nearest centroids are `units`, `(frames,)`."""
        frames, units = frames.cpu(), units.cpu().long()
        self.gram += gram_matrix(frames)
        self.counts += torch.bincount(units, minlength=len(self.counts))
        distances = (frames.double() - self.centroids[units]).norm(dim=1)
        self.distances.scatter_add_(0, units, distances)

    def join(self, other: EmbeddingSums):
        """Adds the frames that another process has counted."""
        self.gram += other.gram
        self.counts += other.counts
        self.distances += other.distances

    @property
    def measures(self) -> dict[str, float]:
        """`effective_rank`, and `davies_bouldin` where clusters have frames, and places of their own."""
        used = self.counts > 0
        spread = self.distances[used] / self.counts[used]
        overlap = float(davies_bouldin(self.centroids[used], spread)) if used.sum() > 1 else math.inf
        found = {"effective_rank": float(effective_rank(self.gram))}
        return found | ({"davies_bouldin": overlap} if math.isfinite(overlap) else {})


def davies_bouldin(centroids: Tensor, spread: Tensor) -> Tensor:
    """The Davies-Bouldin index: how much clusters overlap with the one that is most like them; less is better.

    Args:
        centroids: `(clusters, width)`.
        spread: Mean distance of a cluster's frames to its centroid, `(clusters,)`.
    Returns:
        The mean over clusters of the largest sum of two spreads over the distance of their centroids; a scalar.
    """
    likeness = (spread[:, None] + spread) / torch.cdist(centroids, centroids)
    return likeness.fill_diagonal_(-torch.inf).amax(1).mean()
