"""The table a run is about: every eval stage's rows, under the stage's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bethink.core.files import read_json, write_json
from bethink.recipe.stages import Prepared


def write_results(run_dir: Path, stages: Sequence[Prepared]) -> list[dict[str, Any]]:
    """Gather the finished eval stages' rows into `results.json` of the run; `model` is the stage's name. Returns the rows."""
    rows = [
        {**row, "model": one.stage.name}
        for one in stages
        if one.stage.uses == "eval" and (one.folder / "results.json").exists()
        for row in read_json(one.folder / "results.json")["rows"]
    ]
    if rows:
        write_json(run_dir / "results.json", {"rows": rows})
    return rows


def read_results(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's `results.json`; none when no eval stage has finished."""
    path = run_dir / "results.json"
    return list(read_json(path)["rows"]) if path.exists() else []


def results_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for a terminal of 80 columns, shares in percent."""
    table = Table(
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="right: accuracy with its 95 % interval; obeys: does what the toggle says;\n"
        "cut: at the token limit; silent: no answer committed; think, answer: mean tokens",
        caption_justify="left",
    )
    several_tasks = len({row["task"] for row in rows}) > 1
    table.add_column("model", overflow="fold")
    if several_tasks:
        table.add_column("task", overflow="fold")
    table.add_column("mode", no_wrap=True)
    for column in ("n", "right", "95 %", "obeys", "cut", "silent", "think", "answer"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["model"],
            *([row["task"]] if several_tasks else []),
            row["mode"],
            f"{row['n']:,}",
            _points(row["accuracy"]),
            f"{_points(row['low'])}–{_points(row['high'])}",
            *(_points(row[name]) for name in ("compliance", "truncated", "no_answer")),
            f"{row['thinking_tokens']:.0f}",
            f"{row['answer_tokens']:.0f}",
        )
    return table


def _points(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def percent(share: float | None) -> str:
    """A share as people read it: 0.0455 is 4.5 %; a dash when there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """A mean count to one decimal; a dash when there is none."""
    return "–" if value is None else f"{value:.1f}"
