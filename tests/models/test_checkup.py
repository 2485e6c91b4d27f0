"""What the examination says of packages is what the project declares, and the project declares what it imports."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

import bethink
from bethink.models.checkup import examine

PACKAGE = Path(bethink.__file__).parent


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """The top-level names of everything imported anywhere in the package."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    return {name.partition(".")[0] for name in names} - {"bethink", *sys.stdlib_module_names}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared, optional = (
        {canonical(re.split(r"[\[<>=~! ]", line)[0]) for line in lines}
        for lines in (project["dependencies"], extras)
    )
    packages = importlib.metadata.packages_distributions()
    used = {canonical(name) for module in imported() for name in packages.get(module, [module])}
    assert used - optional - {"tensorboard"} == declared


def test_an_optional_packages_versions_are_those_of_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "rich>=13",
        "vllm>=7.1; extra == 'vllm'",
        'ray[data]>=9; python_version > "3" and extra == "ray"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    monkeypatch.setattr("bethink.models.checkup._version", lambda _: None)
    fixes = {finding.name: str(finding.fix) for finding in examine() if finding.section == "packages"}
    assert fixes["vllm"].endswith('install "vllm>=7.1"')
    assert fixes["ray"].endswith('install "ray[data]>=9"')
    assert fixes["tensorboard"].endswith('install "tensorboard"')
