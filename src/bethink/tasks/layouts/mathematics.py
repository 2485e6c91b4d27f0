"""Problems whose answer is a number or a formula: GSM8K, MATH, AIME.

Like every layout they accept the forms in which the benchmark is published (the authors' JSON Lines, the hub's Parquet), and ask the
question alone, with no request for a format.
"""

from __future__ import annotations

import re

from bethink.tasks.layouts.columns import Mapped, Row, RowError, identifier, text

_CALCULATED = re.compile(r"<<[^<>]*>>")
"""What GSM8K writes for a calculator."""


def gsm8k(row: Row) -> Mapped:
    """`answer` is the worked solution and ends "#### N"."""
    working, mark, gold = text(row, "answer").rpartition("####")
    gold = gold.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\$?\d+(?:\.\d+)?", gold):
        raise RowError("`answer` does not end in `#### NUMBER`")
    working = _CALCULATED.sub("", working).strip()
    return Mapped(text(row, "question"), gold.replace("$", ""), "math", working=working or None)


_SOLUTIONS = ("solution", "Solution")


def math500(row: Row) -> Mapped:
    """MATH-500 and other MATH layouts: the answer on its own, or only the solution, whose last \\boxed{} it is."""
    if row.get("answer") is None and any(row.get(name) is not None for name in _SOLUTIONS):
        answer = last_boxed(text(row, *_SOLUTIONS))
        if answer is None:
            raise RowError("`solution` holds no \\boxed{} and there is no `answer`")
    else:
        answer = text(row, "answer")
    meta = {"subject": row.get("subject", row.get("type")), "level": row.get("level", row.get("difficulty"))}
    return Mapped(
        text(row, "problem", "question"),
        answer,
        "math",
        identifier(row, "unique_id", "id"),
        {key: item for key, item in meta.items() if item is not None},
        next((s for name in _SOLUTIONS if isinstance(s := row.get(name), str) and s.strip()), None),
    )


_BARE = r"(?:(?!\\[)\]]|\\boxed|\\fbox)(?:\\.|[^$\n]))+"
_BOX = re.compile(rf"\\(?:boxed|fbox)(?:\s*(?=\{{)|\s+(?![{{$])(?P<bare>{_BARE}))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def last_boxed(solution: str) -> str | None:
    """What stands in the last box of a text: a brace-balanced \\boxed{…} or \\fbox{…}, or what follows a \\boxed without braces up to the
    end of its formula or line, as MATH writes both (Hendrycks et al., arXiv 2103.03874). Escaped braces are part of the answer.
    """
    boxes = list(_BOX.finditer(solution))
    if not boxes:
        return None
    box = boxes[-1]
    if box["bare"]:
        return box["bare"].strip().rstrip(".,;") or None
    depth = 0
    for brace in _BRACE.finditer(solution, box.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return solution[box.end() + 1 : brace.start()].strip() or None
    return None


def aime(row: Row) -> Mapped:
    """AIME 2024, 2025 and before, in the hub's several spellings; the answer is a whole number from 0 to 999."""
    answer = text(row, "answer", "Answer").strip()
    if not re.fullmatch(r"\d{1,3}(?:\.0)?", answer):
        raise RowError(f"the answer is {answer!r}: not a whole number from 0 to 999")
    question = text(row, "problem", "Problem", "question", "Question")
    return Mapped(
        question, str(int(float(answer))), "math", identifier(row, "id", "ID", "problem_idx", "Problem ID")
    )
