"""The next step's problems are drawn and rendered while this step trains, and nothing that is kept knows of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bethink.core.errors import TemplateError
from bethink.train import checkpoint
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.method import GRPOMethod
from bethink.train.rl.rollouts import Asked, Group, Sampler
from bethink.train.rl.run import run_grpo

Make = Callable[..., GRPOConfig]


def test_the_next_step_is_asked_for_while_this_one_trains(
    make_grpo: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, groups, loss = Sampler.ask, Sampler.groups, GRPOMethod.loss
    trained = [threading.Event() for _ in range(3)]
    asked: list[tuple[int, bool]] = []
    sampled: list[Asked] = []

    def asking(self: Sampler, step: int, indices: Sequence[int], refill: int = 0) -> Asked:
        asked.append((step, threading.current_thread() is threading.main_thread()))
        assert step == 0 or trained[step - 1].wait(60), "the step before never trained"
        return ask(self, step, indices, refill)

    def sampling(self: Sampler, asked: Asked) -> list[Group]:
        sampled.append(asked)
        return groups(self, asked)

    def learning(self: GRPOMethod, *arguments: Any) -> Any:
        trained[len(sampled) - 1].set()
        return loss(self, *arguments)

    monkeypatch.setattr(Sampler, "ask", asking)
    monkeypatch.setattr(Sampler, "groups", sampling)
    monkeypatch.setattr(GRPOMethod, "loss", learning)
    run_grpo(make_grpo(steps=3))
    assert asked == [(0, True), (1, False), (2, False)]


def test_what_cannot_be_asked_stops_the_step_that_asks_it(
    make_grpo: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Sampler.ask

    def asking(self: Sampler, step: int, indices: Sequence[int], refill: int = 0) -> Asked:
        if step == 2:  # drawn by now
            raise TemplateError("this one cannot be rendered")
        return ask(self, step, indices, refill)

    config = make_grpo(steps=4, checkpoint_every=1)
    with monkeypatch.context() as patched:
        patched.setattr(Sampler, "ask", asking)
        with pytest.raises(TemplateError, match="cannot be rendered"):
            run_grpo(config)
    found = checkpoint.latest(config.output / "checkpoints")
    assert found is not None
    assert found.step == 2
    assert found.state["curriculum"]["step"] == 1, "the curriculum as the last step that is done left it"
    assert run_grpo(config.model_copy(update={"resume": True})).steps == 4
