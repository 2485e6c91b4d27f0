"""A run's time is told before it starts, corrected after its first steps, and said at its end, each with the share of the floor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.models.recompute import Recompute
from bethink.models.speed import USUAL_SHARE, Speed
from bethink.train.floor import StepFloor
from bethink.train.metrics import read_metrics
from bethink.train.sft.config import SFTConfig
from bethink.train.sft.forecast import Forecast, speed_reached, summary
from bethink.train.sft.preflight import Preflight
from bethink.train.sft.run import run_sft

Make = Callable[..., SFTConfig]


def found(config: SFTConfig) -> Preflight:
    """What a finished run's preflight says now."""
    return Preflight(**json.loads((config.output / "preflight.json").read_text()))


def words(text: str) -> str:
    """A terminal's text without its line breaks."""
    return " ".join(text.replace("│", " ").split())


def test_a_run_too_short_to_be_measured_keeps_the_hours_that_the_floor_tells(
    make_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=3)
    run_sft(config)
    told, said = found(config), words(capsys.readouterr().err)
    assert told.floor_tokens_per_second is not None
    hours = told.planned_tokens / (USUAL_SHARE["sft"] * told.floor_tokens_per_second) / 3600
    assert told.expected_hours == pytest.approx(hours, abs=1e-3)
    assert f"{told.floor_tokens_per_second:,.0f} tokens/s here" in said
    assert "expected:" not in said


def test_after_the_first_steps_the_measured_rate_is_told_and_at_the_end_the_whole(
    make_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=6)
    run_sft(config)
    rows, said = read_metrics(config.output / "metrics.jsonl"), words(capsys.readouterr().err)
    rate, share = speed_reached(rows[1:4])
    assert share is not None
    assert f"at {rate:,.0f} tokens/s ({100 * share:.0f} % of the floor)" in said
    assert found(config).expected_hours == pytest.approx(found(config).planned_tokens / rate / 3600, abs=1e-3)
    assert summary(rows) in said


def test_the_share_of_several_steps_weighs_their_seconds() -> None:
    rows = [
        {"tokens": 10, "seconds": 1.0, "floor_share": 0.9},
        {"tokens": 2, "seconds": 3.0, "floor_share": 0.1},
    ]
    assert speed_reached(rows) == (3.0, pytest.approx(0.3))
    assert speed_reached([*rows, {"tokens": 4, "seconds": 0.0}]) == (4.0, None)


def told_after(
    share: float | None,
    preflight: Preflight,
    directory: Path,
    capacity: int = 1024,
    floor: StepFloor | None = None,
) -> None:
    """A forecast of steps that reach this share of the floor."""
    forecast = Forecast(preflight, floor, directory, capacity, torch.device("cpu"))
    row: dict[str, Any] = {"tokens": 100, "seconds": 1.0}
    for step in range(1, 5):
        forecast({**row, "step": step, **({} if share is None else {"floor_share": share})})


def test_a_run_far_below_the_floor_is_warned_of_with_what_may_be_the_reason(
    make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=1)
    run_sft(config)
    long = replace(found(config), planned_tokens=1_000_000, steps=100)
    capsys.readouterr()
    told_after(0.5, long, tmp_path)
    told_after(None, long, tmp_path)
    told_after(0.1, replace(long, planned_tokens=1000), tmp_path)
    assert "far below" not in capsys.readouterr().err, "fast enough, not known, and as good as done"
    told_after(0.1, replace(long, recompute=Recompute.LAYERS), tmp_path, capacity=64)
    said = words(capsys.readouterr().err)
    for part in (
        "(10 % of the floor)",
        "far below",
        "--tokens-per-microbatch",
        "--no-gradient-checkpointing",
    ):
        assert part in said
    told_after(0.1, replace(long, memory_needed=2, memory_free=1), tmp_path)
    assert "swap" in words(capsys.readouterr().err)


def test_a_floor_that_is_beaten_is_measured_again(
    make_config: Make, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path / "cache"))
    config = make_config(steps=1)
    run_sft(config)
    model = load_model(locate(str(tiny_model_dir)), dtype=torch.float32, device="cpu")
    floor = StepFloor.of(model, Speed("cpu", "float32", 1, {1: 1.0}, bandwidth=1.0))
    slow = floor.seconds([100], 50)
    told_after(0.9, found(config), tmp_path, floor=floor)
    assert floor.seconds([100], 50) == slow
    told_after(1.2, found(config), tmp_path, floor=floor)
    assert floor.seconds([100], 50) < slow / 1e6
