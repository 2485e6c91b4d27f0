"""Held-out problems answered while a policy learns: the curve that says whether it learns more than its own problems.

Asked as `bethink eval` asks: its temperatures (not the policy's), one answer a problem, always the same problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from bethink.chat.parse import compliant
from bethink.chat.toggle import Mode
from bethink.core.console import note
from bethink.core.errors import ConfigError
from bethink.core.seeds import derive_seed
from bethink.engine.dialogue import LocalDialogue, Question, default_sampling
from bethink.tasks.problem import Problem
from bethink.train.problems import load_problems
from bethink.train.rl.rollouts import Graders, answer_and_grade

SPLIT = "test"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """of_tasks: the problems of each task, none of them trained on. modes: those that are trained. temperature: the policy's own."""

    of_tasks: Sequence[Sequence[Problem]]
    dialogue: LocalDialogue
    graders: Graders
    modes: Sequence[Mode]
    max_tokens: int
    seed: int
    temperature: float = 1.0

    def evaluate(self, step: int) -> dict[str, Any]:
        """eval_on, eval_off: the share of problems solved, which is 0 for one that could not be graded; eval_compliance_on, …; where there
        are several tasks also eval_on_level_0, …, in their order. Problems without a grader count for compliance alone, and a task of
        such is no level.
        """
        asked = {
            f"{mode}/{level}/{number}": (mode, level, problem)
            for mode in self.modes
            for level, problems in enumerate(self.of_tasks)
            for number, problem in enumerate(problems)
        }
        questions = [self._question(id_, mode, problem) for id_, (mode, _, problem) in asked.items()]
        problems = {id_: problem for id_, (_, _, problem) in asked.items()}
        answers = answer_and_grade(self.dialogue, questions, problems, self.graders)
        row: dict[str, Any] = {}
        for mode in self.modes:
            solved: list[list[float]] = [[] for _ in self.of_tasks]
            obeyed: list[bool] = []
            for id_, (reply, verdict) in answers.items():
                if asked[id_][0] is mode:
                    if verdict.judged:
                        solved[asked[id_][1]].append(float(verdict.correct))
                    obeyed.append(compliant(reply.text, mode, self.dialogue.renderer.think, reply.opened))
            levels = [values for values in solved if values]
            if levels:
                row[f"eval_{mode}"] = round(fmean(value for level in levels for value in level), 6)
            row[f"eval_compliance_{mode}"] = round(fmean(obeyed), 6)
            if len(levels) > 1:
                row |= {
                    f"eval_{mode}_level_{level}": round(fmean(values), 6)
                    for level, values in enumerate(levels)
                }
        said = ", ".join(f"{name.removeprefix('eval_')} {value:.1%}" for name, value in row.items())
        note(f"step {step}, held out: {said}")
        return row

    def _question(self, id_: str, mode: Mode, problem: Problem) -> Question:
        seed = derive_seed(self.seed, "held out", problem.id, mode.value)
        sampling = default_sampling(mode, max_tokens=self.max_tokens, seed=seed)
        # The engine divides the logits by the policy's temperature already.
        own = replace(sampling, temperature=sampling.temperature / self.temperature)
        return Question(id_, problem.messages, mode, own)


def held_out_problems(
    tasks: Sequence[str], size: int, seed: int, trained: Sequence[Problem]
) -> list[list[Problem]]:
    """`size` problems of each task from its test split, none of them in `trained`. Raises ConfigError when a task has none left."""
    asked = [problem.question for problem in trained]
    try:
        return load_problems(tasks, size * len(tasks), split=SPLIT, seed=seed, exclude=asked)
    except ConfigError as error:
        raise ConfigError(
            f"nothing to evaluate on: {error.what}",
            where=error.where,
            fix="keep a part of the file out of training, as in FILE:plain,held_out=0.1, or leave --eval-every 0",
        ) from error
