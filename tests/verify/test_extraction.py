"""Where the answer of a completion is taken from."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bethink.chat.parse import Status
from bethink.chat.toggle import ThinkFormat
from bethink.verify.choice import committed_letter
from bethink.verify.extract import answer_text, committed


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{The answer is } 5}", "5"),
        (r"\boxed{2} or \boxed{3}", "2, 3"),
        (r"\boxed{2}. Later we see that \boxed{3}", "3"),
        ("The answer is $\\frac{3}{4}$, which is less than 1.", r"$\frac{3}{4}$"),
        ("The answer is $5.50 per hour.", "$5.50 per hour"),
        ("The answer is 8:34 p.m. on Monday", "8:34 p.m. on Monday"),
        ("The answers are 2 and 3.", "2 and 3"),
        ("Answer: x ∈ (0, 1]", "x ∈ (0, 1]"),
        ("Final Answer: The total number of ways is **12**.", "12"),
        ("The answer is 3.14.", "3.14"),
        ("**Final Answer**\n\nThe answer is 5.", "5"),
        ("The final answer is 12, not 13.", "12"),
        ("The answer is 12. The final answer is given in metres.", "12"),
        (r"The final answer is 12 \boxed{}.", "12"),
    ],
)
def test_the_answer_is_taken_as_written(text: str, extracted: str) -> None:
    found = committed(text)
    assert found is not None
    assert found.text == extracted


def test_lines_that_belong_to_the_answer_are_kept_together() -> None:
    found = committed("Answer:\n1 2\n3 4\n\nThat is all.")
    assert found is not None
    assert found.block == "1 2\n3 4"


@pytest.mark.parametrize("cut", range(len(r"We get \boxed{42}. The final answer is 42.")))
def test_a_cut_completion_never_commits_to_a_part_of_its_answer(cut: int) -> None:
    found = committed(r"We get \boxed{42}. The final answer is 42."[:cut], truncated=True)
    assert found is None or found.text == "42"


def test_tags_are_data() -> None:
    text, status = answer_text(
        "[THINK]\\boxed{1}[/THINK]\\boxed{2}", think=ThinkFormat("[THINK]", "[/THINK]")
    )
    assert (text, status) == ("\\boxed{2}", Status.CLOSED)


def test_a_block_opened_by_the_prompt_that_never_closes_leaves_no_answer() -> None:
    assert answer_text("so it is \\boxed{7}", opened=True) == ("", Status.UNCLOSED)


@pytest.mark.parametrize("start", ["The answer is ", "answer", "#### B"])
@pytest.mark.parametrize(
    "piece",
    [
        r"\boxed{", "the answer is $$", "answer is ", r"\boxed{5} ", " ", "$", "<answer>", "final answer ", "answer: 5\n", "{", "* ", "\n",
        r"\text{", "(", "B ", "option ", "answer choice ", "answer (", ". Choose ", "we get ", "so ", "correct, ", "<|end|>", "1", "A) x\n", "(B) ", "(the ",
    ],
)  # fmt: skip
def test_text_that_repeats_itself_is_read_in_no_time(start: str, piece: str) -> None:
    text = start + piece * (100_000 // len(piece)) + "z"
    started = time.process_time()
    committed(answer_text(text)[0])
    committed_letter(text, "ABCD")
    assert time.process_time() - started < 2


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    committed(text)
    committed(f"The final answer is {text}")
    committed(f"\\boxed{{{text}")
