"""The laboratory's guide and notebook speak of the recipe as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bethink.recipe.schema import load_recipe

DOCS = Path(__file__).parents[2] / "docs"


def _cells() -> list[str]:
    cells = json.loads((DOCS / "lab.ipynb").read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_cell_is_python_and_every_stage_it_names_is_there() -> None:
    recipe = load_recipe("lab").recipe
    modes = {stage.name: stage.options["modes"] for stage in recipe.stages if stage.uses == "eval"}
    names = [stage.name for stage in recipe.stages]
    gone = []
    for number, cell in enumerate(_cells()):
        compile(cell, f"cell {number}", "exec")
        gone += re.findall(r'go\("(\w+)"\)', cell)
        for model, mode in re.findall(r'(?:accuracy|outputs)\("(\w+)"(?:, (?:\d+, mode=)?"(\w+)")?', cell):
            assert (mode or "on") in modes[model]
    assert [name for name in names if name in gone] == gone, "stages are run in the order they come"
    assert gone[-1] == names[-1]


def test_the_first_cell_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_RUN", str(tmp_path))
    monkeypatch.delenv("LAB_PRESET", raising=False)
    space: dict[str, object] = {}
    exec(compile(_cells()[0], "first cell", "exec"), space)
    assert callable(space["go"])


def test_the_guide_names_stages_that_are_there() -> None:
    names = {stage.name for stage in load_recipe("lab").recipe.stages}
    guide = (DOCS / "guide.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--until (\w+)", guide)) <= names
    table = guide[guide.index("| here | there |") :]
    named = {
        name
        for row in table.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    assert named - {"lab"} <= names
