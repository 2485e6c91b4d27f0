"""A run that was killed and resumed leaves the same bytes as one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bethink.core.errors import OutputError
from bethink.train.metrics import read_metrics
from bethink.train.sft.config import SFTConfig
from bethink.train.sft.run import run_sft
from train.runs import said, start, undisturbed_and_killed, untimed, wait_for_steps

Make = Callable[..., SFTConfig]


@pytest.mark.parametrize("full", [False, True])
def test_killed_at_a_random_moment_and_resumed_gives_the_same_weights(
    make_config: Make, tmp_path: Path, full: bool
) -> None:
    settings: dict[str, Any] = {
        "steps": 40,
        "checkpoint_every": 3,
        "full": full,
        "dropout": 0.0 if full else 0.2,
    }
    settings |= {"held_out": 0.1, "eval_every": 6, "sample_tokens": 4, "dtype": "bf16" if full else "fp32"}
    whole = make_config(output=tmp_path / "whole", **settings)
    killed = make_config(output=tmp_path / "killed", **settings)
    undisturbed_and_killed(run_sft, whole, killed, after=random.randint(1, 16))
    name = "model/model.safetensors" if full else "adapter/adapter_model.safetensors"
    assert (killed.output / name).read_bytes() == (whole.output / name).read_bytes()
    assert untimed(killed) == untimed(whole)
    assert (killed.output / "samples.md").read_text() == (whole.output / "samples.md").read_text()
    assert len(list((killed.output / "checkpoints").iterdir())) == killed.keep


def test_ctrl_c_finishes_the_step_saves_and_shows_how_to_go_on(make_config: Make) -> None:
    config = make_config(steps=500, checkpoint_every=0)
    process = start(run_sft, config)
    wait_for_steps(process, config, 2)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=200)
    assert process.exitcode == 1  # KeyboardInterrupt
    assert "--resume" in said(config)
    rows = read_metrics(config.output / "metrics.jsonl")
    saved = sorted((config.output / "checkpoints").iterdir())
    assert saved[-1].name == f"step-{rows[-1]['step']:08d}"
    assert rows[-1]["step"] < 500


def test_a_finished_run_is_left_alone(make_config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    first = run_sft(make_config())
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    again = run_sft(make_config(resume=True))
    assert "finished" in capsys.readouterr().err
    assert again.last == first.last
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == before


def test_resuming_with_other_settings_is_refused_by_name(make_config: Make) -> None:
    run_sft(make_config())
    with pytest.raises(OutputError, match="lr: was 0.001, now 0.5"):
        run_sft(make_config(resume=True, lr=0.5))
    with pytest.raises(OutputError, match="holds something"):
        run_sft(make_config())


def test_a_half_written_last_line_and_later_steps_are_cut_on_resume(make_config: Make) -> None:
    config = make_config()
    run_sft(config)
    metrics = config.output / "metrics.jsonl"
    whole = metrics.read_text(encoding="utf-8")
    for path in sorted((config.output / "adapter").iterdir()):
        path.unlink()
    (config.output / "adapter").rmdir()
    metrics.write_text(
        whole + json.dumps({"step": 5, "loss": 1.0}) + "\n" + '{"step": 6, "lo', encoding="utf-8"
    )
    run_sft(make_config(resume=True))
    assert metrics.read_text(encoding="utf-8") == whole
