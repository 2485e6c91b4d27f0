"""A device is what torch knows, or a mistake that is said before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bethink.core.errors import ConfigError
from bethink.engine.dialogue import open_dialogue
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.runner import run_eval
from bethink.models.machine import best_device, resolve_device
from bethink.train.sft.config import SFTConfig
from bethink.train.sft.run import run_sft

NOWHERE = "cuda:99"


def test_a_device_that_is_there_keeps_its_name() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device(None) == resolve_device("auto") == best_device()
    for index in range(torch.cuda.device_count()):
        assert resolve_device(f"cuda:{index}") == f"cuda:{index}"


@pytest.mark.parametrize("name", ["gpu", "cuda0", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "", "meta", "CUDA"])
def test_a_name_that_means_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no kind of device") as caught:
        resolve_device(name)
    assert caught.value.where == "--device"
    assert "cuda" in str(caught.value.fix) or "cpu" in str(caught.value.fix)


def test_a_device_that_is_not_there_is_refused_with_the_reason() -> None:
    absent = [NOWHERE]
    absent += [] if torch.cuda.is_available() else ["cuda", "cuda:0"]
    absent += [] if torch.backends.mps.is_available() else ["mps"]
    for name in absent:
        with pytest.raises(ConfigError, match=r"without CUDA|torch sees") as caught:
            resolve_device(name)
        assert "--device cpu" in str(caught.value.fix)


@pytest.mark.parametrize("device", ["gpu", NOWHERE])
def test_nothing_is_claimed_for_a_device_that_is_not_there(
    tiny_model_dir: Path, tmp_path: Path, device: str
) -> None:
    data, output = tmp_path / "rows.jsonl", tmp_path / "run"
    data.write_text(json.dumps({"input": "a", "output": "b", "mode": "off"}) + "\n")
    with pytest.raises(ConfigError):
        run_sft(SFTConfig(model=str(tiny_model_dir), data=data, output=output, device=device))
    asked = EvalConfig(model=str(tiny_model_dir), tasks=("chain_sum",), size=1, output=output, device=device)
    with pytest.raises(ConfigError):
        run_eval(asked)
    with pytest.raises(ConfigError):
        open_dialogue(str(tiny_model_dir), device=device)
    assert not output.exists()
