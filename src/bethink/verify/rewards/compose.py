"""Rewards put together: names and weights → one number for each completion, and every part of it kept.

A spec says which: "accuracy=1,format=0.5,steps=0.2:process=true", or a mapping of names to weights. A name is one of `KNOWN` or the place
of the user's own function ("module.path:function"); a weight of 0 has a part logged and nothing else. Rewards that need more than a text
(a preference model) come from whoever has it: by name with `builders`, or built with `with_scorer`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from bethink.core.config import did_you_mean
from bethink.core.errors import BethinkError, ConfigError
from bethink.verify.rewards.attempt import Attempt, Credit, Part, Reward
from bethink.verify.rewards.consistency import language
from bethink.verify.rewards.lengths import efficiency, length, overlong
from bethink.verify.rewards.outcome import accuracy, form
from bethink.verify.rewards.own import names_function, python
from bethink.verify.rewards.repetition import repetition
from bethink.verify.rewards.stepwise import steps

KNOWN: dict[str, Callable[..., Reward]] = {
    "accuracy": accuracy,
    "format": form,
    "language": language,
    "length": length,
    "efficiency": efficiency,
    "overlong": overlong,
    "repetition": repetition,
    "steps": steps,
}
"""Name → what builds the reward from its options, the builder's keyword arguments."""

