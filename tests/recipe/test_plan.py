"""What a recipe will do is told before it does it, and told right."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bethink.core.errors import ConfigError
from bethink.models.recompute import Recompute
from bethink.models.shape import shape_from
from bethink.recipe.forecast import _memory, _memory_laid_out
from bethink.recipe.inputs import missing_inputs
from bethink.recipe.plan import estimate
from bethink.recipe.plan_text import plan_table, plan_words
from bethink.recipe.run import run_recipe
from bethink.recipe.schema import load_recipe, packaged_recipes
from bethink.recipe.stages import prepare
from bethink.tasks.sources import load_tasks


def planned(recipe, *overrides, at=Path("runs/x")):
    loaded = load_recipe(recipe, list(overrides))
    return loaded.recipe, prepare(loaded, at.absolute())


@pytest.mark.parametrize("ratio", ["any", "1:1", "3:1", "2:5"])
def test_the_rows_that_synthesis_and_curation_leave_are_known(tmp_path, tiny_tokenizer_dir, ratio):
    recipe = tmp_path / "two.yaml"
    recipe.write_text(
        "name: two\n"
        "stages:\n"
        "  - name: rows\n    uses: synthesize\n    with: {task: chain_sum, problems: 40, defects: 0.2}\n"
        "  - name: curated\n    uses: curate\n"
        f'    with: {{input: ["${{stages.rows}}"], tokenizer: {tiny_tokenizer_dir}, on_off_ratio: "{ratio}", max_bad_share: 0.9}}\n'
    )
    lines = estimate(*planned(str(recipe)))
    run_recipe(load_recipe(str(recipe), []), tmp_path / "run")
    kept = sum(1 for _ in (tmp_path / "run/curated/train-00000.jsonl").open())
    assert (lines[1].rows, lines[1].at_most) == (kept, False)


def test_the_packaged_recipes_tell_rows_tokens_hours_and_memory():
    for name in ("quickstart", "weekend-8b"):
        recipe, stages = planned(name)
        plan = estimate(recipe, stages)
        lines = {line.stage: line for line in plan}
        assert lines["sft"].tokens
        assert all(lines[stage].hours > 0 for stage in ("sft", "base", "trained")), name
        assert "Training about" in (words := plan_words(recipe, plan, missing_inputs(stages)))
        assert "Evaluation about" in words
    assert "fits in" in words
    assert "Not here yet: data/" in words


def test_the_table_fits_a_terminal_of_80_columns(capsys):
    from rich.console import Console

    for name in packaged_recipes():
        recipe, stages = planned(name)
        Console(width=80).print(plan_table(estimate(recipe, stages)))
        shown = capsys.readouterr().out
        assert all(stage.stage.name in shown for stage in stages)
        assert max(map(len, shown.splitlines())) <= 80
        assert len(shown.splitlines()) <= 4 * len(stages)


@pytest.mark.parametrize(
    "change",
    [
        "={}",
        "={model_type: nope}",
        ".hidden_size=abc",
        ".num_attention_heads=0",
        ".vocab_size=-1",
        ".hidden_size=null",
    ],
)
def test_a_shape_of_nothing_is_said(change):
    with pytest.raises(ConfigError, match="no model has this shape") as caught:
        estimate(*planned("weekend-8b", f"assume.shape{change}"))
    assert caught.value.where == "assume.shape"


def test_an_input_in_the_home_directory_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").touch()
    _, stages = planned("weekend-8b", "curated.input=[~/rows.jsonl, ~/none.jsonl, ~nobody-here/x]")
    assert [one.path for one in missing_inputs(stages)] == ["~/none.jsonl", "~nobody-here/x"]


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"num_key_value_heads": None}),
        ("mistral", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 96}),
    ],
)
@pytest.mark.parametrize("option", ["full=true", "rank=8"])
def test_memory_as_arithmetic_is_that_of_the_model_laid_out(family, more, option):
    sizes = {
        "model_type": family,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
        **more,
    }
    _, stages = planned("weekend-8b", f"sft.{option}", f"assume.shape={json.dumps(sizes)}")
    config = next(one.config for one in stages if one.stage.uses == "sft")
    for level in Recompute:
        laid_out = _memory_laid_out(config, sizes, "here", 16384, level)
        assert _memory(config, 16384, sizes, "here", level) == pytest.approx(laid_out, rel=0.005)
    assert shape_from(sizes) is not None


def test_a_plan_of_a_known_family_needs_no_torch():
    code = (
        "import sys; from bethink.cli.run import run; run('weekend-8b', dry_run=True);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Training memory about" in done.stdout


def test_a_plan_for_this_machine_rests_on_its_own_speed(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path))
    assumed = "{tokens_per_sample: 200, tokens_per_completion: 50}"
    changes = [f"vars.model={tiny_model_dir}", "sft.device=cpu", "base.device=cpu"]
    recipe, stages = planned("quickstart", *changes, f"assume={assumed}")
    lines = estimate(recipe, stages)
    assert list((tmp_path / "speed").iterdir())
    by_name = {line.stage: line for line in lines}
    assert by_name["sft"].hours > 0
    assert by_name["base"].hours > 0
    said = plan_words(recipe, lines)
    assert said.count("on this machine") == 2
    assert "of the floor, which is" in said

    elsewhere = assumed.replace("}", ", device: another}")
    recipe, stages = planned("quickstart", *changes, f"assume={elsewhere}")
    assert not any(line.hours for line in estimate(recipe, stages))
    recipe, stages = planned("quickstart", *changes[:1], "sft.device=cuda:99", f"assume={assumed}")
    assert next(line for line in estimate(recipe, stages) if line.uses == "sft").hours is None


def test_a_longer_run_takes_longer_and_a_wider_adapter_too(tiny_model_dir):
    assumed = "assume={tokens_per_sample: 200, tokens_per_completion: 50}"

    def hours(*changes):
        lines = estimate(*planned("quickstart", f"vars.model={tiny_model_dir}", assumed, *changes))
        return [next(line.hours for line in lines if line.uses == uses) for uses in ("sft", "eval")]

    usual, longer = hours("sft.steps=10"), hours("sft.steps=20", "base.size=400")
    assert longer == pytest.approx([2 * usual[0], 2 * usual[1]])
    assert hours("sft.steps=10", "sft.rank=64")[0] > usual[0]
    assert hours("sft.steps=10", "base.slots=4")[1] > usual[1]


def test_the_problems_of_a_file_that_is_here_are_counted(tmp_path, monkeypatch):
    """With the part that is held out, and by sampling each question once; a file that is not here, or a huge one, is not read."""
    file = tmp_path / "questions.jsonl"
    questions = [f"What is {random.randrange(10**9)} plus {n}?" for n in range(60)] * 2
    file.write_text(
        "".join(json.dumps({"question": q, "answer": "1", "grader": "exact"}) + "\n" for q in questions)
    )
    spec = f"{file}:plain,held_out=0.2"
    parts = {split: len(load_tasks(spec, size=None, seed=0, split=split)) for split in ("train", "test")}
    assert sum(parts.values()) == 120

    def rows(*changes):
        by_name = {line.stage: line for line in estimate(*planned("domain", *changes))}
        return [by_name[name].rows for name in ("answers", "base", "trained")]

    assert rows(f"vars.questions={spec}") == [
        parts["train"] // 2 * 2 * 8,
        parts["test"] * 2,
        parts["test"] * 2,
    ]
    assert rows(f"vars.questions={spec}", "answers.size=5")[0] == 5 * 2 * 8
    assert rows() == rows(f"vars.questions={tmp_path}/none.jsonl:plain") == [None, None, None]
    monkeypatch.setattr("bethink.recipe.questions._LARGEST", file.stat().st_size - 1)
    assert rows(f"vars.questions={spec}") == [None, None, None]


def test_the_most_that_an_endpoint_can_cost_is_told():
    size, price = random.randrange(10, 1000), random.randrange(1, 20)
    recipe, stages = planned(
        "domain", f"answers.size={size}", f"answers.price_out={price}", "answers.price_in=1"
    )
    lines = estimate(recipe, stages)
    most = size * 2 * 8 * 8192 * price / 1e6
    assert [line.cost for line in lines if line.cost] == [pytest.approx(most)]
    assert f"cost at most {most:,.2f} (answers {most:,.2f})" in plan_words(recipe, lines)
    assert "cost" not in plan_words(recipe, estimate(*planned("domain", f"answers.size={size}")))
