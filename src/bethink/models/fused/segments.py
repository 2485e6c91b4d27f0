"""What attention is told of the segments it works on: which queries there are, and where the keys lie that they see."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bethink.models.branches import Segment, runs

SegmentRows = npt.NDArray[np.int64]
"""[S, 6]: first query row, queries, offset of the first key in elements, keys before the first query; offset of the first of the keys that
stand elsewhere, before those, and their number."""


@lru_cache(maxsize=4)
def segments_of(row: tuple[Segment, ...], token_stride: int) -> SegmentRows:
    """The segments of a packed row, whose keys lie in the rows of their queries; made once for all layers of a batch, not to be changed."""
    made = [
        (
            run.first,
            run.end - run.first,
            run.first * token_stride,
            run.shared,
            run.prompt * token_stride,
            run.shared,
        )
        for run in runs(row)
    ]
    return np.array(made, np.int64)


def cached_segments(lengths: Sequence[int], first_keys: Sequence[int], before: Sequence[int]) -> SegmentRows:
    """Segments of so many queries, one behind the other, whose keys lie elsewhere: the offset of each one's first, and how many stand before
    its first query."""
    end = np.cumsum(lengths)
    nothing = np.zeros_like(end)
    return np.stack([end - lengths, lengths, first_keys, before, nothing, nothing], axis=1, dtype=np.int64)
