"""What most answers come to stands in for an answer, and only where enough of them do."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bethink.chat.parse import compose
from bethink.chat.render import Renderer
from bethink.chat.toggle import DEFAULT_FORMAT
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import ConfigError
from bethink.core.files import read_jsonl
from bethink.evaluate.samples import SAMPLES, rewrite
from bethink.sample.config import SampleConfig
from bethink.sample.filters import Sieve, pass_rates
from bethink.sample.run import run_sample
from bethink.sample.vote import Election, Vote, elect, majority, needs_vote
from bethink.tasks.problem import Problem
from bethink.tasks.sources import load_tasks
from bethink.train.prefer.config import answers_file
from bethink.train.prefer.verdicts import Count, pairs_of, read_answers
from bethink.verify.grade import grade


def problem(grader: str = "math", answer: str = "", **meta: Any) -> Problem:
    return Problem("p", "t", ({"role": "user", "content": "What is it?"},), answer, grader, meta)


def rows_of(asked: Problem, said: list[str | None], mode: str = "on") -> list[dict[str, Any]]:
    """Rows as an evaluation would write them; None is an answer that was cut."""
    rows = []
    for number, text in enumerate(said):
        output = compose("So I think.", "" if text is None else f"The final answer is \\boxed{{{text}}}.")
        verdict = grade(asked, output, truncated=text is None)
        rows.append({"task": asked.task, "id": asked.id, "mode": mode, "sample": number, "question": asked.question,
                     "answer": asked.answer, "output": output, "opened": False, "verdict": str(verdict.outcome),
                     "extracted": verdict.extracted, "detail": verdict.detail, "compliant": True,
                     "finish_reason": "length" if text is None else "stop", "thinking_tokens": 3, "answer_tokens": 3})  # fmt: skip
    return rows


@dataclass
class Held:
    """answers: the rows as the election judges them."""

    election: Election
    answers: list[dict[str, Any]]

    @property
    def votes(self) -> dict[tuple[str, str], Vote]:
        return self.election.votes


def held(asked: Problem, *rows: dict[str, Any], least: float = 0.5) -> Held:
    election = elect({(asked.task, asked.id): asked}, rows, least, think=DEFAULT_FORMAT, workers=1)
    return Held(election, [election.judged(row) for row in rows])


def verdicts(found: Held) -> list[str]:
    return [row["verdict"] for row in found.answers]


def test_equal_answers_are_one_however_they_are_written() -> None:
    said = [r"\frac{1}{2}", "0.5", "2", "1/2", "x", "0.5"]
    election = held(problem(), *rows_of(problem(), said))
    (vote,) = election.votes.values()
    assert vote == Vote("0.5", pytest.approx(4 / 6))
    assert verdicts(election) == ["correct", "correct", "wrong", "correct", "wrong", "correct"]
    assert election.election.problems["t", "p"].answer == "0.5"
    assert {row["answer"] for row in election.answers} == {"0.5"}


def test_what_only_the_slow_judge_can_compare_is_compared() -> None:
    said = [r"\sin^2(x)+\cos^2(x)+y", "y+1", "7"]
    assert [round(vote.share, 3) for vote in held(problem(), *rows_of(problem(), said)).votes.values()] == [
        0.667
    ]


@pytest.mark.parametrize(
    ("said", "least", "answer"),
    [
        (["1", "1", "2", "2"], 0.5, None),  # a tie decides nothing
        (["1", "1", "2", "2"], 0.1, None),
        (["1", "1", "2", "3"], 0.5, "1"),
        (["1", "1", "2", "3"], 0.6, None),
        (["1", "1", None, None], 0.5, "1"),
        (["1", "1", None, None, None], 0.5, None),  # those that were cut are answers, too
        ([None, None, None], 0.5, None),
    ],
)
def test_a_vote_needs_its_share_of_all_answers_and_no_equal(
    said: list[str | None], least: float, answer: str | None
) -> None:
    election = held(problem(), *rows_of(problem(), said), least=least)
    assert [vote.answer for vote in election.votes.values()] == ([] if answer is None else [answer])
    if answer is None:
        assert "correct" not in verdicts(election)
        sieve = Sieve(SampleConfig(output=Path("o"), tasks=("a.jsonl:gsm8k",), model="m", any_verdict=True))
        sieve.sift((problem(), row) for row in election.answers)
        assert sieve.counts == {"no_majority": len(said)}


def test_thinking_votes_and_both_modes_are_judged() -> None:
    asked = problem()
    election = held(asked, *rows_of(asked, ["5", "5", "6"]), *rows_of(asked, ["6", "6", "6"], "off"))
    assert verdicts(election) == ["correct", "correct", "wrong", "wrong", "wrong", "wrong"]
    alone = held(asked, *rows_of(asked, ["6", "6", "6"], "off"))
    assert verdicts(alone) == ["correct"] * 3
    (rate,) = pass_rates(election.answers)
    assert (rate["pass_rate_on"], rate["pass_rate_off"]) == (pytest.approx(2 / 3, abs=1e-6), 0.0)


@pytest.mark.parametrize(
    ("grader", "meta", "said", "answer"),
    [
        ("numeric", {}, ["12 apples", "12", "12.0", "some"], "12 apples"),
        ("exact", {}, ["Paris", "paris.", "Rome"], "Paris"),
        ("choice", {"choices": ["x", "y", "z"]}, ["B", "B", "A"], "B"),
    ],
)
def test_every_kind_of_answer_can_be_voted_on(
    grader: str, meta: dict[str, Any], said: list[str | None], answer: str
) -> None:
    asked = problem(grader, **meta)
    election = held(asked, *rows_of(asked, said))
    assert [vote.answer for vote in election.votes.values()] == [answer]
    assert verdicts(election)[-1] != "correct"
    assert verdicts(election)[:2] == ["correct", "correct"]


def test_a_problem_with_an_answer_is_not_voted_on() -> None:
    asked = problem(answer="6")
    rows = rows_of(asked, ["5", "5", "6"])
    election = held(asked, *rows)
    assert election.answers == rows
    assert election.votes == {}
    assert not needs_vote(problem("code"))


def test_the_order_of_rows_changes_no_vote() -> None:
    said = random.choices(["1", "2", "1/2", "0.5", "3"], k=12)
    votes = []
    for _ in range(5):
        random.shuffle(said)
        votes.append(majority(said, len(said), 0.0, lambda a, b: {a, b} <= {"1/2", "0.5"} or a == b))
    shares = {None if vote is None else vote.share for vote in votes}
    assert len(shares) == 1


def test_a_run_votes_on_what_has_no_answer_and_its_rates_are_problems(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The tiny model says noise; letters are the answers it can be brought to agree on, since hardly any other is committed to."""
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"What is {n} plus {n}?", "answer": None if n % 2 else str(2 * n)} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = SampleConfig(
        model=str(tiny_model_dir),
        tasks=(f"{path}:question=question,answer=answer?,grader=exact",),
        output=tmp_path / "out",
        samples=4,
        max_tokens=6,
        majority=0.3,
        keep=0,
        seed=random.randrange(2**31),
        dtype="float32",
        device="cpu",
        modes=("off",),
    )
    summary = run_sample(config)
    assert summary["answers"] == 24
    assert sum(summary["left_out"].values()) + sum(summary["rows"].values()) == 24
    open_ones = {
        row["id"]
        for row in map(json.loads, (config.output / "rejects.jsonl").open())
        if row["reason"] == "no_majority"
    }
    assert summary["voted"] + len(open_ones) == 3
    rates = [json.loads(line) for line in (config.output / "pass_rates.jsonl").open()]
    assert len(rates) == 6 - len(open_ones)
    before = {path.name: path.read_bytes() for path in config.output.glob("*.json*")}
    run_sample(config.model_copy(update={"resume": True}))
    assert {path.name: path.read_bytes() for path in config.output.glob("*.json*")} == before
    run_sample(config.model_copy(update={"resume": True, "majority": 0.0}))
    assert answers_file(config.output) == config.output / "answers/samples.jsonl", (
        "no vote, no verdicts of one"
    )


