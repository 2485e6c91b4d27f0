"""A program is right when its values are: nothing else it does in its process counts, and nothing it says hides a failure."""

from __future__ import annotations

import json
from textwrap import dedent

import pytest
from attempts import probe, program
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.run import run
from bethink.verify.code.sandbox import Status
from bethink.verify.code.tasks import read_task

EXPECTED = 7654321012345
"""What the programs would have to return: they are not told."""

FORGE = """
import json, os
def send(message):
    body = json.dumps(message).encode()
    for fd in range(3, 64):
        try: os.write(fd, len(body).to_bytes(4, 'big') + body)
        except OSError: pass
"""

FRAMES = """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            for part in value if type(value) in (list, tuple) else [value]:
                if type(part) is int and part > 10**12: return part
        frame = frame.f_back
"""
MEMORY = """
import gc
def f(x):
    for held in gc.get_objects():
        parts = held.values() if type(held) is dict else held if type(held) in (list, tuple) else ()
        for part in list(parts):
            if type(part) is int and 10**12 < part < 10**15: return part
"""

CHEATS = {
    "leave": "import sys\nsys.exit(0)",
    "leave in the call": "import sys\ndef f(x): sys.exit(0)",
    "leave for good": "import os\nos._exit(0)",
    "leave for good in the call": "import os\ndef f(x): os._exit(0)",
    "equal to all": """
        class Same:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __bool__(self): return True
            def __hash__(self): return 0
        def f(x): return Same()
    """,
    "a number equal to all": """
        class Same(int):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __sub__(self, other): return 0
            def __rsub__(self, other): return 0
            def __abs__(self): return 0
        def f(x): return Same(1)
    """,
    "a class equal to all": """
        class Meta(type):
            def __eq__(self, other): return True
            def __instancecheck__(self, other): return True
        class Same(metaclass=Meta): pass
        def f(x): return Same
    """,
    "say that it passed": "print('PASSED')\nprint('OK', flush=True)\ndef f(x):\n    print('all tests passed')\n    return None",
    "look through the frames": FRAMES,
    "look through the memory": MEMORY,
    "change the driver": """
        import sys
        driver = sys.modules['bethink.verify.code.driver']
        driver._Program.answer = lambda self, message: {'passed': True, 'prepared': True, 'loaded': True, 'ok': True}
        def f(x): return None
    """,
    "change json": """
        import json
        json.dumps = lambda *a, **k: '{"passed": true, "answered": 9, "value": {"root": true, "table": []}, "after": {"root": [0], "table": [["list", []]]}}'
        def f(x): return None
    """,
    "say it passed over the wire": FORGE + "send({'passed': True, 'answered': 3})\ndef f(x): return None",
    "blame the grader": FORGE + "send({'ours': True, 'raised': 'E', 'text': 'x'})\ndef f(x): return None",
    "blame the data set": FORGE
    + "def f(x):\n    send({'failed': 'x', 'ours': True, 'answered': 0})\n    return None",
    "hang up": "import os\nos.closerange(3, 64)\ndef f(x): return None",
    "hang up and go on": "import os, time\ndef f(x):\n    os.closerange(3, 64)\n    time.sleep(50)",
    "at the end": f"import atexit\natexit.register(lambda: print({EXPECTED}))\ndef f(x): return None",
    "on deletion": "class D:\n    def __del__(self): raise SystemExit(0)\ndef f(x): D()",
    "on a trace": "import sys\nsys.settrace(lambda *a: sys.exit(0))\ndef f(x): return None",
    "in a thread": "import threading, os\nthreading.Timer(0.01, lambda: os._exit(0)).start()\nimport time\ndef f(x): time.sleep(1)",
    "fail as a test would": "def f(x): raise AssertionError('passed')",
    "fail as the grader would": "class WireError(Exception): pass\nclass UnsendableError(Exception): pass\ndef f(x): raise UnsendableError",
    "run out on purpose": "def f(x): raise MemoryError",
    "end the test's loop": "def f(x): raise StopIteration",
    "end the test's loop as another": "class E(StopIteration): pass\ndef f(x): raise E",
    "end the test's loop under its name": "class StopIteration(Exception): pass\ndef f(x): raise StopIteration",
    "end the test's loop from a loop": "def f(x): return next(iter([]))",
    "end the test's asynchronous loop": "def f(x): raise StopAsyncIteration",
    "close the test": "def f(x): raise GeneratorExit",
    "a broken number": FORGE
    + "def f(x):\n    send({'value': {'root': [0], 'table': [['int', '0x' + 'f' * 10**5]]}, 'after': {'root': [0], 'table': [['list', []]]}})",
    "a ring": FORGE
    + "def f(x):\n    send({'value': {'root': [0], 'table': [['list', [[0]]]]}, 'after': {'root': [0], 'table': [['list', [[0]]]]}})",
    "a list in itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
}

