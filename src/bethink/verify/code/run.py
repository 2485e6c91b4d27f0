"""Run a program on a task and say what became of it.

One message at a time: an input goes into the sandbox, a result comes out and is compared here. The next input is not sent before the
last result was right.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import Any

from bethink.verify.code.compare import same
from bethink.verify.code.live import EndedError, Message, Sandbox
from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.sandbox import Status
from bethink.verify.code.tasks import Call, CallTask, Entry, OutputTask, Task, TestTask
from bethink.verify.code.wire import Reader, WireError, encode

_TOLD = 160
_TRIES = 2
_LEAVES = ("SystemExit", "KeyboardInterrupt", "GeneratorExit")
"""What a program raises to end itself: nothing to hand on to a test."""

_ENDS_A_LOOP = ("StopIteration", "StopAsyncIteration")
"""What Python takes for the end of a loop: `all(map(f, inputs))` would end before it began, and be true."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a program. passed: how many calls or cases were right, of how many (0 of 0 where a test does not say)."""

    status: Status
    detail: str = ""
    passed: int = 0
    total: int = 0


def run(task: Task, code: str, sandboxes: Sandboxes) -> Result:
    """Run `code` on `task`, in a fresh sandbox; a sandbox that does not start is tried once more."""
    for attempt in range(_TRIES):
        try:
            match task:
                case CallTask():
                    return _run_calls(task, code, sandboxes)
                case TestTask():
                    return _run_test(task, code, sandboxes)
                case OutputTask():
                    return _run_cases(task, code, sandboxes)
        except EndedError as error:
            if error.status is not Status.INFRA_ERROR or attempt + 1 == _TRIES:
                return Result(error.status, error.detail)
    raise AssertionError("every task ends in a result")


class _FailedError(Exception):
    """The program failed: what became of it."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def _run_calls(task: CallTask, code: str, sandboxes: Sandboxes) -> Result:
    total = len(task.calls)
    done = 0
    with sandboxes.take(total) as sandbox:
        try:
            _load(sandbox, task.preamble, code)
            for call in task.calls:
                _check_call(sandbox, task, call)
                done += 1
        except (_FailedError, EndedError) as error:
            return _ended(error, done, total)
    return Result(Status.OK, f"{total} of {total} calls", total, total)


def _ended(error: _FailedError | EndedError, done: int = 0, total: int = 0) -> Result:
    """The result of a program that failed; a sandbox that was lost is tried again."""
    if isinstance(error, EndedError) and error.status is Status.INFRA_ERROR:
        raise error
    return Result(error.status, error.detail, done, total)


def _check_call(sandbox: Sandbox, task: CallTask, call: Call) -> None:
    """Raises _FailedError for a call that did not give what it should."""
    target = ["name", call.name, task.owner]
    try:
        arguments = encode([list(call.arguments), call.options])
    except WireError as error:
        raise _FailedError(Status.INFRA_ERROR, f"the input cannot be sent: {error}") from None
    reply = _answer(sandbox.ask({"do": "call", "target": target, "arguments": arguments, "keep": False}))
    try:
        found = Reader(reply.get("value"))
    except WireError:
        raise _FailedError(Status.VIOLATION, "what it sent is no answer") from None
    if not any(same(expected, found, task.how, tolerance=task.tolerance) for expected in call.expected):
        raise _FailedError(
            Status.WRONG, f"{_written(call)} gave {_shown(found)}, not {_short(repr(call.expected[0]))}"
        )


def _run_cases(task: OutputTask, code: str, sandboxes: Sandboxes) -> Result:
    total = len(task.cases)
    done = 0
    with sandboxes.take(total) as sandbox:
        try:
            for given, wanted in task.cases:
                most = sandbox.limits.reply // 4
                reply = _answer(sandbox.ask({"do": "run", "code": code, "input": given, "most": most}))
                output = reply.get("output")
                if not isinstance(output, str):
                    raise _FailedError(Status.VIOLATION, "what it sent is no answer")
                if not _same_output(wanted, output, task.tolerance):
                    raise _FailedError(
                        Status.WRONG,
                        f"input {done + 1} gave {_short(repr(output))}, not {_short(repr(wanted))}",
                    )
                done += 1
        except (_FailedError, EndedError) as error:
            return _ended(error, done, total)
    return Result(Status.OK, f"{total} of {total} inputs", total, total)


def _run_test(task: TestTask, code: str, sandboxes: Sandboxes) -> Result:
    """The data set's test in one sandbox, the program in another; what the test asks is handed on, and what the program gives handed back."""
    with sandboxes.take() as sandbox, sandboxes.take() as trusted:
        answered, raised = False, ""
        try:
            _load(sandbox, task.preamble, code, task.classes)
            told = trusted.ask(_test_message(task))
            while "call" in told:
                reply = _handed_on(sandbox, told, task.test)
                raised = f"{reply['raised']}: {reply['text']}" if "raised" in reply else ""
                answered = True
                told = trusted.ask(reply)
        except _FailedError as error:
            return Result(error.status, error.detail)
        except EndedError as error:
            if error.status is Status.INFRA_ERROR:
                raise
            # A test that broke off before the program said anything did so by itself.
            ours = error.source is trusted and not answered
            return Result(Status.INFRA_ERROR if ours else error.status, error.detail)
    if "passed" in told:
        return (
            Result(Status.OK, "the test passed")
            if answered
            else Result(Status.INFRA_ERROR, "the test asks nothing")
        )
    failed = str(told.get("failed") or told.get("text") or "")
    line = told.get("line") or "the test failed"
    if told.get("ours") or not answered:
        return Result(Status.INFRA_ERROR, f"the test is broken: {failed or line}")
    if raised:
        return Result(Status.ERROR, raised)
    return Result(Status.WRONG, f"{_short(line)}" + (f" ({_short(failed)})" if failed else ""))


