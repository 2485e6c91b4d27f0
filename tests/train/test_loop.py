"""The loop serves any method that has batches and a loss: here a linear fit whose method keeps a state of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bethink.core.errors import BethinkError, OutputError
from bethink.train import checkpoint
from bethink.train.loop import LoopConfig, train
from bethink.train.metrics import TIMING, read_metrics


class _Fit:
    """Noisy samples of y = 3x in two micro-batches a step; remembers the sum of all it drew."""

    def __init__(self, model: nn.Linear) -> None:
        self.model, self.drawn = model, 0.0

    def updates(self, step: int) -> Iterator[Sequence[Tensor]]:
        parts = [torch.randn(8, 1) for _ in range(2)]  # from the generator that the loop seeds each step
        self.drawn += float(sum(part.sum() for part in parts))
        yield parts

    def loss(self, batch: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        loss = ((self.model(batch) - 3 * batch) ** 2).mean() / 2
        return loss, {"loss": float(loss.detach()), "tokens": len(batch)}

    def summary(self, step: int, sums: Mapping[str, float]) -> dict[str, Any]:
        return {"loss": sums["loss"], "tokens": sums["tokens"], "epoch": 0.0, "drawn": self.drawn}

    def evaluate(self, step: int) -> dict[str, Any]:
        return {"slope": float(self.model.weight.detach())}

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def tensors(self) -> Mapping[str, Tensor]:
        return {"drawn": torch.tensor(self.drawn)}

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        return {"slope": f"{row['loss']:.3f}"}

    def load_state_dict(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.drawn = state["drawn"]
        assert float(tensors["drawn"]) == pytest.approx(self.drawn)


_CONFIG = LoopConfig(
    steps=60,
    lr=0.2,
    warmup=0.05,
    min_lr_ratio=0.0,
    weight_decay=0.0,
    clip=1.0,
    seed=7,
    eval_every=20,
    checkpoint_every=25,
    keep=5,
)


def _model() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(1, 1)


def _rows(directory: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(directory / "metrics.jsonl")
    ]


def test_a_method_of_any_kind_is_trained_evaluated_and_resumed_with_its_state(tmp_path: Path) -> None:
    model = _model()
    train(model, _Fit(model), _CONFIG, tmp_path, resume_command="again")
    rows = _rows(tmp_path)
    assert [row["step"] for row in rows if "slope" in row] == [20, 40, 60]
    assert rows[-1]["slope"] == pytest.approx(3.0, abs=0.1)
    saved = checkpoint.existing(tmp_path / "checkpoints")
    assert [path.name for path in saved] == ["step-00000025", "step-00000050", "step-00000060"]

    for path in saved[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (tmp_path / "checkpoints" / ".step-00000031.part").mkdir()
    again = _model()
    train(again, _Fit(again), _CONFIG, tmp_path, resume_command="again")
    assert torch.equal(again.weight, model.weight)
    assert _rows(tmp_path) == rows
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    model = _model()
    method = _Fit(model)
    method.loss = lambda batch: (model(batch).sum() * float("nan"), {"loss": float("nan"), "tokens": 1})  # type: ignore[method-assign]
    with pytest.raises(BethinkError, match="not a finite number") as raised:
        train(model, method, _CONFIG, tmp_path, resume_command="again")
    assert "step 1" in str(raised.value)
    assert torch.equal(model.weight, _model().weight)


def test_a_full_disk_is_said_so_and_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, checkpoint.Checkpoint(1, {"w": torch.ones(2)}, {}), keep=2)
    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    with (
        pytest.raises(OutputError, match="disk is full"),
        checkpoint.replaced_directory(tmp_path / "step-00000002"),
    ):
        raise SafetensorError(message)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
