"""reasoning-gym's scorers, as jobs for a worker process (the library takes seconds to import, and some scorers may hang or crash)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from reasoning_gym.factory import DATASETS, create_dataset


def score(
    name: str, config: Mapping[str, Any] | None, entry: dict[str, Any], spellings: Sequence[str]
) -> float | str:
    """The best score any spelling of the answer gets. config: the generator's options.

    Where the scorer crashes on every spelling and not on the reference answer, it is the answer that cannot be read: then the error as
    text. Raises what the scorer raises when it crashes on the reference answer as well, or there is none.
    """
    scorer = _scorer(name, json.dumps(config or {}, sort_keys=True))
    best, failure = -1.0, None
    for spelling in spellings:
        try:
            best = max(best, float(scorer(spelling, entry)))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  a scorer raises whatever its parsing of the answer does
            failure = error
        if best >= 1.0:
            break
    if failure is None or best >= 0.0:
        return best
    if entry.get("answer") is None:
        raise failure
    scorer(entry["answer"], entry)
    return f"{type(failure).__name__}: {failure}"


def names() -> list[str]:
    """Every generator there is."""
    return sorted(DATASETS)


@lru_cache(maxsize=256)
def _scorer(name: str, config: str) -> Any:
    return create_dataset(name, **json.loads(config)).score_answer
