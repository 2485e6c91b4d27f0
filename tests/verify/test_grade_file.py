"""`bethink grade`: every row gets its verdict, in order; what cannot be graded is listed and ends nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bethink import __version__
from bethink.cli.grade import grade
from bethink.core.errors import DataError, OutputError
from bethink.core.files import claim_output, sha256_file
from bethink.verify.code.options import USUAL
from bethink.verify.grade_file import grade_file, rejects_path, unfinished_path
from bethink.verify.pool import DEFAULT_TIMEOUT
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
    (b'{"answer": NaN, "output": "1", "grader": "math"}', "`answer` must be text or a number, found NaN"),
    (b'{"answer": -Infinity, "output": "1", "grader": "math"}', "found -Infinity"),
    (b'{"answer": 1e999, "output": "1", "grader": "math"}', "found Infinity"),
    (
        b'{"answer": "1", "output": "1", "grader": "numeric", "tolerance": "1/0"}',
        "`tolerance` must be a number of 0 or more, found '1/0'",
    ),
    (
        b'{"answer": "1", "output": "1", "grader": "numeric", "relative_tolerance": "1e999999999"}',
        "`relative_tolerance` must be a number of 0 or more",
    ),
    (
        b'{"answer": "1", "output": "1", "grader": "numeric", "meta": {"tolerance": NaN}}',
        "`tolerance` must be",
    ),
    (b'{"answer": "1", "output": "1", "grader": null}', "no `grader`"),
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


def slow_rows(count: int) -> list[bytes]:
    """Rows that take SymPy a while, with a line that cannot be graded after every tenth."""
    rows = [
        {"answer": rf"\sin({n}x)", "output": rf"\boxed{{\sin({n}x+\tan x)}}", "grader": "math"}
        for n in range(count)
    ]
    return [
        line for n, row in enumerate(encoded(rows)) for line in (row, *([b"oops"] if n % 10 == 0 else []))
    ]


@contextmanager
def running(source: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that grades `source`, once it has finished a few rows."""
    script = "import sys; from pathlib import Path; from bethink.verify.grade_file import grade_file; grade_file(*map(Path, sys.argv[1:]))"
    program = subprocess.Popen(
        [sys.executable, "-c", script, str(source), str(output)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    rows = unfinished_path(output) / "rows.jsonl"
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.stat().st_size > 1000) and time.monotonic() < deadline:
        time.sleep(0.02)
    yield program
    assert program.wait(timeout=20) != 0


def test_an_interrupted_run_leaves_no_output_but_what_it_has_finished(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", slow_rows(20_000))
    with running(source, tmp_path / "out.jsonl") as program:
        os.killpg(program.pid, signal.SIGINT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.part"]


@pytest.mark.parametrize("torn", [0, 7])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, torn: int) -> None:
    source, output, whole = (
        write(tmp_path / "in.jsonl", slow_rows(300)),
        tmp_path / "out.jsonl",
        tmp_path / "whole.jsonl",
    )
    with running(source, output) as program:
        os.killpg(program.pid, signal.SIGKILL)
    assert not output.exists()
    rows = unfinished_path(output) / "rows.jsonl"
    os.truncate(rows, rows.stat().st_size - torn)
    done = rows.read_bytes().count(b"\n")
    assert 0 < done < 300
    resumed, uninterrupted = grade_file(source, output, workers=2, resume=True), grade_file(source, whole)
    assert output.read_bytes() == whole.read_bytes()
    assert rejects_path(output).read_bytes() == rejects_path(whole).read_bytes()
    assert resumed == uninterrupted
    assert not unfinished_path(output).exists()


def leave_unfinished(source: Path, output: Path) -> bytes:
    """Make it look as if a run had been killed after its third row; returns the bytes it would have written."""
    limits = {"code_seconds": USUAL.code_seconds, "code_memory": USUAL.code_memory}
    settings = {"grader": None, "timeout": DEFAULT_TIMEOUT} | limits
    stamp = settings | {"input_sha256": sha256_file(source), "version": __version__}
    grade_file(source, output, workers=1)
    whole = output.read_bytes()
    output.unlink()
    claim_output(unfinished_path(output), resume=False, fingerprint=stamp)
    (unfinished_path(output) / "rows.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    return whole


def test_what_is_finished_is_not_graded_again(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    whole = leave_unfinished(source, output)
    rows = unfinished_path(output) / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b'"extracted":"42"', b'"extracted":"kept"'))
    grade_file(source, output, workers=1, resume=True)
    assert output.read_bytes() == whole.replace(b'"extracted":"42"', b'"extracted":"kept"')


def test_an_unfinished_run_is_never_mixed_with_another(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    whole = leave_unfinished(source, output)
    with pytest.raises(OutputError, match=r"unfinished run(.|\n)*--resume"):
        grade_file(source, output)
    with pytest.raises(OutputError, match="timeout: was"):
        grade_file(source, output, timeout=7, resume=True)
    other = write(tmp_path / "other.jsonl", encoded(ROWS[1:]))
    with pytest.raises(OutputError, match="input_sha256: was"):
        grade_file(other, output, resume=True)
    grade_file(source, output, workers=1, overwrite=True)
    assert output.read_bytes() == whole
    assert not unfinished_path(output).exists()


def test_resume_begins_where_there_is_nothing_to_resume(source: Path, tmp_path: Path) -> None:
    assert grade_file(source, tmp_path / "out.jsonl", workers=1, resume=True).graded == len(ROWS)


def test_the_progress_line_knows_how_many_lines_there_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.jsonl", [*encoded(ROWS[:2]), b"", b"oops"])
    grade_file(source, tmp_path / "out.jsonl", workers=1)
    assert "grade: 3/3 lines" in capfd.readouterr().err


def test_rejects_never_replace_the_input(tmp_path: Path) -> None:
    source = write(tmp_path / "g.rejects.jsonl", encoded(ROWS[:1]))
    with pytest.raises(OutputError, match="would replace the input"):
        grade_file(source, tmp_path / "g.jsonl", overwrite=True)
    assert source.read_bytes() == encoded(ROWS[:1])[0] + b"\n"


def test_numbers_are_read_as_the_digits_they_mean(tmp_path: Path) -> None:
    rows = [
        {"answer": 0.00001, "output": r"\boxed{0.00001}", "grader": "math"},
        {"answer": 0.00001, "output": r"\boxed{1e-5}", "grader": "math"},
        {"answer": 0.00001, "output": r"The answer is \(10^{-5}\).", "grader": "math"},
        {"answer": 1e22, "output": r"\boxed{10^{22}}", "grader": "math"},
        {"answer": 0.00001, "output": r"\boxed{1e-5}", "grader": "numeric"},
        {"answer": 0.00001, "output": r"\boxed{1e-6}", "grader": "math"},
    ]
    grade_file(write(tmp_path / "in.jsonl", encoded(rows)), tmp_path / "out.jsonl", workers=1)
    assert [row["verdict"] for row in read(tmp_path / "out.jsonl")] == ["correct"] * 5 + ["wrong"]


def test_a_null_grader_is_none(tmp_path: Path) -> None:
    rows = [{"answer": "1", "output": r"\boxed{1}", "grader": None}]
    summary = grade_file(
        write(tmp_path / "in.jsonl", encoded(rows)), tmp_path / "out.jsonl", grader="math", workers=1
    )
    assert summary.outcomes == {"math": {Outcome.CORRECT: 1}}


def test_an_input_that_cannot_be_read_is_one_clear_error(source: Path, tmp_path: Path) -> None:
    if Path("/proc/self/mem").exists():  # a file that opens and does not read
        with pytest.raises(DataError, match="cannot be read"):
            grade_file(Path("/proc/self/mem"), tmp_path / "out.jsonl")
    source.chmod(0)
    if not os.access(source, os.R_OK):
        with pytest.raises(DataError, match="cannot be read: permission denied"):
            grade_file(source, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_row_without_a_grader_is_neither_right_nor_wrong(command: typer.Typer, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"output": "Roses are red.", "grader": "none"},
        {"output": "<think>hm", "grader": "none", "truncated": True, "answer": None},
        ROWS[0],
    ]
    source, output = write(tmp_path / "in.jsonl", encoded(rows)), tmp_path / "graded.jsonl"
    shown = CliRunner().invoke(command, ["--input", str(source), "--output", str(output)])
    assert shown.exit_code == 0, shown.output
    assert [row["verdict"] for row in read(output)] == ["not_judged", "not_judged", "correct"]
    (line,) = [line for line in shown.output.splitlines() if line.startswith("none")]
    assert line.split() == ["none", "2", "-", *["0"] * 5, "2"]
