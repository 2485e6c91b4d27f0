"""A device is measured once; what disturbed a measurement, or damaged what was kept of it, is not kept for good."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bethink.models.known_speed import measure_again, recall, speed_of
from bethink.models.speed import ROWS

FAST = 1e30


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a measurement that has just been made."""
    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path / "cache"))
    assert speed_of("cpu", torch.float32) is not None
    (path,) = (tmp_path / "cache/speed").iterdir()
    return path


def change(path: Path, **changes: Any) -> None:
    """What a file says, said otherwise."""
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


def faster(path: Path) -> dict[str, Any]:
    """The kept speed with an impossible rate for one row."""
    speed = json.loads(path.read_text())["speed"]
    return {**speed, "products": {**speed["products"], "1": FAST}}


def test_what_was_measured_is_not_measured_again(kept: Path) -> None:
    change(kept, steady=True, speed=faster(kept))
    before = kept.read_bytes()
    speed = speed_of("cpu", torch.float32)
    assert speed is not None
    assert speed.products[1] == FAST
    assert kept.read_bytes() == before


def test_a_disturbed_measurement_is_made_again_and_the_best_of_both_kept(kept: Path) -> None:
    slow = {**faster(kept), "bandwidth": 1.0}
    change(kept, steady=False, speed=slow)
    speed = speed_of("cpu", torch.float32)
    assert speed is not None
    assert speed.products[1] == FAST
    assert speed.bandwidth > 1e6


@pytest.mark.parametrize("thoroughly", [True, False])
def test_measuring_again_keeps_the_best(kept: Path, thoroughly: bool) -> None:
    change(kept, steady=True, speed={**faster(kept), "bandwidth": 1.0})
    speed = measure_again("cpu", torch.float32, thoroughly=thoroughly)
    assert speed is not None
    assert (set(speed.products), speed.products[1]) == (set(ROWS), FAST)
    assert json.loads(kept.read_text())["speed"]["bandwidth"] == speed.bandwidth > 1e6


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"of": 1, "steady": true, "speed": {}}', '{"speed": {"products": {"x": 1}}}'],
)
def test_a_damaged_file_is_replaced(kept: Path, text: str) -> None:
    whole = json.loads(kept.read_text())
    kept.write_text(text)
    assert recall("cpu", "float32") is None
    speed = speed_of("cpu", torch.float32)
    assert speed is not None
    assert json.loads(kept.read_text()).keys() == whole.keys()


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path / "file"))
    assert speed_of("cpu", torch.float32) is not None


def test_measuring_draws_no_random_number_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path))
    speed_of("cpu", torch.float32)
    assert torch.equal(torch.rand(4), expected)


def test_a_plan_recalls_a_measurement_without_torch(kept: Path) -> None:
    change(kept, speed=faster(kept))
    code = "import sys; from bethink.models.known_speed import recall; print(recall('cpu', 'float32').products[1], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(FAST), "False"]
    assert recall("cpu", "float16") is None
    change(kept, of={**json.loads(kept.read_text())["of"], "processor": "another"})
    assert recall("cpu", "float32") is None
