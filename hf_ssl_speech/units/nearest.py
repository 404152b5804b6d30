"""The nearest centroid of every frame: where k-means spends its time."""

from __future__ import annotations

import torch
from torch import Tensor

# Frames x clusters worked on together: on a CPU what its cache holds, elsewhere 256 MB.
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
    nearest = [nearest_centroids(block, centroids) for block in split_into_blocks(features, len(centroids))]
    scores, labels = (torch.cat(parts) for parts in zip(*nearest))
    return labels, (features.square().sum(1) + 2 * scores).clamp_min(0)


def split_into_blocks(frames: Tensor, num_clusters: int) -> tuple[Tensor, ...]:
    """The frames in blocks small enough to be compared with all centroids at once."""
    scores = _CPU_SCORES if frames.device.type == "cpu" else _DEVICE_SCORES
    return frames.split(max(1, scores // num_clusters))


def nearest_centroids(frames: Tensor, centroids: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Nearest centroid: half the squared distance to it less half the frame's squared norm, and which one it is."""
    if dtype != torch.float32:  # what all frames share would use up the few digits
        origin = centroids.mean(0)
        frames, centroids = frames - origin, centroids - origin
    with torch.autocast(frames.device.type, enabled=False):  # precision is chosen here, not by who calls
        half_norms = centroids.square().sum(1) / 2
        return torch.addmm(half_norms.to(dtype), frames.to(dtype), centroids.T.to(dtype), alpha=-1).min(dim=1)
