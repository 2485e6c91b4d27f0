"""`bethink curate` as a user meets it: names, the table, one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from bethink.cli.curate import curate
from bethink.core.errors import BethinkError
from bethink.core.files import read_json, read_jsonl
from curate.rows import write_rows

app = typer.Typer()
app.command()(curate)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_rows(tmp_path / "in", 60, defective=0.0, files=2)
    return tmp_path / "in"


def invoke(source: Path, output: Path, tokenizer: Path, *options: str) -> Result:
    words = [
        "--input",
        str(source),
        "--output",
        str(output),
        "--tokenizer",
        str(tokenizer),
        "--workers",
        "1",
        *options,
    ]
    return CliRunner().invoke(app, words)


def test_the_result_and_its_table(source: Path, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = invoke(source, output, tiny_tokenizer_dir, "--include", "part-1", "--max-samples", "10")
    assert result.exit_code == 0, result.output
    report = read_json(output / "report.json")
    assert report["rows"]["read"] == 30
    assert "max_samples" in result.output
    rows = list(read_jsonl(output / "train-00000.jsonl"))
    assert len(rows) == 10
    assert list(rows[0]) == ["input", "output", "mode", "tokens", "completion_tokens", "source"]
    assert all(row["source"].startswith("part-1.jsonl:") for row in rows)
    assert {path.name for path in output.iterdir() if not path.name.startswith(".")} == {
        "train-00000.jsonl", "rejects.jsonl", "report.json", "funnel.svg", "funnel.png", "curriculum.svg", "curriculum.png",
    }  # fmt: skip


def test_several_inputs_may_follow_one_option(source: Path, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    parts = sorted(source.iterdir())
    result = invoke(
        parts[0], tmp_path / "out", tiny_tokenizer_dir, "--dry-run", "--input", str(parts[1]), str(source)
    )
    assert result.exit_code == 0, result.output
    assert "60" in result.output


def test_any_is_understood_everywhere(source: Path, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    off = [
        "trained-by",
        "language",
        "boxed",
        "max-tokens",
        "max-completion-tokens",
        "category",
        "on-off-ratio",
    ]
    words = [word for name in off for word in (f"--{name}", "any")]
    result = invoke(source, tmp_path / "out", tiny_tokenizer_dir, *words, "--dry-run", "--no-dedup")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on-off-ratio", "half"], "--on-off-ratio"),
        (["--difficulty", "length"], "difficulty"),
        (["--max-tokens", "many"], "--max-tokens"),
        (["--format", "csv"], "format"),
        (["--include", "nothing-like-it"], "name contains nothing-like-it"),
    ],
)
def test_what_makes_no_sense_is_one_error(
    source: Path, tiny_tokenizer_dir: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    result = invoke(source, tmp_path / "out", tiny_tokenizer_dir, *words)
    assert isinstance(result.exception, BethinkError)
    assert said in str(result.exception)
    assert not (tmp_path / "out").exists()