LITERAL = {"tests": [f"assert f(1) == {EXPECTED}", "assert f(2) == 0"], "setup": ""}
GENERAL = {
    "tests": [f"assert abs(f(1) - {EXPECTED}) < 1e-6", "assert set([f(2)]) == {0}"],
    "setup": "import math",
}
CHECK = {
    "prompt": "def f(x):\n    '''Guess.'''\n",
    "entry_point": "f",
    "test": f"def check(candidate):\n    for n, wanted in ((1, {EXPECTED}), (2, 0)):\n        assert candidate(n) == wanted\n",
}
LOOPS = {
    "tests": [f"assert all(map(lambda n: f(n) == {EXPECTED} * n, range(5)))"],
    "setup": "import math",
}
CHECK_LOOPS = {
    **CHECK,
    "test": f"def check(candidate):\n    for found, n in zip(map(candidate, range(5)), range(5)):\n        assert found == {EXPECTED} * n\n",
}
METAS = {
    "literal": LITERAL,
    "general": GENERAL,
    "check": CHECK,
    "loops": LOOPS,
    "loops in check": CHECK_LOOPS,
}


@pytest.mark.parametrize("meta", METAS.values(), ids=METAS)
@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gains_nothing_and_hides_nothing(
    sandboxes: Sandboxes, name: str, meta: dict[str, object]
) -> None:
    code = CHEATS[name]
    result = run(read_task(meta), dedent(code) if "send(" not in code else code, sandboxes)
    assert result.status not in (Status.OK, Status.INFRA_ERROR), result


ASYNCHRONOUS = """
import asyncio
class Numbers:
    def __aiter__(self): return self
    async def __anext__(self): return f(1)
async def ask():
    async for n in Numbers(): assert n == 2
asyncio.run(ask())
"""


@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration"])
@pytest.mark.parametrize(
    "line",
    [
        "assert next(map(f, [1]), 1) == 1",
        "assert not list(map(f, [1])) or f(1) == 1",
        "assert sum(map(f, [1, 2])) in (0, 3)",
        "for n in iter(lambda: f(1), 2): assert n == 1",
        "def numbers():\n    try: yield f(1)\n    except RuntimeError: pass\nassert list(numbers()) in ([], [1])",
        ASYNCHRONOUS,
        "import contextlib\nwith contextlib.suppress(StopIteration, StopAsyncIteration): assert f(1) == 1",
    ],
)
def test_the_end_of_a_loop_is_the_failure_of_who_raises_it(
    sandboxes: Sandboxes, name: str, line: str
) -> None:
    """Python swallows it in many places; a test that was left early has tested nothing."""
    result = run(read_task({"tests": [line], "setup": "import math"}), f"def f(x): raise {name}", sandboxes)
    assert (result.status, result.detail) == (Status.ERROR, name)


def test_a_test_may_expect_the_end_of_a_loop(sandboxes: Sandboxes) -> None:
    test = "try:\n    f(0)\n    assert False\nexcept (ValueError, StopIteration):\n    pass\nassert f(1) == 1"
    task = read_task({"tests": [test], "setup": "import math"})
    right = "def f(x):\n    if x: return x\n    raise StopIteration"
    assert run(task, right, sandboxes).status is Status.OK
    assert run(task, "def f(x): raise StopIteration", sandboxes).status is Status.ERROR
    assert run(task, "def f(x): raise StopAsyncIteration", sandboxes).status is Status.ERROR


@pytest.mark.parametrize("code", [FRAMES, MEMORY], ids=["frames", "memory"])
def test_what_is_in_the_process_is_found(sandboxes: Sandboxes, code: str) -> None:
    """The searches above do search: they find an input."""
    found = probe(sandboxes, f"{code}\nprobe = f", [EXPECTED], expected=EXPECTED)
    assert found.status is Status.OK, found