OF_VERDICTS = frozenset({"accuracy", "efficiency"})
"""Rewards that have no part in a completion that is not judged."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What one completion earned.

    total:   the sum of the parts, each times its weight; None: masked, because a part could not be judged, or no reward has a part in it.
    parts:   every reward's own value by name, without its weight; without those that have no part in it.
    credits: what stretches of the completion earned beside the total, times the weight of the reward that gave it.
    notes:   what the rewards say, for people.
    """

    total: float | None
    parts: Mapping[str, float | None]
    credits: tuple[Credit, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Term:
    name: str
    weight: float
    reward: Reward


class Rewards:
    """A weighted sum of rewards. Immutable."""

    def __init__(self, terms: Sequence[tuple[str, float, Reward]] = ()) -> None:
        """terms: (name, weight, reward). Raises ConfigError for a name that stands twice and a weight that is no finite number."""
        self._terms = tuple(
            _Term(name, _checked_weight(name, weight), reward) for name, weight, reward in terms
        )
        names = [term.name for term in self._terms]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"the reward `{twice}` stands twice")

    @classmethod
    def of(
        cls,
        spec: str | Mapping[str, float],
        *,
        builders: Mapping[str, Callable[..., Reward]] | None = None,
        **options: Any,
    ) -> Rewards:
        """The rewards of a spec: a text (see above) or a mapping from name to weight.

        options: a mapping is the options of the reward of that name (`overlong={"max_tokens": 1024}`); anything else goes to every reward
        of the spec that has an option of that name (`max_tokens=1024`), unless the spec itself says otherwise. builders: further names than
        `KNOWN`, for rewards that need what this floor does not have. Raises ConfigError for an unknown reward, option or value, and names the
        nearest.
        """
        weights: Mapping[str, float] = spec if isinstance(spec, Mapping) else {}
        told: dict[str, dict[str, Any]] = {name: {} for name in weights}
        if isinstance(spec, str):
            weights, told = read_spec(spec)
        if not weights:
            raise ConfigError("no reward is named", fix='write for example "accuracy=1,format=0.5"')
        known = {**KNOWN, **(builders or {})}
        for name in weights:
            _known(name, known)
        shared = {key: value for key, value in options.items() if not isinstance(value, Mapping)}
        for name, own in options.items():
            if isinstance(own, Mapping):
                if name not in told:
                    raise ConfigError(f"options for the reward `{name}`, which is not asked for")
                told[name] = {**own, **told[name]}
        built = [(name, weight, _build(name, known, told[name], shared)) for name, weight in weights.items()]
        return cls(built)

    def with_scorer(self, name: str, weight: float, reward: Reward) -> Rewards:
        """These and one more: for a reward that is built elsewhere, such as a preference model."""
        return Rewards(
            [*((term.name, term.weight, term.reward) for term in self._terms), (name, weight, reward)]
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The rewards' names, in their order."""
        return tuple(term.name for term in self._terms)

    @property
    def weights(self) -> dict[str, float]:
        """Name → weight."""
        return {term.name: term.weight for term in self._terms}

    @property
    def files(self) -> dict[str, tuple[Path, ...]]:
        """Name → the files that a reward says (in `files`) decide it; those that need none are left out."""
        found = {term.name: tuple(getattr(term.reward, "files", ())) for term in self._terms}
        return {name: paths for name, paths in found.items() if paths}

    @property
    def weight_bytes(self) -> int:
        """Memory that the rewards' own models (in `weight_bytes`) take on the device."""
        return sum(getattr(term.reward, "weight_bytes", 0) for term in self._terms)

    def score(self, group: Sequence[Attempt]) -> list[Scored]:
        """What each attempt of one group (one problem in one mode) earned. Raises BethinkError for a reward that gives no such thing."""
        columns = [self._parts(term, group) for term in self._terms]
        return [self._sum([column[i] for column in columns]) for i in range(len(group))]

    def _parts(self, term: _Term, group: Sequence[Attempt]) -> Sequence[Part | None]:
        parts = term.reward(group)
        if len(parts) != len(group):
            raise BethinkError(
                f"the reward `{term.name}` gave {len(parts)} values for {len(group)} completions"
            )
        for attempt, part in zip(group, parts, strict=True):
            if part is not None and part.value is not None and not math.isfinite(part.value):
                raise BethinkError(
                    f"the reward `{term.name}` gave {part.value}", where=f"problem {attempt.problem.id!r}"
                )
        return parts

    def _sum(self, parts: Sequence[Part | None]) -> Scored:
        said = [(term, part) for term, part in zip(self._terms, parts, strict=True) if part is not None]
        # Where all that is weighed has no part there is nothing to learn from.
        weighed = any(term.weight for term, _ in said) or not any(self.weights.values())
        total: float | None = 0.0 if weighed else None
        credits: list[Credit] = []
        for term, part in said:
            if not term.weight:
                continue
            total = None if total is None or part.value is None else total + term.weight * part.value
            credits += (Credit(each.start, each.end, term.weight * each.value) for each in part.credits)
        values = {term.name: part.value for term, part in said}
        notes = tuple(part.note for _, part in said if part.note)
        return Scored(total, values, () if total is None else tuple(credits), notes)


def _checked_weight(name: str, weight: float) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ConfigError(f"the weight of the reward `{name}` is {weight!r}", fix="it must be a number")
    return float(weight)


def _known(name: str, builders: Mapping[str, Callable[..., Reward]]) -> None:
    if name in builders or names_function(name):
        return
    known = f"known rewards: {', '.join(builders)}; a function of your own is module.path:function"
    raise ConfigError(f"unknown reward `{name}`", fix=did_you_mean(name, builders, known))


def read_spec(spec: str) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """ "name=weight:option=value:…,…" → the weights and the options, as texts, by name. A name alone has the weight 1.

    Raises ConfigError for what is written so that it says nothing; names and options are not looked at.
    """
    weights: dict[str, float] = {}
    options: dict[str, dict[str, Any]] = {}
    for item in filter(None, (part.strip() for part in spec.split(","))):
        name, equals, rest = (part.strip() for part in item.partition("="))
        weight, *pairs = rest.split(":") if equals else ["1"]
        if name in weights:
            raise ConfigError(f"the reward `{name}` stands twice", where=spec)
        try:
            weights[name] = float(weight)
        except ValueError:
            raise ConfigError(
                f"the weight of the reward `{name}` is {weight!r}",
                where=spec,
                fix="write name=number:option=value",
            ) from None
        options[name] = {}
        for pair in pairs:
            key, given, value = (part.strip() for part in pair.partition("="))
            if not given:
                raise ConfigError(f"the option {pair!r} of the reward `{name}` has no value", where=spec)
            options[name][key] = value
    return weights, options


def _build(
    name: str,
    builders: Mapping[str, Callable[..., Reward]],
    told: Mapping[str, Any],
    shared: Mapping[str, Any],
) -> Reward:
    """The reward of that name with its options; `told` goes before `shared`."""
    if name not in builders:
        if told:
            raise ConfigError(f"the reward `{name}` is a function of yours and has no options")
        return python(name)
    builder = builders[name]
    known, types = inspect.signature(builder).parameters, get_type_hints(builder)
    for key in told:
        if key not in known:
            all_known = f"its options: {', '.join(known)}" if known else "it has none"
            fix = did_you_mean(key, known, all_known)
            raise ConfigError(f"the reward `{name}` has no option `{key}`", fix=fix)
    values = {**{key: value for key, value in shared.items() if key in known}, **told}
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in values:
            raise ConfigError(f"the reward `{name}` needs the option `{key}`", fix=f"write {name}=1:{key}=…")
    return builder(**{key: _typed(name, key, value, types[key]) for key, value in values.items()})


def _typed(name: str, key: str, value: Any, wanted: type) -> Any:
    """An option's value as its type, from a text or as it is."""
    if isinstance(value, str) and wanted is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if wanted is not bool and not isinstance(value, bool):
        try:
            converted = wanted(value)
        except (TypeError, ValueError):
            converted = None
        if converted is not None and (isinstance(value, str) or converted == value):
            return converted
    if isinstance(value, wanted) and (wanted is bool) == isinstance(value, bool):
        return value
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[wanted]
    raise ConfigError(f"the option `{key}` of the reward `{name}` is {value!r}", fix=f"it must be {kind}")
