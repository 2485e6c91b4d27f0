"""What the columns of known benchmark files mean: one function a layout, from a row to what a problem is made of.

Each accepts the layouts in which its benchmark is published (the authors' JSON Lines, the hub's Parquet, the instruction form).
The question is asked alone, with no request for a format; choices are written as lettered lines. Reading files and naming the line
of a fault is left to `files.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from random import Random
from typing import Any

from bethink.core.numbers import decimal_text
from bethink.core.seeds import derive_seed

Row = dict[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class RowError(Exception):
    """A row that is no problem: what is wrong with it, in words that name the key."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A row's meaning. id: the row's own identifier, if it has one."""

    question: str
    answer: str
    grader: str
    id: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


MappingFunction = Callable[[Row], Mapped]


@dataclass(frozen=True)
class ColumnMapping:
    """A user's own layout, by column names.

    question: text, or a list of chat messages whose last user message is the question; choices: a list of texts (then `answer` is
    a letter, a 0-based index or the text of one of them); grader: one for all rows, or None to read the column "grader". An answer's
    column that ends in `?` may be missing, null or empty: such a problem has no answer ("").
    """

    question: str = "question"
    answer: str = "answer"
    grader: str | None = None
    choices: str | None = None
    id: str | None = None

    def __call__(self, row: Row) -> Mapped:
        question = text(row, self.question)
        identifier = text(row, self.id) if self.id else _identifier(row, "id")
        column = self.answer.removesuffix("?")
        given = row.get(column)
        unanswered = column != self.answer and (given is None or not str(given).strip())
        if self.choices:
            options = texts(row, self.choices)
            letter = "" if unanswered else letter_of(row, column, options)
            return choice(question, options, letter, id=identifier)
        answer = "" if unanswered else text(row, column)
        return Mapped(question, answer, self.grader or text(row, "grader"), identifier)


def value(row: Row, *names: str) -> Any:
    """The first of the named columns that the row has with a value. Raises RowError."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    wanted = f"`{names[0]}`" if len(names) == 1 else f"any of {', '.join(f'`{n}`' for n in names)}"
    null = [name for name in names if name in row]
    raise RowError(
        f"`{null[0]}` is null" if null else f"has no {wanted} (its keys: {', '.join(row) or 'none'})"
    )


def text(row: Row, *names: str) -> str:
    """Like `value`, for a non-empty text or a number, as text."""
    found = value(row, *names)
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise RowError(f"`{_name(row, names)}` must be a text, not {type(found).__name__}")
    written = _written(found)
    if not written.strip():
        raise RowError(f"`{_name(row, names)}` is empty")
    return written


def texts(row: Row, *names: str) -> list[str]:
    """Like `value`, for a list of at least two texts."""
    found = value(row, *names)
    if not isinstance(found, list | tuple) or len(found) < 2 or len(found) > len(LETTERS):
        raise RowError(f"`{_name(row, names)}` must be a list of 2 to {len(LETTERS)} texts")
    if not all(isinstance(item, str | int | float) for item in found):
        raise RowError(f"`{_name(row, names)}` holds something that is not a text")
    return [_written(item) for item in found]


def _written(item: str | int | float) -> str:
    if isinstance(item, float) and not isfinite(item):
        raise RowError(f"{item} is no number to answer with")
    return item if isinstance(item, str) else decimal_text(item)


def _name(row: Row, names: Sequence[str]) -> str:
    return next(name for name in names if row.get(name) is not None)


def _identifier(row: Row, *names: str) -> str | None:
    return next((str(row[name]) for name in names if isinstance(row.get(name), str | int)), None)


def letter_of(row: Row, name: str, options: Sequence[str]) -> str:
    """The letter of the right choice, from a letter, a 0-based index, or the text of one of the choices."""
    given = value(row, name)
    if isinstance(given, int) and not isinstance(given, bool):
        if 0 <= given < len(options):
            return LETTERS[given]
    elif isinstance(given, str):
        stripped = given.strip()
        if len(stripped) == 1 and stripped.upper() in LETTERS[: len(options)]:
            return stripped.upper()
        if list(options).count(given) == 1:
            return LETTERS[list(options).index(given)]
    raise RowError(f"`{name}` is {given!r}: not one of the {len(options)} choices")


def choice(
    question: str, options: Sequence[str], letter: str, *, id: str | None = None, **meta: Any
) -> Mapped:
    """A multiple-choice problem: the choices as lettered lines under the question."""
    lines = "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=False))
    return Mapped(f"{question.strip()}\n\n{lines}", letter, "choice", id, {**meta, "choices": list(options)})


def gsm8k(row: Row) -> Mapped:
    """`answer` is the worked solution and ends "#### N"."""
    _, mark, gold = text(row, "answer").rpartition("####")
    gold = gold.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\$?\d+(?:\.\d+)?", gold):
        raise RowError("`answer` does not end in `#### NUMBER`")
    return Mapped(text(row, "question"), gold.replace("$", ""), "math")


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
        _identifier(row, "unique_id", "id"),
        {key: item for key, item in meta.items() if item is not None},
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


def mmlu(row: Row) -> Mapped:
    """MMLU and MMLU-Pro: choices (or options), and the answer as a letter or an index."""
    options = texts(row, "choices", "options")
    name = next((n for n in ("answer", "answer_letter", "answer_index") if row.get(n) is not None), "answer")
    subject = row.get("subject", row.get("category"))
    return choice(
        text(row, "question"),
        options,
        letter_of(row, name, options),
        id=_identifier(row, "question_id", "id"),
        **({"subject": subject} if subject else {}),
    )


def gpqa(row: Row) -> Mapped:
    """Main, Diamond and Extended. The right answer's place is drawn from a hash of the question: the same in every run."""
    question = text(row, "Question", "question")
    right = text(row, "Correct Answer").strip()
    options = [right, *(text(row, f"Incorrect Answer {n}").strip() for n in (1, 2, 3))]
    order = Random(derive_seed("gpqa", question)).sample(range(4), 4)
    subject = row.get("High-level domain", row.get("Subdomain"))
    return choice(
        question,
        [options[i] for i in order],
        LETTERS[order.index(0)],
        id=_identifier(row, "Record ID"),
        **({"subject": subject} if subject else {}),
    )


