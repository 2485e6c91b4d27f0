"""Completions as models write them get the verdict a careful reader would give: the table is `grading_cases`."""

import grading_cases as cases
import pytest

from bethink.verify.grade import GradeItem, grade_item
from bethink.verify.pool import WorkerPool

GROUPS = [
    ("math", "COMMITMENT", {}),
    ("math", "MATH", {}),
    ("math", "MATH_TRUNCATED", {}),
    ("choice", "CHOICE", {"choices": cases.CHOICES}),
    ("choice", "CHOICE_LONG", {"choices": cases.LONG_CHOICES}),
    ("choice", "CHOICE_TRUNCATED", {"choices": cases.CHOICES}),
    ("exact", "EXACT", {}),
    ("numeric", "NUMERIC", {}),
    ("chain_sum", "GENERATOR", {}),
]
TABLE = [
    (GradeItem(answer, output, grader, meta, truncated=group.endswith("TRUNCATED")), expected)
    for grader, group, meta in GROUPS
    for answer, output, expected in getattr(cases, group)
]


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(1) as workers:
        yield workers


def test_the_table_is_large_and_says_nothing_twice() -> None:
    keys = [(item.grader, item.answer, item.output, item.truncated) for item, _ in TABLE]
    assert len(keys) == len(set(keys)) >= 300


@pytest.mark.parametrize(
    ("item", "expected"), TABLE, ids=[f"{item.grader}-{n}" for n, (item, _) in enumerate(TABLE)]
)
def test_the_verdict_is_the_careful_readers(item: GradeItem, expected: str, pool: WorkerPool) -> None:
    assert grade_item(item, pool=pool).outcome == expected


def test_the_letter_taken_is_shown(pool: WorkerPool) -> None:
    item = GradeItem("C", "The final answer is B? no. The final answer is C", "choice", {"choices": 4})
    assert grade_item(item, pool=pool).extracted == "C"
