"""Features that are computed once, for all passes of k-means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hf_ssl_speech.data.features import FeatureSource


class Remembered(FeatureSource):
    """The features of one dataset, computed once and kept until the memory for them is full; others are computed anew.

    Args:
        source: Computes them.
        memory_bytes: Keep no more than this.
    """

    def __init__(self, source: FeatureSource, memory_bytes: float):
        self.description, self.device, self.skipped = source.description, source.device, source.skipped
        self.source = source
        self.free_bytes = memory_bytes
        self.kept: dict[int, Tensor] = {}

    def features(self, rows: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """As the source gives them."""
        new = [row for row in rows if row["sample_id"] not in self.kept]
        found = {row["sample_id"]: frames for row, frames in zip(new, self.source.features(new))} if new else {}
        answer = [self.kept.get(row["sample_id"], found.get(row["sample_id"])) for row in rows]
        for sample_id, frames in found.items():
            if frames.nbytes <= self.free_bytes:
                self.kept[sample_id] = frames
                self.free_bytes -= frames.nbytes
        return answer
