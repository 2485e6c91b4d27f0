"""Synthesized rows are what a curation run expects, and their planted defects are what it finds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from bethink.chat.toggle import Mode
from bethink.core.errors import ConfigError
from bethink.core.files import read_jsonl
from bethink.curate.config import CurateConfig
from bethink.curate.pipeline import run
from bethink.curate.synthesize import KINDS_OF_DEFECT, SynthesizeConfig, synthesize


def test_every_planted_defect_is_dropped_and_every_clean_row_kept(
    tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    rows = tmp_path / "rows"
    summary = synthesize(
        SynthesizeConfig(output=rows, task="chain_sum:min_terms=5", problems=150, defects=0.3)
    )
    assert summary["rows"] == len((rows / "rows.jsonl").read_bytes().splitlines())
    assert summary["clean"] == 300
    assert all(count >= 12 for count in summary["defects"].values())
    config = CurateConfig(
        input=(rows / "rows.jsonl",),
        output=tmp_path / "curated",
        tokenizer=str(tiny_tokenizer_dir),
        max_bad_share=1,
        workers=1,
    )
    report = run(config)
    labels = {row["line"]: row["defect"] for row in read_jsonl(rows / "labels.jsonl")}
    rejected = {row["line"]: row["reason"] for row in read_jsonl(tmp_path / "curated" / "rejects.jsonl")}
    assert report.rows.kept == 300
    assert {line for line, defect in labels.items() if defect} == set(rejected)
    assert set(labels.values()) == {None, *KINDS_OF_DEFECT}


def test_each_problem_is_answered_once_with_thinking_and_once_without(tmp_path: Path) -> None:
    synthesize(SynthesizeConfig(output=tmp_path, task="gcd", problems=20, defects=0))
    rows = list(read_jsonl(tmp_path / "rows.jsonl"))
    questions = Counter((row["input"][0]["content"], row["reasoning"]) for row in rows)
    assert len(rows) == len(questions) == 40
    for row in rows:
        assert row["system_prompt"] == f"detailed thinking {row['reasoning']}"
        assert ("<think>" in row["output"]) == (row["reasoning"] == "on")
        assert "\\boxed{" in row["output"]


def test_hurried_working_breaks_off_and_the_answer_at_once_is_right(tmp_path: Path) -> None:
    config = SynthesizeConfig(
        output=tmp_path, task="chain_sum:min_terms=4", problems=60, defects=0, careless=0.5
    )
    synthesize(config)
    rows = list(read_jsonl(tmp_path / "rows.jsonl"))
    gold = {row["input"][0]["content"]: row["output"] for row in rows if row["reasoning"] == "off"}
    wrong = 0
    for row in rows:
        if row["reasoning"] == "on":
            thinking, _, answer = row["output"].partition("</think>\n\n")
            # It commits to what its last line reached, which is not what was asked for where lines are missing.
            assert thinking.rstrip().rpartition(" ")[2] in answer
            wrong += answer != gold[row["input"][0]["content"]]
    assert 12 <= wrong <= 48


def test_one_mode_alone(tmp_path: Path) -> None:
    synthesize(SynthesizeConfig(output=tmp_path, task="gcd", problems=20, defects=0, modes=(Mode.OFF,)))
    rows = list(read_jsonl(tmp_path / "rows.jsonl"))
    assert [row["reasoning"] for row in rows] == ["off"] * 20
    with pytest.raises(ValidationError, match="planted defects are of both modes"):
        SynthesizeConfig(output=tmp_path, modes=(Mode.OFF,))


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    def made(name: str, seed: int) -> bytes:
        synthesize(SynthesizeConfig(output=tmp_path / name, problems=30, defects=0.2, seed=seed))
        return b"".join((tmp_path / name / file).read_bytes() for file in ("rows.jsonl", "labels.jsonl"))

    assert made("a", 1) == made("b", 1) != made("c", 2)


def test_a_share_of_the_rows_is_defective(tmp_path: Path) -> None:
    summary = synthesize(SynthesizeConfig(output=tmp_path, problems=100, defects=0.2))
    assert sum(summary["defects"].values()) / summary["rows"] == pytest.approx(0.2, abs=0.01)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_task_without_worked_solutions_names_those_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chain_sum"):
        synthesize(SynthesizeConfig(output=tmp_path, task="rubiks_cube", problems=2))
