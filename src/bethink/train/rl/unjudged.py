"""Problems without a grader in a run: what must be there beside them, said before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from bethink.core.errors import ConfigError
from bethink.tasks.problem import Problem
from bethink.verify.rewards.compose import OF_VERDICTS, Rewards


def require_rewards(problems: Sequence[Problem], rewards: Rewards) -> None:
    """Raise ConfigError where nothing could be learned from problems without a grader: all that is weighed needs one."""
    first = next((problem for problem in problems if not problem.judged), None)
    weighed = {name for name, weight in rewards.weights.items() if weight}
    if first is not None and weighed <= OF_VERDICTS:
        raise ConfigError(
            f"the problems of `{first.task}` have no grader, and the rewards ({', '.join(rewards.names)}) give nothing without one",
            where=f"problem {first.id}",
            fix="add a reward that needs no grader, as in accuracy=1,format=0.5,preference=1:model=DIR, or leave those problems out",
        )


def require_graders(problems: Sequence[Problem], levels: Sequence[int]) -> None:
    """Raise ConfigError for a level of which no problem has a grader: it has no pass rate to be mastered by. levels: of each problem."""
    judged = {level for level, problem in zip(levels, problems, strict=True) if problem.judged}
    unjudged = next((p for p, level in zip(problems, levels, strict=True) if level not in judged), None)
    if unjudged is not None:
        raise ConfigError(
            f"no problem of `{unjudged.task}` has a grader, so there is no pass rate to master that level by",
            where="tasks",
            fix="leave it out, or choose --curriculum shuffled",
        )
