"""What a recipe will do is told before it does it, and told right."""

from pathlib import Path

import pytest

from bethink.core.errors import ConfigError
from bethink.recipe.plan import estimate, missing_inputs, plan_table, plan_words
from bethink.recipe.run import run_recipe
from bethink.recipe.schema import load_recipe
from bethink.recipe.stages import prepare


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

    for name in ("quickstart", "weekend-8b"):
        recipe, stages = planned(name)
        Console(width=80).print(plan_table(estimate(recipe, stages)))
        shown = capsys.readouterr().out
        assert all(stage.stage.name in shown for stage in stages)
        assert max(map(len, shown.splitlines())) <= 80
        assert len(shown.splitlines()) <= 3 * len(stages)


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
    assert [str(path) for path in missing_inputs(stages)] == ["~/none.jsonl", "~nobody-here/x"]


def test_the_model_of_a_plan_is_made_once(monkeypatch, capsys):
    from bethink.cli.run import run
    from bethink.recipe import plan

    made = []
    empty_model = plan._empty_model
    monkeypatch.setattr(plan, "_empty_model", lambda *shape: made.append(shape) or empty_model(*shape))
    run("weekend-8b", dry_run=True)
    assert len(made) == 1
    assert "Training memory about" in capsys.readouterr().out
