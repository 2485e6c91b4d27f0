"""Pictures of real curricula's metrics."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from bethink.train.curricula.api import Curriculum
from bethink.train.curricula.mastery import Mastery
from bethink.train.curricula.plot import plot_curriculum
from bethink.train.curricula.progressive import Progressive
from bethink.train.curricula.shuffled import Shuffled


def _rows(curriculum: Curriculum, steps: int, rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for step in range(steps):
        drawn = curriculum.draw(step, 6)
        curriculum.observe(step, {index: 0.5 + 0.5 * rng.random() for index in drawn})
        metrics = {f"curriculum/{name}": value for name, value in curriculum.metrics().items()}
        rows.append({"step": step + 1, "loss": 0.1, **metrics})
    return rows


def test_progressive_batching_has_a_picture(tmp_path: Path, seed: int, rng: random.Random) -> None:
    rows = _rows(Progressive([rng.random() for _ in range(200)], 12, 6, seed), 12, rng)
    assert plot_curriculum(rows, tmp_path)
    text = (tmp_path / "curriculum.svg").read_text(encoding="utf-8")
    for words in (
        "target: centre of the Gaussian",
        "drawn: pass rate before training",
        "drawn: pass rate now",
        "pool drawn from",
    ):
        assert words in text
    assert (tmp_path / "curriculum.png").stat().st_size > 1000


def test_mastery_has_a_picture_with_a_line_for_each_level_that_was_open(
    tmp_path: Path, seed: int, rng: random.Random
) -> None:
    rows = _rows(Mastery([0] * 20 + [3] * 20 + [7] * 20, seed, window=12), 12, rng)
    opened = {row["curriculum/level"] for row in rows}
    assert len(opened) > 1
    plot_curriculum(rows, tmp_path)
    text = (tmp_path / "curriculum.svg").read_text(encoding="utf-8")
    assert "newest open level" in text
    assert "level 0" in text
    # A level opened by the very last step has nothing to show yet.
    assert all(f"level {level}" in text for level in {row["curriculum/level"] for row in rows[:-1]})


def test_equal_rows_give_equal_pictures(tmp_path: Path, seed: int, rng: random.Random) -> None:
    rows = _rows(Progressive([rng.random() for _ in range(200)], 8, 6, seed), 8, rng)
    for name in ("one", "two"):
        plot_curriculum(rows, tmp_path / name)
    assert (tmp_path / "one/curriculum.svg").read_bytes() == (tmp_path / "two/curriculum.svg").read_bytes()


def test_a_run_of_one_step_has_a_picture(tmp_path: Path, seed: int, rng: random.Random) -> None:
    for name, curriculum in {"p": Progressive([0.5] * 9, 1, 6, seed), "m": Mastery([0] * 9, seed)}.items():
        assert plot_curriculum(_rows(curriculum, 1, rng), tmp_path / name)


def test_where_there_is_no_curriculum_there_is_no_picture(
    tmp_path: Path, seed: int, rng: random.Random
) -> None:
    assert not plot_curriculum(_rows(Shuffled(20, seed), 3, rng), tmp_path)
    assert not plot_curriculum([], tmp_path)
    assert list(tmp_path.iterdir()) == []
