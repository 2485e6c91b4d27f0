"""What is read of a run's record while it is being written, and before."""

from __future__ import annotations

from pathlib import Path

from bethink.train.metrics import MetricsLog, read_metrics
from bethink.train.plot import plot_loss


def test_a_run_stopped_before_its_first_step_has_nothing_to_read_or_draw(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    with MetricsLog(tmp_path):
        assert read_metrics(tmp_path / "metrics.jsonl") == []
    plot_loss([], tmp_path)
    assert not list(tmp_path.glob("loss.*"))


def test_half_a_line_is_left_out_and_the_whole_ones_stay(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write({"step": 1, "loss": 2.0, "epoch": 0.5})
        log.write({"step": 2, "loss": 1.0, "epoch": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 3, "lo')
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2]
    plot_loss(rows, tmp_path)
    assert (tmp_path / "loss.svg").stat().st_size
