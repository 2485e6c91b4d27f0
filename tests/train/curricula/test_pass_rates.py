"""Pass rates from a file, matched with problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bethink.core.errors import DataError
from bethink.tasks.problem import Problem
from bethink.train.curricula.pass_rates import read_pass_rates


def _problem(name: str, question: str, task: str = "sums") -> Problem:
    return Problem(name, task, ({"role": "user", "content": question},), "1", "math")


PROBLEMS = [_problem("a", "What is 1 + 1?"), _problem("b", "What is 2 + 2?"), _problem("c", "What is 3 + 3?")]


def _file(folder: Path, *rows: Any) -> Path:
    path = folder / "rates.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_rates_are_matched_by_id_in_the_problems_order(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        {"id": "c", "pass_rate": 0.25, "samples": 8, "whatever": [1]},
        {"id": "x", "pass_rate": 1},
        {"id": "a", "pass_rate": 0},
    )
    rates = read_pass_rates(path, PROBLEMS)
    assert (rates.indices, rates.rates, rates.missing) == ((0, 2), (0.0, 0.25), 1)


def test_where_ids_differ_the_question_decides(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        {"id": "row-7", "question": " what is  2 + 2?\n", "pass_rate": 0.5},
        {"question": "What is 3 + 3?", "pass_rate": 0.125},
    )
    rates = read_pass_rates(path, PROBLEMS)
    assert (rates.indices, rates.rates, rates.missing) == ((1, 2), (0.5, 0.125), 1)


def test_an_id_with_another_question_is_another_problem(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        {"id": "a", "question": "What is 2 + 2?", "pass_rate": 0.5},
        {"id": "b", "question": "Who wrote it?", "pass_rate": 0.1},
    )
    rates = read_pass_rates(path, PROBLEMS)
    assert (rates.indices, rates.rates, rates.missing) == ((1,), (0.5,), 2)


def test_an_id_belongs_to_its_task(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        {"id": "a", "task": "sums", "pass_rate": 0.5},
        {"id": "a", "task": "products", "pass_rate": 0.1},
    )
    problems = [
        _problem("a", "1 + 1?"),
        _problem("a", "1 · 1?", task="products"),
        _problem("a", "?", "other"),
    ]
    rates = read_pass_rates(path, problems)
    assert (rates.indices, rates.rates, rates.missing) == ((0, 1), (0.5, 0.1), 1)


def test_rates_of_other_problems_alone_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pass rate of any of the 3 problems"):
        read_pass_rates(_file(tmp_path, {"id": "x", "pass_rate": 0.5}), PROBLEMS)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "b"}, "no `pass_rate`"),
        ({"id": "b", "pass_rate": 1.01}, "1.01"),
        ({"id": "b", "pass_rate": True}, "True"),
        ({"id": "b", "pass_rate": "0.5"}, "'0.5'"),
        ('{"id": "b", "pass_rate": NaN}', "nan"),
        ({"pass_rate": 0.5}, "`id` is missing"),
        (["b", 0.5], "not an object"),
        ("{", "not valid JSON"),
        ({"id": "a", "pass_rate": 0.75}, "twice, with pass rates of 0.5 and 0.75"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_pass_rates(_file(tmp_path, {"id": "a", "pass_rate": 0.5}, row), PROBLEMS)
    assert "rates.jsonl:2" in str(caught.value.where)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file not found"):
        read_pass_rates(tmp_path / "none.jsonl", PROBLEMS)
