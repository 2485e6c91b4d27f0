"""What a recipe is: named stages in order, each with the options of the room that does the work.

Knows the YAML form, overrides and references; leaves every option's meaning to the rooms (`stages.py` names their config models).
A value may refer to `${vars.NAME}` (a value from the recipe's `vars`) or to `${stages.NAME}` (what an earlier stage made, as a path).
That is the only way inputs are named. A reference that is the whole value keeps its type; inside a longer text it is put in as text:
`${vars.model}+${stages.sft}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from bethink.core.config import Path_, StrictModel, did_you_mean, load_yaml, nearest, parse_yaml, validate
from bethink.core.errors import ConfigError
from bethink.recipe.presets import leave_out, stage_places, with_preset

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
PresetName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._-]*$")]
StageUse = Literal[
    "synthesize",
    "corpus",
    "curate",
    "pretrain",
    "sft",
    "distill",
    "prefer",
    "grpo",
    "sample",
    "eval",
    "compare",
    "report",
]
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_SET = ("name", "description", "seed", "vars", "assume")
_TOP_LEVEL = (*_SET, "stages", "presets")


class Stage(StrictModel):
    """One step: `name` (also its folder and how others refer to it), what it `uses`, and that room's options `with`."""

    name: Name
    uses: StageUse
    options: dict[str, Any] = Field(default_factory=dict, alias="with")


class Assume(StrictModel):
    """What the plan's estimates rest on where the machine cannot tell.

    device: words for the plan; left out, the plan is for the machine it is made on, whose own speed serves where no other is given.
    tflops: the device's dense peak at the training dtype; mfu: the share of it that training reaches;
    memory_gib: what the device has; parameters: the model's size; tokens_per_sample: mean prompt and completion tokens of a
    training row; tokens_per_microbatch: how many go through at once; shape: the keys of the model's config.json that fix its size,
    where the model is not on this machine; tokens_per_completion: mean length of a sampled completion;
    sampled_tokens_per_second: how many tokens all sequences that are decoded together gain a second.
    """

    device: str = "this machine"
    tflops: float | None = Field(default=None, gt=0)
    mfu: float = Field(default=0.4, gt=0, le=1)
    memory_gib: float | None = Field(default=None, gt=0)
    parameters: float | None = Field(default=None, gt=0)
    tokens_per_sample: float | None = Field(default=None, gt=0)
    tokens_per_microbatch: int = Field(default=1024, gt=0)
    shape: dict[str, Any] | None = None
    tokens_per_completion: float | None = Field(default=None, gt=0)
    sampled_tokens_per_second: float | None = Field(default=None, gt=0)

    @property
    def here(self) -> bool:
        """Whether the plan is for the machine it is made on."""
        return "device" not in self.model_fields_set


class Recipe(StrictModel):
    """A whole road. `seed` is every stage's seed unless the stage sets its own.

    presets: named changes to all this (presets.py); no part of what a run does, and so of no record of it.
    """

    name: Name
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**63)
    vars: dict[str, Any] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = Field(min_length=1)
    assume: Assume = Assume()
    presets: dict[PresetName, dict[str, Any]] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="after")
    def _names_are_free(self) -> Recipe:
        seen: set[str] = set()
        for stage in self.stages:
            if stage.name in _TOP_LEVEL:
                raise ValueError(f"a stage cannot be called `{stage.name}`: that is a key of the recipe")
            if stage.name in seen:
                raise ValueError(f"two stages are called `{stage.name}`")
            seen.add(stage.name)
        return self

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises KeyError."""
        return next(stage for stage in self.stages if stage.name == name)


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, the lines of its keys (for messages about options), and what messages call it."""

    recipe: Recipe
    lines: Mapping[Path_, int]
    source: str

    def at(self, stage: Stage) -> Path_:
        """Where the stage's options stand in the document."""
        return ("stages", self.recipe.stages.index(stage), "with")

    def where(self, path: Path_) -> str:
        """`file:line` of a key path, or of the nearest key above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.source}:{line}" if (line := self.lines.get(path)) else self.source


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name; in a checkout those in its `recipes/` folder."""
    installed = Path(str(files("bethink.recipe"))) / "recipes"
    checkout = Path(__file__).parents[3] / "recipes"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(spec: str) -> Path:
    """The file a user means: a path, or a packaged recipe's name. Raises ConfigError."""
    path = Path(spec)
    if path.is_file():
        return path
    known = packaged_recipes()
    if spec in known:
        return known[spec]
    guess = nearest(spec, list(known))
    hint = f"did you mean `{guess}`? " if guess else ""
    raise ConfigError(
        f"no recipe `{spec}`",
        fix=f"{hint}give a YAML file, or one of the packaged recipes: {', '.join(known) or 'none'}",
    )


