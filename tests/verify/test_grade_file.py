"""`bethink grade`: every row gets its verdict, in order; what cannot be graded is listed and ends nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bethink.cli.grade import grade
from bethink.core.errors import DataError, OutputError
from bethink.verify.grade_file import grade_file, rejects_path
from bethink.verify.verdict import Outcome

ROWS: list[dict[str, Any]] = [
    {
        "answer": "42",
        "output": "<think>6 * 7</think>\n\nThe final answer is \\boxed{42}.",
        "grader": "math",
        "id": 1,
    },
    {"answer": "B", "output": "The final answer is [A]", "grader": "choice", "choices": ["x", "y"]},
    {"answer": 5, "output": "<think>hm", "grader": "numeric", "truncated": True},
    {"answer": "yes", "output": "No idea what to say about that.", "grader": "exact"},
    {"answer": "66", "output": "The final answer is 66.0.", "grader": "chain_sum", "truncated": None},
    {"answer": "3.14", "output": "The answer is 3.1.", "grader": "numeric", "meta": {"tolerance": 0.1}},
    {"answer": "7", "output": "so 7.</think>\\boxed{7}", "grader": "math", "opened": True},
]
OUTCOMES = ["correct", "wrong", "truncated", "no_answer", "correct", "correct", "correct"]


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def encoded(rows: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", encoded(ROWS))


def test_every_row_comes_back_with_its_verdict(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "graded.jsonl"
    summary = grade_file(source, output, workers=1)
    rows = read(output)
    assert [row["verdict"] for row in rows] == OUTCOMES
    assert [{key: row[key] for key in given} for row, given in zip(rows, ROWS, strict=True)] == ROWS
    assert rows[0]["extracted"] == "42"
    assert rows[2]["detail"] == "the thinking never ended"
    assert summary.outcomes["math"] == {Outcome.CORRECT: 2}
    assert (summary.graded, summary.rejected) == (7, 0)
    assert not rejects_path(output).exists()


BAD = [
    (b"not json", "not valid JSON"),
    (b'{"answer": "1", "output": "1", "grader"', "not valid JSON"),
    (b"[1, 2]", "expected an object, found a list"),
    (b"\xff\xfe{}", "not valid UTF-8"),
    (b'{"output": "1", "grader": "math"}', "no `answer`"),
    (b'{"answer": "1", "grader": "math"}', "no `output`"),
    (b'{"answer": "1", "output": null, "grader": "math"}', "`output` must be text, found null"),
    (b'{"answer": null, "output": "1", "grader": "math"}', "`answer` must be text or a number, found null"),
    (b'{"answer": " ", "output": "1", "grader": "math"}', "`answer` is empty"),
    (
        b'{"answer": true, "output": "1", "grader": "math"}',
        "`answer` must be text or a number, found true or false",
    ),
    (b'{"answer": "1", "output": "1"}', "no `grader`"),
    (b'{"answer": "1", "output": "1", "grader": "maths"}', "did you mean `math`"),
    (b'{"answer": "1", "output": "1", "grader": "chain_sun"}', "did you mean `chain_sum`"),
    (
        b'{"answer": "1", "output": "1", "grader": "math", "meta": 3}',
        "`meta` must be an object, found a number",
    ),
    (
        b'{"answer": "1", "output": "1", "grader": "math", "truncated": "no"}',
        "`truncated` must be true or false, found text",
    ),
    (b'{"answer": "1", "output": "\\ud800", "grader": "math"}', "lone surrogate"),
    (b'{"answer": "1", "output": ' + b"[" * 100_000, "not valid JSON"),
]


def test_bad_lines_are_listed_with_their_number_and_end_nothing(tmp_path: Path) -> None:
    lines = [line for bad, _ in BAD for line in (bad, encoded(ROWS[:1])[0], b"")]
    output = tmp_path / "graded.jsonl"
    summary = grade_file(write(tmp_path / "in.jsonl", lines), output, workers=1)
    rejected = read(rejects_path(output))
    assert [row["line"] for row in rejected] == [3 * n + 1 for n in range(len(BAD))]
    for row, (_, reason) in zip(rejected, BAD, strict=True):
        assert reason in row["reason"]
    assert (summary.graded, summary.rejected) == (len(BAD), len(BAD))
    assert [row["verdict"] for row in read(output)] == ["correct"] * len(BAD)


def test_a_clean_run_removes_the_rejects_of_an_earlier_one(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "graded.jsonl"
    grade_file(write(tmp_path / "bad.jsonl", [b"oops"]), output, workers=1)
    assert rejects_path(output).exists()
    grade_file(source, output, workers=1, overwrite=True)
    assert not rejects_path(output).exists()


def test_an_existing_output_is_refused_and_left_alone(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "graded.jsonl"
    output.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        grade_file(source, output)
    assert output.read_text() == "precious"
    grade_file(source, output, workers=1, overwrite=True)
    assert len(read(output)) == len(ROWS)


def test_paths_that_cannot_be_are_refused_in_one_line(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file not found"):
        grade_file(tmp_path / "missing.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match="not a file"):
        grade_file(tmp_path, tmp_path / "out.jsonl")
    with pytest.raises(OutputError, match="would replace the input"):
        grade_file(source, source, overwrite=True)
    with pytest.raises(OutputError, match="is a directory"):
        grade_file(source, tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        grade_file(source, source / "below" / "out.jsonl")


def test_an_empty_file_makes_an_empty_output(tmp_path: Path) -> None:
    summary = grade_file(write(tmp_path / "in.jsonl", []), tmp_path / "out.jsonl")
    assert summary.graded == 0
    assert read(tmp_path / "out.jsonl") == []


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    rows = [
        {
            "answer": rf"\sin({n}x)",
            "output": rf"\boxed{{\cos(\frac{{\pi}}{{2}}-{n}x)}}" if n % 2 else "?",
            "grader": "math",
        }
        for n in range(1, 30)
    ]
    source = write(tmp_path / "in.jsonl", encoded(rows))
    for workers in (1, 2):
        grade_file(source, tmp_path / f"out{workers}.jsonl", workers=workers)
    assert (tmp_path / "out1.jsonl").read_bytes() == (tmp_path / "out2.jsonl").read_bytes()


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(grade)
    return app


def test_the_command_prints_a_table_and_tolerates_few_bad_lines(command: typer.Typer, tmp_path: Path) -> None:
    rows = [{"answer": "42", "output": r"\boxed{42}"}] * 30
    source = write(tmp_path / "in.jsonl", [*encoded(rows), b"oops"])
    arguments = [
        "--input",
        str(source),
        "--output",
        str(tmp_path / "out.jsonl"),
        "--grader",
        "math",
        "--workers",
        "1",
    ]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "100.0%" in result.output
    assert all(row["verdict"] == "correct" for row in read(tmp_path / "out.jsonl"))

    result = CliRunner().invoke(command, [*arguments, "--overwrite", "--max-bad-share", "0.01"])
    assert isinstance(result.exception, DataError)
    assert "1 of 31 lines" in str(result.exception)
    assert len(read(tmp_path / "out.jsonl")) == 30


def test_an_interrupted_run_leaves_no_output_and_no_process(tmp_path: Path) -> None:
    rows = [
        {"answer": rf"\sin({n}x)", "output": rf"\boxed{{\sin({n}x+\tan x)}}", "grader": "math"}
        for n in range(20_000)
    ]
    source = write(tmp_path / "in.jsonl", encoded(rows))
    script = "import sys; from pathlib import Path; from bethink.verify.grade_file import grade_file; grade_file(*map(Path, sys.argv[1:]))"
    program = subprocess.Popen(
        [sys.executable, "-c", script, str(source), str(tmp_path / "out.jsonl")],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".out.jsonl.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait(timeout=20) != 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
