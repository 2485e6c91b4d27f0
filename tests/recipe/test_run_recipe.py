"""A run does what is left to do: nothing twice, nothing over what other settings made."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bethink.core.errors import BethinkError, ConfigError, OutputError
from bethink.recipe.manifest import Manifest, input_hashes, load_manifest
from bethink.recipe.run import choose_directory, run_recipe
from bethink.recipe.schema import load_recipe
from bethink.recipe.stages import prepare

TWO = """\
name: two
stages:
  - {name: first, uses: synthesize, with: {problems: 8, defects: 0}}
  - {name: second, uses: curate, with: {input: ["${stages.first}"], tokenizer: TOKENIZER, workers: 1}}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_tokenizer_dir: Path) -> str:
    path = tmp_path / "two.yaml"
    path.write_text(TWO.replace("TOKENIZER", str(tiny_tokenizer_dir)), encoding="utf-8")
    return str(path)


def go(recipe: str, run_dir: Path, *overrides: str, redo: bool = False) -> Manifest:
    return run_recipe(load_recipe(recipe, overrides), run_dir, overrides=overrides, redo=redo)


def stamps(run_dir: Path) -> dict[str, int]:
    return {
        str(path.relative_to(run_dir)): path.stat().st_mtime_ns
        for path in run_dir.rglob("*.json*")
        if path.name != "manifest.json"
    }


