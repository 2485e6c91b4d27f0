"""Every command that runs programs has the same options for their limits, and heeds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bethink.cli.eval import eval as eval_command
from bethink.cli.grade import grade
from bethink.cli.grpo import grpo
from bethink.cli.sample import sample
from bethink.core.errors import ConfigError, OutputError
from bethink.core.files import claim_output
from bethink.evaluate.config import EvalConfig
from bethink.sample.config import SampleConfig
from bethink.tasks.problem import Problem
from bethink.train.rl.config import GRPOConfig
from bethink.verify.code.options import CodeOptions
from bethink.verify.code.pool import Sandboxes, sandboxes_for
from bethink.verify.code.sandbox import Limits

SPIN = "import time\ndef f(x):\n    while time.process_time() < 0.6: pass\n    return x"
HOLD = "def f(x): return len(bytearray(200 * 2**20)) and x"
ASKING = ["--tasks", "chain_sum", "--model", "there/is/none"]
COMMANDS: dict[Callable[..., None], list[str]] = {
    grade: ["--input", "in.jsonl"],
    eval_command: ASKING,
    sample: ASKING,
    grpo: ASKING,
}


def invoke(command: Callable[..., None], *words: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--code-seconds", "0"),
        ("--code-seconds", "-5"),
        ("--code-seconds", "nan"),
        ("--code-seconds", "inf"),
        ("--code-memory", "0"),
        ("--code-memory", "1"),
        ("--code-memory", str(10**12)),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_its_name(
    command: Callable[..., None], option: str, value: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    result = invoke(command, *COMMANDS[command], "--output", str(output), option, value)
    assert isinstance(result.exception, ConfigError), result.output
    assert f"`{option}`" in str(result.exception)
    assert not output.exists()


def graded(tmp_path: Path, *options: str) -> list[str]:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"grader": "code", "output": f"```python\n{code}\n```", "meta": {"tests": ["assert f(1) == 1"]}}
        for code in (SPIN, HOLD)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = invoke(grade, "--input", str(source), "--output", str(output), *options)
    if result.exception is not None:
        raise result.exception
    return [json.loads(line)["detail"] for line in output.read_text().splitlines()]


@pytest.mark.usefixtures("sandboxes")
def test_grade_heeds_the_limits(tmp_path: Path) -> None:
    right = "1 of 1 calls"
    assert graded(tmp_path) == [right, right]
    assert graded(tmp_path, "--overwrite", "--timeout", "0.1") == [right, right]
    slow = "timeout: more than 0.3 s of processor time"
    assert graded(tmp_path, "--overwrite", "--code-seconds", "0.3") == [slow, right]
    assert graded(tmp_path, "--overwrite", "--code-memory", "128") == [right, "memory: out of memory"]


@pytest.mark.usefixtures("sandboxes")
def test_an_unfinished_grading_goes_on_with_the_same_limits_only(tmp_path: Path) -> None:
    begun = {"code_seconds": 1.0, "code_memory": 512}
    claim_output(tmp_path / "out.jsonl.part", resume=False, fingerprint=begun)
    with pytest.raises(
        OutputError, match=r"code_memory: was 512, now 1024; code_seconds: was 1\.0, now 5\.0"
    ):
        graded(tmp_path, "--resume")


@pytest.mark.parametrize(
    "config",
    [
        CodeOptions(code_seconds=0.5, code_memory=128),
        EvalConfig(output=Path("out"), tasks=("chain_sum",), model="m", code_seconds=0.5, code_memory=128),
        SampleConfig(
            output=Path("out"), tasks=("chain_sum",), model="m", code_seconds=0.5, code_memory=128
        ).asked,
        GRPOConfig(output=Path("out"), tasks=("chain_sum",), model="m", code_seconds=0.5, code_memory=128),
    ],
    ids=lambda config: type(config).__name__,
)
@pytest.mark.usefixtures("sandboxes")
def test_the_sandboxes_of_a_run_have_its_limits(config: CodeOptions) -> None:
    problem = Problem(id="1", task="t", messages=(), answer="", grader="code")
    with sandboxes_for([problem], 1, config) as opened:
        assert isinstance(opened, Sandboxes)
        assert opened.limits == Limits(seconds=0.5, memory=2**27)


def test_without_a_word_the_limits_are_the_usual_ones() -> None:
    assert CodeOptions().code_limits == Limits()


def test_limits_decide_what_a_run_gives_and_the_risk_does_not() -> None:
    config = GRPOConfig(output=Path("out"), tasks=("chain_sum",), model="m")
    assert {"code_seconds", "code_memory"} <= set(config.deciding())
    assert "unsafe_code" not in config.deciding()
