"""A recipe says what is wrong with it, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from bethink.core.errors import ConfigError
from bethink.recipe.schema import load_recipe, packaged_recipes, resolve, stage_references
from bethink.recipe.stages import KINDS, prepare

GOOD = """\
name: small
seed: 7
vars:
  task: chain_sum
  many: 12
stages:
  - name: rows
    uses: synthesize
    with:
      task: ${vars.task}
      problems: ${vars.many}
  - name: more
    uses: synthesize
    with: {task: "chain_sum:min_terms=2", problems: 3, seed: 1}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def evaluations(tmp_path: Path) -> str:
    """Three evals that share options through an anchor, each in another way."""
    return write(
        tmp_path,
        """\
name: shared
stages:
  - {name: first, uses: eval, with: &h {model: m, tasks: [chain_sum], modes: [on, off], on: {temperature: 0.7}}}
  - {name: second, uses: eval, with: {<<: *h, modes: off}}
  - {name: third, uses: eval, with: *h}
""",
    )


def fault(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(load_recipe(write(folder, text), overrides), folder / "run")
    return str(caught.value)


def test_variables_keep_their_type_and_the_seed_reaches_every_stage(tmp_path: Path) -> None:
    rows, more = prepare(load_recipe(write(tmp_path, GOOD)), tmp_path / "run")
    assert (rows.config.problems, rows.config.task, rows.config.seed) == (12, "chain_sum", 7)  # type: ignore[attr-defined]
    assert more.config.seed == 1  # type: ignore[attr-defined]
    assert rows.product == tmp_path / "run" / "rows" / "rows.jsonl"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 7", "sede: 7", ["unknown key `sede`", "recipe.yaml:2", "did you mean `seed`"]),
        (
            "    uses: synthesize\n    with:\n",
            "    uses: synthesize\n    wiht:\n",
            ["recipe.yaml:9", "did you mean `with`"],
        ),
        ("uses: synthesize\n    with:\n", "uses: synthesise\n    with:\n", ["recipe.yaml:8", "synthesize"]),
        ("      task: ${vars.task}", "      tusk: ${vars.task}", ["recipe.yaml:10", "did you mean `task`"]),
        ("${vars.many}", "${vars.mny}", ["recipe.yaml:11", "no such variable", "did you mean `many`"]),
        ("${vars.many}", "${more}", ["recipe.yaml:11", "neither"]),
        ("${vars.task}", "${stages.more}", ["recipe.yaml:10", "comes later"]),
        ("${vars.task}", "${stages.row}", ["recipe.yaml:10", "no such stage", "known: none"]),
        ("${vars.many}", "-3", ["recipe.yaml:11", "greater than 0"]),
        ("name: more", "name: rows", ["two stages are called `rows`"]),
        ("name: more", "name: seed", ["cannot be called `seed`"]),
        ("name: more", "name: ../up", ["recipe.yaml:12"]),
        (
            "      problems: ${vars.many}",
            "      output: /tmp/x",
            ["recipe.yaml:11", "`output` is set by the run"],
        ),
        ("  many: 12", "  many: ${vars.task}", ["recipe.yaml:5", "plain value"]),
        ("seed: 7", "seed: 7\nseed: 8", ["stands twice", "recipe.yaml:3"]),
        ("stages:", "stages: []\nx:", ["recipe.yaml:"]),
        (GOOD, "[]", ["mapping"]),
        (GOOD, "name: {", ["not valid YAML", "recipe.yaml:"]),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: list[str]) -> None:
    said = fault(tmp_path, GOOD.replace(old, new, 1))
    assert all(part in said for part in message), said


