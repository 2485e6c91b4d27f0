"""What an evaluation asks: every (task, problem, mode, sample) with its own seed, in canonical order."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bethink.chat.toggle import Mode
from bethink.core.errors import ConfigError
from bethink.core.seeds import derive_seed
from bethink.engine.dialogue import Question, Sampling
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.contamination import training_questions
from bethink.tasks.problem import Problem, ProblemSet
from bethink.tasks.procedural import generators
from bethink.tasks.prompted import prompted
from bethink.tasks.sources import load_each

Key = tuple[str, str, str, int]
"""(task, problem id, mode, sample): what names one completion in every file."""


@dataclass(frozen=True, slots=True)
class Item:
    """One completion wanted."""

    problem: Problem
    mode: Mode
    sample: int
    seed: int

    @property
    def key(self) -> Key:
        return self.problem.task, self.problem.id, str(self.mode), self.sample

    @property
    def question_id(self) -> str:
        return "\x1f".join(map(str, self.key))


@dataclass(frozen=True, slots=True)
class Plan:
    """items: in canonical order (task, mode, problem, sample); dropped: by task, how many problems were left out and why."""

    items: tuple[Item, ...]
    dropped: dict[str, dict[str, int]]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(item.problem.task for item in self.items))


def make_plan(config: EvalConfig, known_graders: Sequence[str], *, once: bool = False) -> Plan:
    """Load the problems and lay out the completions wanted. once: each question but once, however often it stands in the tasks.

    A task is called by its source's name; where two sources have one name, by the whole text the user wrote. A completion's seed is
    a hash of (seed, source's name, problem, mode, sample): it does not depend on what else is asked. Raises ConfigError for a task
    whose grader there is none for, and whatever loading the problems raises.
    """
    exclude = training_questions(config.exclude) if config.exclude else set()
    sets = load_each(
        config.tasks,
        size=config.size,
        seed=config.seed,
        split=config.split,
        exclude=exclude,
        skip_bad=config.skip_bad,
        once=once,
    )
    named = _named(sets, config.tasks)
    for problems in named:
        _check_graders(problems, known_graders)
    items = tuple(
        Item(problem, mode, sample, derive_seed(config.seed, "eval", source.name, problem.id, mode, sample))
        for source, problems in zip(sets, named, strict=True)
        for mode in config.modes
        for problem in problems
        for sample in range(config.samples_of(mode))
    )
    return Plan(items, {problems.name: problems.dropped for problems in named})


def _named(sets: Sequence[ProblemSet], specs: Sequence[str]) -> list[ProblemSet]:
    count = Counter(problems.name for problems in sets)
    named = []
    for problems, spec in zip(sets, specs, strict=True):
        name = problems.name if count[problems.name] == 1 else spec
        renamed = tuple(dataclasses.replace(problem, task=name) for problem in problems)
        named.append(ProblemSet(name, renamed, problems.dropped))
    if len({problems.name for problems in named}) < len(named):
        raise ConfigError("the same task is asked for twice", where=", ".join(specs))
    return named


def _check_graders(problems: ProblemSet, known: Sequence[str]) -> None:
    for problem in problems:
        if problem.grader not in known and problem.grader not in generators():
            raise ConfigError(
                f"there is no grader `{problem.grader}`, which `{problems.name}` needs",
                where=f"problem {problem.id}",
                fix=f"graders: {', '.join(sorted(known))}, or the name of a procedural generator",
            )


def question_of(item: Item, config: EvalConfig) -> Question:
    """The item as a dialogue takes it."""
    drawn = config.sampling(item.mode)
    asked = prompted(item.problem) if config.prompted else item.problem
    sampling = Sampling(
        max_tokens=config.max_tokens,
        temperature=drawn.temperature,
        top_p=drawn.top_p,
        top_k=drawn.top_k,
        min_p=drawn.min_p,
        seed=item.seed,
        max_thinking_tokens=config.max_thinking_tokens if item.mode is Mode.ON else None,
    )
    return Question(item.question_id, asked.messages, item.mode, sampling)
