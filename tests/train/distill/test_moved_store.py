"""A whole store teaches where the teacher's files are not: it is known by name, tokens and rows, and what does not fit is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bethink.cli.distill import distill
from bethink.core.errors import ModelError, OutputError
from bethink.models.locate import locate
from bethink.recipe.inputs import missing_inputs
from bethink.recipe.schema import load_recipe
from bethink.recipe.stages import prepare
from bethink.train.distill.config import DistillConfig
from bethink.train.distill.run import run_distill
from bethink.train.metrics import TIMING, read_metrics
from train.conftest import sum_rows, write_rows

Make = Callable[..., DistillConfig]


@pytest.fixture
def elsewhere(make_distill: Make, teacher_dir: Path, tmp_path: Path) -> Make:
    """A factory for runs where a teacher's store was copied to and the teacher was not."""
    teacher = tmp_path / "large machine" / "teacher"
    shutil.copytree(teacher_dir, teacher)
    settings = {"teacher": str(teacher), "store_teacher": 6, "held_out": 0.2, "seed": random.randrange(2**31)}
    filled = tmp_path / "large machine" / "said"
    asked = make_distill(output=tmp_path / "asked", teacher_store=filled, store_only=True, **settings)
    assert run_distill(asked).path == filled
    assert not (asked.output / "metrics.jsonl").exists()
    moved = tmp_path / "small machine" / "said"
    shutil.copytree(filled, moved)
    shutil.rmtree(teacher.parent)

    def make(**changes: Any) -> DistillConfig:
        return make_distill(
            **{"output": tmp_path / "small machine" / "run", "teacher_store": moved, **settings, **changes}
        )

    return make


def test_training_from_a_moved_store_is_training_where_it_was_filled(
    elsewhere: Make, make_distill: Make, teacher_dir: Path, tmp_path: Path
) -> None:
    there = elsewhere(eval_every=2)
    result = run_distill(there)
    assert result.steps == there.steps
    here = elsewhere(
        output=tmp_path / "here", teacher=str(teacher_dir), teacher_store=None, eval_every=2, store_teacher=6
    )
    run_distill(here)
    rows = [
        [
            {k: v for k, v in row.items() if k not in TIMING}
            for row in read_metrics(config.output / "metrics.jsonl")
        ]
        for config in (there, here)
    ]
    assert rows[0] == rows[1]
    weights = [config.product / "adapter_model.safetensors" for config in (there, here)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    run_distill(there.model_copy(update={"resume": True}))  # finished, and still without the teacher


def test_a_run_goes_on_without_the_files_it_was_begun_with(
    make_distill: Make, teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(teacher_dir, teacher)
    first = make_distill(teacher=str(teacher), store_teacher=4, store_only=True)
    run_distill(first)
    shutil.rmtree(teacher)
    rest = first.model_copy(update={"resume": True, "store_only": False})
    assert run_distill(rest).steps == rest.steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher": "./another"},
            r"no model `\./another` on this machine, and what is stored is of `.*teacher`",
        ),
        ({"store_teacher": 5}, "likeliest differ"),
        ({"temperature": 2.0}, "temperature differ"),
        ({"steps": 1}, "rows differ"),
    ],
)
def test_what_does_not_fit_the_store_is_refused(
    elsewhere: Make, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ModelError, OutputError), match=message):
        run_distill(elsewhere(**changes))


def test_other_rows_and_another_tokenizer_are_refused(
    elsewhere: Make, tiny_model_dir: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "other.jsonl", sum_rows(tiny_model_dir, 64)[::-1])
    with pytest.raises(OutputError, match="rows differ"):
        run_distill(elsewhere(data=data, output=tmp_path / "one"))
    student = tmp_path / "student"
    shutil.copytree(tiny_model_dir, student)
    tokens = json.loads((student / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (student / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(ModelError, match="is not the student's"):
        run_distill(elsewhere(model=str(student), output=tmp_path / "two"))


def test_a_store_cut_short_on_the_way_is_refused(elsewhere: Make) -> None:
    config = elsewhere()
    file = config.store / "train" / "logprobs.f16"
    size = file.stat().st_size
    with open(file, "r+b") as handle:
        handle.truncate(size - 2)
    with pytest.raises(OutputError, match=f"{size - 2:,} bytes of {size:,}"):
        run_distill(config)


def test_a_store_that_is_not_whole_needs_the_teacher(elsewhere: Make) -> None:
    config = elsewhere()
    (config.store / "train").rename(config.store / "train.part")
    with pytest.raises(ModelError, match="there is no model"):
        run_distill(config)


def test_another_teacher_that_is_here_is_told_by_its_files(
    elsewhere: Make, teacher_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """One of the same files under another name is the same; one of other files is not."""
    assert run_distill(elsewhere(teacher=str(teacher_dir), output=tmp_path / "one")).steps
    with pytest.raises(OutputError, match="teacher differ"):
        run_distill(elsewhere(teacher=str(tiny_model_dir), output=tmp_path / "two"))


def test_nothing_is_fetched_for_what_is_only_looked_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def snapshot_download(name: str, **options: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        seen.append(options.get("local_files_only"))
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelError):
        locate("some-owner/some-large-model", fetch=False)
    assert seen == [True]


def test_a_recipe_misses_no_teacher_whose_store_is_whole(elsewhere: Make, tmp_path: Path) -> None:
    config = elsewhere()
    options = {name: str(getattr(config, name)) for name in ("model", "teacher", "data", "teacher_store")} | {
        "store_teacher": 6
    }
    path = tmp_path / "one.yaml"

    def missing(**changes: Any) -> list[str]:
        stage = {"name": "a", "uses": "distill", "with": {**options, **changes}}
        path.write_text(json.dumps({"name": "one", "stages": [stage]}))
        return [one.option for one in missing_inputs(prepare(load_recipe(str(path)), tmp_path / "run"))]

    assert missing() == []
    assert missing(teacher_store=str(tmp_path / "none")) == ["teacher"]


def test_the_command_prints_the_store_it_filled(make_distill: Make, tmp_path: Path) -> None:
    config = make_distill(store_teacher=3, store_only=True)
    app, words = typer.Typer(), ["--store-only"]
    app.command()(distill)
    for name in (
        "model",
        "teacher",
        "data",
        "output",
        "store_teacher",
        "steps",
        "batch_size",
        "held_out",
        "device",
    ):
        words += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert str(config.store) in done.output
    assert config.store_whole
