"""The plan of stages that train: every kind tells samples, tokens, hours and memory, and what costs more is said to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bethink.recipe.inputs import missing_inputs
from bethink.recipe.plan import estimate
from bethink.recipe.plan_text import plan_words
from bethink.recipe.schema import Recipe, load_recipe
from bethink.recipe.stages import prepare

ASSUMED = """
assume:
  device: elsewhere
  tflops: 100
  memory_gib: 40
  parameters: 1.0e+9
  tokens_per_sample: 500
  tokens_per_completion: 300
  sampled_tokens_per_second: 1000
  shape: {model_type: llama, hidden_size: 2048, intermediate_size: 5632, num_hidden_layers: 20, num_attention_heads: 16,
          num_key_value_heads: 4, vocab_size: 32000}
"""


def planned(folder: Path, stage: str, assumed: str = ASSUMED) -> tuple[Recipe, list[Any]]:
    path = folder / "one.yaml"
    path.write_text(f"name: one\nstages:\n  - {stage}\n{assumed}", encoding="utf-8")
    loaded = load_recipe(str(path))
    return loaded.recipe, estimate(loaded.recipe, prepare(loaded, folder / "run"))


def line(folder: Path, stage: str) -> Any:
    return planned(folder, stage)[1][-1]


SFT = "{name: a, uses: sft, with: {model: m, data: d, steps: 10, batch_size: 20}}"


def test_preferences_are_pairs_and_their_reference_reads_them_too(tmp_path: Path) -> None:
    pairs = "{name: a, uses: prefer, with: {model: m, data: d, steps: 10, batch_size: 20%s}}"
    rows, tuned, reward = (line(tmp_path, text) for text in (SFT, pairs % "", pairs % ", reward_model: true"))
    assert all((rows.hours, tuned.hours, reward.hours))
    assert (tuned.rows, tuned.tokens) == (200, 2 * (rows.tokens or 0))
    assert tuned.hours == pytest.approx(rows.hours * 2 * 6 / 4)
    assert reward.hours == pytest.approx(rows.hours * 2)
    assert "20 pairs" in tuned.what
    assert tuned.memory


def test_a_teacher_is_heavier_than_none_and_answers_take_time(tmp_path: Path, tiny_model_dir: Path) -> None:
    taught = "{name: a, uses: distill, with: {model: m, teacher: %s, data: d, steps: 10, batch_size: 20%s}}"
    alone = line(tmp_path, SFT)
    read = line(tmp_path, taught % (tiny_model_dir, ""))
    written = line(tmp_path, taught % (tiny_model_dir, ", on_policy: 0.5, completion_tokens: 100"))
    assert all((alone.hours, read.hours, written.hours, read.memory, alone.memory))
    assert alone.hours < read.hours < written.hours
    assert written.hours - read.hours == pytest.approx(100 * 100 / 1000 / 3600)
    assert read.memory > alone.memory
    assert line(tmp_path, taught % ("not/here", "")).hours is None


def test_a_teacher_asked_once_takes_its_turn_and_one_that_was_asked_takes_nothing(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    taught = "{name: a, uses: distill, with: {model: m, teacher: %s, data: d, steps: 10, batch_size: 20%s}}"
    large = tmp_path / "large"
    large.mkdir()
    sizes = json.loads((tiny_model_dir / "config.json").read_text())
    sizes |= {"num_hidden_layers": 60, "hidden_size": 4096, "intermediate_size": 16384}
    (large / "config.json").write_text(json.dumps(sizes))
    store = tmp_path / "said"
    once = f", store_teacher: 8, teacher_store: {store}"
    alone = line(tmp_path, SFT)
    beside, small, big = (
        line(tmp_path, taught % (teacher, options))
        for teacher, options in ((large, ""), (tiny_model_dir, once), (large, once))
    )
    assert small.memory == alone.memory
    assert big.memory > alone.memory
    assert big.memory == beside.memory - alone.memory
    by_layer = line(tmp_path, taught % (large, f"{once}, layer_by_layer: true"))
    assert by_layer.memory == alone.memory
    only = line(tmp_path, taught % (large, f"{once}, store_only: true"))
    assert only.memory == big.memory
    assert only.hours is None
    for part in ("train", "held_out"):
        (store / part).mkdir(parents=True)
    asked = line(tmp_path, taught % (large, once))
    assert asked.memory == alone.memory
    assert asked.hours == pytest.approx(alone.hours)


def test_pretraining_is_planned_by_its_own_shape(tmp_path: Path) -> None:
    stage = (
        "{name: a, uses: pretrain, with: {data: d, vocabulary: 512, steps: %d, tokens_per_step: 4096, shape: "
        "{hidden_size: 128, intermediate_size: 384, num_hidden_layers: %d, num_attention_heads: 4, num_key_value_heads: 2}}}"
    )
    recipe, (small,) = planned(tmp_path, stage % (10, 4))
    assert small.tokens == 40_960
    assert all((small.hours, small.memory))
    assert "Pretraining about" in plan_words(recipe, [small])
    deep, long = line(tmp_path, stage % (10, 8)), line(tmp_path, stage % (20, 4))
    assert all((deep.hours, deep.memory, long.hours))
    assert long.hours == pytest.approx(2 * small.hours)
    assert deep.hours > small.hours
    assert deep.memory > small.memory


def test_a_stage_can_be_planned_without_the_length_of_a_text(tmp_path: Path) -> None:
    stage = (
        "{name: a, uses: pretrain, with: {data: d, vocabulary: 512, steps: 5, shape: {hidden_size: 128, "
        "intermediate_size: 384, num_hidden_layers: 4, num_attention_heads: 4}}}"
    )
    recipe, lines = planned(tmp_path, stage, "assume: {device: elsewhere, tflops: 100}")
    assert "Pretraining about" in plan_words(recipe, lines)


def test_reinforcement_needs_room_for_its_longest_completion_and_its_reference(tmp_path: Path) -> None:
    stage = "{name: a, uses: grpo, with: {model: m, tasks: chain_sum, full: true, max_tokens: %d, kl: %s}}"
    short, long = (line(tmp_path, stage % (tokens, "0.04")) for tokens in (512, 8192))
    free = line(tmp_path, stage % (512, "0"))
    assert all((short.memory, long.memory, free.memory, short.hours, free.hours))
    assert long.memory > short.memory > free.memory
    assert short.hours > free.hours, "a reference is asked"


def test_completions_of_one_prompt_take_less_than_as_many_of_several(tmp_path: Path) -> None:
    stage = (
        "{name: a, uses: grpo, with: {model: m, tasks: chain_sum, full: true, device: cpu, dtype: float32, kl: %s, "
        "problems_per_step: %d, group_size: %d}}"
    )
    here = ASSUMED
    for other in ("  device: elsewhere\n", "  tflops: 100\n", "  sampled_tokens_per_second: 1000\n"):
        here = here.replace(other, "")
    shared, apart, asked = (
        planned(tmp_path, stage % sizes, here)[1][-1] for sizes in ((0, 2, 16), (0, 16, 2), (0.04, 2, 16))
    )
    assert all((shared.hours, apart.hours, asked.hours))
    assert shared.rows == apart.rows
    assert shared.hours < 0.8 * apart.hours
    assert asked.hours > shared.hours, "a reference is asked"


def test_what_a_stage_makes_is_not_missing_and_what_is_unknown_is_no_bound(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    sample = (
        "{name: asked, uses: sample, with: {model: m, tasks: chain_sum, size: 50, modes: [on, off], keep: 2}}"
    )
    curate = "{name: %s, uses: curate, with: {tokenizer: t, input: [%s]}}"
    inputs = "'${stages.asked}/rows.jsonl'"
    path.write_text(
        f"name: two\nstages:\n  - {sample}\n  - {curate % ('one', inputs)}\n  - {curate % ('two', inputs + ', else.jsonl, else.jsonl')}\n"
    )
    loaded = load_recipe(str(path))
    stages = prepare(loaded, tmp_path / "run")
    rows: list[Any] = [one.rows for one in estimate(loaded.recipe, stages)]
    assert rows == [400, 200, None]
    assert [one.path for one in missing_inputs(stages) if one.option == "input"] == ["else.jsonl"]


def test_rows_of_one_mode_are_half_as_many(tmp_path: Path) -> None:
    stage = "{name: a, uses: synthesize, with: {problems: 30, defects: 0%s}}"
    assert line(tmp_path, stage % "").rows == 60
    assert line(tmp_path, stage % ", modes: [on]").rows == 30


def test_a_reward_model_takes_its_place_beside_the_policy(tmp_path: Path, tiny_model_dir: Path) -> None:
    grpo = "{name: b, uses: grpo, with: {model: m, tasks: chain_sum, full: true, max_tokens: 512, rewards: '%s'}}"
    judge = "{name: a, uses: prefer, with: {model: m, data: d, steps: 10, batch_size: 20, reward_model: true}}\n  - "
    rules, judged = (
        line(tmp_path, judge + grpo % text) for text in ("accuracy=1", "preference=1:model=${stages.a}")
    )
    weights = 2 * (20 * 2048 * (2 * 2048 + 2 * 512 + 3 * 5632) + 2 * 32000 * 2048)
    assert judged.memory - rules.memory == pytest.approx(weights, rel=1e-3)
    assert line(tmp_path, grpo % "preference=1:model=not/here").memory is None

    settings = {"base": str(tiny_model_dir), "mean": 0, "std": 1, "tokenizer": "t"}
    (tmp_path / "reward_model.json").write_text(json.dumps(settings))
    there = line(tmp_path, grpo % f"preference=1:model={tmp_path}").memory
    assert rules.memory < there < judged.memory, "a small one"


def test_only_the_stages_with_the_rows_are_counted(tmp_path: Path) -> None:
    """Not the one that made the tokenizer, nor one with rows to evaluate on; and where a file of unknown length is among them, none."""
    shape = "{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}"
    stages = [
        "{name: texts, uses: corpus, with: {texts: 1000}}",
        "{name: base, uses: pretrain, with: {data: ['${stages.texts}'], shape: %s, vocabulary: 330, epochs: 2, held_out: 0}}",
        "{name: small, uses: pretrain, with: {data: ['${stages.texts}'], shape: %s, tokenizer: '${stages.base}', epochs: 0.5, held_out: 0.1}}",
        "{name: mixed, uses: pretrain, with: {data: ['${stages.texts}', t.jsonl], shape: %s, tokenizer: '${stages.base}'}}",
        "{name: lessons, uses: synthesize, with: {problems: 30, defects: 0}}",
        "{name: rows, uses: curate, with: {input: ['${stages.lessons}'], tokenizer: '${stages.base}'}}",
        "{name: tuned, uses: sft, with: {model: '${stages.small}', data: else.jsonl, eval_data: '${stages.rows}'}}",
    ]
    path = tmp_path / "lab.yaml"
    path.write_text("name: lab\nstages:\n" + "".join(f"  - {one}\n" for one in stages).replace("%s", shape))
    loaded = load_recipe(str(path))
    rows = {one.stage: one.rows for one in estimate(loaded.recipe, prepare(loaded, tmp_path / "run"))}
    assert (rows["base"], rows["small"], rows["mixed"]) == (2000, 450, None)
    assert (rows["rows"], rows["tuned"]) == (60, None)
