"""What a coding problem asks of a program: calls with expected values, a test of the data set's own, or runs with expected output.

Read from the problem's `meta`, by its keys:

    tests, setup                MBPP: asserts, and what stands before them
    test, entry_point, prompt   HumanEval and LeetCode: a function `check(candidate)`; entry_point is `name` or `Solution().name`
    inputs, outputs             whole programs: texts for standard input and what they must print; with `fn_name`, arguments and results
    cases, entry_point          calls: [{"input": "nums = [1, 2], k = 3", "output": "[0, 1]"}, …]

Data sets' texts are parsed here (`ast`) and never run. Asserts that compare a call with a literal become calls with expected values, which
need no further trust; any other test runs in a sandbox of its own, beside the one with the program (`run`). Knows no model's text, except to
see whether it continues the prompt.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bethink.verify.code.compare import Same

_SETTLED = frozenset(dir(builtins))
_ENTRY = re.compile(r"(?:(?P<owner>[A-Za-z_]\w*)\(\)\.)?(?P<name>[A-Za-z_]\w*)")
_IMPORTS = """\
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
"""
"""What code for LeetCode takes for granted."""


class TaskError(Exception):
    """A problem's meta that is no task; the message says why."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call and the values it may return (all but one of them other spellings)."""

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    expected: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the program must define. owner: the class whose method it is, if any."""

    name: str
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Continued:
    """A prompt that is the beginning of a function: the program may be only its rest."""

    name: str
    prompt: str


@dataclass(frozen=True, slots=True)
class CallTask:
    """Calls with expected values. preamble: what stands before the program."""

    preamble: str
    calls: tuple[Call, ...]
    owner: str | None = None
    continued: Continued | None = None
    how: Same = Same.EXACT
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class TestTask:
    """A test of the data set's own.

    test_preamble: what stands before the test; stand_ins: names the test uses that the program has; candidate: what is handed to
    `check`; classes: of the preamble, whose instances may be arguments and results.
    """

    __test__ = False  # no test for pytest

    preamble: str
    test_preamble: str
    test: str
    stand_ins: tuple[Entry, ...]
    candidate: Entry | None = None
    classes: tuple[str, ...] = ()
    continued: Continued | None = None


@dataclass(frozen=True, slots=True)
class OutputTask:
    """Whole programs: (standard input, expected output)."""

    cases: tuple[tuple[str, str], ...]
    tolerance: float | None = None


Task = CallTask | TestTask | OutputTask


def read_task(meta: Mapping[str, Any]) -> Task:
    """The task of a problem. Raises TaskError."""
    if meta.get("tests") is not None:
        return _asserts(meta)
    if meta.get("test") is not None:
        return _check(meta)
    if meta.get("cases") is not None:
        return _cases(meta)
    if meta.get("inputs") is not None:
        return _inputs(meta)
    raise TaskError("its meta holds no `tests`, `test`, `cases` or `inputs`")


def complete(task: Task, code: str) -> str:
    """The program in full: where the prompt is the beginning of a function and the answer only its rest, both together."""
    if isinstance(task, OutputTask) or task.continued is None:
        return code
    if re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(task.continued.name)}\b", code, re.MULTILINE):
        return code
    body = code.strip("\n")
    if not body[:1].isspace():
        body = "\n".join(f"    {line}" for line in body.split("\n"))
    return f"{task.continued.prompt.rstrip()}\n{body}\n"


def _asserts(meta: Mapping[str, Any]) -> Task:
    tests, setup = meta["tests"], meta.get("setup") or ""
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise TaskError("`tests` is no list of asserts")
    text = "\n".join(tests)
    tree, before = _parse(text, "tests"), _parse(_text(setup, "setup"), "setup")
    imports = "\n".join(
        ast.unparse(node) for node in before.body if isinstance(node, ast.Import | ast.ImportFrom)
    )
    only_imports = all(isinstance(node, ast.Import | ast.ImportFrom) for node in before.body)
    calls, names = _literal_calls(tree.body), _free_names([before, tree])
    # A test that uses nothing but Python's own names means the program's, where one of them is called: `assert sum(10, 15) == 6`.
    if calls and only_imports and (not names or all(call.name in names for call in calls)):
        return CallTask(imports, calls, how=Same.PYTHON)
    if not names:
        raise TaskError("its tests use nothing of the program")
    modules = _modules(names, [before, tree])
    stand_ins = tuple(Entry(name) for name in names if name not in modules)
    return TestTask(imports, "".join(f"import {name}\n" for name in modules), f"{setup}\n{text}", stand_ins)


def _check(meta: Mapping[str, Any]) -> Task:
    test, prompt = _text(meta["test"], "test"), _text(meta.get("prompt") or "", "prompt")
    entry = _entry(meta)
    tree = _parse(test, "test")
    continued = Continued(entry.name, prompt) if prompt and not entry.owner else None
    prompt = _runnable(prompt)
    check = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    if check is None:
        raise TaskError("`test` defines no `check`")
    if len(check.args.args) == 1 and all(node is check or _is_plain(node) for node in tree.body):
        parameter = check.args.args[0].arg
        calls = _literal_calls(check.body)
        if calls and all(call.name == parameter for call in calls):
            named = tuple(Call(entry.name, call.arguments, call.options, call.expected) for call in calls)
            return CallTask(prompt, named, owner=entry.owner, continued=continued, how=Same.PYTHON)
    before = _parse(prompt, "prompt")
    classes = tuple(node.name for node in before.body if isinstance(node, ast.ClassDef))
    return TestTask(
        preamble=prompt,
        test_preamble=prompt,
        test=test,
        stand_ins=() if entry.owner else (entry,),
        candidate=entry,
        classes=tuple(name for name in classes if name != entry.owner),
        continued=continued,
    )


def _cases(meta: Mapping[str, Any]) -> Task:
    entry, calls = _entry(meta), []
    cases = meta["cases"]
    if not isinstance(cases, list) or not cases:
        raise TaskError("`cases` is no list of cases")
    for case in cases:
        if not isinstance(case, dict) or not isinstance(case.get("input"), str) or "output" not in case:
            raise TaskError('a case is {"input": "nums = [1], k = 2", "output": "[0]"}')
        tree = _parse(f"_({case['input']})", "input")
        call = tree.body[0].value if tree.body and isinstance(tree.body[0], ast.Expr) else None
        found = _literal_call(call)
        if found is None:
            raise TaskError(f"the input `{case['input'][:80]}` is not made of literals")
        calls.append(Call(entry.name, found[0], found[1], (_literal(case["output"]),)))
    prompt = _text(meta.get("prompt") or "", "prompt") or _IMPORTS
    return CallTask(prompt, tuple(calls), owner=entry.owner, tolerance=_tolerance(meta), how=Same.JSON)


def _inputs(meta: Mapping[str, Any]) -> Task:
    inputs, outputs = meta["inputs"], meta.get("outputs")
    if (
        not isinstance(inputs, list)
        or not isinstance(outputs, list)
        or not inputs
        or len(inputs) != len(outputs)
    ):
        raise TaskError("`inputs` and `outputs` must be lists of one length")
    tolerance = _tolerance(meta)
    if not meta.get("fn_name"):
        cases = tuple((_lines(given), _lines(wanted)) for given, wanted in zip(inputs, outputs, strict=True))
        return OutputTask(cases, tolerance)
    name = _text(meta["fn_name"], "fn_name")
    calls = []
    for given, wanted in zip(inputs, outputs, strict=True):
        if not isinstance(given, list):
            raise TaskError("with `fn_name`, every input is a list of arguments")
        # These data sets write a result as itself or as a list of that one result.
        inside = (wanted[0],) if isinstance(wanted, list) and len(wanted) == 1 else ()
        calls.append(Call(name, tuple(given), {}, (wanted, *inside)))
    return CallTask(_IMPORTS, tuple(calls), owner="Solution", how=Same.JSON, tolerance=tolerance)


def _literal_calls(statements: Sequence[ast.stmt]) -> tuple[Call, ...] | None:
    """The calls of asserts `f(literals) == literal`; None when anything else is among the statements."""
    calls = []
    for statement in statements:
        if isinstance(statement, ast.Pass) or _is_plain(statement):
            continue
        if not isinstance(statement, ast.Assert):
            return None
        match statement.test:
            case ast.Constant(value=True):
                continue
            case ast.Compare(
                left=ast.Call(func=ast.Name(id=name)) as call, ops=[ast.Eq()], comparators=[right]
            ):
                found = _literal_call(call)
                try:
                    expected = ast.literal_eval(right)
                except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                    return None
                if found is None:
                    return None
                calls.append(Call(name, *found, (expected,)))
            case _:
                return None
    return tuple(calls) or None


def _literal_call(call: ast.expr | None) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if not isinstance(call, ast.Call) or any(word.arg is None for word in call.keywords):
        return None
    try:
        arguments = tuple(ast.literal_eval(argument) for argument in call.args)
        options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return arguments, options


def _is_plain(node: ast.stmt) -> bool:
    """A docstring, or a name set to a constant (HumanEval's METADATA)."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Assign) and not any(isinstance(part, ast.Call) for part in ast.walk(node))


def _free_names(trees: Iterable[ast.Module]) -> list[str]:
    """Names that are used, and neither set by the text nor Python's own."""
    used: dict[str, None] = {}
    made: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    used[name] = None
                case ast.Name(id=name):
                    made.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    made.add(name)
                case ast.arg(arg=name):
                    made.add(name)
                case ast.alias(name=name, asname=other):
                    made.add(other or name.partition(".")[0])
                case ast.ExceptHandler(name=str(name)):
                    made.add(name)
    return [name for name in used if name not in made and name not in _SETTLED]


def _modules(names: Sequence[str], trees: Iterable[ast.Module]) -> list[str]:
    """Those of the names that can only be modules of the standard library, which a test takes the program to have imported."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    named = [node.id for node in nodes if isinstance(node, ast.Name)]
    dotted = [
        node.value.id
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    return [
        name for name in names if name in sys.stdlib_module_names and named.count(name) == dotted.count(name)
    ]


def _entry(meta: Mapping[str, Any]) -> Entry:
    found = _ENTRY.fullmatch(_text(meta.get("entry_point"), "entry_point").strip())
    if not found:
        raise TaskError(f"`entry_point` is {meta['entry_point']!r}: neither a name nor Class().name")
    return Entry(found["name"], found["owner"])


def _parse(text: str, name: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TaskError(f"`{name}` is no Python: {error}") from None


def _runnable(prompt: str) -> str:
    """The prompt as a whole program, where it ends with the head of a function."""
    for ending in ("", "\n    pass\n"):
        try:
            ast.parse(prompt + ending)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return prompt + ending
    raise TaskError("`prompt` is no Python")


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TaskError(f"`{name}` must be a text")
    return value


def _literal(written: object) -> Any:
    """A result as a data set writes it: a Python literal, JSON, or a bare text."""
    if not isinstance(written, str):
        return written
    for read in (ast.literal_eval, json.loads):
        try:
            return read(written)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return written


def _lines(value: object) -> str:
    """An input or output: a text, or a list of lines."""
    if isinstance(value, list):
        return "\n".join(map(_lines, value))
    return value if isinstance(value, str) else json.dumps(value)


def _tolerance(meta: Mapping[str, Any]) -> float | None:
    value = meta.get("tolerance")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise TaskError("`tolerance` must be a number of 0 or more")
    return float(value)
