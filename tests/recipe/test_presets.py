"""A preset changes what it says and nothing else, goes under --set, and is blamed by its own lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bethink.core.errors import ConfigError
from bethink.recipe.inputs import made_by, missing_inputs
from bethink.recipe.manifest import load_manifest
from bethink.recipe.plan import estimate
from bethink.recipe.run import recipe_hash, run_recipe
from bethink.recipe.schema import load_recipe, packaged_recipes
from bethink.recipe.stages import prepare

GOOD = """\
name: small
seed: 7
vars: {many: 12}
stages:
  - name: rows
    uses: synthesize
    with: {task: chain_sum, problems: "${vars.many}"}
  - name: measured
    uses: eval
    with:
      model: m
      tasks: [chain_sum]
      size: 9
      on: {temperature: 0.7, top_p: 0.9}
assume: {mfu: 0.3, tflops: 5}
presets:
  tiny:
    seed: 3
    vars: {many: 4}
    rows: {defects: 0}
    measured:
      on: {temperature: 0.2}
      size: null
    assume: {parameters: 9}
  same: {}
  short:
    rows: null
    measured: {size: 5}
"""


def write(folder: Path, text: str = GOOD) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_preset_changes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path), preset="tiny")
    rows, measured = prepare(loaded, tmp_path)
    assert (rows.config.problems, rows.config.defects, rows.config.seed) == (4, 0, 3)  # type: ignore[attr-defined]
    assert rows.config.task == "chain_sum"  # type: ignore[attr-defined]
    assert (measured.config.on.temperature, measured.config.on.top_p) == (0.2, 0.9)  # type: ignore[attr-defined]
    assert measured.config.size == 200, "removed: the room's own default"  # type: ignore[attr-defined]
    assume = loaded.recipe.assume
    assert (assume.parameters, assume.tflops, assume.mfu) == (9, None, 0.4), "replaced as a whole"


def test_overrides_go_over_a_preset(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path), ["vars.many=5", "measured.on.temperature=0.1"], "tiny")
    rows, measured = prepare(loaded, tmp_path)
    assert rows.config.problems == 5  # type: ignore[attr-defined]
    assert measured.config.on.temperature == 0.1  # type: ignore[attr-defined]


def test_a_stage_can_be_left_out_and_the_lines_of_the_rest_stay_right(tmp_path: Path) -> None:
    text = GOOD.replace("${vars.many}", "12").replace("[chain_sum]", "[chain_sun, 3]")
    by_preset = load_recipe(write(tmp_path, text), preset="short")
    by_override = load_recipe(write(tmp_path, text), ["measured.size=5", "rows=null"])
    for loaded in (by_preset, by_override):
        assert [(stage.name, stage.options["size"]) for stage in loaded.recipe.stages] == [("measured", 5)]
        with pytest.raises(ConfigError, match="a task is a line of text") as caught:
            prepare(loaded, tmp_path)
        assert (
            caught.value.where
            == f"{tmp_path / 'recipe.yaml'}:{1 + text[: text.index('tasks:')].count(chr(10))}"
        )


def test_what_is_run_decides_the_hash_and_not_which_presets_there_are(tmp_path: Path) -> None:
    usual = load_recipe(write(tmp_path)).recipe
    without = load_recipe(write(tmp_path, GOOD[: GOOD.index("presets:")])).recipe
    again = load_recipe(write(tmp_path), preset="same").recipe
    changed = load_recipe(write(tmp_path), preset="tiny").recipe
    assert recipe_hash(usual) == recipe_hash(without) == recipe_hash(again) != recipe_hash(changed)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    rows: {defects: 0}", "    row: {defects: 0}", ["recipe.yaml:20", "did you mean `rows`"]),
        ("    seed: 3", "    name: x", ["recipe.yaml:18", "cannot change `name`"]),
        ("    seed: 3", "    stages: []", ["recipe.yaml:18", "cannot change `stages`"]),
        ("    seed: 3", "    seed: -3", ["recipe.yaml:18", "greater than or equal"]),
        ("vars: {many: 4}", "vars: {mny: 4}", ["recipe.yaml:19", "no variable", "did you mean `many`"]),
        ("vars: {many: 4}", "vars: {many: '${vars.x}'}", ["recipe.yaml:19", "plain value"]),
        ("vars: {many: 4}", "vars: 4", ["recipe.yaml:19", "mapping"]),
        ("{parameters: 9}", "{parametres: 9}", ["recipe.yaml:24", "did you mean `parameters`"]),
        ("{defects: 0}", "[defects]", ["recipe.yaml:20", "mapping"]),
        ("{defects: 0}", "{defcts: null}", ["recipe.yaml:20", "no `defcts` here"]),
        ("{defects: 0}", "{task: '${stages.measured}'}", ["recipe.yaml:20", "comes later"]),
        ("same: {}", "same: 3", ["recipe.yaml:25", "dictionary"]),
        ("{size: 5}", "{sise: null}", ["recipe.yaml:28", "no `sise` here"]),
        ("{size: 5}", "{tasks: ['${stages.rows}']}", ["recipe.yaml:28", "no such stage"]),
        ("measured: {size: 5}", "measured: null", ["recipe.yaml", "stages", "at least 1"]),
        ("measured: {size: 5}", "more: null", ["recipe.yaml:28", "cannot change `more`"]),
        ("  same: {}", "  No Name: {}", ["recipe.yaml:25", "presets"]),
    ],
)
def test_every_preset_is_checked_whichever_is_run(
    tmp_path: Path, old: str, new: str, message: list[str]
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, GOOD.replace(old, new, 1)))
    assert all(part in str(caught.value) for part in message), caught.value


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("{defects: 0}", "{defcts: 0}", 20, "did you mean `defects`"),
        ("{temperature: 0.2}", "{temprature: 0.2}", 22, "did you mean `temperature`"),
        ("{temperature: 0.2}", "{temperature: -2}", 22, "greater than or equal"),
        ("{defects: 0}", "{output: x}", 20, "set by the run"),
        ("{size: 5}", "{size: -5}", 28, "greater than or equal"),
    ],
)
def test_an_option_that_the_room_refuses_is_found_in_the_preset(
    tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    name = write(tmp_path, GOOD.replace(old, new, 1))
    prepare(load_recipe(name), tmp_path)
    with pytest.raises(ConfigError) as caught:
        for preset in ("tiny", "short"):
            prepare(load_recipe(name, preset=preset), tmp_path)
    assert f"recipe.yaml:{line}" in str(caught.value)
    assert said in str(caught.value)


def test_an_unknown_preset_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path), preset="cpu")
    assert "no preset `cpu`" in str(caught.value)
    assert "known: tiny, same, short" in str(caught.value)
    with pytest.raises(ConfigError, match="has none"):
        load_recipe("quickstart", preset="cpu")


def test_a_preset_is_run_and_recorded(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("  - name: measured")] + "presets:\n  tiny: {vars: {many: 4}}\n"
    command = [sys.executable, "-m", "bethink.cli.main", "run", write(tmp_path, text), "--preset", "tiny"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "runs" / "small-tiny"
    assert json.loads((run_dir / "rows" / "summary.json").read_text())["clean"] == 8
    manifest = load_manifest(run_dir)
    assert manifest is not None
    assert manifest.overrides == ["preset=tiny"]
    assert manifest.recipe["vars"] == {"many": 4}
    assert "presets" not in manifest.recipe
    again = run_recipe(load_recipe(write(tmp_path, text), ["vars.many=4"]), run_dir)
    assert [stage.attempts for stage in again.stages] == [1], "the same run, said in another way"


@pytest.mark.parametrize("name", sorted(packaged_recipes()))
def test_every_packaged_preset_is_sound(name: str, tmp_path: Path) -> None:
    usual = load_recipe(name)
    for preset in usual.recipe.presets:
        loaded = load_recipe(name, preset=preset)
        stages = prepare(loaded, tmp_path)
        assert [one.stage.name for one in stages] == [stage.name for stage in usual.recipe.stages]
        assert len({one.fingerprint for one in stages}) == len(stages), "no stage is another's double"


@pytest.mark.parametrize("name", ["r1-zero", "r1", "r1-distill", "llama-nemotron"])
def test_a_preset_for_a_small_machine_needs_nothing_but_what_others_make(name: str, tmp_path: Path) -> None:
    loaded = load_recipe(name, preset="cpu")
    stages = prepare(loaded, tmp_path)
    for one in stages:
        assert "hub:" not in json.dumps(one.config.model_dump(mode="json"))
        assert getattr(one.config, "endpoint", None) is None
    for missing in missing_inputs(stages):
        maker, _, preset = str(made_by(missing.path)).removeprefix("bethink run ").partition(" --preset ")
        run_dir = Path("runs", f"{maker}-{preset}")
        made = [one.product for one in prepare(load_recipe(maker, preset=preset), run_dir)]
        assert Path(missing.path) in made, "what the small preset of another recipe makes"
    lines = estimate(loaded.recipe, stages)
    trained = [line for line in lines if line.uses in ("sft", "grpo")]
    assert trained
    assert all(line.tokens and line.memory and line.memory < 6 << 30 for line in trained)
