"""A recipe's presets: named sets of changes to its variables, seed, estimates and stages' options.

A preset is put into the document before the recipe is checked, and what it says is known by its own lines, so that every fault in it is
found where it stands. What an option means is left to the rooms, as everywhere in a recipe.

    presets:
      cpu:
        vars: {model: smollm2-135m}
        assume: {device: 2 CPU cores}     # replaces the recipe's
        sft: {steps: 200, full: null}     # a stage's options, merged deep; null removes one
        competition: null                 # a stage that this preset leaves out
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from bethink.core.config import Path_, did_you_mean
from bethink.core.errors import ConfigError

Document = dict[str, Any]
Lines = dict[Path_, int]

CHANGED = ("vars", "seed", "assume")
"""What a preset can change beside the options of stages."""


def with_preset(document: Document, lines: Lines, name: str, source: str) -> tuple[Document, Lines]:
    """A copy of the document with the preset's changes made, and the lines of that.

    source: what messages call the document. Raises ConfigError for a preset that the recipe has not, and for what no preset can change.
    """
    known = document.get("presets")
    names = list(known) if isinstance(known, Mapping) else []
    if not isinstance(known, Mapping) or name not in known:
        fix = f"known: {', '.join(names)}" if names else "this recipe has none"
        raise ConfigError(f"no preset `{name}`", where=source, fix=fix)
    changed = _Changed(copy.deepcopy(document), dict(lines), source)
    origin: Path_ = ("presets", name)
    for key, change in changed.mapping(known[name], origin, "keys").items():
        changed.make(key, change, (*origin, key))
    return changed.document, changed.lines


def leave_out(document: Document, lines: Lines, name: str) -> Lines:
    """Take the stage of that name out of the document. Returns the lines of what is left."""
    gone = stage_places(document)[name]
    del document["stages"][gone]
    left: Lines = {}
    for path, line in lines.items():
        if path[:1] != ("stages",) or len(path) == 1 or int(path[1]) < gone:
            left[path] = line
        elif int(path[1]) > gone:
            left["stages", int(path[1]) - 1, *path[2:]] = line
    return left


def stage_places(document: Document) -> dict[str, int]:
    """The index of each stage in the document's list, by name; a stage without one is left out."""
    stages = document.get("stages")
    return {
        stage["name"]: index
        for index, stage in enumerate(stages if isinstance(stages, list) else [])
        if isinstance(stage, dict) and isinstance(stage.get("name"), str)
    }


class _Changed:
    """A document while changes are made to it. lines: of every key path; after a change those of the preset."""

    def __init__(self, document: Document, lines: Lines, source: str) -> None:
        self.document, self.lines, self._source = document, lines, source

    def make(self, key: str, change: Any, origin: Path_) -> None:
        """One key of a preset. origin: where it stands."""
        stages = stage_places(self.document)
        if key in ("seed", "assume"):
            self._put(self.document, (key,), change, origin)
        elif key == "vars":
            variables = self.document.get("vars")
            known = variables if isinstance(variables, dict) else {}
            for name, value in self.mapping(change, origin, "variables").items():
                if name not in known:
                    raise self._unknown(f"no variable `{name}`", name, list(known), (*origin, name))
                self._put(known, ("vars", name), value, (*origin, name))
        elif key in stages and change is None:
            self.lines = leave_out(self.document, self.lines, key)
        elif key in stages:
            index = stages[key]
            stage = self.document["stages"][index]
            options = self.mapping(change, origin, "options")
            if stage.get("with") is None:
                stage["with"] = {}
            if isinstance(stage["with"], dict):  # what else it may be is said when the recipe is checked
                self._merge(stage["with"], ("stages", index, "with"), options, origin)
        else:
            raise self._unknown(
                f"a preset cannot change `{key}`", key, [*CHANGED, *stages], origin, "it can change"
            )

    def _merge(self, target: dict[str, Any], at: Path_, changes: Mapping[str, Any], origin: Path_) -> None:
        for key, value in changes.items():
            here, there = (*at, key), (*origin, key)
            if value is None:
                if key not in target:
                    raise self._unknown(
                        f"there is no `{key}` here that could be removed", key, list(target), there
                    )
                del target[key]
                self._forget(here, there)
            elif isinstance(value, dict) and isinstance(target.get(key), dict):
                self._merge(target[key], here, value, there)
            else:
                self._put(target, here, value, there)

    def _put(self, target: dict[str, Any], at: Path_, value: Any, origin: Path_) -> None:
        """Set the value that is called by the last part of `at`, and let its lines be those at `origin`."""
        target[str(at[-1])] = copy.deepcopy(value)
        self._forget(at, origin)
        below = {path: line for path, line in self.lines.items() if path[: len(origin)] == origin}
        self.lines |= {(*at, *path[len(origin) :]): line for path, line in below.items()}

    def _forget(self, at: Path_, origin: Path_) -> None:
        """What stood at `at` is gone; the line to blame for it is the preset's."""
        for path in [path for path in self.lines if path[: len(at)] == at]:
            del self.lines[path]
        self.lines[at] = self._line(origin)

    def _line(self, path: Path_) -> int:
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def mapping(self, value: Any, origin: Path_, what: str) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        raise ConfigError(
            f"`{'.'.join(map(str, origin))}` must be a mapping of {what} to values", where=self._where(origin)
        )

    def _unknown(
        self, what: str, name: str, known: list[str], origin: Path_, listing: str = "known"
    ) -> ConfigError:
        fix = did_you_mean(str(name), known, f"{listing}: {', '.join(known) or 'none'}")
        return ConfigError(what, where=self._where(origin), fix=fix)

    def _where(self, origin: Path_) -> str:
        line = self._line(origin)
        return f"{self._source}:{line}" if line else self._source
