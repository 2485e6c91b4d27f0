"""Whole runs of a tiny model: it learns what is rewarded, resumes to the same bytes, and keeps what it says it keeps."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from bethink.core.errors import ConfigError, PreflightError
from bethink.core.files import read_jsonl
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.train.metrics import TIMING, read_metrics
from bethink.train.rl.choices import ALGORITHMS
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.held_out import held_out_problems
from bethink.train.rl.run import run_grpo

Make = Callable[..., GRPOConfig]


def rollouts(config: GRPOConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.output / "rollouts.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_a_random_model_learns_what_is_rewarded(make_grpo: Make, algorithm: str) -> None:
    settings: dict[str, Any] = {
        "algorithm": algorithm,
        "steps": 24,
        "full": True,
        "lr": 3e-3,
        "updates_per_step": 2,
        "group_size": 8,
    }
    if algorithm == "rloo":
        settings["kl"] = 0.003  # a random model's rewards are small beside the usual KL term
    if algorithm == "gspo":
        settings |= {
            "clip_low": 0.1,
            "clip_high": 0.1,
        }  # the usual range is for completions of thousands of tokens
    config = make_grpo(**settings, seed=random.randrange(2**31))
    print(f"seed {config.seed}")
    run_grpo(config)
    rewards = [row["reward"] for row in read_metrics(config.output / "metrics.jsonl")]
    assert fmean(rewards[-4:]) > fmean(rewards[:4]) + 0.4, rewards


def test_the_sampler_and_the_trainer_compute_the_same_policy(make_grpo: Make) -> None:
    for name, changes in {
        "lora": {},
        "full": {"full": True},
        "both": {"modes": "both"},
        "cool": {"temperature": 0.6, "updates_per_step": 2},
    }.items():
        config = make_grpo(output=make_grpo().output.with_name(name), lr=1e-2, **changes)
        run_grpo(config)
        for row in read_metrics(config.output / "metrics.jsonl"):
            assert row["learned_tokens"] > 0
            assert row["mismatch_max"] < 1e-4, name
            assert (
                row["clipped"] == 0 or name == "cool"
            )  # where the second update finds a policy that has moved


def test_a_cool_policy_is_surer_of_what_it_samples(make_grpo: Make, tmp_path: Path) -> None:
    entropy = {}
    for temperature in (0.4, 1.0):
        config = make_grpo(
            output=tmp_path / str(temperature), temperature=temperature, steps=1, group_size=16
        )
        run_grpo(config)
        (row,) = read_metrics(config.output / "metrics.jsonl")
        entropy[temperature] = row["entropy"]
    assert entropy[0.4] < entropy[1.0] - 0.05


def test_what_is_sampled_is_what_is_trained_and_logged(make_grpo: Make) -> None:
    config = make_grpo(modes="both", problems_per_step=3)
    result = run_grpo(config)
    rows = rollouts(config)
    assert len(rows) == config.steps * 3 * 2 * config.group_size
    metrics = read_metrics(config.output / "metrics.jsonl")
    for step, row in enumerate(metrics, 1):
        of_step = [r for r in rows if r["step"] == step]
        assert row["tokens"] == sum(r["tokens"] for r in of_step)
        assert row["reward"] == pytest.approx(fmean(r["reward"] for r in of_step), abs=1e-5)
        groups: dict[tuple[str, str], list[float]] = {}
        for r in of_step:
            groups.setdefault((r["problem"], r["mode"]), []).append(r["advantage"])
        assert all(abs(sum(advantages)) < 1e-3 for advantages in groups.values())
    assert {r["mode"] for r in rows} == {"on", "off"}
    for name in ("training.svg", "training.png", "rollouts.html", "preflight.json", "train-problems.jsonl"):
        assert (config.output / name).stat().st_size > 0
    # The adapter is one of the plain model's.
    load_model(locate(f"{config.model}+{result.path}"), dtype=torch.float32, device="cpu")


def test_a_format_asked_for_in_the_question_is_no_part_of_the_problem(make_grpo: Make) -> None:
    config = make_grpo(prompted=True, steps=1, eval_every=1, eval_size=2)
    run_grpo(config)
    bare = {row["question"] for row in read_jsonl(config.output / "train-problems.jsonl")}
    asked = {row["question"] for row in rollouts(config)}
    assert {question.partition("\n\nReason step by step.")[0] for question in asked} <= bare
    assert not asked & bare
    assert read_metrics(config.output / "metrics.jsonl")[0]["eval_on"] is not None


def test_an_adapter_is_trained_on_where_it_stands(make_grpo: Make, tmp_path: Path) -> None:
    first = run_grpo(make_grpo(lr=1e-2))
    again = make_grpo(adapter=first.path, output=tmp_path / "again", lr=1e-9, rank=99)
    second = run_grpo(again)
    name = "adapter_config.json"
    assert (
        json.loads((first.path / name).read_text())["r"] == json.loads((second.path / name).read_text())["r"]
    )
    ids = torch.arange(20)[None]
    logits = [
        load_model(locate(f"{again.model}+{path}"), dtype=torch.float32, device="cpu")(ids).logits
        for path in (first.path, second.path)
    ]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_a_kl_term_holds_the_policy_to_its_reference(make_grpo: Make, tmp_path: Path) -> None:
    found = {}
    for kl in (0.0, 5.0):
        config = make_grpo(kl=kl, kl_estimator="k2", steps=12, lr=1e-2, output=tmp_path / f"kl{kl}", seed=3)
        run_grpo(config)
        rows = read_metrics(config.output / "metrics.jsonl")
        assert ("kl" in rows[0]) == (kl > 0)
        found[kl] = rows[-1]["reward"] - rows[0]["reward"]
    assert found[5.0] < found[0.0]


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_a_reference_that_follows_starts_at_no_divergence_again(
    make_grpo: Make, tmp_path: Path, place: str
) -> None:
    config = make_grpo(kl=0.1, kl_place=place, reference_every=2, steps=5, lr=1e-2, output=tmp_path / place)
    run_grpo(config)
    rows = read_metrics(config.output / "metrics.jsonl")
    assert [row["kl"] < 1e-9 for row in rows] == [True, False, True, False, True]
    assert all(("kl_penalty" in row) == (place == "reward") for row in rows)


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_the_base_below_a_fresh_adapter_is_where_the_policy_began(
    make_grpo: Make, tmp_path: Path, place: str
) -> None:
    kl: dict[int, list[float]] = {}
    for every in (0, 1000):  # the adapter switched off, and a copy of it as it began
        config = make_grpo(kl=0.1, kl_place=place, steps=4, lr=1e-2, reference_every=every)
        run_grpo(config.model_copy(update={"output": tmp_path / str(every)}))
        kl[every] = [row["kl"] for row in read_metrics(tmp_path / str(every) / "metrics.jsonl")]
    assert kl[0][0] < 1e-9
    assert kl[0][-1] > 1e-5
    assert kl[0] == pytest.approx(kl[1000], rel=1e-3, abs=1e-9)


def test_a_reference_is_the_policy_at_the_start_or_the_base_below(make_grpo: Make, tmp_path: Path) -> None:
    first = run_grpo(make_grpo(lr=1e-2))
    kl = {}
    for reference in ("start", "base"):
        config = make_grpo(
            adapter=first.path, reference=reference, kl=0.1, steps=1, output=tmp_path / reference
        )
        run_grpo(config)
        kl[reference] = read_metrics(config.output / "metrics.jsonl")[0]["kl"]
    assert kl["start"] < 1e-9
    assert kl["base"] > 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"full": True}, "no base below"),
        ({"reference_every": 5}, "leave --reference-every out"),
    ],
)
def test_a_base_that_cannot_be_the_reference_is_said(
    make_grpo: Make, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make_grpo(reference="base", kl=0.1, **changes)


def test_a_problem_drawn_again_in_a_step_is_sampled_anew(make_grpo: Make, tmp_path: Path) -> None:
    settings = {"problems": 4, "steps": 2, "modes": "on=0.5,off=0.5", "seed": random.randrange(2**31)}
    print(settings)
    once = make_grpo(**settings, problems_per_step=4, output=tmp_path / "once")
    twice = make_grpo(**settings, problems_per_step=8, output=tmp_path / "twice")
    drawn: list[dict[tuple[str, int], tuple[str, str]]] = []
    for config in (once, twice):
        run_grpo(config)
        first = [row for row in rollouts(config) if row["step"] == 1]
        drawn.append({(row["problem"], row["index"]): (row["mode"], row["text"]) for row in first})
        assert len(drawn[-1]) == len(first), "every completion of a step has a name of its own"
    assert drawn[0].items() <= drawn[1].items(), "what is drawn once a step is drawn as before"
    texts = [[drawn[1][problem, n] for n in (k, k + 4)] for problem, k in drawn[0]]
    assert all(one != other for one, other in texts)
    assert len({text for _, text in drawn[1].values()}) > 24


def test_further_draws_replace_groups_without_signal(make_grpo: Make) -> None:
    config = make_grpo(rewards="train.rl.test_grpo_run:rarely=1", refills=3, steps=2, algorithm="dapo")
    run_grpo(config)
    rows = rollouts(config)
    assert {row["refill"] for row in rows} - {0}
    for row in read_metrics(config.output / "metrics.jsonl"):
        assert row["groups"] > config.problems_per_step
        assert row["learned_groups"] >= config.problems_per_step - row["without_signal"]


def rarely(attempt: Any) -> float:
    """Half of the problems give no signal, whatever is answered."""
    return 0.0 if len(attempt.problem.id) % 2 else float(len(attempt.text) % 2)


def test_held_out_problems_are_asked_while_it_learns_and_are_not_learned_from(
    make_grpo: Make, tmp_path: Path
) -> None:
    files = []
    for name, numbers in (("near", range(30)), ("far", range(100, 130))):
        files.append(tmp_path / f"{name}.jsonl")
        lines = [json.dumps({"question": f"What is {n} plus 1?", "answer": str(n + 1)}) for n in numbers]
        files[-1].write_text("\n".join(lines))
    tasks = [f"{file}:question=question,answer=answer,grader=exact,held_out=0.4" for file in files]
    config = make_grpo(tasks=tasks, modes="both", steps=5, eval_every=2, eval_size=4, temperature=0.7)
    run_grpo(config)
    rows = read_metrics(config.output / "metrics.jsonl")
    asked = ["eval_on", "eval_off", "eval_compliance_on", "eval_off_level_0", "eval_on_level_1"]
    assert [[row["step"] for row in rows if name in row] for name in asked] == [[2, 4, 5]] * len(asked)
    held_out = held_out_problems(config.tasks, config.eval_size, config.seed, [])
    assert [len(problems) for problems in held_out] == [4, 4]
    asked_in_training = (config.output / "train-problems.jsonl").read_text().splitlines()
    trained = {json.loads(line)["question"] for line in asked_in_training}
    assert trained.isdisjoint(problem.question for problems in held_out for problem in problems)
    other = make_grpo(output=tmp_path / "other", eval_every=1, eval_size=3, eval_tasks=tasks[1], steps=1)
    run_grpo(other)
    (row,) = read_metrics(other.output / "metrics.jsonl")
    assert row["eval_on"] in (0, pytest.approx(1 / 3, abs=1e-6), pytest.approx(2 / 3, abs=1e-6), 1)
    assert "eval_on_level_0" not in row
    with pytest.raises(ValueError, match="never asked without eval_every"):
        make_grpo(eval_tasks=tasks[1])
    whole = make_grpo(output=tmp_path / "whole", eval_every=1, problems=20)
    with pytest.raises(ConfigError, match="nothing to evaluate on") as error:
        run_grpo(whole)
    assert "held_out=0.1" in str(error.value)


def test_recomputing_layers_changes_nothing_but_memory(make_grpo: Make, tmp_path: Path) -> None:
    left = []
    for asked in (False, True):
        output = tmp_path / f"recomputing-{asked}"
        config = make_grpo(gradient_checkpointing=asked, updates_per_step=2, kl=0.01, output=output)
        result = run_grpo(config)
        metrics = [
            {key: value for key, value in row.items() if key not in TIMING}
            for row in read_metrics(output / "metrics.jsonl")
        ]
        left.append([metrics, (result.path / "adapter_model.safetensors").read_bytes()])
    assert left[0] == left[1]


def test_a_run_that_does_not_fit_is_refused_before_anything_is_sampled(
    make_grpo: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bethink.train.fit.free_memory", lambda: 1000)
    with pytest.raises(PreflightError, match=r"GB are free(.|\n)*--allow-memory"):
        run_grpo(make_grpo())
    assert not (make_grpo().output / "rollouts.jsonl").exists()
    assert run_grpo(make_grpo(resume=True, allow_memory=True)).steps == 3


def test_the_first_rollouts_stop_a_run_that_would_be_wasted(make_grpo: Make, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"cut at the token limit(.|\n)*--max-tokens"):
        run_grpo(make_grpo(allow_truncated=0.5, output=tmp_path / "cut"))
    with pytest.raises(PreflightError, match=r"no signal(.|\n)*too hard(.|\n)*--allow-no-signal"):
        run_grpo(make_grpo(rewards="accuracy=1", allow_no_signal=0.9, output=tmp_path / "hard"))
    stopped = make_grpo(rewards="accuracy=1", allow_no_signal=1.0, output=tmp_path / "hard", resume=True)
    assert run_grpo(stopped).steps == 3, "the flag and --resume let it through"


def test_half_a_line_left_by_a_killed_process_is_no_hindrance(make_grpo: Make) -> None:
    config = make_grpo(checkpoint_every=2)
    run_grpo(config)
    metrics = config.output / "metrics.jsonl"
    whole = metrics.read_text()
    shutil.rmtree(config.product)
    shutil.rmtree(config.output / "checkpoints" / "step-00000003")
    metrics.write_text(whole[:-20])
    assert run_grpo(make_grpo(checkpoint_every=2, resume=True)).steps == 3
    after = [json.loads(line) for line in metrics.read_text().splitlines()]
    for row, before in zip(after, map(json.loads, whole.splitlines()), strict=True):
        assert {k: v for k, v in row.items() if k not in TIMING} == {
            k: v for k, v in before.items() if k not in TIMING
        }


def test_programs_asked_only_while_it_learns_need_a_sandbox_too(
    make_grpo: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no bubblewrap
    rows = [
        {"task_id": n, "text": f"Add {n}.", "code": "", "test_list": [f"assert f(1) == {n}"]}
        for n in range(9)
    ]
    file = tmp_path / "programs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"eval_every": 1, "eval_size": 2, "eval_tasks": f"{file}:mbpp,held_out=0.5", "steps": 1}
    config = make_grpo(**asked, output=tmp_path / "refused")
    with pytest.raises(PreflightError, match="--unsafe-code"):
        run_grpo(config)
    assert not (config.output / "rollouts.jsonl").exists()
    assert run_grpo(make_grpo(**asked, unsafe_code=True)).last["eval_on"] == 0
