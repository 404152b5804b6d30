"""Features that are computed once, for all passes of k-means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hf_ssl_speech.data.features import FeatureSource


class Remembered(FeatureSource):
    """Features of one dataset that are kept once they are computed; those that no longer fit are computed each time.

    Args:
        source: The source that computes them.
        memory_bytes: The most memory for what is kept.
    """

    def __init__(self, source: FeatureSource, memory_bytes: float):
        self.description, self.device, self.skipped = source.description, source.device, source.skipped
        self.source = source
        self.free_bytes = memory_bytes
        self.kept: dict[int, Tensor] = {}

    def features(self, rows: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """The features of the source."""
        new = [row for row in rows if row["sample_id"] not in self.kept]
        found = {row["sample_id"]: frames for row, frames in zip(new, self.source.features(new))} if new else {}
        answer = [self.kept.get(row["sample_id"], found.get(row["sample_id"])) for row in rows]
        for sample_id, frames in found.items():
            if frames.nbytes <= self.free_bytes:
                self.kept[sample_id] = frames
                self.free_bytes -= frames.nbytes
        return answer
