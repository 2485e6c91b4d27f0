"""A recipe that samples its own rows, fine-tunes on them and learns by reinforcement, on a tiny model: joined, planned and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bethink.recipe.plan import estimate
from bethink.recipe.report import write_report
from bethink.recipe.run import run_recipe
from bethink.recipe.schema import load_recipe
from bethink.recipe.stages import prepare

RECIPE = """
name: own
stages:
  - name: answers
    uses: sample
    with: {{model: "{model}", tasks: "{tasks}", modes: "off", samples: 2, max_tokens: 6, any_verdict: true, language: 0, dtype: float32}}
  - name: rl
    uses: grpo
    with:
      model: "{model}"
      tasks: ["{tasks},held_out=0.3", "{more}"]
      steps: 2
      problems_per_step: 3
      group_size: 3
      max_tokens: 6
      modes: on=0.5,both=0.5
      curriculum: progressive
      pass_rates: "${{stages.answers}}/pass_rates.jsonl"
      rank: 2
      dtype: float32
      device: cpu
      allow_truncated: 1
      allow_no_signal: 1
      eval_every: 1
      eval_size: 2
  - name: measured
    uses: eval
    with: {{model: "{model}+${{stages.rl}}", tasks: "{tasks}", modes: ["off"], max_tokens: 6, dtype: float32}}
  - {{name: report, uses: report}}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_dir: Path) -> Path:
    sums = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(9)]
    sums.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "own.yaml"
    tasks = f"{sums}:question=question,answer=answer,grader=exact"
    path.write_text(RECIPE.format(model=tiny_model_dir, tasks=tasks, more="chain_sum"))
    return path


def test_the_stages_join_and_the_report_shows_them(recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_recipe(load_recipe(str(recipe)), run_dir)
    assert (run_dir / "rl" / "adapter" / "adapter_model.safetensors").exists()
    assert (run_dir / "rl" / "curriculum.svg").exists()
    page = write_report(run_dir).read_text()
    assert "Reinforcement learning" in page
    assert "rl/rollouts.html" in page
    assert "Held-out accuracy on every level" in page
    assert "reward hacking watch" not in page
    metrics = run_dir / "rl" / "metrics.jsonl"
    first, last = map(json.loads, metrics.read_text().splitlines())
    first["warnings"] = [{"kind": "part", "about": "format", "since": 1, "text": "<b> rose"}]
    metrics.write_text(json.dumps(first) + "\n" + json.dumps(last) + "\n")
    page = write_report(run_dir).read_text()
    assert "reward hacking watch" in page
    assert "Steps 1 to 1, 1 of 2: &lt;b&gt; rose." in page


def test_the_plan_counts_rollouts(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(str(recipe))
    lines = {line.stage: line for line in estimate(loaded.recipe, prepare(loaded, tmp_path / "run"))}
    # Half of the three problems a step are rolled out in both modes.
    assert lines["rl"].rows == 2 * round(3 * 1.5 * 3)
    assert "2 steps of 3 problems" in lines["rl"].what