def test_the_test_uses_its_own_builtins(sandboxes: Sandboxes) -> None:
    task = read_task({"tests": ["assert set(f([1, 2])) == set([1, 2])"], "setup": ""})
    assert run(task, "def set(x): return 0\ndef f(x): return [3]", sandboxes).status is Status.WRONG
    assert run(task, "def f(x): return x", sandboxes).status is Status.OK


def test_the_expected_value_is_in_no_sandbox_with_the_program(sandboxes: Sandboxes) -> None:
    """The program sees everything its process holds, and reports what it finds of the other tests."""
    code = """
        import gc
        seen = []
        def probe(x):
            texts = [s for o in gc.get_objects() if isinstance(o, (dict, list, tuple)) for s in (o.values() if type(o) is dict else o) if type(s) is str]
            return any('expected' in s and 'assert' in s for s in texts)
    """
    assert probe(sandboxes, code, 1, expected=False).status is Status.OK


def test_a_changed_argument_does_not_change_what_is_expected(sandboxes: Sandboxes) -> None:
    meta = {
        "prompt": "",
        "entry_point": "f",
        "test": "def check(candidate):\n    for xs in ([3, 1], [2]):\n        assert candidate(xs) == sorted(xs)\n",
    }
    assert run(read_task(meta), "def f(x):\n    x.clear()\n    return []", sandboxes).status is Status.WRONG
    assert run(read_task(meta), "def f(x):\n    x.sort()\n    return x", sandboxes).status is Status.OK


def test_what_a_program_says_can_be_written_anywhere(sandboxes: Sandboxes) -> None:
    result = probe(sandboxes, FORGE + "def probe(): send({'raised': '\\ud800', 'text': '\\udfff' * 999})")
    assert result.status is Status.ERROR
    assert len(result.detail.encode()) < 2000


def test_inputs_come_one_by_one(sandboxes: Sandboxes) -> None:
    """A program that fails on the first input never sees the second."""
    result = program(sandboxes, "print(int(input()) + 1)", "1", "2")
    assert result.status is Status.OK
    task = read_task({"inputs": ["1\n", "2\n", "3\n"], "outputs": ["2", "9", "4"]})
    result = run(task, "print(int(input()) + 1)", sandboxes)
    assert (result.status, result.passed, result.total) == (Status.WRONG, 1, 3)


def test_types_are_exact_where_values_are_asked_for(sandboxes: Sandboxes) -> None:
    right: list[tuple[object, str]] = [(1, "1"), (1.0, "1.0"), ("1", "'1'"), (True, "True"), (None, "None")]
    for expected, written in right:
        for _, other in right:
            result = probe(sandboxes, f"def probe(): return {other}", expected=expected)
            assert (result.status is Status.OK) == (written == other), (expected, other)
    for expected, written in (
        ((1, 2), "[1, 2]"),
        ({1}, "frozenset({1})"),
        ({1: 2}, "{1.0: 2}"),
        ([True], "[1]"),
    ):
        assert probe(sandboxes, f"def probe(): return {written}", expected=expected).status is Status.WRONG


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
CELLS = st.integers(-1, 3).map(lambda n: [n]) | st.integers() | st.none()
TAGS = ["list", "tuple", "dict", "set", "int", "object", "kept", "type", "iterator", "complex", "?"]
WIRES = st.fixed_dictionaries(
    {
        "root": CELLS,
        "table": st.lists(st.tuples(st.sampled_from(TAGS), st.lists(CELLS, max_size=3) | ANY), max_size=4),
    }
)
KEYS = [
    "value",
    "after",
    "raised",
    "text",
    "memory",
    "ours",
    "passed",
    "failed",
    "answered",
    "call",
    "arguments",
]
MESSAGES = st.dictionaries(st.sampled_from(KEYS), WIRES | ANY, max_size=5) | ANY


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(MESSAGES, min_size=1, max_size=3), meta=st.sampled_from([LITERAL, GENERAL, CHECK]))
def test_whatever_is_said_over_the_wire_is_only_a_wrong_answer(
    sandboxes: Sandboxes, messages: list[object], meta: dict[str, object]
) -> None:
    code = f"{FORGE}\ndef f(x):\n    for message in json.loads({json.dumps(messages)!r}): send(message)\n"
    result = run(read_task(meta), code, sandboxes)
    assert result.status not in (Status.OK, Status.INFRA_ERROR), result
    result.detail.encode()
