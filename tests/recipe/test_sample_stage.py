"""Answers are dear: a recipe whose filters changed, or that was killed, asks for none of them again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bethink.core.errors import OutputError
from bethink.core.files import read_jsonl
from bethink.recipe.manifest import FILE, Manifest, load_manifest
from bethink.recipe.run import run_recipe
from bethink.recipe.schema import load_recipe

RECIPE = """\
name: asked
seed: SEED
stages:
  - name: answers
    uses: sample
    with: {model: MODEL, tasks: "SUMS:question=question,answer=answer,grader=exact", modes: "off", samples: 3, max_tokens: 6,
           any_verdict: true, language: 0, repetition: 1, dtype: float32, device: cpu}
  - name: curated
    uses: curate
    with: {input: ["${stages.answers}/rows.jsonl", MORE], tokenizer: MODEL, workers: 1, max_bad_share: 1}
"""
MARK = "asked once, and paid for"


@pytest.fixture
def recipe(tiny_model_dir: Path, tmp_path: Path) -> str:
    sums = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(5)]
    sums.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = tmp_path / "more.jsonl"
    row = {"input": "What is 1 plus 1?", "output": "The final answer is \\boxed{2}.", "reasoning": "off"}
    more.write_text(json.dumps(row) + "\n")
    path = tmp_path / "asked.yaml"
    text = RECIPE.replace("SEED", str(random.randrange(2**31))).replace("SUMS", str(sums))
    path.write_text(text.replace("MORE", str(more)).replace("MODEL", str(tiny_model_dir)))
    return str(path)


def go(recipe: str, run_dir: Path, *overrides: str, redo: bool = False) -> Manifest:
    return run_recipe(load_recipe(recipe, overrides), run_dir, redo=redo)


def answers(run_dir: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(run_dir / "answers/answers/samples.jsonl"))


def mark(run_dir: Path, keep: int) -> None:
    """Leave the first `keep` answers, each with a text that no model would give again."""
    rows = [{**row, "output": MARK, "compliant": True, "finish_reason": "stop"} for row in answers(run_dir)]
    path = run_dir / "answers/answers/samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:keep]))


def rows_of(run_dir: Path) -> int:
    return len((run_dir / "answers/rows.jsonl").read_text().splitlines())


def test_a_changed_filter_filters_the_same_answers_again(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    go(recipe, run_dir)
    mark(run_dir, keep=15)
    with pytest.raises(OutputError, match="answers, curated") as refused:
        go(recipe, run_dir, "answers.paragraph=5")
    assert "the answers of answers are kept" in (refused.value.fix or "")
    manifest = go(recipe, run_dir, "answers.paragraph=5", redo=True)
    assert {row["output"] for row in answers(run_dir)} == {MARK}
    assert rows_of(run_dir) == 0
    assert [stage.attempts for stage in manifest.stages] == [2, 1], "the rows were read anew"
    go(recipe, run_dir, "answers.paragraph=0", redo=True)
    assert rows_of(run_dir) == 5
    assert {row["output"] for row in answers(run_dir)} == {MARK}


def test_other_questions_are_asked_anew(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    go(recipe, run_dir)
    mark(run_dir, keep=15)
    go(recipe, run_dir, "answers.paragraph=5", "answers.samples=2", redo=True)
    assert len(answers(run_dir)) == 10
    assert MARK not in {row["output"] for row in answers(run_dir)}


def test_a_price_changes_no_stage(recipe: str, tmp_path: Path) -> None:
    first = go(recipe, tmp_path / "run")
    again = go(recipe, tmp_path / "run", "answers.price_out=3")
    assert [stage.attempts for stage in again.stages] == [stage.attempts for stage in first.stages]


def test_a_killed_stage_goes_on_from_its_answers(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    go(recipe, run_dir)
    mark(run_dir, keep=7)
    manifest = load_manifest(run_dir)
    assert manifest is not None
    manifest.stages[0].state, manifest.stages[1].state = "running", "pending"
    manifest.save(run_dir)
    assert (run_dir / FILE).exists()
    go(recipe, run_dir)
    assert sum(row["output"] == MARK for row in answers(run_dir)) == 7
    assert len(answers(run_dir)) == 15
