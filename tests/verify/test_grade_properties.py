"""Grading gives a verdict for whatever a model writes, the same whoever asks and however."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bethink.tasks.problem import Problem
from bethink.verify.grade import GradeItem, grade, grade_item, grade_many
from bethink.verify.pool import WorkerPool
from bethink.verify.verdict import Outcome

PIECES = [
    r"\frac", "{", "}", "(", ")", "[", "]", "1", "2", "0", ".", ",", "x", "^", "_", "-", "+", "=", r"\sqrt", r"\text", r"\pm", r"\cup",
    "<", r"\le", ":", "%", r"\%", "$", "!", " ", r"\infty", r"\begin{pmatrix}", r"\end{pmatrix}", "&", r"\\", r"\{", r"\}", "or", "cm",
    r"^\circ", "|", "/", r"\in", r"\approx", "base 2", "é", "\n", r"\boxed", "A", "²", "√", "½",
]  # fmt: skip
LATEX = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(1, timeout=1) as workers:
        yield workers


def problem(answer: str, grader: str, **meta: object) -> Problem:
    return Problem("p", "t", ({"role": "user", "content": "?"},), answer, grader, dict(meta))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gold=LATEX, answer=LATEX)
def test_any_two_strings_of_latex_get_a_verdict(pool: WorkerPool, gold: str, answer: str) -> None:
    verdict = grade_item(GradeItem(gold, f"So \\boxed{{{answer}}}.", "math"), pool=pool)
    assert verdict.outcome in Outcome


@settings(max_examples=200, deadline=None)
@given(gold=LATEX.filter(lambda text: text.strip() and "boxed" not in text))
def test_an_answer_that_is_the_reference_answer_is_never_wrong(gold: str) -> None:
    from bethink.verify.math import decide

    verdict = decide(gold, gold)
    assert verdict is None or verdict.outcome is not Outcome.WRONG


@settings(deadline=None)
@given(text=st.text(), grader=st.sampled_from(["choice", "exact", "numeric"]))
def test_any_text_gets_a_verdict_from_the_graders_of_this_process(text: str, grader: str) -> None:
    for answer in (text, "B", "18"):
        assert grade_item(GradeItem(answer, f"The answer is {text}", grader)).outcome in Outcome


@settings(deadline=None)
@given(
    letter=st.sampled_from("ABCD"),
    gold=st.sampled_from("ABCD"),
    noise=st.text(alphabet="xyz .,\n", max_size=30),
)
def test_a_stated_letter_is_right_exactly_when_it_is_the_reference(
    letter: str, gold: str, noise: str
) -> None:
    output = f"<think>The answer is {gold}.</think>{noise}\nThe final answer is ({letter})."
    assert grade_item(GradeItem(gold, output, "choice", {"choices": 4})).correct == (letter == gold)


@settings(deadline=None)
@given(n=st.integers(-(10**9), 10**9), m=st.integers(-(10**9), 10**9))
def test_whole_numbers_are_equal_when_they_are(n: int, m: int) -> None:
    for grader in ("math", "numeric"):
        assert grade_item(GradeItem(str(n), f"The final answer is ${m:,}$.", grader)).correct == (n == m)


def test_an_impossible_computation_is_settled_in_time(pool: WorkerPool) -> None:
    for monster in (
        "100000!",
        "9^{9^{9^9}}",
        "(10^{9})!",
        r"\sum_{n=1}^{10^{12}} \frac{1}{n^2}",
        r"\int_0^1 e^{x^{x^x}} dx",
    ):
        verdict = grade_item(GradeItem("5", rf"\boxed{{{monster}}}", "math"), pool=pool)
        assert verdict.outcome in (Outcome.WRONG, Outcome.GRADER_ERROR), monster
    assert grade_item(GradeItem(r"\sin x", r"\boxed{\sin(x)}", "math"), pool=pool).correct


def test_verdicts_come_in_the_order_of_the_items_whatever_the_workers() -> None:
    items = [
        GradeItem(str(n), rf"\boxed{{\sqrt[3]{{{n**3}}}}}" if n % 2 else rf"\boxed{{{n}}}", "math")
        for n in range(2, 40)
    ]
    one, two = (list(grade_many(iter(items), workers)) for workers in (1, 2))
    assert one == two
    assert all(verdict.correct for verdict in one)


def test_grading_works_from_another_thread(pool: WorkerPool) -> None:
    found = []
    thread = threading.Thread(
        target=lambda: found.append(grade(problem(r"\sin x", "math"), r"\boxed{\cos(\pi/2 - x)}", pool=pool))
    )
    thread.start()
    thread.join()
    assert found[0].correct


def test_a_problem_carries_its_generator() -> None:
    entry = {"question": "1 + 1 = ?", "answer": "2", "metadata": {"source_dataset": "chain_sum"}}
    with WorkerPool(1) as pool:
        for meta in (
            {"entry": entry},
            {"entry": entry, "generator": "chain_sum", "config": {"min_terms": 2, "max_terms": 2}},
        ):
            assert grade(problem("2", "reasoning_gym", **meta), "The answer is 2.", pool=pool).correct
            verdict = grade(problem("2", "reasoning_gym", **meta), "The answer is 3.", pool=pool)
            assert (verdict.outcome, verdict.detail) == (Outcome.WRONG, "scored 0")


def test_a_scorer_that_crashes_is_our_failure_unless_it_is_the_answer_that_cannot_be_read() -> None:
    factors = {"answer": "3 × 37", "metadata": {"factors": [3, 37]}}
    items = [
        GradeItem("1", "The answer is two.", "spell_backward", {"entry": {}}),
        GradeItem("1", "The answer is two.", "no_such_generator"),
        GradeItem("3 × 37", "The answer is three.", "prime_factorization", {"entry": factors}),
        GradeItem("3 × 37", r"\boxed{3 \times 37}", "prime_factorization", {"entry": factors}),
        GradeItem("3 × 37", "Answer: n = 3 × 37", "prime_factorization", {"entry": factors}),
    ]
    assert [verdict.outcome for verdict in grade_many(items, 1)] == [
        Outcome.GRADER_ERROR,
        Outcome.GRADER_ERROR,
        Outcome.WRONG,
        Outcome.CORRECT,
        Outcome.CORRECT,
    ]


def test_tolerance_is_the_problems() -> None:
    item = GradeItem("3.1416", "The answer is 3.14.", "numeric")
    assert grade_item(item).outcome is Outcome.WRONG
    for meta in ({"tolerance": 0.01}, {"relative_tolerance": 1e-3}):
        assert grade_item(GradeItem(item.answer, item.output, "numeric", meta)).correct
    for tolerance in ("little", "1/0", "1e999999999", "nan", -1, True, float("inf")):
        item = GradeItem("3", "The answer is 3.", "numeric", {"tolerance": tolerance})
        assert grade_item(item).outcome is Outcome.GRADER_ERROR


def test_case_matters_where_the_problem_says_so() -> None:
    for meta, outcome in (({}, Outcome.CORRECT), ({"case_sensitive": True}, Outcome.WRONG)):
        assert grade_item(GradeItem("NaN", "The answer is nan.", "exact", meta)).outcome is outcome