def test_a_finished_run_is_left_as_it_is(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    first = go(recipe, run_dir)
    before = stamps(run_dir)
    again = go(recipe, run_dir)
    assert stamps(run_dir) == before
    assert [stage.state for stage in again.stages] == ["done", "done"]
    assert again.finished == first.finished is not None
    assert again.seconds == first.seconds > 0


def test_the_manifest_says_what_was_run_and_on_what(recipe: str, tmp_path: Path) -> None:
    go(recipe, tmp_path / "run", "seed=3")
    manifest = load_manifest(tmp_path / "run")
    assert manifest is not None
    assert manifest.seed == 3
    assert manifest.overrides == ["seed=3"]
    assert manifest.environment["packages"]["torch"]
    first, second = manifest.stages
    assert first.options["seed"] == second.options["seed"] == 3
    assert any("tokenizer" in path for path in second.inputs)
    assert second.peak_memory_bytes > 2**20


def test_a_run_can_stop_after_a_stage_and_go_on(recipe: str, tmp_path: Path) -> None:
    stopped = run_recipe(load_recipe(recipe), tmp_path / "run", until="first")
    assert [stage.state for stage in stopped.stages] == ["done", "pending"]
    assert stopped.finished is None
    again = go(recipe, tmp_path / "run")
    assert [stage.state for stage in again.stages] == ["done", "done"]
    assert again.stages[0].attempts == 1
    assert again.finished is not None
    with pytest.raises(ConfigError, match="did you mean `second`"):
        run_recipe(load_recipe(recipe), tmp_path / "other", until="secnd")


def test_a_changed_setting_is_refused_until_redo_replaces_what_depends_on_it(
    recipe: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    go(recipe, run_dir)
    with pytest.raises(OutputError, match="first, second"):
        go(recipe, run_dir, "first.problems=9")
    with pytest.raises(OutputError, match="inputs: second"):
        go(recipe, run_dir, "second.max_samples=4")
    before = stamps(run_dir)["first/summary.json"]
    go(recipe, run_dir, "second.max_samples=4", redo=True)
    assert stamps(run_dir)["first/summary.json"] == before
    assert json.loads((run_dir / "second" / "report.json").read_text())["rows"]["kept"] == 4


def test_a_changed_input_file_is_another_input(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    rows = tmp_path / "mine.jsonl"
    row = {"input": "What is 1 plus 1?", "output": "The final answer is \\boxed{2}.", "reasoning": "off"}
    rows.write_text(json.dumps(row) + "\n")
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\nstages:\n  - name: clean\n    uses: curate\n"
        f"    with: {{input: [{rows}], tokenizer: {tiny_tokenizer_dir}, workers: 1}}\n"
    )
    go(str(path), tmp_path / "run")
    rows.write_text(json.dumps(row | {"output": "The final answer is \\boxed{3}."}) + "\n")
    with pytest.raises(OutputError, match="clean"):
        go(str(path), tmp_path / "run")


def test_a_changed_input_is_noticed_however_it_is_named(
    tmp_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a word without a slash, from the home directory, and beside what another stage makes."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    row = {"input": "What is 1 plus 1?", "output": "The final answer is \\boxed{2}.", "reasoning": "off"}
    (tmp_path / "rows").mkdir()
    (tmp_path / "home").mkdir()
    files = [tmp_path / "rows" / "a.jsonl", tmp_path / "home" / "b.jsonl", tmp_path / "c"]
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "name: own\nstages:\n"
        "  - {name: made, uses: synthesize, with: {problems: 4, defects: 0}}\n"
        f"  - {{name: one, uses: curate, with: {{input: [rows, ~/b.jsonl], tokenizer: {tiny_tokenizer_dir}}}}}\n"
        f"  - {{name: two, uses: curate, with: {{input: ['${{stages.made}}', c], tokenizer: {tiny_tokenizer_dir}}}}}\n"
    )

    def fingerprints() -> list[str]:
        return [one.fingerprint for one in prepare(load_recipe(str(recipe)), tmp_path / "run")]

    for path in files:
        path.write_text(json.dumps(row))
    before = fingerprints()
    for path, changed in zip(files, ([1], [1], [2]), strict=True):
        path.write_text(json.dumps(row) + "\n")
        now = fingerprints()
        assert [index for index in range(3) if before[index] != now[index]] == changed, path
        before = now
    (tmp_path / "on").mkdir()  # like a word of the options that names no file
    (tmp_path / "en").mkdir()
    assert fingerprints() == before


def test_any_text_may_be_looked_up_as_a_file(tmp_path: Path) -> None:
    assert (
        input_hashes(
            {"question": "How many apples. " * 30, "nul": "\0", "none": "", "user": "~nobody-here/x"}
        )
        == {}
    )


def test_what_decides_no_byte_may_be_changed_in_a_run_that_is_done_or_stopped(
    tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(
        "name: bad\nstages:\n"
        "  - {name: rows, uses: synthesize, with: {problems: 40, defects: 0.5}}\n"
        f"  - {{name: clean, uses: curate, with: {{input: ['${{stages.rows}}'], tokenizer: {tiny_tokenizer_dir}, workers: 1}}}}\n"
    )
    with pytest.raises(BethinkError) as stopped:
        go(str(recipe), tmp_path / "run")
    assert "--set clean.OPTION=VALUE" in str(stopped.value)
    manifest = go(str(recipe), tmp_path / "run", "clean.max_bad_share=0.9")
    assert [stage.attempts for stage in manifest.stages] == [1, 2]
    manifest = go(str(recipe), tmp_path / "run", "clean.max_bad_share=0.8", "clean.block_bytes=99999")
    assert [stage.attempts for stage in manifest.stages] == [1, 2]


@pytest.mark.parametrize(
    ("uses", "options", "free"),
    [
        (
            "sft",
            "model: m, data: d",
            ["keep=9", "checkpoint_every=1", "allow_dropped=1", "allow_memory=true"],
        ),
        (
            "eval",
            "model: m, tasks: chain_sum",
            ["slots=9", "concurrency=1", "api_key_env=X", "name=x", "workers=1"],
        ),
    ],
)
def test_what_a_room_lets_a_resumed_run_change_changes_no_fingerprint(
    tmp_path: Path, uses: str, options: str, free: list[str]
) -> None:
    recipe = tmp_path / "one.yaml"
    recipe.write_text(f"name: one\nstages:\n  - {{name: it, uses: {uses}, with: {{{options}}}}}\n")

    def fingerprint(*overrides: str) -> str:
        (one,) = prepare(load_recipe(str(recipe), [f"it.{override}" for override in overrides]), tmp_path)
        return one.fingerprint

    assert fingerprint(*free) == fingerprint()
    assert fingerprint("max_tokens=77") != fingerprint()


def test_a_stage_whose_product_is_gone_is_run_again(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    go(recipe, run_dir)
    (run_dir / "first" / "rows.jsonl").unlink()
    manifest = go(recipe, run_dir)
    assert (run_dir / "first" / "rows.jsonl").exists()
    assert [stage.attempts for stage in manifest.stages] == [2, 1]


def test_a_failed_stage_is_resumed_where_it_stopped(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    with pytest.raises(BethinkError, match=r"tokenizer\.json"):
        go(recipe, run_dir, f"second.tokenizer={tmp_path / 'empty'}")
    manifest = load_manifest(run_dir)
    assert manifest is not None
    assert [stage.state for stage in manifest.stages] == ["done", "running"]
    assert manifest.finished is None
    assert go(recipe, run_dir, redo=True).finished


def test_a_killed_run_goes_on(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "bethink.cli.main",
        "run",
        recipe,
        "--output",
        str(run_dir),
        "--set",
        "first.problems=400",
    ]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    while not (run_dir / "second").exists() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    resumed = go(recipe, run_dir, "first.problems=400")
    whole = go(recipe, tmp_path / "whole", "first.problems=400")
    assert resumed.finished
    assert whole.finished
    for name in ("first/rows.jsonl", "second/train-00000.jsonl", "second/rejects.jsonl"):
        assert (run_dir / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_interrupted_run_says_how_to_go_on(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "bethink.cli.main",
        "run",
        recipe,
        "--output",
        str(run_dir),
        "--set",
        "first.problems=200000",
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (run_dir / "manifest.json").exists() and child.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert f"--set first.problems=200000 --output {run_dir}" in said
    assert "Traceback" not in said


def test_fresh_siblings(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    loaded = load_recipe(recipe)
    assert choose_directory(run_dir, loaded.recipe) == run_dir
    go(recipe, run_dir)
    assert choose_directory(run_dir, loaded.recipe) == tmp_path / "run-2"
    (tmp_path / "empty").mkdir()
    broken = load_recipe(recipe, [f"second.tokenizer={tmp_path / 'empty'}"])
    with pytest.raises(BethinkError, match=r"tokenizer\.json"):
        run_recipe(broken, tmp_path / "run-2")
    assert choose_directory(run_dir, loaded.recipe) == tmp_path / "run-3"  # other settings
    assert choose_directory(run_dir, broken.recipe) == tmp_path / "run-2"


def test_a_directory_that_is_not_ours_is_left_alone(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(OutputError, match="is no run"):
        go(recipe, tmp_path / "mine")
    with pytest.raises(OutputError, match="is a file"):
        go(recipe, tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_two_runs_in_one_directory_are_one_too_many(recipe: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    go(recipe, run_dir)
    with open(run_dir / ".lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another process"):
            go(recipe, run_dir)


def test_nothing_is_run_when_a_later_stage_is_faulty(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_samples"):
        go(recipe, tmp_path / "run", "second.max_samples=0")
    assert not (tmp_path / "run").exists()