def _test_message(task: TestTask) -> Message:
    def pair(entry: Entry) -> list[str | None]:
        return [entry.name, entry.owner]

    return {
        "do": "test",
        "preamble": task.test_preamble,
        "test": task.test,
        "stand_ins": [pair(entry) for entry in task.stand_ins],
        "candidate": pair(task.candidate) if task.candidate else None,
        "classes": list(task.classes),
    }


def _handed_on(sandbox: Sandbox, told: Message, test: str) -> Message:
    """The program's answer to a call of the test's, with nothing in it but what an answer has.

    Raises _FailedError for what no test can expect: the program's end, and the end of a loop in a test that has no `except` for it.
    """
    message = {"do": "call", "target": told["call"], "arguments": told["arguments"], "keep": True}
    reply = sandbox.ask(message)
    name = reply.get("raised")
    ends = name in (*_LEAVES, "PermissionError") or (name in _ENDS_A_LOOP and not _expects(test, name))
    if isinstance(name, str) and not ends:
        return {"raised": _clean(name), "text": _clean(reply.get("text"))}
    reply = _answer(reply)
    if not isinstance(reply.get("value"), dict) or not isinstance(reply.get("after"), dict):
        raise _FailedError(Status.VIOLATION, "what it sent is no answer")
    return {"value": reply["value"], "after": reply["after"]}


def _expects(test: str, name: str) -> bool:
    """Whether the test has an `except` clause that names this exception."""
    return any(
        isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node.type))
        for node in ast.walk(ast.parse(test))
    )


def _load(sandbox: Sandbox, preamble: str, code: str, classes: tuple[str, ...] = ()) -> None:
    """Hand over the program. What stands before it goes first: at that time nothing in the sandbox could say a false word about it."""
    prepared = sandbox.ask({"do": "prepare", "preamble": preamble, "classes": list(classes)})
    if "prepared" not in prepared:
        raise _FailedError(Status.INFRA_ERROR, f"what stands before the program: {prepared.get('text')}")
    _answer(sandbox.ask({"do": "load", "code": code}))


def _answer(reply: Message) -> Message:
    """A reply that is one. Raises _FailedError for an error of the program's."""
    if "memory" in reply:
        raise _FailedError(Status.MEMORY, "out of memory")
    if "raised" in reply:
        name, text = _clean(reply["raised"]), _clean(reply.get("text"))
        status = {
            "PermissionError": Status.VIOLATION,
            "UnsendableError": Status.WRONG,
            "WireError": Status.WRONG,
        }.get(name, Status.ERROR)
        raise _FailedError(status, text if status is Status.WRONG else f"{name}: {text}" if text else name)
    return reply


def _same_output(wanted: str, output: str, tolerance: float | None) -> bool:
    """Line by line, without white space at the ends of lines and empty lines at the end."""
    expected, found = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (wanted, output))
    if expected == found:
        return True
    if tolerance is None or len(expected) != len(found):
        return False
    words = [(a.split(), b.split()) for a, b in zip(expected, found, strict=True)]
    return all(
        len(a) == len(b) and all(_close(x, y, tolerance) for x, y in zip(a, b, strict=True)) for a, b in words
    )


def _close(wanted: str, found: str, tolerance: float) -> bool:
    if wanted == found:
        return True
    try:
        return math.isclose(float(wanted), float(found), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False


def _written(call: Call) -> str:
    parts = [repr(argument) for argument in call.arguments]
    parts += [f"{name}={value!r}" for name, value in call.options.items()]
    return _short(f"{call.name}({', '.join(parts)})")


def _shown(found: Reader) -> str:
    """A returned value, for people."""
    try:
        tag, body = found.look(found.root)
    except WireError:
        return "nothing that can be read"
    if not isinstance(body, list):
        return _short(str(body) if tag == "NoneType" else repr(body))
    return _clean(f"a {tag[:20]} of {len(body)}: {_flat(found, found.root, 3)}")


def _flat(found: Reader, cell: Any, depth: int) -> str:
    try:
        tag, body = found.look(cell)
    except WireError:
        return "?"
    if not isinstance(body, list):
        return repr(body)[:40]
    inside = ", ".join(_flat(found, part, depth - 1) for part in body[:12]) if depth else "…"
    return f"{tag[:20]}({inside})"


def _clean(told: object) -> str:
    """What a sandbox said, as text that can be written anywhere."""
    text = told if isinstance(told, str) else ""
    return text[:_TOLD].encode("utf-8", errors="replace").decode()


def _short(text: str) -> str:
    return text if len(text) <= _TOLD else f"{text[: _TOLD - 1]}…"
