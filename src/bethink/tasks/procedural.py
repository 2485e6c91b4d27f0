"""Problems made on the spot by reasoning-gym, in splits that cannot meet.

reasoning-gym builds item i of a data set from `Random(seed + i)`: seed 110 is seed 100 shifted by ten, so two nearby seeds share
most of their problems. Here every split owns a region of seeds of its own (`first_seed`), and because small ranges repeat even
between distant seeds, equal questions are dropped within a split and, through `exclude`, between splits.

Some generators walk over sets of texts, and one draws from Python's shared random numbers: their problems would be others in each
process. So problems are made in a process whose hashes are fixed (`steady.py`), the shared random numbers seeded for each item.

The library takes two seconds to import and is imported inside the functions that need it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Collection
from typing import Any

from bethink.core.config import did_you_mean
from bethink.core.console import warn
from bethink.core.errors import ConfigError
from bethink.core.seeds import derive_seed
from bethink.tasks import steady
from bethink.tasks.problem import Problem, ProblemSet, in_split, question_key

_ITEM_BITS = 20
"""A split may draw 2**20 items: the low bits of its seeds."""

_REGIONS = {"train": 0, "validation": 1, "test": 2}
_OTHER_REGION = 3

_NARROW = frozenset({"pool_matrix"})
"""Generators that hand the seed to numpy, which takes 32 bits."""

_PATIENCE = 1000
"""So many draws in a row without a new question mean that a generator has no more."""


def generators() -> list[str]:
    """The names of all reasoning-gym generators, sorted."""
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def first_seed(seed: int, split: str, name: str) -> int:
    """The seed of item 0 of a split; item i has the i-th after it.

    The highest two bits say which split it is (train, validation, test, or any other), the middle ones are a hash of (seed, split,
    name), the lowest 20 count items. So train, validation and test never share a seed, whatever the user's seeds are; two splits
    with other names could only by a hash collision (1 in 2**41).
    """
    hash_bits = 10 if name in _NARROW else 41
    region = _REGIONS.get(split, _OTHER_REGION)
    digest = derive_seed(seed, split, name) % (1 << hash_bits)
    return ((region << hash_bits) | digest) << _ITEM_BITS


def generate(
    name: str,
    size: int,
    *,
    seed: int,
    split: str,
    config: dict[str, Any] | None = None,
    exclude: Collection[str] = (),
    held_out: float | None = None,
) -> ProblemSet:
    """`size` different problems of the generator `name`, the same in every process.

    config:  the generator's own options; `level` (0, 1, …) sets its difficulty by its curriculum, other keys override that.
    exclude: question texts that must not appear (training questions, for a held-out split). held_out: this share of all questions is only
    ever in the split `test` and the others only in `train`, whatever the seeds; for generators so small that splits would meet.

    A problem's meta holds `entry` (what the generator's scorer needs) and `config`. Warns when the generator has fewer than `size`
    problems to give. Raises ConfigError for an unknown generator or option, a bad value, or a generator with nothing left.
    """
    if size < 1:
        raise ConfigError(f"{size} problems asked for: at least 1 is needed", where=name)
    marks = frozenset(_mark(text) for text in exclude)
    problems, shortage = steady.call(_make, name, size, seed, split, dict(config or {}), marks, held_out)
    if shortage:
        warn(shortage)
    return problems


def _mark(question: str) -> bytes:
    """What stands for a question among those excluded, which may be a whole training set's: 16 bytes."""
    return hashlib.sha256(question_key(question).encode("utf-8", "surrogatepass")).digest()[:16]


def _make(
    name: str,
    size: int,
    seed: int,
    split: str,
    config: dict[str, Any],
    excluded: Collection[bytes],
    held_out: float | None,
) -> tuple[ProblemSet, str | None]:
    """The problems, and what to warn of when there are fewer than `size`. excluded: marks of questions that must not appear."""
    share = 1.0 if held_out is None else held_out if split == "test" else 1 - held_out
    most_draws = min(1 << _ITEM_BITS, int(max(10_000, 50 * size) / share))
    start = first_seed(seed, split, name)
    options, dataset = _dataset(name, config, seed=start, size=most_draws)
    problems: list[Problem] = []
    seen: set[bytes] = set()
    dropped = {"duplicate": 0, "excluded": 0}
    barren = 0
    for index in range(most_draws):
        if len(problems) == size or barren > max(_PATIENCE, 5 * len(seen)):
            break
        _seed_shared_randomness(start + index)
        entry = _item(dataset, index, name, options)
        mark = _mark(entry["question"])
        barren += 1
        if mark in seen:
            dropped["duplicate"] += 1
            continue
        seen.add(mark)
        if held_out is not None and not in_split(entry["question"], split, held_out):
            dropped["in the other split"] = dropped.get("in the other split", 0) + 1
            continue
        if mark in excluded:
            dropped["excluded"] += 1
            continue
        barren = 0
        problems.append(_problem(name, entry, options))
    if not problems:
        raise ConfigError(
            f"`{name}` has no problem left that is not excluded ({dropped['excluded']:,} were)",
            where=f"split {split}",
            fix="make its problems more varied (wider ranges), or exclude less",
        )
    shortage = None
    if len(problems) < size:
        shortage = (
            f"{name} ({split}): only {len(problems):,} of {size:,} problems found after {index:,} draws; its range is used up "
            f"({dropped['duplicate']:,} repeats, {dropped['excluded']:,} excluded)"
        )
    return ProblemSet(name, tuple(problems), dropped), shortage


