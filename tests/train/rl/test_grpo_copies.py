"""A run whose memory is another when it is resumed computes by the same kernels as before, and so repeats to the same bytes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable

import pytest

from bethink.core.errors import PreflightError
from bethink.core.files import read_json
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.run import run_grpo

Make = Callable[..., GRPOConfig]
PLENTY, SHORT = 10**12, 10


def left(config: GRPOConfig) -> dict[str, bytes]:
    return {
        name: (config.output / name).read_bytes()
        for name in ("adapter/adapter_model.safetensors", "rollouts.jsonl")
    }


def go_back(config: GRPOConfig, step: int) -> GRPOConfig:
    """The run as a process left it that was killed after so many steps; resumed."""
    shutil.rmtree(config.product)
    for saved in (config.output / "checkpoints").iterdir():
        if saved.name > f"step-{step:08d}":
            shutil.rmtree(saved)
    return config.model_copy(update={"resume": True})


@pytest.mark.parametrize(("at_first", "later"), [(PLENTY, SHORT), (SHORT, PLENTY)])
def test_memory_that_changed_changes_no_bytes(
    make_grpo: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    at_first: int,
    later: int,
) -> None:
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")
    monkeypatch.setattr("bethink.models.prepacked.free_memory", lambda: at_first)
    config = make_grpo(steps=4, checkpoint_every=2, lr=1e-2, seed=seed)
    run_grpo(config)
    expected = left(config)
    kept = dict.fromkeys(("frozen", "sampling"), at_first == PLENTY)
    assert read_json(config.output / ".copies.json") == kept
    assert "memory is short" not in capsys.readouterr().err

    monkeypatch.setattr("bethink.models.prepacked.free_memory", lambda: later)
    run_grpo(go_back(config, step=2))
    assert left(config) == expected
    assert read_json(config.output / ".copies.json") == kept
    assert capsys.readouterr().err.count("memory is short") == (2 if later == SHORT else 0)


def test_a_run_that_has_not_begun_decides_anew(make_grpo: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bethink.models.prepacked.free_memory", lambda: SHORT)
    monkeypatch.setattr("bethink.train.fit.free_memory", lambda: 1000)
    with pytest.raises(PreflightError, match="GB are free"):
        run_grpo(make_grpo())
    monkeypatch.undo()
    assert read_json(make_grpo().output / ".copies.json") == {"frozen": False}
    monkeypatch.setattr("bethink.models.prepacked.free_memory", lambda: PLENTY)
    run_grpo(make_grpo(resume=True))
    assert read_json(make_grpo().output / ".copies.json") == {"frozen": True, "sampling": True}
