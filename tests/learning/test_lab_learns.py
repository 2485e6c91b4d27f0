"""The laboratory's notebook, run in its smallest preset: every stage of the classic road does what it is for, on problems held out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bethink.core.files import read_json
from bethink.recipe.manifest import load_manifest
from bethink.recipe.results import read_results

NOTEBOOK = Path(__file__).parents[2] / "docs" / "lab.ipynb"


@pytest.mark.timeout(900)
def test_each_stage_of_the_road_does_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seed = tmp_path / "lab", random.SystemRandom().randrange(2**31)
    for name, value in {"RUN": str(run), "PRESET": "cut", "SET": f"seed={seed}"}.items():
        monkeypatch.setenv(f"LAB_{name}", value)
    said: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), said)

    manifest = load_manifest(run)
    assert manifest is not None
    assert manifest.finished is not None
    rows = {(row["model"], row["mode"]): row for row in read_results(run)}
    print(f"seed {seed}, {manifest.seconds:.0f} s:", {key: row["accuracy"] for key, row in rows.items()})

    assert said["base"] <= 0.10, "the base seldom does what it can"
    assert rows["preferred", "on"]["low"] > rows["instruct", "on"]["high"], "preferences help"
    assert said["zero"] >= 0.80, "rewards alone bring it out"
    assert said["r1"] >= 0.80, "and it stays through the cold start"
    assert min(rows["r1", mode]["compliance"] for mode in ("on", "off")) >= 0.95, "R1 obeys the toggle"
    assert said["distilled"] > said["alone"], "a student learns more from R1 than by itself"
    for name in ("zero_helps", "distillation_helps"):
        (paired,) = read_json(run / name / "comparison.json")["comparisons"]
        assert paired["low"] > 0, f"{name}: the paired interval excludes 0"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(f"{model}, thinking" in page for model in ("base", "zero", "r1", "distilled"))
    assert all(f"r1, thinking {mode}" in page for mode in ("on", "off")), "the toggle is to be seen"
