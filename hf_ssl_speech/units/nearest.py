"""The nearest centroid of every frame, on any device: k-means spends most of its time here."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

# Frames x clusters that are computed together: on a CPU as many as its cache holds, elsewhere 256 MB.
_CPU_SCORES, _DEVICE_SCORES = 2**19, 2**26


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
    nearest, labels, distances = NearestCentroid(centroids), [], []
    for block in split_into_blocks(features, len(centroids)):
        labels.append(nearest(block))
        distances.append((block - centroids[labels[-1]]).square_().sum(1))
    return torch.cat(labels), torch.cat(distances)


def split_into_blocks(frames: Tensor, num_clusters: int) -> tuple[Tensor, ...]:
    """The frames in blocks small enough to be compared with all centroids at once."""
    scores = _CPU_SCORES if frames.device.type == "cpu" else _DEVICE_SCORES
    return frames.split(max(1, scores // num_clusters))


class NearestCentroid:
    """Which centroid is the nearest: `nearest(frames)` gives numbers `(frames,)` for frames `(frames, dims)` float32.

    The choice is exact. Half the squared distance, less half the frame's squared norm, is compared in float32; where
    rounding might decide, as for frames far from all centroids, it is compared again in float64.

    Args:
        centroids: `(clusters, dims)` float32.
        dtype: Precision of the comparison; with less than float32 there is no second comparison.
    """

    def __init__(self, centroids: Tensor, dtype: torch.dtype = torch.float32):
        self.centroids, self.dtype = centroids, dtype
        self.origin = centroids.mean(0)  # an offset that all frames share would cost digits
        self.places = centroids - self.origin
        self.half_norms = self.places.square().sum(1) / 2
        # Twice the bound on the rounding error of a sum of `dims` products, relative to the largest of them.
        self.rounding = 2 * (centroids.shape[1] + 2) * _rounding_step(centroids.device)
        self.farthest, self.largest = self.places.norm(dim=1).max(), self.half_norms.max()

    def __call__(self, frames: Tensor) -> Tensor:
        with torch.autocast(frames.device.type, enabled=False):  # the precision is chosen here, not by the caller
            centred = frames - self.origin
            scores = torch.addmm(
                self.half_norms.to(self.dtype), centred.to(self.dtype), self.places.T.to(self.dtype), alpha=-1
            )  # (frames, clusters)
            lowest, labels = scores.min(dim=1)
            if self.dtype == torch.float32:
                doubt = self.rounding * (centred.norm(dim=1) * self.farthest + self.largest)
                second = scores.scatter_(1, labels[:, None], torch.inf).amin(dim=1)
                unsure = (second <= lowest + doubt).nonzero()[:, 0]
                labels[unsure] = self.in_float64(frames[unsure]).to(labels.device)
        return labels

    def in_float64(self, frames: Tensor) -> Tensor:
        """The same in float64, which takes at least twice as long."""
        origin, places, half_norms = self.exact
        centred = frames.to(origin.device).double() - origin
        return torch.addmm(half_norms, centred, places.T, alpha=-1).argmin(dim=1)

    @cached_property
    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """Origin, centroids relative to it, and half their squared norms in float64; on the CPU if a GPU has none."""
        centroids = self.centroids.cpu() if self.centroids.device.type == "mps" else self.centroids
        origin = centroids.double().mean(0)
        places = centroids.double() - origin
        return origin, places, places.square().sum(1) / 2


def _rounding_step(device: torch.device) -> float:
    """Half the distance from 1 to the next larger number in the precision of matrix products."""
    tf32 = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return 2.0**-11 if tf32 else 2.0**-24