def test_overrides_reach_variables_stages_and_the_recipe(tmp_path: Path) -> None:
    overrides = ["vars.many=5", "seed=9", "more.problems=4", "assume.mfu=0.5"]
    loaded = load_recipe(write(tmp_path, GOOD), overrides)
    rows, more = prepare(loaded, tmp_path / "run")
    assert (rows.config.problems, rows.config.seed, more.config.problems) == (5, 9, 4)  # type: ignore[attr-defined]
    assert loaded.recipe.assume.mfu == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rows.problms=3", "did you mean `problems`"),
        ("row.problems=3", "did you mean `rows`"),
        ("rows=3", "names one of its options, or leaves the stage out"),
        ("row=null", "did you mean `rows`"),
        ("seed", "KEY=VALUE"),
        ("rows.problems=many", "valid integer"),
        ("rows.problems=[", "not valid YAML"),
        ("seed.x=3", "has no keys"),
        ("more.seed=2024-13-01", "valid integer"),
    ],
)
def test_a_faulty_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    assert message in fault(tmp_path, GOOD, (override,))


def test_a_missing_recipe_names_the_packaged_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean `quickstart`"):
        load_recipe("quickstrat")


def test_packaged_recipes_are_found_by_name_and_sound(tmp_path: Path) -> None:
    assert {"quickstart", "weekend-8b"} <= set(packaged_recipes())
    for name in packaged_recipes():
        stages = prepare(load_recipe(name), tmp_path)
        assert stages[-1].stage.uses == "report"


def test_references_inside_a_text_are_put_in_as_text(tmp_path: Path) -> None:
    assert resolve({"a": ["${x}+${y}", "${x}"]}, {"x": 1, "y": "b"}.__getitem__) == {"a": ["1+b", 1]}
    stage = load_recipe("quickstart").recipe.stage("trained")
    assert stage_references(stage)[0] == "sft"


def test_a_stage_is_another_when_what_it_reads_is_another(tmp_path: Path) -> None:
    name = write(
        tmp_path,
        GOOD + "  - name: clean\n    uses: curate\n    with: {input: ['${stages.rows}'], tokenizer: t}\n",
    )

    def fingerprints(*overrides: str, run: str = "run") -> list[str]:
        return [one.fingerprint for one in prepare(load_recipe(name, overrides), tmp_path / run)]

    usual = fingerprints()
    assert fingerprints(run="elsewhere") == usual
    assert fingerprints("clean.workers=3") == usual
    changed = fingerprints("rows.problems=13")
    assert [a == b for a, b in zip(usual, changed, strict=True)] == [False, True, False]


def test_on_and_off_are_words(evaluations: str, tmp_path: Path) -> None:
    loaded = load_recipe(evaluations, ["third.modes=on", "third.off={top_p: 0.5}"])
    first, second, third = (one.config for one in prepare(loaded, tmp_path / "run"))
    assert [config.modes for config in (first, second, third)] == [("on", "off"), ("off",), ("on",)]  # type: ignore[attr-defined]
    assert first.on.temperature == second.on.temperature == 0.7  # type: ignore[attr-defined]
    assert third.off.top_p == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["on.temperature", "tasks.0", "size"])
@pytest.mark.parametrize("stage", ["first", "second", "third"])
def test_an_override_reaches_the_stage_it_names_and_no_other(evaluations: str, stage: str, path: str) -> None:
    value = "1.5" if path == "on.temperature" else "7" if path == "size" else "leg_counting"
    before = {one.name: one.options for one in load_recipe(evaluations).recipe.stages}
    after = {
        one.name: one.options for one in load_recipe(evaluations, [f"{stage}.{path}={value}"]).recipe.stages
    }
    assert [name for name in before if before[name] != after[name]] == [stage]


def test_every_option_that_holds_a_path_is_watched_for_changes() -> None:
    """But those that decide nothing, such as where a distilling run keeps what its teacher says."""
    for name, kind in KINDS.items():
        free = getattr(kind.config(), "free", frozenset())
        paths = {
            key
            for key, field in kind.config().model_fields.items()
            if "Path" in str(field.annotation) and key not in {"output", *free}
        }
        assert paths <= set(kind.reads), name


@pytest.mark.parametrize("place", ["1", "-1", "x", "9" * 30])
def test_a_place_that_a_list_has_not_is_named(evaluations: str, place: str) -> None:
    with pytest.raises(ConfigError, match="no place in a list of 1"):
        load_recipe(evaluations, [f"first.tasks.{place}=chain_sum"])
