"""Reinforcement learning on prompts that nothing grades: a reward model alone tells their completions apart."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import ConfigError, PreflightError
from bethink.models.locate import locate
from bethink.models.recompute import Recompute
from bethink.train.fit import memory_needed
from bethink.train.frame import load_on
from bethink.train.metrics import read_metrics
from bethink.train.prefer.reward import preference_on
from bethink.train.prefer.saved import load_reward_model
from bethink.train.prefer.settings import REWARD
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.run import run_grpo
from bethink.verify.rewards.compose import Rewards
from train.prefer.conftest import Make, trained

MakeGRPO = Callable[..., GRPOConfig]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    """A task of twenty questions without answers."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Write {n} words."}) + "\n" for n in range(20)))
    return f"{path}:question=prompt,grader=none"


@pytest.fixture
def sums(tmp_path: Path) -> str:
    """A task of twenty questions with answers."""
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{path}:question=question,answer=answer,grader=exact"


@pytest.fixture
def make_grpo(tiny_model_dir: Path, tmp_path: Path) -> MakeGRPO:
    """A factory for settings of a run; keyword arguments replace any of them."""

    def make(**changes: Any) -> GRPOConfig:
        settings: dict[str, Any] = {
            "model": str(tiny_model_dir), "output": tmp_path / "grpo", "steps": 2, "problems_per_step": 4,
            "group_size": 8, "max_tokens": 8, "kl": 0.0, "full": True, "lr": 3e-3, "dtype": "float32", "device": "cpu",
            "tokens_per_microbatch": 256, "allow_truncated": 1.0, "allow_no_signal": 1.0,
        }  # fmt: skip
        return GRPOConfig(**{**settings, **changes})

    return make


def test_graded_and_general_prompts_are_learned_from_together(
    make_prefer: Make, make_grpo: MakeGRPO, tmp_path: Path, sums: str, prompts: str, fresh_seed: int
) -> None:
    judge = trained(make_prefer, tmp_path, fresh_seed).product
    config = make_grpo(
        tasks=(sums, prompts), steps=60, updates_per_step=2, seed=random.randrange(2**31),
        rewards=f"accuracy=1,preference=1:model={judge}",
    )  # fmt: skip
    print(f"seed {config.seed}")
    run_grpo(config)
    metrics, rows = read_metrics(config.output / "metrics.jsonl"), lines(config.output / "rollouts.jsonl")
    preference = [row["reward/preference"] for row in metrics]
    assert fmean(preference[-4:]) > fmean(preference[:4]) + 0.5, preference

    general = [row for row in rows if row["task"] == "prompts"]
    assert 0 < len(general) < len(rows)
    assert {row["outcome"] for row in general} == {"not_judged"}
    for row in rows:
        assert not row["masked"]
        assert set(row["parts"]) == {"preference"} | ({"accuracy"} if row["task"] == "sums" else set())
        assert row["reward"] == pytest.approx(sum(row["parts"].values()))
    assert any(row["trained"] and abs(row["advantage"]) > 0.5 for row in general)

    for step, row in enumerate(metrics, 1):
        judged = [r["outcome"] == "correct" for r in rows if r["step"] == step and r["task"] == "sums"]
        assert row["masked"] == 0
        assert row["not_judged"] == sum(r["step"] == step for r in general)
        assert row["pass_on"] == (pytest.approx(fmean(judged), abs=1e-5) if judged else None)
        assert row.get("reward/accuracy") == row["pass_on"]
    first = json.loads((config.output / "preflight.json").read_text())
    assert first["ungraded"] == 0
    assert first["solved"] == metrics[0]["pass_on"]
    page = (config.output / "rollouts.html").read_text(encoding="utf-8")
    assert ": not judged, mean reward" in page


def test_general_prompts_alone_have_no_pass_rate(make_grpo: MakeGRPO, prompts: str) -> None:
    config = make_grpo(
        tasks=f"{prompts},held_out=0.3", rewards="accuracy=1,repetition=1:ngram=2", eval_every=1, eval_size=3
    )
    run_grpo(config)
    for row in read_metrics(config.output / "metrics.jsonl"):
        assert row["pass_on"] is None
        assert row["disagreement"] is None
        assert row["not_judged"] == 4 * 8
        assert row["reward"] == row["reward/repetition"]
        assert not {"reward/accuracy", "eval_on", "curriculum/rate"} & set(row)
        assert row["eval_compliance_on"] is not None
    assert json.loads((config.output / "preflight.json").read_text())["solved"] is None


def test_what_nothing_could_be_learned_from_is_refused_before_it_starts(
    make_grpo: MakeGRPO, sums: str, prompts: str
) -> None:
    for rewards in ("accuracy=1", "accuracy=1,efficiency=0.5,format=0"):
        config = make_grpo(tasks=(sums, prompts), rewards=rewards)
        with pytest.raises(ConfigError, match=r"`prompts` have no grader(.|\n)*preference=1:model=DIR"):
            run_grpo(config)
        assert not config.output.exists()
    mastery = make_grpo(tasks=(sums, prompts), rewards="accuracy=1,format=1", curriculum="mastery")
    with pytest.raises(ConfigError, match=r"no problem of `prompts` has a grader(.|\n)*shuffled"):
        run_grpo(mastery)


def test_groups_that_nothing_tells_apart_are_not_called_too_hard(make_grpo: MakeGRPO, prompts: str) -> None:
    config = make_grpo(tasks=prompts, rewards="accuracy=1,overlong=1:max_tokens=1000", allow_no_signal=0.5)
    with pytest.raises(PreflightError, match=r"no signal(.|\n)*add one that does"):
        run_grpo(config)


@pytest.mark.parametrize("full", [False, True])
def test_the_memory_a_reward_model_takes_is_counted(
    make_prefer: Make, make_grpo: MakeGRPO, tmp_path: Path, tiny_model_dir: Path, prompts: str,
    monkeypatch: pytest.MonkeyPatch, fresh_seed: int, full: bool,
) -> None:  # fmt: skip
    judge = trained(make_prefer, tmp_path, fresh_seed, steps=1, full=full).product
    builders = {REWARD: preference_on("cpu", ChatTokenizer.load(tiny_model_dir).hash)}
    found = Rewards.of(f"accuracy=1,preference=1:model={judge}", builders=builders).weight_bytes
    loaded = load_reward_model(judge, device="cpu").model
    assert found == sum(p.numel() * p.element_size() for p in loaded.parameters())
    assert Rewards.of("accuracy=1").weight_bytes == 0

    config = make_grpo(tasks=prompts, rewards="format=1")
    apart = make_grpo(
        tasks=prompts, output=tmp_path / "apart"
    )  # what is loaded for a run is noted in its output
    model = load_on(apart, locate(config.model), torch.device("cpu")).model
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    least = memory_needed(model, 256, recompute=Recompute.LAYERS) - weights
    monkeypatch.setattr("bethink.train.fit.free_memory", lambda: least + found // 2)
    assert run_grpo(config).steps == 2
    beside = make_grpo(tasks=prompts, rewards=f"preference=1:model={judge}", output=tmp_path / "beside")
    with pytest.raises(PreflightError, match="GB are free"):
        run_grpo(beside)
