"""Worked solutions: every answer is right by the generator's own scorer, every line of arithmetic is true."""

import json
import re

import pytest

from bethink.tasks.arithmetic import equations, evaluate, false_equations
from bethink.tasks.problem import Problem
from bethink.tasks.procedural import generate
from bethink.tasks.sources import load_tasks
from bethink.tasks.worked import WORKED, solve

VARIANTS = [(name, {}) for name in sorted(WORKED)] + [
    ("chain_sum", {"min_terms": 1, "max_terms": 8, "max_digits": 2, "allow_negation": True}),
    ("decimal_chain_sum", {"allow_negation": True, "min_decimal_places": 0}),
    ("products", {"max_terms": 3, "max_digits": 3, "allow_negation": True}),
    ("basic_arithmetic", {"whitespace": "no_space"}),
    ("simple_equations", {"max_terms": 8}),
    ("gcd", {"max_numbers": 4}),
    ("lcm", {"max_numbers": 4}),
]
WORDS_ONLY = {"number_filtering", "number_sorting", "spell_backward", "word_sequence_reversal"}
MAY_DECLINE = {"gsm_symbolic": 0.15, "basic_arithmetic": 0.05}


@pytest.mark.parametrize(("name", "config"), VARIANTS, ids=lambda v: v if isinstance(v, str) else ",".join(v))
def test_worked_solutions_are_right_and_true(name, config):
    from reasoning_gym.factory import create_dataset

    problems = generate(name, 200, seed=20_260, split="train", config=config)
    scorer = create_dataset(name, **problems.problems[0].meta["config"], seed=0, size=1)
    declined = checked = 0
    for problem in problems:
        worked = solve(problem)
        if worked is None:
            declined += 1
            continue
        (boxed,) = re.findall(r"^The final answer is \\boxed\{(.*)\}\.$", worked.answer)
        assert scorer.score_answer(boxed, problem.meta["entry"]) == 1.0
        assert false_equations(worked.thinking) == []
        assert worked.thinking.strip()
        checked += len(equations(worked.thinking))
    assert declined <= MAY_DECLINE.get(name, 0) * len(problems)
    assert checked > 0 or name in WORDS_ONLY


def problem_of(generator, metadata, answer):
    return Problem(
        id="1",
        task=generator,
        messages=({"role": "user", "content": "?"},),
        answer=answer,
        grader="reasoning_gym",
        meta={"generator": generator, "entry": {"metadata": metadata}, "config": {}},
    )


def test_chain_sum_is_worked_as_a_running_total():
    worked = solve(problem_of("chain_sum", {"expression": "7 - 3 + 12"}, "16"))
    assert worked.thinking == "7 - 3 = 4\n4 + 12 = 16"
    assert worked.answer == "The final answer is \\boxed{16}."


def test_a_whole_number_loses_its_decimal_zero_and_other_decimals_stay():
    cot = "She paid 4 * $1.05 = $4.20 and had 66.0 + 4.20 = $70.20 before.\n#### 66.0"
    worked = solve(problem_of("gsm_symbolic", {"answer_cot": cot}, "66"))
    assert worked.answer == "The final answer is \\boxed{66}."
    assert worked.thinking == "She paid 4 * $1.05 = $4.20 and had 66 + 4.20 = $70.20 before."


@pytest.mark.parametrize(
    ("cot", "answer"),
    [
        ("So 11*0.5 = 5 tubes.\n#### 5", "5"),
        ("It is 22.333333333333336 - 4 = 18.333333333333336.\n#### 18", "18"),
        ("So 2 + 2 = 4.\n#### 4", "5"),
        ("No mark: 2 + 2 = 4", "4"),
    ],
)
def test_false_or_noisy_working_and_other_answers_are_refused(cot, answer):
    assert solve(problem_of("gsm_symbolic", {"answer_cot": cot}, answer)) is None


