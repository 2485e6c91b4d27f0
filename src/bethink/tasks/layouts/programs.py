"""Programs: HumanEval, MBPP, LeetCode, APPS, TACO, CodeContests. The tests go to the grader."""

from __future__ import annotations

import json
import re
from typing import Any

from bethink.tasks.layouts.columns import Mapped, Row, RowError, identifier, text, value


def humaneval(row: Row) -> Mapped:
    """The prompt is the question; the tests go to the grader."""
    meta = {name: text(row, name) for name in ("prompt", "test", "entry_point")}
    return Mapped(
        meta["prompt"], row.get("canonical_solution") or "", "code", identifier(row, "task_id"), meta
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
        identifier(row, "task_id"),
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
        _with_starter(question, row), answer, "code", identifier(row, "task_id", "question_id", "id"), meta
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
        identifier(row, "problem_id", "id", "task_id"),
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
        identifier(row, "name", "id"),
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
