"""Running one program in a sandbox, for the tests."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.run import Result, run
from bethink.verify.code.tasks import Call, CallTask, OutputTask


def probe(sandboxes: Sandboxes, code: str, *arguments: Any, expected: Any = True) -> Result:
    """What became of `probe(*arguments)` of the code; ok when it gave `expected`."""
    task = CallTask("", (Call("probe", arguments, {}, (expected,)),))
    return run(task, dedent(code), sandboxes)


def program(sandboxes: Sandboxes, code: str, given: str = "", wanted: str = "") -> Result:
    """What became of a whole program; ok when it printed `wanted`."""
    return run(OutputTask(((given, wanted),)), dedent(code), sandboxes)
