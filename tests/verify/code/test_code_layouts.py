"""Coding problems of every published layout: right programs pass, wrong ones fail, broken data is nobody's failure."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bethink.cli.grade import grade as grade_command
from bethink.core.errors import PreflightError
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.runner import run_eval
from bethink.tasks.files import load_problems
from bethink.verify.code import pool as code_pool
from bethink.verify.code.options import CodeOptions
from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.run import run
from bethink.verify.code.sandbox import Limits, Status
from bethink.verify.code.tasks import CallTask, OutputTask, TaskError, TestTask, complete, read_task
from bethink.verify.grade import GradeItem, grade, grade_many
from bethink.verify.grade_file import grade_file
from bethink.verify.verdict import Outcome

NODES = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next

def list_node(values):
    head = tail = ListNode()
    for value in values:
        tail.next = ListNode(value)
        tail = tail.next
    return head.next

def is_same_list(a, b):
    while a and b:
        if a.val != b.val:
            return False
        a, b = a.next, b.next
    return a is b
"""
HAS_CLOSE = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef mean(xs: List[float]) -> float:\n    """ The mean. """\n',
    "entry_point": "mean",
    "canonical_solution": "    return sum(xs) / len(xs)\n",
}
ROWS: dict[str, tuple[str, dict[str, Any], type, str, str]] = {
    "humaneval, literal": (
        "humaneval",
        {
            **HAS_CLOSE,
            "test": "METADATA = {'author': 'x'}\n\ndef check(candidate):\n    assert candidate([1.0, 2.0]) == 1.5\n    assert candidate([3]) == 3\n    assert True\n",
        },
        CallTask,
        "def mean(xs):\n    return sum(xs) / len(xs)",
        "def mean(xs):\n    return 1.5",
    ),
    "humaneval, a loop": (
        "humaneval",
        {
            **HAS_CLOSE,
            "test": "import random\ndef check(candidate):\n    for n in range(1, 20):\n        xs = [random.random() for _ in range(n)]\n        assert abs(candidate(xs) - sum(xs) / n) < 1e-9\n",
        },
        TestTask,
        "def mean(xs):\n    return sum(xs) / len(xs)",
        "def mean(xs):\n    return sum(xs)",
    ),
    "humaneval, only the body": (
        "humaneval",
        {**HAS_CLOSE, "test": "def check(candidate):\n    assert candidate([1.0, 2.0]) == 1.5\n"},
        CallTask,
        "    return sum(xs) / len(xs)",
        "    return sum(xs)",
    ),
    "humaneval, a helper of the prompt": (
        "humaneval",
        {
            "prompt": "def double(x):\n    return 2 * x\n\n\ndef halve(x):\n    # the inverse of double\n",
            "entry_point": "halve",
            "test": "def check(candidate):\n    assert all(double(candidate(x)) == x for x in range(9))\n    assert halve(4) == 2\n",
        },
        TestTask,
        "def halve(x):\n    return x / 2",
        "def double(x):\n    return x\ndef halve(x):\n    return x",
    ),
    "humaneval, an exception is asked for": (
        "humaneval",
        {
            "prompt": "def root(x):\n    '''x >= 0'''\n",
            "entry_point": "root",
            "test": "def check(candidate):\n    assert candidate(4) == 2\n    try:\n        candidate(-1)\n    except ValueError:\n        pass\n    else:\n        assert False\n",
        },
        TestTask,
        "import math\ndef root(x):\n    return math.sqrt(x)",
        "def root(x):\n    return 2",
    ),
    "mbpp, literal": (
        "mbpp",
        {
            "text": "Volume of a prism.",
            "test_list": ["assert volume(10,8,6) == 240", "assert volume(3,2,2) == 6"],
        },
        CallTask,
        "def volume(a, b, c):\n    return a * b * c / 2",
        "def volume(a, b, c):\n    return a * b * c",
    ),
    "mbpp, not literal": (
        "mbpp",
        {
            "prompt": "Shared elements.",
            "test_imports": ["import math"],
            "test_list": ["assert set(shared((3, 4), (4, 5))) == set([4])", "assert math.isclose(len(shared((1,), (2,))), 0)"],
        },
        TestTask,
        "def shared(a, b):\n    return tuple(set(a) & set(b))",
        "def shared(a, b):\n    return a",
    ),
    "mbpp, a name of Python's own": (
        "mbpp",
        {"text": "Sum the common divisors.", "test_list": ["assert sum(10, 15) == 6"]},
        CallTask,
        "def sum(a, b):\n    total = 0\n    for n in range(1, min(a, b)):\n        if a % n == b % n == 0:\n            total += n\n    return total",
        "def sum(a, b):\n    return a",
    ),
    "mbpp, a module taken for granted, and a type": (
        "mbpp",
        {"text": "Size.", "test_list": ["assert size((1, 2)) == sys.getsizeof((1, 2))", "assert only([1, 'a'], str) == ['a']"]},
        TestTask,
        "import sys\ndef size(x):\n    return sys.getsizeof(x)\ndef only(xs, kind):\n    return [x for x in xs if isinstance(x, kind)]",
        "def size(x):\n    return 0",
    ),
    "mbpp, objects of the program": (
        "mbpp",
        {
            "text": "Longest chain of pairs.",
            "test_list": ["assert chain([Pair(5, 24), Pair(27, 40)], 2) == 2", "assert top.left.data == 7"],
            "test_setup_code": "top = Pair(1, 2)\ntop.left = Node(7)",
        },
        TestTask,
        "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\nclass Node:\n    def __init__(self, data):\n        self.data = data\ndef chain(pairs, n):\n    return 1 + (pairs[0].b < pairs[1].a)",
        "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\nclass Node:\n    def __init__(self, data):\n        self.data = data\ndef chain(pairs, n):\n    return pairs[0].a",
    ),
    "mbpp, an argument that changes": (
        "mbpp",
        {"text": "Sort in place.", "test_list": ["assert put([3, 1]) is None"], "test_setup_code": "x = [3, 1]\nput(x)\nassert x == [1, 3]"},
        TestTask,
        "def put(x):\n    x.sort()",
        "def put(x):\n    sorted(x)",
    ),
    "mbpp, a Counter and an iterator": (
        "mbpp",
        {"text": "Count.", "test_list": ["assert count('aab') == {'a': 2, 'b': 1}", "assert list(letters('ab')) == ['a', 'b']"]},
        TestTask,
        "from collections import Counter\ndef count(s):\n    return Counter(s)\ndef letters(s):\n    yield from s",
        "def count(s):\n    return {}\ndef letters(s):\n    yield from s",
    ),
    "leetcode, literal": (
        "leetcode",
        {
            "prompt": "from typing import *\n",
            "query": "Two sum.",
            "starter_code": "class Solution:\n    def twoSum(self, nums: List[int], target: int) -> List[int]:\n        ",
            "entry_point": "Solution().twoSum",
            "test": "def check(candidate):\n    assert candidate(nums = [3, 3],target = 6) == [0, 1]\n    assert candidate(nums = [-1, 2],target = 1) == [0, 1]\n",
        },
        CallTask,
        "class Solution:\n    def twoSum(self, nums: List[int], target: int) -> List[int]:\n        return next([i, j] for i in range(len(nums)) for j in range(i + 1, len(nums)) if nums[i] + nums[j] == target)",
        "class Solution:\n    def twoSum(self, nums, target):\n        return [1, 0]",
    ),
    "leetcode, linked lists": (
        "leetcode",
        {
            "prompt": NODES,
            "problem_description": "Reverse a list.",
            "starter_code": "",
            "entry_point": "Solution().reverseList",
            "test": "def check(candidate):\n    assert is_same_list(candidate(head = list_node(list(range(3000)))), list_node(list(range(2999, -1, -1))))\n    assert candidate(head = None) is None\n",
        },
        TestTask,
        "class Solution:\n    def reverseList(self, head):\n        last = None\n        while head:\n            head.next, last, head = last, head, head.next\n        return last",
        "class Solution:\n    def reverseList(self, head):\n        return head",
    ),
    "leetcode, cases": (
        "leetcode",
        {
            "query": "Is there a pair?",
            "entry_point": "Solution().pair",
            "input_output": json.dumps(
                [{"input": "nums = [1, 2], k = 3", "output": "true"}, {"input": "nums = [1], k = 3", "output": "False"}]
            ),
        },
        CallTask,
        "class Solution:\n    def pair(self, nums: List[int], k: int) -> bool:\n        return any(a + b == k for a, b in combinations(nums, 2))",
        "class Solution:\n    def pair(self, nums, k):\n        return 1",
    ),
    "apps, whole programs": (
        "apps",
        {"problem_id": 7, "question": "Add.", "input_output": json.dumps({"inputs": ["1 2\n", "5 5"], "outputs": ["3\n", "10\n"]}), "starter_code": ""},
        OutputTask,
        "import sys\nif __name__ == '__main__':\n    print(sum(map(int, sys.stdin.read().split())))\n    exit()",
        "print(3)",
    ),
    "apps, a function": (
        "apps",
        {"question": "Add.", "input_output": {"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [[3], [[1, 2]]]}, "starter_code": "def add(a, b):\n"},
        CallTask,
        "def add(a, b):\n    return a + b",
        "def add(a, b):\n    return [a, b]",
    ),
    "taco, a method": (
        "taco",
        {"question": "Add.", "input_output": {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}},
        CallTask,
        "class Solution:\n    def add(self, a, b):\n        return a + b",
        "class Solution:\n    def add(self, a, b):\n        return str(a + b)",
    ),
    "codecontests": (
        "codecontests",
        {"name": "p1", "description": "Echo.", "public_tests": {"input": ["a\n"], "output": ["a\n"]}, "private_tests": {"input": ["b\n"], "output": ["b\n"]}, "generated_tests": None},
        OutputTask,
        "import os\nos.write(1, os.read(0, 100))",
        "print(input() and 'a')",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_right_passes_and_wrong_fails(sandboxes: Sandboxes, tmp_path: Path, name: str) -> None:
    layout, row, kind, right, wrong = ROWS[name]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (problem,) = load_problems(tmp_path / "rows.jsonl", layout)
    assert problem.grader == "code"
    assert type(read_task(problem.meta)) is kind
    output = "<think>hm</think>Like this:\n\n```python\n{}\n```\nIt is right."
    found = grade(problem, output.format(right), sandboxes=sandboxes)
    assert found.outcome is Outcome.CORRECT, found
    assert found.extracted == right + "\n"
    found = grade(problem, output.format(wrong), sandboxes=sandboxes)
    assert found.outcome is Outcome.WRONG, found
    assert found.detail.startswith("wrong: ")


META = {"tests": ["assert f(1) == 1"], "setup": ""}
STATUSES = {
    "def f(x): return x": "1 of 1",
    "def f(x): return 2": "wrong",
    "def f(x): return [].pop()": "error: IndexError",
    "def g(x): return x": "error: NameError",
    "def f(x) return x": "error: SyntaxError",
    "def f(x):\n    while True: pass": "timeout",
    "def f(x): return bytearray(10**11)": "memory",
    "import os\ndef f(x): os.fork()": "violation",
}


def test_every_status_is_a_verdict_and_all_overlap(sandboxes: Sandboxes) -> None:
    items = [GradeItem("", f"```py\n{code}\n```", "code", META) for code in STATUSES]
    verdicts = list(grade_many(items, 1, sandboxes=lambda: sandboxes))
    for verdict, (code, detail) in zip(verdicts, STATUSES.items(), strict=True):
        assert verdict.detail.startswith(detail), (code, verdict)
        assert verdict.outcome is (Outcome.CORRECT if detail == "1 of 1" else Outcome.WRONG)


BROKEN: list[dict[str, Any]] = [
    {},
    {"tests": []},
    {"tests": ["assert ("]},
    {"tests": ["assert 1 == 1"]},
    {"test": "def check(c): pass", "entry_point": "f()()"},
    {"test": "x = 1", "entry_point": "f"},
    {"inputs": ["1"], "outputs": []},
    {"inputs": ["1"], "outputs": ["1"], "tolerance": "much"},
    {"cases": [{"input": "x = f()", "output": "1"}], "entry_point": "f"},
]
BROKEN_WHEN_RUN: list[dict[str, Any]] = [
    {"tests": ["assert f(x) == 1"], "setup": "import no_such_module\nx = 1"},
    {"tests": ["assert f(lambda: 1) == 1"], "setup": ""},
    {"test": "def check(candidate):\n    pass\n", "entry_point": "f", "prompt": ""},
    {"test": "def check(candidate):\n    undefined\n    candidate(1)\n", "entry_point": "f", "prompt": ""},
    {
        "test": "def check(candidate):\n    assert candidate(1) == 1\n",
        "entry_point": "f",
        "prompt": "import no_such_module\n",
    },
    {"test": "def check(candidate):\n    while True: pass\n", "entry_point": "f", "prompt": ""},
]


def test_broken_data_is_no_failure_of_the_program(short_sandboxes: Sandboxes) -> None:
    for meta in BROKEN:
        with pytest.raises(TaskError):
            read_task(meta)
        item = GradeItem("", "```python\ndef f(x): return x\n```", "code", meta)
        (verdict,) = grade_many([item], 1, sandboxes=lambda: short_sandboxes)
        assert verdict.outcome is Outcome.GRADER_ERROR
    for meta in BROKEN_WHEN_RUN:
        result = run(read_task(meta), "def f(x): return 1", short_sandboxes)
        assert result.status is Status.INFRA_ERROR, (meta, result)


@pytest.mark.parametrize(
    ("output", "truncated", "outcome"),
    [
        (
            "```python\ndef f(x): return 2\n```\nNo:\n```python\ndef f(x): return x\n```",
            False,
            Outcome.CORRECT,
        ),
        ("```python\ndef f(x): return x\n```\nIt prints\n```\n2\n```", False, Outcome.CORRECT),
        ("```python\ndef f(x): return x\n```\nRun\n```bash\npython f.py\n```", False, Outcome.CORRECT),
        ("````python\ndef f(x):\n    '''\n```\n    '''\n    return x\n````", False, Outcome.CORRECT),
        ("~~~py\ndef f(x): return x\n~~~", False, Outcome.CORRECT),
        ("```\ndef f(x): return x\n```", False, Outcome.CORRECT),
        ("```python\ndef f(x): return x\n", False, Outcome.CORRECT),
        ("```python\ndef f(x): return x\n", True, Outcome.TRUNCATED),
        ("```python\ndef f(x): return x\n```\nThis is beca", True, Outcome.CORRECT),
        ("def f(x): return x", False, Outcome.CORRECT),
        ("def f(x): return x", True, Outcome.TRUNCATED),
        ("It returns its argument.", False, Outcome.NO_ANSWER),
        ("<think>```python\ndef f(x): return x\n```", False, Outcome.NO_ANSWER),
        ("<think>```python\ndef f(x): return x\n```</think>I cannot.", False, Outcome.NO_ANSWER),
    ],
)
def test_the_last_block_of_python_is_the_answer(
    sandboxes: Sandboxes, output: str, truncated: bool, outcome: Outcome
) -> None:
    item = GradeItem("", output, "code", META, truncated=truncated)
    (verdict,) = grade_many([item], 1, sandboxes=lambda: sandboxes)
    assert verdict.outcome is outcome, verdict


def test_the_rest_of_a_function_is_put_under_its_head() -> None:
    meta = {
        "prompt": "def f(x):\n    '''It.'''\n",
        "entry_point": "f",
        "test": "def check(c):\n    assert c(1) == 1\n",
    }
    task = read_task(meta)
    assert complete(task, "    return x\n") == "def f(x):\n    '''It.'''\n    return x\n"
    assert complete(task, "return x") == "def f(x):\n    '''It.'''\n    return x\n"
    whole = "import os\ndef f(x):\n    return x\n"
    assert complete(task, whole) == whole


def test_printed_numbers_may_differ_only_as_far_as_the_task_says(sandboxes: Sandboxes) -> None:
    for tolerance, status in ((None, Status.WRONG), (1e-6, Status.OK), (1e-12, Status.WRONG)):
        task = read_task({"inputs": [""], "outputs": ["x 0.3333333\n"], "tolerance": tolerance})
        assert run(task, "print('x', 1 / 3)", sandboxes).status is status
    task = read_task({"inputs": [""], "outputs": ["a\n\nb"]})
    assert run(task, "print('a  \\n\\nb\\n\\n')", sandboxes).status is Status.OK
    assert run(task, "print('a\\nb')", sandboxes).status is Status.WRONG


def test_a_whole_program_may_use_threads_and_what_comes_at_the_end(sandboxes: Sandboxes) -> None:
    task = read_task({"inputs": ["3\n", "4\n"], "outputs": ["9 end", "16 end"]})
    code = (
        "import sys, threading, atexit\nsys.setrecursionlimit(10**5)\nthreading.stack_size(2**25)\n"
        "atexit.register(lambda: print('end'))\n"
        "def main(): print(int(input()) ** 2, end=' ')\nthreading.Thread(target=main).start()"
    )
    result = run(task, code, sandboxes)
    assert result.status is Status.OK, result


def row(code: str, meta: object = META) -> str:
    return json.dumps({"grader": "code", "output": f"```python\n{code}\n```", "meta": meta}) + "\n"


@pytest.mark.usefixtures("sandboxes")
def test_the_grade_command_grades_programs(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(row("def f(x): return x") + row("def f(x): return 0") + row("pass", {"tests": 3}))
    app = typer.Typer()
    app.command()(grade_command)
    result = CliRunner().invoke(
        app, ["--input", str(source), "--output", str(tmp_path / "out.jsonl"), "--max-bad-share", "0.5"]
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [found["verdict"] for found in rows] == ["correct", "wrong"]
    assert "list of asserts" in (tmp_path / "out.rejects.jsonl").read_text()


def test_without_bubblewrap_programs_are_refused_unless_the_risk_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(row("def f(x): return x") + row("def f(x): return 0"))
    with pytest.raises(PreflightError, match="bubblewrap.*--unsafe-code|--unsafe-code"):
        grade_file(source, output, workers=1)
    assert not output.exists()
    grade_file(source, output, workers=1, overwrite=True, code=CodeOptions(unsafe_code=True))
    assert [json.loads(line)["verdict"] for line in output.read_text().splitlines()] == ["correct", "wrong"]
    warned = " ".join(capsys.readouterr().err.split())
    assert warned.count("delete your files") == 1


@pytest.mark.parametrize(
    ("system", "machine", "unsafe"),
    [("Darwin", "arm64", True), ("Windows", "AMD64", False), ("Linux", "riscv64", True)],
)
def test_where_there_can_be_no_sandbox_none_is_to_be_installed(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, unsafe: bool
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(PreflightError) as refused:
        Sandboxes(1)
    assert f"needs Linux on x86_64 or aarch64 (this is {system} on {machine})" in refused.value.what
    fix = str(refused.value.fix)
    assert "Linux container" in fix
    assert "bubblewrap" not in fix
    assert ("--unsafe-code" in fix) == unsafe
    if not unsafe:
        with pytest.raises(PreflightError, match="needs Linux"):
            Sandboxes(1, unsafe=True)


def test_without_a_sandbox_programs_still_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    task = read_task(META)
    with Sandboxes(1, limits=Limits(seconds=1, wall_seconds=1.2, memory=2**28), unsafe=True) as unsafe:
        assert unsafe.plan.bubblewrap is False
        assert run(task, "def f(x): return x", unsafe).status is Status.OK
        assert run(task, "import time\ndef f(x): time.sleep(100)", unsafe).status is Status.TIMEOUT
        assert run(task, "def f(x):\n    while True: pass", unsafe).status is Status.TIMEOUT
        assert run(task, "def f(x): return bytearray(2**30)", unsafe).status is Status.MEMORY
        assert run(task, "import os\ndef f(x): os._exit(0)", unsafe).status is Status.ERROR


@pytest.mark.usefixtures("sandboxes")
def test_eval_grades_coding_problems(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "he.jsonl"
    file.write_text(json.dumps(ROWS["humaneval, literal"][1]) + "\n")
    options: dict[str, Any] = {
        "model": str(tiny_model_dir),
        "tasks": [f"{file}:humaneval"],
        "max_tokens": 8,
        "size": None,
        "workers": 1,
    }
    result = run_eval(EvalConfig(**options, output=tmp_path / "out"))
    verdicts = [json.loads(line)["verdict"] for line in result.samples.read_text().splitlines()]
    assert len(verdicts) == 2
    assert "grader_error" not in verdicts
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreflightError, match="sandbox"):
        run_eval(EvalConfig(**options, output=tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()


def test_the_shared_pool_is_opened_once(sandboxes: Sandboxes) -> None:
    first = code_pool.shared_sandboxes()
    assert code_pool.shared_sandboxes() is first
    found = grade_many([GradeItem("", "```python\ndef f(x): return x\n```", "code", META)], 1)
    assert [verdict.outcome for verdict in found] == [Outcome.CORRECT]


def test_what_honest_programs_use_is_there(sandboxes: Sandboxes) -> None:
    code = """
import asyncio, collections, dataclasses, decimal, fractions, functools, heapq, itertools, math, random, re, statistics
import hashlib, json, tempfile, threading, time, typing, uuid, zlib, datetime, bisect, string, copy, enum, contextlib, io
from concurrent.futures import ThreadPoolExecutor

@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: 'int' = 0

async def later(n):
    await asyncio.sleep(0.001)
    return n

def f(n):
    with ThreadPoolExecutor(4) as pool:
        squares = list(pool.map(lambda k: k * k, range(n)))
    with tempfile.TemporaryFile() as file:
        file.write(b'x')
    random.seed(1)
    hashlib.sha256(b'x').hexdigest()
    uuid.uuid4(), time.time(), datetime.datetime.now()
    return [sum(squares), asyncio.run(later(n)), sorted([Point(2), Point(1)])[0].x, math.comb(n, 2), round(random.random(), 3)]
"""
    task = read_task({"tests": ["assert f(5) == [30, 5, 1, 10, 0.134]"], "setup": ""})
    result = run(task, code, sandboxes)
    assert result.status is Status.OK, result


def test_the_same_program_gives_the_same_every_time(sandboxes: Sandboxes) -> None:
    task = read_task({"inputs": [""], "outputs": ["?"]})
    code = "print(*{'pear', 'apple', 'fig', 'plum', 'date'}, hash('x'))"
    assert len({run(task, code, sandboxes).detail for _ in range(4)}) == 1
