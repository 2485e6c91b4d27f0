"""A reward model learns a rule, says the same after it was saved, and is a reward that reinforcement learning raises."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pytest
import torch

from bethink.chat.render import Renderer
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import BethinkError, ConfigError, ModelError, OutputError
from bethink.tasks.problem import Problem
from bethink.train.metrics import read_metrics
from bethink.train.prefer.pairs import PairRenderer, read_pairs
from bethink.train.prefer.reward import preference_on
from bethink.train.prefer.saved import load_reward_model
from bethink.train.prefer.scores import Pair, ValueScorer, scores_of
from bethink.train.prefer.settings import REWARD, read_settings
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.run import run_grpo
from bethink.train.token_store import Sample
from bethink.verify.rewards.attempt import Attempt
from bethink.verify.rewards.compose import Rewards
from bethink.verify.verdict import Outcome, Verdict
from train.prefer.conftest import Make, digit_pairs, trained, write_pairs

CPU = torch.device("cpu")


def tokenized(model: Path, rows: Path) -> list[Pair]:
    renderer = PairRenderer(Renderer(ChatTokenizer.load(model)))
    pairs = []
    for row in read_pairs([rows], None):
        ids = renderer.ids(row)
        assert ids is not None
        prompt, chosen, rejected = (
            np.asarray(part, np.int32) for part in (ids.prompt_ids, ids.chosen_ids, ids.rejected_ids)
        )
        pairs.append((Sample(prompt, chosen, row.mode), Sample(prompt, rejected, row.mode)))
    return pairs


@pytest.mark.parametrize("full", [False, True])
def test_it_learns_a_rule_and_says_the_same_after_loading(
    make_prefer: Make, tmp_path: Path, tiny_model_dir: Path, fresh_seed: int, full: bool
) -> None:
    config = trained(make_prefer, tmp_path, fresh_seed, full=full, lr=3e-3 if full else 1e-2)
    last = read_metrics(config.output / "metrics.jsonl")[-1]
    assert last["eval_accuracy"] >= 0.9
    settings = read_settings(config.product)
    assert settings.accuracy == pytest.approx(last["eval_accuracy"])

    # On pairs of another draw, loaded anew.
    fresh = tokenized(tiny_model_dir, write_pairs(tmp_path / "fresh.jsonl", digit_pairs(80, fresh_seed + 1)))
    model = load_reward_model(config.product, device="cpu", dtype=torch.float32)
    value_P2 = scores_of(ValueScorer(model), fresh, 512, CPU)
    assert (value_P2[:, 0] > value_P2[:, 1]).float().mean() >= 0.9
    units = (value_P2.flatten() - settings.mean) / settings.std
    assert abs(fmean(units.tolist())) < 0.3
    assert pstdev(units.tolist()) == pytest.approx(1, abs=0.3)


def attempts(pairs: list[Pair]) -> list[Attempt]:
    """Both completions of each pair as a policy would have drawn them."""
    from bethink.chat.parse import parse

    problem = Problem("1", "sums", ({"role": "user", "content": "?"},), "7", "exact")
    return [
        Attempt(
            problem, sample.mode, "", parse(""), Verdict(Outcome.WRONG), len(sample.completion_ids), False,
            prompt_ids=tuple(sample.prompt_ids.tolist()), token_ids=tuple(sample.completion_ids.tolist()),
        )
        for pair in pairs
        for sample in pair
    ]  # fmt: skip


def test_it_is_a_reward_by_name(
    make_prefer: Make, tmp_path: Path, tiny_model_dir: Path, pairs_file: Path, fresh_seed: int
) -> None:
    config = trained(make_prefer, tmp_path, fresh_seed, steps=2)
    tokenizer = ChatTokenizer.load(tiny_model_dir)
    builders = {REWARD: preference_on("cpu", tokenizer.hash)}
    rewards = Rewards.of(f"accuracy=1,preference=0.5:model={config.product}", builders=builders)
    pair = tokenized(tiny_model_dir, pairs_file)[0]
    group = attempts([pair])
    settings = read_settings(config.product)
    model = load_reward_model(config.product, device="cpu")
    (value_2,) = scores_of(ValueScorer(model), [pair], 512, CPU)
    for scored, value in zip(rewards.score(group), value_2.tolist(), strict=True):
        expected = (value - settings.mean) / settings.std
        assert scored.parts == {"accuracy": 0.0, "preference": pytest.approx(expected, abs=1e-5)}
        assert scored.total == pytest.approx(0.5 * expected, abs=1e-5)

    with pytest.raises(ConfigError, match="needs the option `model`"):
        Rewards.of("preference=1", builders=builders)
    with pytest.raises(ConfigError, match="did you mean `preference`"):
        Rewards.of("preferences=1:model=x", builders=builders)
    with pytest.raises(ModelError, match=r"not a reward model(.|\n)*reward_model"):
        Rewards.of(f"preference=1:model={config.output}", builders=builders)
    with pytest.raises(ConfigError, match="another tokenizer"):
        Rewards.of(f"preference=1:model={config.product}", builders={REWARD: preference_on("cpu", "another")})
    texts = [Attempt(a.problem, a.mode, "7", a.parsed, a.verdict, 1, False, token_ids=(7,)) for a in group]
    with pytest.raises(BethinkError, match="token ids"):
        rewards.score(texts)


def test_a_damaged_reward_model_is_refused(make_prefer: Make, tmp_path: Path, fresh_seed: int) -> None:
    config = trained(make_prefer, tmp_path, fresh_seed, steps=1)
    for name, damage in {
        "value_head.safetensors": "the value head cannot be read",
        "reward_model.json": "std",
    }.items():
        copy = shutil.copytree(config.product, tmp_path / name)
        path = copy / name
        if path.suffix == ".json":
            path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "std"}))
        else:
            path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(ModelError, match=damage):
            load_reward_model(copy, device="cpu")


def test_reinforcement_learning_raises_the_preference(
    make_prefer: Make, tmp_path: Path, tiny_model_dir: Path, fresh_seed: int
) -> None:
    model = trained(make_prefer, tmp_path, fresh_seed).product
    sums = tmp_path / "sums.jsonl"
    sums.write_text(
        "".join(
            json.dumps({"question": f"What is {n} plus {n + 2}?", "answer": "1"}) + "\n" for n in range(20)
        )
    )
    config = GRPOConfig(
        model=str(tiny_model_dir), tasks=f"{sums}:question=question,answer=answer,grader=exact",
        output=tmp_path / "grpo", steps=60, problems_per_step=4, group_size=8, updates_per_step=2, max_tokens=8,
        rewards=f"preference=1:model={model}", kl=0.0, full=True, lr=3e-3, dtype="float32", device="cpu",
        allow_truncated=1.0, allow_no_signal=1.0, seed=random.randrange(2**31),
    )  # fmt: skip
    run_grpo(config)
    rows = read_metrics(config.output / "metrics.jsonl")
    assert rows[0]["reward"] == pytest.approx(rows[0]["reward/preference"])
    rewards = [row["reward"] for row in rows]
    assert fmean(rewards[-4:]) > fmean(rewards[:4]) + 0.5, rewards
    settings = model / "reward_model.json"
    settings.write_text(settings.read_text().replace('"mean"', ' "mean"'))
    with pytest.raises(OutputError, match="preference_sha256"):
        run_grpo(config.model_copy(update={"resume": True}))  # its rewards would come from another model