def science_choice(row: Row) -> Mapped:
    """OpenBookQA and ARC: the authors' nested JSON, the hub's columns, or the instruction form."""
    if "instruction" in row:
        return _instruction(row)
    stem, options = value(row, "question_stem", "question"), row.get("choices")
    if isinstance(stem, dict):
        stem, options = value(stem, "stem"), stem.get("choices")
    if isinstance(options, list) and all(isinstance(o, dict) for o in options):
        options = {"text": [o.get("text") for o in options], "label": [o.get("label") for o in options]}
    if not isinstance(stem, str) or not isinstance(options, dict):
        raise RowError("needs a question text and `choices` with `text` and `label`")
    contents = texts(options, "text")
    labels = [str(label) for label in value(options, "label")]
    key = text(row, "answerKey").strip()
    if len(labels) != len(contents) or key not in labels:
        raise RowError(f"`answerKey` is {key!r}, the labels are {', '.join(labels)}")
    return choice(stem, contents, LETTERS[labels.index(key)], id=_identifier(row, "id"))


_PREFACE = "Please choose the correct answer to the question:"
_NUMBERED = re.compile(r"\s*\bAnswer(\d):\s*")


def _instruction(row: Row) -> Mapped:
    """Question and choices in one text: "… Answer1: x Answer2: y … Answer format: …", the answer "answer2"."""
    body = text(row, "instruction").strip().removeprefix(_PREFACE).rpartition("Answer format:")[0]
    stem, *rest = _NUMBERED.split(body.strip())
    numbers, contents = rest[::2], [part.strip() for part in rest[1::2]]
    if len(contents) < 2 or numbers != [str(n) for n in range(1, len(contents) + 1)]:
        raise RowError("`instruction` does not hold Answer1: … Answer2: … and `Answer format:`")
    right = re.fullmatch(r"answer(\d)", text(row, "answer").strip())
    if not right or not 1 <= int(right[1]) <= len(contents):
        raise RowError(f"`answer` is {row['answer']!r}: not one of the {len(contents)} choices")
    return choice(stem, contents, LETTERS[int(right[1]) - 1])


def aime(row: Row) -> Mapped:
    """AIME 2024, 2025 and before, in the hub's several spellings; the answer is a whole number from 0 to 999."""
    answer = text(row, "answer", "Answer").strip()
    if not re.fullmatch(r"\d{1,3}(?:\.0)?", answer):
        raise RowError(f"the answer is {answer!r}: not a whole number from 0 to 999")
    question = text(row, "problem", "Problem", "question", "Question")
    return Mapped(
        question, str(int(float(answer))), "math", _identifier(row, "id", "ID", "problem_idx", "Problem ID")
    )


def humaneval(row: Row) -> Mapped:
    """The prompt is the question; the tests go to the grader."""
    meta = {name: text(row, name) for name in ("prompt", "test", "entry_point")}
    return Mapped(
        meta["prompt"], row.get("canonical_solution") or "", "code", _identifier(row, "task_id"), meta
    )


