"""What a run reads and does not make itself, and what of that is not there.

Files and directories of this machine alone: nothing is fetched, and a name that may be a hub's is taken for one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bethink.models.locate import missing_parts
from bethink.recipe.schema import packaged_recipes
from bethink.recipe.stages import Prepared
from bethink.tasks.sources import file_of, task_specs

_MODELS = ("model", "teacher", "tokenizer")
_TASKS = ("task", "tasks", "eval_tasks")


@dataclass(frozen=True, slots=True)
class Missing:
    """A path that a stage's option names, where there is nothing."""

    path: str
    stage: str
    option: str


def missing_inputs(stages: Sequence[Prepared]) -> list[Missing]:
    """What these stages read from outside the run and is not there, each once."""
    folders = {one.folder for one in stages}
    found: dict[str, Missing] = {}
    for one in stages:
        for option in one.kind.reads:
            value = getattr(one.config, option)
            if one.stage.uses == "pretrain" and option == "model" and os.sep not in value:
                continue  # the name of an architecture
            if option == "teacher" and one.config.store_whole:  # type: ignore[attr-defined]
                continue  # what it says is there
            for path in _missing(option, value):
                if not folders & {Path(path), *Path(path).parents}:
                    found.setdefault(path, Missing(path, one.stage.name, option))
    return list(found.values())


def _missing(option: str, value: Any) -> Iterator[str]:
    for text in map(str, value if isinstance(value, list | tuple) else [value] if value else []):
        if option in _MODELS:
            yield from missing_parts(text)
            continue
        paths = filter(None, map(file_of, task_specs(text))) if option in _TASKS else [text]
        yield from (path for path in paths if not os.path.exists(os.path.expanduser(path)))


def listed(missing: Sequence[Missing]) -> str:
    """Paths and the options that name them, in a line."""
    return ", ".join(f"{one.path} ({one.stage}.{one.option})" for one in missing)


def made_by(path: str) -> str | None:
    """The command whose run makes a path under `runs/`, where the run is a packaged recipe's."""
    parts = Path(path).parts
    if "runs" not in parts[:-1]:
        return None
    run = parts[parts.index("runs") + 1]
    for name in sorted(packaged_recipes(), key=len, reverse=True):
        preset = run.removeprefix(f"{name}-")
        if run == name or preset != run:
            return f"bethink run {name}" + ("" if run == name else f" --preset {preset}")
    return None