def load_recipe(spec: str, overrides: Sequence[str] = (), preset: str | None = None) -> LoadedRecipe:
    """Read and check a recipe: keys, stage names, references, and each of its presets. Raises ConfigError with the line.

    overrides: `a.b=c` strings. The first part is a key of the recipe (`seed`, `vars`, `assume`…) or a stage's name, whose options
    the rest addresses: `vars.model=…`, `train.steps=20`. Values are YAML; `train=null` leaves a stage out. preset: whose changes are made first.
    """
    path = find_recipe(spec)
    source = str(path)
    document, lines = load_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError("a recipe is a mapping with `name` and `stages`", where=source)
    presets = document.get("presets")
    for name in presets if isinstance(presets, dict) else ():
        _checked(*with_preset(document, lines, name, source), source)
    if preset is not None:
        document, lines = with_preset(document, lines, preset, source)
    for override in overrides:
        lines = _override(document, lines, override)
    return _checked(document, lines, source)


def _checked(document: dict[str, Any], lines: dict[Path_, int], source: str) -> LoadedRecipe:
    loaded = LoadedRecipe(validate(Recipe, document, name=source, lines=lines), lines, source)
    recipe = loaded.recipe
    for inner, _ in references(recipe.vars):
        raise ConfigError(
            "a variable is a plain value, without references", where=loaded.where(("vars", *inner))
        )
    for stage in recipe.stages:
        _check_references(loaded, stage)
    return loaded


def _override(document: dict[str, Any], lines: dict[Path_, int], override: str) -> dict[Path_, int]:
    where = f"--set {override}"
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError("an override is written KEY=VALUE", where=where, fix="for example --set seed=1")
    value, _ = parse_yaml(text, where)
    by_name = stage_places(document)
    path: list[str | int] = list(parts)
    if parts[0] in by_name:
        path = ["stages", by_name[parts[0]], "with", *parts[1:]]
        if len(parts) == 1 and value is None:
            return leave_out(document, lines, parts[0])
        if len(parts) == 1:
            raise ConfigError(
                "an override of a stage names one of its options, or leaves the stage out",
                where=where,
                fix=f"--set {parts[0]}.OPTION=VALUE, or --set {parts[0]}=null",
            )
    elif parts[0] not in _SET:
        raise ConfigError(
            f"no stage or key `{parts[0]}` in the recipe",
            where=where,
            fix=did_you_mean(parts[0], [*by_name, *_SET], f"stages: {', '.join(by_name)}"),
        )
    target: Any = document
    for depth, part in enumerate(path):
        key: Any = part
        if isinstance(target, list):
            path[depth] = key = _place(part, target, where)
        elif not isinstance(target, dict):
            raise ConfigError(f"`{path[depth - 1]}` is a value, it has no keys", where=where)
        if depth == len(path) - 1:
            target[key] = value
        else:
            target = target[key] if isinstance(target, list) else target.setdefault(key, {})
    return {**lines, tuple(path): 0}  # overridden: no line of the file is to blame


def _place(part: str | int, items: list[Any], where: str) -> int:
    """The index in a list that a part of an override means."""
    if str(part).isdecimal() and int(part) < len(items):
        return int(part)
    raise ConfigError(
        f"`{part}` is no place in a list of {len(items)}",
        where=where,
        fix="places count from 0; or give the whole list, KEY=[a, b]",
    )


def references(value: Any) -> Iterator[tuple[Path_, str]]:
    """Every `${…}` inside a value: where it stands and what it names."""
    if isinstance(value, str):
        for match in _REFERENCE.finditer(value):
            yield (), match.group(1).strip()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (((key, *path), name) for path, name in references(item))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from (((index, *path), name) for path, name in references(item))


def stage_references(stage: Stage, option: str | None = None) -> list[str]:
    """The names of the stages whose products this stage reads, or reads by that option, in order of mention."""
    options = stage.options if option is None else stage.options.get(option)
    named = (name for _, name in references(options) if name.startswith("stages."))
    return list(dict.fromkeys(name.removeprefix("stages.") for name in named))


def _check_references(loaded: LoadedRecipe, stage: Stage) -> None:
    recipe = loaded.recipe
    earlier = [s.name for s in recipe.stages[: recipe.stages.index(stage)]]
    for path, name in references(stage.options):
        where = loaded.where((*loaded.at(stage), *path))
        space, _, key = name.partition(".")
        known = {"vars": list(recipe.vars), "stages": earlier}.get(space)
        if known is None:
            raise ConfigError(f"`${{{name}}}` is neither ${{vars.NAME}} nor ${{stages.NAME}}", where=where)
        if key in known:
            continue
        if space == "stages" and key in {s.name for s in recipe.stages}:
            raise ConfigError(
                f"stage `{stage.name}` reads `{key}`, which comes later",
                where=where,
                fix="move that stage before this one",
            )
        raise ConfigError(
            f"`${{{name}}}`: no such {'variable' if space == 'vars' else 'stage'}",
            where=where,
            fix=did_you_mean(key, known),
        )


def resolve(value: Any, look_up: Callable[[str], Any]) -> Any:
    """`value` with every `${name}` replaced by look_up(name)."""
    if isinstance(value, str):
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return look_up(whole.group(1).strip())
        return _REFERENCE.sub(lambda match: str(look_up(match.group(1).strip())), value)
    if isinstance(value, Mapping):
        return {key: resolve(item, look_up) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(item, look_up) for item in value]
    return value