def mbpp(row: Row) -> Mapped:
    """The task's text, with the tests under it: only they say what the function is called."""
    tests = value(row, "test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise RowError("`test_list` must be a list of texts")
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
    question = f"{text(row, 'text', 'prompt').strip()}\n\nThe code must pass these tests:\n\n" + "\n".join(
        tests
    )
    return Mapped(
        question,
        row.get("code") or "",
        "code",
        _identifier(row, "task_id"),
        {"tests": tests, "setup": setup},
    )


_ENTRY_POINT = re.compile(r"(?:[A-Za-z_]\w*\(\)\.)?[A-Za-z_]\w*")


def leetcode(row: Row) -> Mapped:
    """LeetCodeDataset: the question with its starter code; `test` defines check(candidate), or `input_output` lists calls."""
    entry = text(row, "entry_point").strip()
    if not _ENTRY_POINT.fullmatch(entry):
        raise RowError(f"`entry_point` is {entry!r}: neither a name nor Class().name")
    meta: dict[str, Any] = {"entry_point": entry, "prompt": row.get("prompt") or ""}
    if row.get("test"):
        meta["test"] = text(row, "test")
    else:
        cases = _parsed(row, "input_output")
        if not isinstance(cases, list) or not cases or not all(isinstance(case, dict) for case in cases):
            raise RowError("needs a `test`, or `input_output` with a list of cases")
        meta["cases"] = [{"input": case.get("input"), "output": case.get("output")} for case in cases]
    question = text(row, "query", "problem_description", "content", "question")
    answer = row.get("completion") or row.get("response") or ""
    return Mapped(
        _with_starter(question, row), answer, "code", _identifier(row, "task_id", "question_id", "id"), meta
    )


def program_tests(row: Row) -> Mapped:
    """APPS and TACO: `input_output` holds inputs and outputs, of a whole program or, with `fn_name`, of a function."""
    cases = _parsed(row, "input_output")
    if not isinstance(cases, dict):
        raise RowError("`input_output` is no object with `inputs` and `outputs`")
    meta = _inputs_and_outputs(cases.get("inputs"), cases.get("outputs"))
    if cases.get("fn_name"):
        meta["fn_name"] = str(cases["fn_name"])
    question = _with_starter(text(row, "question", "problem", "description"), row)
    solutions = _parsed(row, "solutions") if row.get("solutions") else []
    answer = solutions[0] if isinstance(solutions, list) and solutions else ""
    return Mapped(
        question if "fn_name" in meta else f"{question}\n\n{_WHOLE_PROGRAM}",
        answer if isinstance(answer, str) else "",
        "code",
        _identifier(row, "problem_id", "id", "task_id"),
        meta,
    )


def codecontests(row: Row) -> Mapped:
    """CodeContests: public, private and generated tests, each with `input` and `output`."""
    inputs: list[Any] = []
    outputs: list[Any] = []
    for name in ("public_tests", "private_tests", "generated_tests"):
        tests = row.get(name)
        if isinstance(tests, dict):
            inputs += tests.get("input") or []
            outputs += tests.get("output") or []
    question = text(row, "description").strip()
    return Mapped(
        f"{question}\n\n{_WHOLE_PROGRAM}",
        "",
        "code",
        _identifier(row, "name", "id"),
        _inputs_and_outputs(inputs, outputs),
    )


_WHOLE_PROGRAM = "Write a program that reads standard input and writes standard output."


def _inputs_and_outputs(inputs: Any, outputs: Any) -> dict[str, Any]:
    if (
        not isinstance(inputs, list)
        or not isinstance(outputs, list)
        or not inputs
        or len(inputs) != len(outputs)
    ):
        raise RowError("needs as many outputs as inputs, and one at least")
    return {"inputs": inputs, "outputs": outputs}


def _parsed(row: Row, name: str) -> Any:
    """A column that holds JSON as text, or what the JSON says."""
    found = value(row, name)
    if not isinstance(found, str):
        return found
    try:
        return json.loads(found)
    except (ValueError, RecursionError) as error:
        raise RowError(f"`{name}` is not valid JSON: {error}") from None


def _with_starter(question: str, row: Row) -> str:
    """The question, and the code it begins with where it does not show it already."""
    starter = row.get("starter_code")
    if not isinstance(starter, str) or not starter.strip() or starter.strip() in question:
        return question.strip()
    return f"{question.strip()}\n\nBegin with this code:\n\n```python\n{starter.rstrip()}\n```"


MAPPINGS: dict[str, MappingFunction] = {
    "plain": ColumnMapping(),
    "gsm8k": gsm8k,
    "math500": math500,
    "mmlu": mmlu,
    "gpqa": gpqa,
    "openbookqa": science_choice,
    "arc": science_choice,
    "aime": aime,
    "humaneval": humaneval,
    "mbpp": mbpp,
    "leetcode": leetcode,
    "apps": program_tests,
    "taco": program_tests,
    "codecontests": codecontests,
}
"""The layouts known by name. "plain" is question, answer, grader and, if there, id."""
