"""Whole runs of a tiny student: it becomes like its teacher, resumes to the same bytes, and keeps what it says it keeps."""

from __future__ import annotations

import inspect
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.cli.distill import distill
from bethink.models.adapter_files import read_adapter_config
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.train.distill.config import DistillConfig
from bethink.train.distill.mixture import Mixture, split
from bethink.train.distill.own import Asked, Student
from bethink.train.distill.run import run_distill
from bethink.train.metrics import read_metrics
from bethink.train.schedule import Schedule
from bethink.train.token_store import build_stores
from train.runs import undisturbed_and_killed, untimed

Make = Callable[..., DistillConfig]


def rows_of(config: DistillConfig) -> list[dict[str, Any]]:
    return read_metrics(config.output / "metrics.jsonl")


def learning(make_distill: Make, **changes: Any) -> tuple[list[dict[str, Any]], DistillConfig]:
    settings = {"steps": 30, "batch_size": 16, "full": True, "lr": 3e-3, "tokens_per_microbatch": 1024}
    config = make_distill(**{**settings, **changes}, seed=random.randrange(2**31))
    print(f"seed {config.seed}")
    run_distill(config)
    return rows_of(config), config


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_a_student_becomes_like_its_teacher_on_rows(make_distill: Make, divergence: str) -> None:
    rows, _ = learning(make_distill, divergence=divergence, held_out=0.2, eval_every=30, sample_tokens=0)
    assert fmean(r["divergence"] for r in rows[-4:]) < 0.5 * rows[0]["divergence"]
    assert rows[-1]["agreement"] > rows[0]["agreement"] + 0.1
    assert rows[-1]["eval_divergence"] < 0.7 * rows[0]["divergence"]


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_a_student_becomes_like_its_teacher_on_what_it_writes_itself(
    make_distill: Make, divergence: str
) -> None:
    rows, config = learning(make_distill, divergence=divergence, on_policy=1.0)
    assert fmean(r["divergence"] for r in rows[-4:]) < 0.5 * rows[0]["divergence"]
    assert rows[0]["cross_entropy"] is None
    assert all(row["own"] == config.batch_size for row in rows)


def test_rows_and_own_completions_are_mixed_and_told_apart(make_distill: Make, tmp_path: Path) -> None:
    config = make_distill(on_policy=0.25, cross_entropy=0.5, held_out=0.1, eval_every=2, sample_tokens=3)
    result = run_distill(config)
    for row in rows_of(config):
        assert row["own"] == 2
        assert 1 <= row["own_tokens_mean"] <= config.completion_tokens
        assert row["loss_on"] is not None
        assert row["loss_off"] is not None
        assert row["divergence_rows"] > 0
        assert row["divergence_own"] > 0
        assert row["cross_entropy"] > 0
        assert row["entropy"] > 0
        assert 0 <= row["agreement"] <= 1
        assert row["grad_norm"] > 0
    assert {"eval_loss", "eval_loss_on", "eval_loss_off", "eval_divergence"} <= result.last.keys()
    assert "divergence_own" not in {
        name.removeprefix("eval_") for name in result.last if name.startswith("eval_")
    }
    for name in ("loss.svg", "loss.png", "config.json", "preflight.json", "samples.md"):
        assert (config.output / name).stat().st_size > 0
    load_model(locate(f"{config.model}+{result.path}"), dtype=torch.float32, device="cpu")


