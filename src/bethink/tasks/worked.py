"""Worked step-by-step solutions, of procedural problems and of files that have them: what training rows are written from.

A solution that does not end at the problem's own reference answer is never given out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bethink.core.config import nearest
from bethink.core.errors import ConfigError
from bethink.tasks import worked_numbers as numbers
from bethink.tasks import worked_words as words
from bethink.tasks.arithmetic import false_equations
from bethink.tasks.problem import WORKING, Problem

WORKED: dict[str, Callable[[dict[str, Any]], numbers.Working | None]] = {
    "base_conversion": numbers.base_conversion,
    "basic_arithmetic": numbers.basic_arithmetic,
    "chain_sum": numbers.chain_sum,
    "count_bits": numbers.count_bits,
    "decimal_chain_sum": numbers.decimal_chain_sum,
    "fraction_simplification": numbers.fraction_simplification,
    "gcd": numbers.gcd,
    "gsm_symbolic": numbers.gsm_symbolic,
    "lcm": numbers.lcm,
    "leg_counting": words.leg_counting,
    "letter_counting": words.letter_counting,
    "number_filtering": words.number_filtering,
    "number_sorting": words.number_sorting,
    "prime_factorization": numbers.prime_factorization,
    "products": numbers.products,
    "simple_equations": numbers.simple_equations,
    "spell_backward": words.spell_backward,
    "word_sequence_reversal": words.word_sequence_reversal,
}
"""Generator name → a function from an item's metadata to (lines of working, final value)."""


@dataclass(frozen=True, slots=True)
class Worked:
    """thinking: the working, a step a line; answer: the sentence that commits to the final value, in \\boxed{}."""

    thinking: str
    answer: str


def solve(problem: Problem) -> Worked | None:
    """The worked solution of a problem; None when its generator, its file or this problem has none, or one with a false line."""
    if WORKING in problem.meta:
        working = problem.meta[WORKING]
        return (
            _committed(working, problem.answer) if problem.answer and not false_equations(working) else None
        )
    work = WORKED.get(problem.meta.get("generator", ""))
    working = work(problem.meta["entry"]["metadata"]) if work else None
    if working is None:
        return None
    lines, final = working
    if final != problem.answer.strip("$"):
        return None
    return _committed("\n".join(lines), final)


def solve_all(problems: Iterable[Problem], task: str) -> list[tuple[Problem, Worked]]:
    """The problems that have a worked solution, with it. Raises ConfigError when none has; task: what the user calls them."""
    worked = [(problem, solution) for problem in problems if (solution := solve(problem)) is not None]
    if not worked:
        name = task.partition(":")[0]
        guess = nearest(name, sorted(WORKED))
        raise ConfigError(
            f"`{name}` has no worked solutions to learn from",
            fix=(f"did you mean `{guess}`? " if guess else "")
            + f"tasks that have: {', '.join(sorted(WORKED))}; and files in the layout gsm8k or math500, or with working=COLUMN",
        )
    return worked


def _committed(working: str, final: str) -> Worked:
    return Worked(working, f"The final answer is \\boxed{{{final}}}.")


def broken_off(problem: Problem, solution: Worked) -> Worked | None:
    """The solution of somebody in a hurry: its first line, and the value reached there as the answer.

    None for working of one line, or whose first line does not end with what was reached.
    """
    first, _, others = solution.thinking.partition("\n")
    reached = first.rpartition(" = ")[2]
    if not others or not reached or " " in reached:
        return None
    return Worked(first, solution.answer.replace(f"{{{problem.answer}}}", f"{{{reached}}}"))
