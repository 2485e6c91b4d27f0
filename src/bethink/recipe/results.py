"""The table a run is about: every eval stage's rows, under the stage's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    """The rows for a terminal: accuracy with its 95 % interval, compliance, tokens."""
    table = Table(title=None, header_style="bold")
    several_tasks = len({row["task"] for row in rows}) > 1
    table.add_column("model")
    if several_tasks:
        table.add_column("task")
    for column in (
        "thinking",
        "n",
        "accuracy",
        "95 % interval",
        "compliance",
        "truncated",
        "thinking tokens",
        "answer tokens",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [row["model"]]
        if several_tasks:
            cells.append(row["task"])
        cells += [
            row["mode"],
            str(row["n"]),
            percent(row["accuracy"]),
            f"{percent(row['low'])} – {percent(row['high'])}",
            percent(row["compliance"]),
            percent(row["truncated"]),
            number(row["thinking_tokens"]),
            number(row["answer_tokens"]),
        ]
        table.add_row(*cells)
    return table


def percent(share: float | None) -> str:
    """A share as people read it: 0.0455 is 4.5 %; a dash when there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """A mean count to one decimal; a dash when there is none."""
    return "–" if value is None else f"{value:.1f}"