def test_a_reference_that_is_not_the_value_of_its_expression_is_never_taught():
    # without brackets this generator computes from left to right and ignores that * and / come first
    for problem in generate(
        "basic_arithmetic", 200, seed=1, split="train", config={"allow_parentheses": False}
    ):
        expression = problem.meta["entry"]["metadata"]["expression"]
        assert solve(problem) is None or evaluate(expression) == int(problem.answer)


def test_a_problem_nobody_can_work_has_no_solution():
    assert solve(problem_of("sudoku", {}, "1")) is None
    assert solve(Problem("1", "gsm8k", ({"role": "user", "content": "?"},), "1", "math")) is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("3 + 4 = 7", []),
        ("3 + 4 = 8", ["3 + 4 = 8"]),
        ("so 1,200 pieces - 200 pieces = 1,000 pieces", []),
        ("$2.50 x 4 = $10 in all", []),
        ("10 / 3 = 3.33", []),
        ("10 / 3 = 3.3", []),
        ("10 / 3 = 3", ["10 / 3 = 3"]),
        ("2x + 30 = 162", []),
        ("4672*x + 2400 = 427552", []),
        ("-(23) = -23", []),
        ("5 = 6 - 1", []),
        ("97 \u2013 12 = 85 kilograms", []),
        ("97 \u2013 12 = 86 kilograms", ["97 - 12 = 86"]),
        ("dividing both sides by 3 gives p = $1000", []),
        ("4 W^2 = 100", []),
        ("11:00-8:00 = 3 hours, and 6:00+18 hours = 00:00", []),
        ("2 - 1/2 = 1 1/2 cups", []),
    ],
)
def test_false_equations_are_found_and_true_ones_left(text, wrong):
    assert false_equations(text) == wrong


def test_only_arithmetic_is_evaluated():
    assert evaluate("2 * (3 - 5) / 4") == -1
    for text in ("__import__('os')", "2 ** 9", "1 / 0", "x + 1", "", "2(3)"):
        assert evaluate(text) is None


def test_a_files_own_working_is_taken_where_it_is_true(tmp_path):
    rows = [
        {"question": "How many?", "answer": "He has 3+4 = <<3+4=7>>7 apples.\nHalf is 7/2 = 3.5.\n#### 3.5"},
        {"question": "And now?", "answer": "He has 3+4 = 8.\n#### 8"},
        {"question": "Just so?", "answer": "#### 8"},
    ]
    file = tmp_path / "gsm.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    worked = [solve(problem) for problem in load_tasks(f"{file}:gsm8k", size=None, seed=0, split="test")]
    assert [solution and solution.thinking for solution in worked] == [
        "He has 3+4 = 7 apples.\nHalf is 7/2 = 3.5.",
        None,
        None,
    ]
    assert worked[0].answer == "The final answer is \\boxed{3.5}."


def test_a_column_of_ones_own_may_hold_the_working(tmp_path):
    file = tmp_path / "mine.jsonl"
    row = {"q": "Which?", "gold": "b", "steps": "The sky is blue.", "options": ["green", "blue"]}
    file.write_text(json.dumps(row))
    spec = f"{file}:question=q,answer=gold,working=steps,choices=options"
    (problem,) = load_tasks(spec, size=None, seed=0, split="test")
    solution = solve(problem)
    assert solution is not None
    assert (solution.thinking, solution.answer) == ("The sky is blue.", "The final answer is \\boxed{B}.")


def test_solutions_of_the_math_layout_are_worked_ones(tmp_path):
    file = tmp_path / "math.jsonl"
    rows = [
        {"problem": "1 + 1?", "solution": "Clearly $1 + 1 = \\boxed{2}$."},
        {"problem": "2 + 1?", "answer": "3"},
        {"problem": "2 + 2?", "answer": "4", "solution": ""},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    worked = [solve(problem) for problem in load_tasks(f"{file}:math500", size=None, seed=0, split="test")]
    assert worked[0] is not None
    assert "Clearly" in worked[0].thinking
    assert worked[1:] == [None, None]
