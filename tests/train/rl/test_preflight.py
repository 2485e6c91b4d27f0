"""Reference answers are given to their own graders before a run learns: what can be answered passes, what cannot stops it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bethink.core.errors import PreflightError
from bethink.tasks.problem import Problem
from bethink.train.problems import load_problems
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.preflight import unusable
from bethink.train.rl.rollouts import Graders
from bethink.train.rl.run import run_grpo
from bethink.verify.pool import WorkerPool
from verify.test_math_golds import GOLDS

Make = Callable[..., GRPOConfig]


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    with WorkerPool(1) as pool:
        yield Graders(pool)


def problem(answer: str, grader: str, **meta: Any) -> Problem:
    return Problem(f"{grader} {answer}", "any", ({"role": "user", "content": "?"},), answer, grader, meta)


GOOD = [
    *(problem(gold, "math") for gold in GOLDS),
    problem("They sell 4 and keep 14.\n#### 14", "math"),
    problem("B", "choice", choices=["one", "two"]),
    problem("London", "choice", choices=["Paris", "London"]),
    problem("B) London", "choice", choices=["Paris", "London"]),
    problem("New York City", "exact"),
    problem("1 2 3\n4 5 6\n7 8 9", "exact"),
    problem("{'a': [1}", "exact"),
    problem("1,234", "numeric"),
    problem("5", "numeric", tolerance=0.1),
    problem("", "reasoning_gym", generator="countdown"),
    problem("", "code"),
]
BAD = [
    problem("", "exact"),
    problem("", "math"),
    problem("about forty", "numeric"),
    problem("5", "numeric", tolerance="small"),
    problem("F", "choice", choices=["one", "two"]),
    problem(r"\boxed{19}", "exact"),
]


def test_a_reference_answer_that_can_be_given_is_usable(graders: Graders) -> None:
    made = load_problems(
        ["chain_sum", "countdown", "spell_backward", "game_of_life"], 12, split="train", seed=3
    )
    assert unusable([*GOOD, *(one for task in made for one in task)], graders) == []


def test_one_that_no_completion_can_match_is_found_with_what_its_grader_says(graders: Graders) -> None:
    found = unusable([*GOOD[:5], *BAD], graders)
    assert [one.id for one, _ in found] == [one.id for one in BAD]
    assert "not a number" in {one.id: verdict.detail for one, verdict in found}["numeric about forty"]


def test_unusable_reference_answers_stop_a_run_whose_model_commits_to_nothing(
    make_grpo: Make, tmp_path: Path
) -> None:
    file = tmp_path / "bad.jsonl"
    rows = [{"question": f"How many {n}?", "answer": str(n) if n else "about forty"} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"tasks": f"{file}:question=question,answer=answer,grader=numeric", "steps": 1}
    with pytest.raises(PreflightError) as stopped:
        run_grpo(make_grpo(**settings))
    said = str(stopped.value)
    for words in ("25%", "row-1", "about forty", "not a number", "--allow-ungraded"):
        assert words in said, said
    preflight = json.loads((make_grpo().output / "preflight.json").read_text())
    assert (preflight["problems"], preflight["unusable"], preflight["ungraded"]) == (4, 0.25, 0.0)
    assert run_grpo(make_grpo(**settings, allow_ungraded=0.25, resume=True)).steps == 1
