"""The laboratory's notebook, run in its smallest preset: every stage of the classic road does what its theory says, on problems held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bethink.core.files import read_json
from bethink.recipe.manifest import load_manifest
from bethink.recipe.results import read_results

NOTEBOOK = Path(__file__).parents[2] / "docs" / "lab.ipynb"


@pytest.mark.timeout(600)
def test_each_stage_of_the_road_does_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_RUN", str(tmp_path / "lab"))
    monkeypatch.setenv("LAB_PRESET", "cut")
    space: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), space)

    run = tmp_path / "lab"
    manifest = load_manifest(run)
    assert manifest is not None
    assert manifest.finished is not None
    rows = {(row["model"], row["mode"]): row for row in read_results(run)}
    print({key: row["accuracy"] for key, row in rows.items()}, manifest.seconds)

    # The base seldom does what it can; rewards bring it out; each later stage builds on what came before.
    assert space["base"] <= 0.25
    assert space["zero"] >= space["base"] + 0.3
    assert space["preferred"] > space["instruct"]
    assert space["r1"] >= 0.5
    assert min(rows["r1", mode]["compliance"] for mode in ("on", "off")) >= 0.9
    assert space["distilled"] >= space["alone"] + 0.1
    for name in ("zero_helps", "distillation_helps"):
        (pair,) = read_json(run / name / "comparison.json")["comparisons"]
        assert pair["low"] > 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(f"{model}, thinking" in page for model in ("base", "zero", "r1", "distilled"))
