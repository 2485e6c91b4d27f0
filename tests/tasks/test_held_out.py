"""A part of a file is held out by what is asked, and rows without an answer are problems only where that is said."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from bethink.core.errors import BethinkError, ConfigError, DataError
from bethink.tasks.problem import in_split
from bethink.tasks.sources import load_tasks, split_specs


def questions(spec: str, split: str, size: int | None = None, seed: int = 0) -> list[str]:
    return [problem.question for problem in load_tasks(spec, size=size, seed=seed, split=split)]


def write(path: Path, numbers: list[int]) -> Path:
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n), "grader": "math"} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_two_parts_are_apart_whole_and_the_same_in_every_run_and_file(tmp_path: Path) -> None:
    numbers = random.sample(range(10**6), 500)
    spec = f"{write(tmp_path / 'a.jsonl', numbers)}:plain,held_out=0.2"
    train, test = questions(spec, "train"), questions(spec, "test")
    assert not set(train) & set(test)
    assert len(train) + len(test) == 500
    assert 60 <= len(test) <= 145
    assert questions(spec, "test", seed=7) == test, "no matter of the seed"
    backwards = (
        f"{write(tmp_path / 'b.jsonl', numbers[250:][::-1])}:question=question,answer=answer,held_out=0.2"
    )
    assert set(questions(backwards, "test")) < set(test), "no matter of the other rows, nor of the layout"
    assert set(test) < set(questions(spec.replace("0.2", "0.5"), "test"))


def test_the_same_question_said_twice_is_on_one_side(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    said = [text for n in range(200) for text in (f"What is {n} + 1?", f"what is  {n} + 1?")]
    path.write_text(
        "".join(json.dumps({"question": text, "answer": "1", "grader": "math"}) + "\n" for text in said)
    )
    test = questions(f"{path}:plain,held_out=0.3", "test")
    assert len(test) == 2 * len({" ".join(text.casefold().split()) for text in test})


def test_a_directory_has_parts_too_and_dropped_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    write(tmp_path / "rows" / "a.jsonl", list(range(100)))
    found = load_tasks(f"{tmp_path / 'rows'}:plain,held_out=0.5", size=None, seed=0, split="train")
    assert len(found) + found.dropped["in the other split"] == 100


@pytest.mark.parametrize(
    ("layout", "split", "said"),
    [
        ("plain,held_out=0", "test", "no share"),
        ("plain,held_out=1", "test", "no share"),
        ("plain,held_out=some", "test", "no share"),
        ("held_out=0.1", "test", "what the columns mean"),
        ("plain,held_out=0.1", "validation", "train and test"),
        ("plain,held_out=0.000001", "test", "none of its 3 problems"),
    ],
)
def test_parts_that_cannot_be_are_named(tmp_path: Path, layout: str, split: str, said: str) -> None:
    path = write(tmp_path / "a.jsonl", [1, 2, 3])
    with pytest.raises(BethinkError, match=said):
        questions(f"{path}:{layout}", split)


def test_the_hub_has_splits_of_its_own() -> None:
    with pytest.raises(ConfigError, match="splits of its own"):
        questions("hub:openai/gsm8k/main:gsm8k,held_out=0.1", "test")


def test_a_comma_before_held_out_belongs_to_the_task() -> None:
    assert split_specs("a.jsonl:plain,held_out=0.1,chain_sum") == ["a.jsonl:plain,held_out=0.1", "chain_sum"]


def test_rows_without_an_answer_are_problems_where_the_layout_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"q": "one"}, {"q": "two", "a": None}, {"q": "three", "a": " "}, {"q": "four", "a": 4}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_tasks(f"{path}:question=q,answer=a?,grader=math", size=None, seed=0, split="train")
    assert [problem.answer for problem in found] == ["", "", "", "4"]
    with pytest.raises(DataError, match="`a`"):
        load_tasks(f"{path}:question=q,answer=a,grader=math", size=None, seed=0, split="train")
    path.write_text(json.dumps({"q": "which", "c": ["x", "y"]}) + "\n")
    (problem,) = load_tasks(f"{path}:question=q,answer=a?,choices=c", size=None, seed=0, split="train")
    assert (problem.answer, problem.grader) == ("", "choice")


def test_a_generators_small_range_is_split_for_all_seeds() -> None:
    spec = "chain_sum:min_terms=3,max_terms=3,min_digits=1,max_digits=1,held_out=0.2"
    sides = {
        split: {
            problem.question
            for seed in (1, 2)
            for problem in load_tasks(spec, size=300, seed=seed, split=split)
        }
        for split in ("train", "test")
    }
    assert all(len(questions) > 320 for questions in sides.values()), "two seeds give different problems"
    assert sides["train"].isdisjoint(sides["test"])
    plain = spec.removesuffix(",held_out=0.2")
    every = [problem.question for problem in load_tasks(plain, size=2000, seed=3, split="train")]
    share = sum(in_split(question, "test", 0.2) for question in every) / len(every)
    assert 0.15 < share < 0.25
    with pytest.raises(ConfigError, match="train and test"):
        load_tasks(spec, size=5, seed=0, split="validation")