def _seed_shared_randomness(seed: int) -> None:
    """For the generators that draw from the random numbers of the whole process instead of their own."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % (1 << 32))


def _item(dataset: Any, index: int, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """One item. Options that a generator takes but cannot make a problem with show only here."""
    try:
        entry: dict[str, Any] = dataset[index]
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"`{name}` cannot make a problem with these options: {type(error).__name__}: {error}",
            where=f"{name}: {options}",
            fix=_of_another_type(name, options),
        ) from error
    return entry


def _problem(name: str, entry: dict[str, Any], options: dict[str, Any]) -> Problem:
    question = entry["question"]
    digest = hashlib.sha256(question.encode()).hexdigest()[:12]
    answer = entry["answer"]
    return Problem(
        id=f"{name}-{digest}",
        task=name,
        messages=({"role": "user", "content": question},),
        answer="" if answer is None else str(answer),
        grader="reasoning_gym",
        meta={"entry": entry, "generator": name, "config": options},
    )


def _dataset(name: str, config: dict[str, Any], *, seed: int, size: int) -> tuple[dict[str, Any], Any]:
    """The options in force and reasoning-gym's data set made with them."""
    from reasoning_gym.factory import DATASETS, create_dataset

    if name not in DATASETS:
        names = sorted(DATASETS)
        fix = did_you_mean(name, names, f"there are {len(names)}: {', '.join(names)}")
        raise ConfigError(f"unknown generator `{name}`", fix=fix)
    known = [f.name for f in dataclasses.fields(DATASETS[name][1]) if f.name not in ("seed", "size")]
    level = config.pop("level", None)
    for key in config:
        if key not in known:
            fix = did_you_mean(key, known, f"its options: level, {', '.join(known)}")
            raise ConfigError(f"`{name}` has no option `{key}`", fix=fix)
    options = {**_at_level(name, level, known), **config}
    try:
        return options, create_dataset(name, **options, seed=seed, size=size)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(
            f"`{name}` refuses these options: {error}",
            where=f"{name}: {options}",
            fix=_of_another_type(name, options),
        ) from error


def _of_another_type(name: str, options: dict[str, Any]) -> str | None:
    """Which options are of another type than their defaults: the likely reason why a generator fails."""
    from reasoning_gym.factory import DATASETS

    usual = {field.name: field.default for field in dataclasses.fields(DATASETS[name][1])}
    strange = [
        f"`{key}` is {value!r}, its default is {usual[key]!r}"
        for key, value in options.items()
        if isinstance(usual.get(key), bool | int | float | str) and type(value) is not type(usual[key])
    ]
    return "; ".join(strange) or None


def _at_level(name: str, level: Any, known: list[str]) -> dict[str, Any]:
    """The options that the generator's curriculum gives for a difficulty level."""
    from reasoning_gym.factory import CURRICULA

    if level is None:
        return {}
    if not isinstance(level, int) or level < 0:
        raise ConfigError(f"`level` must be 0, 1, 2, …, not {level!r}", where=name)
    if name not in CURRICULA:
        raise ConfigError(f"`{name}` has no difficulty levels", fix=f"set its options: {', '.join(known)}")
    curriculum = CURRICULA[name]()
    highest = max(len(attribute.levels) for attribute in curriculum.attributes.values()) - 1
    if level > highest:
        raise ConfigError(f"`level` {level} is above the highest of `{name}`, {highest}")
    curriculum.set_global_level(level)
    at_level = curriculum.generate_configuration()
    touched = {
        field
        for attribute in curriculum.attributes.values()
        for field in (
            getattr(attribute, "field_name", None),
            getattr(attribute, "lower_field_name", None),
            getattr(attribute, "upper_field_name", None),
        )
        if field
    }
    return {field: getattr(at_level, field) for field in known if field in touched}
