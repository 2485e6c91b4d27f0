"""Strict configuration: an unknown key is an error that names the nearest known one and the line it stands on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from bethink.core.errors import ConfigError


class StrictModel(BaseModel):
    """A frozen config in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Config = TypeVar("Config", bound=StrictModel)
Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML of plain values, in which only `true` and `false` are booleans, as in YAML 1.2: on, off, yes and no are words, as dates are."""


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


_UNUSED = {_tag(name) for name in ("timestamp", "binary", "set", "omap", "pairs")}
_Loader.yaml_constructors = {
    tag: build for tag, build in yaml.SafeLoader.yaml_constructors.items() if tag not in _UNUSED
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in {_tag("bool"), _tag("timestamp")}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_tag("bool"), re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_yaml(path: Path) -> tuple[Any, dict[Path_, int]]:
    """`parse_yaml` of a file. Raises ConfigError for a missing or unreadable one, too."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read: {error}", where=str(path)) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> tuple[Any, dict[Path_, int]]:
    """A YAML document and the 1-based line of every key path in it; `name` is what errors call it.

    What an anchor's aliases stand for are objects of their own. Raises ConfigError for what is no YAML, a key that stands twice or is no
    plain word, and a value that its tag does not allow.
    """
    lines: dict[Path_, int] = {}
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, lines
        _collect_lines(node, (), lines, name)
        return _apart(loader.construct_document(node)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"not valid YAML: {error.problem}", where=where) from error
    except yaml.reader.ReaderError as error:
        what = f"not valid YAML: the character {chr(error.character)!r} may not stand in it"
        raise ConfigError(what, where=name) from error
    except (ValueError, LookupError) as error:  # an explicit tag on what it cannot hold: !!int three
        raise ConfigError(f"not valid YAML: {error}", where=name) from error
    except RecursionError as error:
        raise ConfigError("not usable YAML: nested too deep, or inside itself", where=name) from error
    finally:
        if loader is not None:
            loader.dispose()


def _collect_lines(node: yaml.Node, path: Path_, lines: dict[Path_, int], name: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            where = f"{name}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError("a key is a plain word, not a list or a mapping", where=where)
            below = (*path, key.value)
            if below in lines:
                raise ConfigError(f"the key `{key.value}` stands twice", where=where)
            lines[below] = key.start_mark.line + 1
            _collect_lines(value, below, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            _collect_lines(value, (*path, index), lines, name)


def _apart(value: Any) -> Any:
    """The same value in which no list or mapping stands at two places: a change at one is none at the other."""
    if isinstance(value, dict):
        return {key: _apart(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_apart(item) for item in value]
    return value


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like `word`, if any is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """How to mend a name that is not known: the nearest one, else `otherwise`, which says all of them unless told."""
    names = list(known)
    if guess := nearest(word, names):
        return f"did you mean `{guess}`?"
    return otherwise or f"known: {', '.join(names) or 'none'}"


def validate(
    model: type[Config],
    value: Any,
    *,
    name: str,
    lines: dict[Path_, int] | None = None,
    at: Path_ = (),
    flags: bool = False,
) -> Config:
    """`value` as a `model`. Raises ConfigError for the first fault: its line (when `lines` has it), its key, and the nearest known key.

    name: the file or command the value came from; at: where in it the value stands; flags: keys are a command's options (`max_tokens` is
    called `--max-tokens`).
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        path = (*at, *fault["loc"])
        where = f"{name}:{line}" if (line := _line_of(path, lines or {})) else name
        key = _flag(model, path) if flags else ".".join(str(part) for part in path)
        if fault["type"] == "extra_forbidden":
            known = _known_keys(model, fault["loc"][:-1])
            fix = did_you_mean(str(path[-1]), known, f"known keys: {', '.join(known)}")
            raise ConfigError(f"unknown key `{key}`", where=where, fix=fix) from None
        message = fault["msg"].removeprefix("Value error, ")
        raise ConfigError(f"`{key}`: {message}" if key else message, where=where) from None


def _flag(model: type[BaseModel], path: Path_) -> str:
    """The option whose value a path leads to: ("modes", 0) is --modes, ("on", "top_p") is --top-p."""
    words = [str(part) for i, part in enumerate(path) if part in _known_keys(model, path[:i])]
    return "--" + words[-1].replace("_", "-") if words else ""


def _line_of(path: Path_, lines: dict[Path_, int]) -> int | None:
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def _known_keys(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The field names of the model that stands at `location` inside `model`."""
    current: Any = model
    for part in location:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), current)
    return sorted(field.alias or name for name, field in getattr(current, "model_fields", {}).items())
