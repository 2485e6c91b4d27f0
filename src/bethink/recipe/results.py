"""The table a run is about: every eval stage's rows, under the stage's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def percent(share: float | None) -> str:
    """A share as people read it: 0.0455 is 4.5 %; a dash when there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """A mean count to one decimal; a dash when there is none."""
    return "–" if value is None else f"{value:.1f}"
