"""Recipes that mix by source do so with the rows their stages make: the curate stages as they stand, on small inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bethink.core.files import read_json
from bethink.curate.pipeline import curate
from bethink.curate.report import Report
from bethink.curate.synthesize import SynthesizeConfig, synthesize
from bethink.recipe.plan import estimate
from bethink.recipe.run import run_recipe
from bethink.recipe.schema import load_recipe
from bethink.recipe.stages import prepare


def rows(at: Path, problems: int, *modes: str) -> Path:
    config = SynthesizeConfig(output=at, problems=problems, modes=modes, defects=0, seed=problems)
    synthesize(config)
    return at / "rows.jsonl"


def curated(name: str, preset: str | None, stage: str, inputs: list[Path], at: Path, model: Path) -> Report:
    """What the stage makes of `inputs`, with the options it has in the recipe."""
    stages = prepare(load_recipe(name, [f"vars.model={model}"], preset=preset), at)
    config = next(one.config for one in stages if one.stage.name == stage)
    assert len(config.input) == len(inputs)
    return curate(config.model_copy(update={"input": tuple(inputs), "workers": 1}))


@pytest.mark.parametrize(
    ("name", "preset", "stage"),
    [("r1", None, "rows"), ("r1", "cpu", "rows"), ("r1-distill", None, "curated"), ("r1-distill", "cpu", "curated")],
)  # fmt: skip
def test_three_reasoning_rows_to_a_general_one(
    name: str, preset: str | None, stage: str, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    reasoning = rows(tmp_path / "reasoning", 60, "on")
    both = rows(tmp_path / "both", 40, "on", "off")
    plain = rows(tmp_path / "plain", 20, "off")
    general = {None: [both, plain], "cpu": [both] if name == "r1" else [plain]}[preset]
    report = curated(name, preset, stage, [reasoning, *general], tmp_path, tiny_tokenizer_dir)
    assert [source["kept"] for source in report.sources] == [60, 20]
    assert report.modes["off"] == (20 if preset else 12), "of the general rows, in preset cpu all"


@pytest.mark.parametrize(("own", "general", "kept"), [(30, 400, [30, 90]), (30, 50, [30, 50])])
def test_a_domains_own_rows_are_all_taken(
    own: int, general: int, kept: list[int], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    inputs = [rows(tmp_path / "own", own, "on"), rows(tmp_path / "general", general, "off")]
    report = curated("domain", None, "curated", inputs, tmp_path, tiny_tokenizer_dir)
    assert [source["kept"] for source in report.sources] == kept


@pytest.mark.parametrize(
    ("mix", "ratio", "most"),
    [("{1: 3, 2: 1}", "any", "null"), ("{1: 1, any: 2}", "1:4", "null"), ("{2: 1, 1: up to 2}", "any", "50")],
)
def test_the_plan_tells_the_rows_that_a_mix_leaves(
    mix: str, ratio: str, most: str, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(f"""\
name: mixed
stages:
  - {{name: both, uses: synthesize, with: {{problems: 40, defects: 0.1}}}}
  - {{name: plain, uses: synthesize, with: {{problems: 30, modes: ["off"], defects: 0, seed: 7}}}}
  - name: curated
    uses: curate
    with: {{input: ["${{stages.both}}", "${{stages.plain}}"], tokenizer: {tiny_tokenizer_dir}, workers: 1,
           mix: {mix}, on_off_ratio: "{ratio}", max_samples: {most}, max_bad_share: 0.9}}
""")
    loaded = load_recipe(str(recipe))
    line = estimate(loaded.recipe, prepare(loaded, tmp_path / "run"))[-1]
    run_recipe(loaded, tmp_path / "run")
    report = Report.model_validate(read_json(tmp_path / "run" / "curated" / "report.json"))
    assert (line.rows, line.at_most) == (report.rows.kept, False)


def test_the_plan_knows_what_the_scarcest_source_allows(tmp_path: Path) -> None:
    def most(*changes: str, preset: str | None = None) -> int | None:
        loaded = load_recipe("r1", changes, preset=preset)
        plan = estimate(loaded.recipe, prepare(loaded, tmp_path))
        return next(line for line in plan if line.stage == "rows").rows

    fewer = most("answers.size=150", preset="cpu")
    assert fewer == 400, "a third more than the answers of 150 problems, two of each"
    assert most("answers.size=600") == 12_800, "whatever there is of general rows"
    assert most() == 804_745