def test_preference_pairs_go_by_the_vote(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"id": "p", "question": "What is it?"}) + "\n")
    config = SampleConfig(
        model=str(tiny_model_dir),
        tasks=(f"{path}:question=question,answer=answer?,id=id,grader=math",),
        output=tmp_path / "out",
        samples=4,
        max_tokens=6,
        seed=random.randrange(2**31),
        dtype="float32",
        device="cpu",
        modes=("on",),
    )
    run_sample(config)
    drawn = config.output / "answers" / SAMPLES
    said = rows_of(problem(), ["1/2", "7", "0.5", "0.5"])
    rewrite(
        drawn, [{**old, **new, "task": old["task"]} for old, new in zip(read_jsonl(drawn), said, strict=True)]
    )
    renderer = Renderer(ChatTokenizer.load(tiny_model_dir))

    def pairs() -> tuple[list[dict[str, Any]], Count]:
        return pairs_of(read_answers(answers_file(config.output)), renderer, longer=1.5, most=4, seed=0)

    assert pairs()[1].ungraded == 4
    run_sample(config.model_copy(update={"resume": True, "majority": 0.5}))
    made, count = pairs()
    assert count.ungraded == 0
    assert {("\\boxed{7}" in pair["rejected"], "\\boxed{7}" in pair["chosen"]) for pair in made} == {
        (True, False)
    }
    assert [row["output"] for row in read_jsonl(answers_file(config.output))] == [
        row["output"] for row in said
    ]
    run_sample(config.model_copy(update={"resume": True}))
    assert pairs()[1].ungraded == 4, "without a vote there are no verdicts of one"


def test_voted_rates_are_problems_of_the_layout_plain(tmp_path: Path) -> None:
    from bethink.sample.run import _reference

    election = Election({("t", "p"): problem("math", "7")}, {("t", "p"): Vote("7", 0.75)})
    rate = {"id": "p", "task": "t", "question": "What is it?", "pass_rate": 0.5}
    rate |= _reference(election, rate)
    path = tmp_path / "pass_rates.jsonl"
    path.write_text(json.dumps(rate) + "\n")
    (again,) = load_tasks(f"{path}:plain", size=None, seed=0, split="train")
    assert (again.answer, again.grader, rate["vote_share"]) == ("7", "math", 0.75)
    assert _reference(Election(election.problems), rate) == {}


def test_a_vote_of_too_few_is_refused() -> None:
    options: dict[str, Any] = {
        "output": Path("o"),
        "tasks": ("a.jsonl:gsm8k",),
        "model": "m",
        "majority": 0.5,
    }
    with pytest.raises((ConfigError, ValueError), match="needs 3 answers"):
        SampleConfig(**options, samples=2)
    with pytest.raises((ConfigError, ValueError), match="needs 3 answers"):
        SampleConfig(**options, samples=16, on={"temperature": 0})  # type: ignore[arg-type]
    SampleConfig(**options, samples=16)
