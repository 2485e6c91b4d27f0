"""The GPU benchmarks run from end to end without a GPU, on models of a few thousand weights, and refuse clearly what needs one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "gpu"


def run(script: str, *options: str, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *options]
    environment = os.environ | {"BETHINK_CACHE": str(cache)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)


def result_of(script: str, *options: str, folder: Path) -> tuple[dict[str, Any], str]:
    output = folder / "result.json"
    done = run(script, "--tiny", "--device", "cpu", "--output", str(output), *options, cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text()), done.stdout


def test_training_is_measured(tmp_path: Path) -> None:
    found, shown = result_of("sft.py", "--no-peer", folder=tmp_path)
    assert set(found["shapes"]) == {"llama-8b", "qwen3-0.6b"}
    for shape in found["shapes"].values():
        rate, seconds = shape["tokens_per_second"]["bethink"], shape["seconds_a_step"]["bethink"]
        assert rate == pytest.approx(shape["tokens"] / seconds, rel=0.1)
        assert 0 < shape["floor_share"]["bethink"] < 1
        assert math.log(512) - 1 < shape["runs"]["bethink"][0]["first_loss"] < math.log(512) + 1
    assert "weekend-8b: sft " in shown
    assert "no forecast" in shown


def test_decoding_is_measured_plain_and_recorded(tmp_path: Path) -> None:
    found, shown = result_of("decode.py", "--shapes", "llama-8b", folder=tmp_path)
    for case in found["shapes"]["llama-8b"].values():
        assert case["recorded"]
        assert 0 < case["floor_share"]["recorded"] < 1
        assert case["engine_tokens_per_second"] > 0
    assert "weekend-8b: sft " in shown


@pytest.mark.parametrize("script", ["sft.py", "decode.py"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_real_shapes_need_a_gpu(script: str, device: str, tmp_path: Path) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    done = run(script, "--device", device, cache=tmp_path)
    assert done.returncode == 1
    assert "needs a GPU" in done.stderr
    assert "--tiny --device cpu" in done.stderr
    assert "Traceback" not in done.stderr
