"""reasoning-gym's scorers, as jobs for a worker process (the library takes seconds to import, and some scorers may hang or crash)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from reasoning_gym.factory import DATASETS, create_dataset


def score(
    name: str, config: Mapping[str, Any] | None, entry: dict[str, Any], spellings: Sequence[str]
) -> float:
    """The best score any spelling of the answer gets. config: the generator's options. Raises what the scorer raises."""
    scorer = _scorer(name, json.dumps(config or {}, sort_keys=True))
    return max(float(scorer(spelling, entry)) for spelling in spellings)


def names() -> list[str]:
    """Every generator there is."""
    return sorted(DATASETS)


@lru_cache(maxsize=256)
def _scorer(name: str, config: str) -> Any:
    return create_dataset(name, **json.loads(config)).score_answer