def test_problems_alone_or_beside_rows(make_distill: Make, tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    lines = [{"question": f"What is {n} plus {n + 2}?", "answer": str(2 * n + 2)} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    tasks = f"{path}:question=question,answer=answer,grader=exact"
    alone = make_distill(data=None, tasks=tasks, output=tmp_path / "alone")
    run_distill(alone)
    assert all(row["own"] == 8 and row["epoch"] == 0.0 for row in rows_of(alone))
    assert len((alone.output / "train-problems.jsonl").read_text().splitlines()) == 20
    beside = make_distill(tasks=tasks, on_policy=0.5, output=tmp_path / "beside")
    run_distill(beside)
    last = rows_of(beside)[-1]
    assert last["samples"] == 32
    assert last["own"] == 4
    assert last["epoch"] == 0.25, "16 of 64 rows"


def test_a_teacher_with_an_adapter_is_that_model(make_distill: Make, tmp_path: Path) -> None:
    """A student that starts as its teacher is at no distance from it; one without the adapter is."""
    first = run_distill(make_distill(lr=3e-2, output=tmp_path / "first"))
    adapted = f"{make_distill().model}+{first.path}"
    same = make_distill(model=adapted, teacher=adapted, output=tmp_path / "same", lr=1e-9)
    run_distill(same)
    assert rows_of(same)[0]["divergence"] == pytest.approx(0, abs=1e-5)
    assert rows_of(same)[0]["agreement"] == 1.0
    other = make_distill(teacher=adapted, output=tmp_path / "other", lr=1e-9)
    run_distill(other)
    assert rows_of(other)[0]["divergence"] > 1e-3


@pytest.mark.parametrize("stored", [None, 8])
def test_the_students_adapter_is_trained_on(stored: int | None, make_distill: Make, tmp_path: Path) -> None:
    first = run_distill(make_distill(lr=3e-2, output=tmp_path / "first"))
    base = make_distill().model
    on = make_distill(
        model=f"{base}+{first.path}", rank=99, lr=3e-2, store_teacher=stored, output=tmp_path / "on"
    )
    second = run_distill(on)
    assert rows_of(on)[-1]["agreement"] > rows_of(make_distill(output=tmp_path / "first"))[0]["agreement"]
    assert read_adapter_config(second.path).r == read_adapter_config(first.path).r
    assert read_adapter_config(second.path).base_model_name_or_path == base
    trained = [
        json.loads((tmp_path / name / "preflight.json").read_text())["trained_parameters"]
        for name in ("first", "on")
    ]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_a_divergence_that_cannot_reach_the_teachers_choices_is_warned_of(
    divergence: Any, make_distill: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of large logits does not hear of another's; one that is near its teacher does."""
    sure = tmp_path / "sure"
    shutil.copytree(make_distill().model, sure)
    model = AutoModelForCausalLM.from_pretrained(sure, dtype=torch.float32)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(50)
    model.save_pretrained(sure)
    far = make_distill(model=str(sure), steps=1, divergence=divergence, output=tmp_path / "far")
    run_distill(far)
    assert rows_of(far)[0]["unheard"] > 0.5
    assert ("hardly teach" in capsys.readouterr().err) == (divergence != "forward")
    near = make_distill(
        model=str(sure), teacher=str(sure), steps=1, divergence=divergence, output=tmp_path / "near"
    )
    run_distill(near)
    assert rows_of(near)[0]["unheard"] == 0
    assert "hardly teach" not in capsys.readouterr().err


def test_a_share_splits_a_step_and_both_get_a_place() -> None:
    assert [split(8, share) for share in (0.0, 0.01, 0.5, 0.99, 1.0)] == [
        (8, 0),
        (7, 1),
        (4, 4),
        (1, 7),
        (0, 8),
    ]
    assert split(1, 0.5) in [(1, 0), (0, 1)]


def test_own_completions_are_the_engines_tokens_and_repeat(make_distill: Make, tiny_model_dir: Path) -> None:
    model = load_model(locate(str(tiny_model_dir)), dtype=torch.float32, device="cpu")
    tokenizer = ChatTokenizer.load(tiny_model_dir)
    seed = random.randrange(2**31)

    def complete(step: int, asked: list[Asked]) -> Any:
        student = Student(model, stop_ids=tokenizer.stop_ids, longest=12, vocabulary=300, slots=4, seed=seed)
        return student.complete(step, asked)

    asked = [Asked(tuple(random.choices(range(300), k=9)), Mode.ON) for _ in range(6)]
    first, again, later = complete(0, asked), complete(0, asked), complete(1, asked)
    ids = [[s.completion_ids.tolist() for s in found.samples] for found in (first, again, later)]
    assert ids[0] == ids[1] != ids[2]
    assert all(0 < len(one) <= 12 and max(one) < 300 for one in ids[0])
    assert all(s.prompt_ids.tolist() in [list(a.prompt_ids) for a in asked] for s in first.samples)


def test_the_same_seed_draws_the_same_rows_and_no_row_is_both(
    data_file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer.load(tiny_model_dir)
    store, _ = build_stores([data_file], tokenizer, tmp_path / "tokens", max_tokens=500)
    schedule = Schedule.plan(rows=len(store), batch_size=10, steps=None, epochs=1.0)
    seed = random.randrange(2**31)
    one, two = (Mixture(share=0.3, batch_size=10, seed=seed, rows=store, schedule=schedule) for _ in range(2))
    assert one.steps == 7
    for step in (5, 0, 2):
        draw = one.of(step)
        assert draw == two.of(step)
        assert (len(draw.rows), len(draw.asked)) == (7, 3)
        replaced = [row for row in schedule.of(step) if row not in draw.rows]
        assert [asked.prompt_ids for asked in draw.asked] == [
            tuple(store[row].prompt_ids.tolist()) for row in replaced
        ]
        assert [asked.mode for asked in draw.asked] == [store[row].mode for row in replaced]


@pytest.mark.parametrize(
    "changes",
    [
        {"on_policy": 0.5, "divergence": "jsd", "eval_every": 4},
        {"store_teacher": 5, "full": True, "dtype": "bf16"},
        {"store_teacher": 5, "layer_by_layer": True},
    ],
)
def test_killed_at_a_random_moment_and_resumed_gives_the_same_bytes(
    make_distill: Make, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {
        "steps": 14,
        "checkpoint_every": 2,
        "held_out": 0.1,
        "sample_tokens": 3,
        **changes,
    }
    whole = make_distill(output=tmp_path / "whole", **settings)
    killed = make_distill(output=tmp_path / "killed", **settings)
    undisturbed_and_killed(run_distill, whole, killed, after=random.randint(1, 8))
    product = "model/model.safetensors" if killed.full else "adapter/adapter_model.safetensors"
    names = [
        product,
        *(["teacher/train/token_ids.i32", "teacher/train/logprobs.f16"] if killed.store_teacher else []),
    ]
    for name in names:
        assert (killed.output / name).read_bytes() == (whole.output / name).read_bytes(), name
    assert untimed(killed) == untimed(whole)


def test_the_command_lines_defaults_are_the_configs() -> None:
    options = inspect.signature(distill).parameters
    assert set(options) == set(DistillConfig.model_fields)
    for name, option in options.items():
        if option.default not in (None, inspect.Parameter.empty):
            assert option.default == DistillConfig.model_fields[name].default, name
