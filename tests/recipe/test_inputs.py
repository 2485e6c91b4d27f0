"""What a run would not find is said before its first stage, with what makes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bethink.core.errors import ConfigError
from bethink.recipe.inputs import made_by, missing_inputs
from bethink.recipe.manifest import load_manifest
from bethink.recipe.run import run_recipe
from bethink.recipe.schema import load_recipe
from bethink.recipe.stages import prepare

THREE = """\
name: three
vars: {more: more.jsonl}
stages:
  - {name: rows, uses: synthesize, with: {problems: 8, defects: 0}}
  - {name: first, uses: curate, with: {input: ["${stages.rows}"], tokenizer: TOKENIZER, workers: 1}}
  - name: second
    uses: curate
    with:
      input: ["${stages.rows}", "${vars.more}"]
      tokenizer: TOKENIZER
      workers: 1
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "three.yaml"
    path.write_text(THREE.replace("TOKENIZER", str(tiny_tokenizer_dir)), encoding="utf-8")
    return str(path)


def test_a_run_is_refused_before_its_first_stage_and_goes_on_when_all_is_there(
    recipe: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(ConfigError) as caught:
        run_recipe(load_recipe(recipe), run_dir)
    assert "more.jsonl (second.input)" in caught.value.what
    assert caught.value.where == f"{recipe}:9"
    assert "--set second.input=" in str(caught.value.fix)
    assert load_manifest(run_dir) is None
    up_to = run_recipe(load_recipe(recipe), run_dir, until="first")
    assert [stage.state for stage in up_to.stages] == ["done", "done", "pending"]
    with pytest.raises(ConfigError, match=r"more\.jsonl"):
        run_recipe(load_recipe(recipe), run_dir)
    (tmp_path / "more.jsonl").write_bytes((run_dir / "rows" / "rows.jsonl").read_bytes())
    whole = run_recipe(load_recipe(recipe), run_dir)
    assert [(stage.state, stage.attempts) for stage in whole.stages] == [("done", 1)] * 3


def test_every_kind_of_input_is_looked_for_and_nothing_twice(
    recipe: str, tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    (tmp_path / "there.jsonl").touch()
    with_eval = {
        "model": f"{tiny_tokenizer_dir}+gone/adapter",
        "tasks": [
            "gone.jsonl:gsm8k",
            "there.jsonl:gsm8k",
            "chain_sum:min_terms=3",
            "hub:openai/gsm8k/main:gsm8k",
        ],
        "exclude": ["gone/rows.jsonl", "${stages.rows}"],
    }
    stages = [
        {
            "name": "rows",
            "uses": "synthesize",
            "with": {"task": "worked.jsonl:gsm8k,held_out=0.1", "defects": 0},
        },
        {"name": "one", "uses": "eval", "with": with_eval},
        {"name": "two", "uses": "eval", "with": {"model": "owner/name+gone/adapter", "tasks": ["chain_sum"]}},
        {"name": "three", "uses": "eval", "with": {"model": "no/such/model", "tasks": ["chain_sum"]}},
        {"name": "four", "uses": "eval", "with": {"model": "${stages.five}", "tasks": ["chain_sum"]}},
        {
            "name": "six",
            "uses": "distill",
            "with": {"model": "smollm2-135m", "teacher": "./teacher.gguf", "data": "gone"},
        },
    ]
    stages[4:4] = [
        {
            "name": "five",
            "uses": "sft",
            "with": {"model": "owner/name", "data": "${stages.rows}", "full": True},
        }
    ]
    path = tmp_path / "all.yaml"
    path.write_text(json.dumps({"name": "all", "stages": stages}), encoding="utf-8")
    found = [
        (one.path, one.stage, one.option)
        for one in missing_inputs(prepare(load_recipe(str(path)), tmp_path / "run"))
    ]
    assert sorted(found) == [
        ("./teacher.gguf", "six", "teacher"),
        ("gone", "six", "data"),
        ("gone.jsonl", "one", "tasks"),
        ("gone/adapter", "one", "model"),
        ("gone/rows.jsonl", "one", "exclude"),
        ("no/such/model", "three", "model"),
        ("worked.jsonl", "rows", "task"),
    ]


@pytest.mark.parametrize("name", ["quickstart", "lab"])
def test_recipes_that_need_nothing_miss_nothing(name: str, tmp_path: Path) -> None:
    loaded = load_recipe(name)
    for preset in (None, *loaded.recipe.presets):
        assert missing_inputs(prepare(load_recipe(name, preset=preset), tmp_path)) == []


def test_a_pretraining_names_an_architecture_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    options = "{data: [.], model: %s, vocabulary: 300}"
    for model, missing in (("llama", []), ("./no/config.json", ["./no/config.json"])):
        path.write_text(
            f"name: new\nstages: [{{name: made, uses: pretrain, with: {options % model}}}]", encoding="utf-8"
        )
        stages = prepare(load_recipe(str(path)), tmp_path / "run")
        assert [one.path for one in missing_inputs(stages)] == missing


@pytest.mark.parametrize(
    ("path", "maker"),
    [
        ("runs/r1-zero/rl_64k/model", "bethink run r1-zero"),
        ("/home/me/runs/r1-cpu/rl_general/adapter", "bethink run r1 --preset cpu"),
        ("runs/r1-distill-qwen-1.5b/sft/model", "bethink run r1-distill --preset qwen-1.5b"),
        ("runs/mine/sft/adapter", None),
        ("runs", None),
        ("r1/sft", None),
    ],
)
def test_what_another_recipe_makes_is_known_by_its_folder(path: str, maker: str | None) -> None:
    assert made_by(path) == maker
