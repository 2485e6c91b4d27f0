"""The doctor tells what is there, what is missing and how to get it, and fails only for what is required."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bethink.cli.doctor import doctor
from bethink.core.errors import ConfigError
from bethink.models import machine
from bethink.models.checkup import NEEDS, Finding, Needs, State, examine

ROOMY = Needs(disk=0, memory=0, gpu=0)


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that any machine satisfies, so that the tests do not depend on this one."""
    monkeypatch.setitem(NEEDS, "quickstart", ROOMY)


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, arguments)


def finding(name: str, findings: list[Finding]) -> Finding:
    return next(f for f in findings if f.name == name)


@pytest.mark.usefixtures("easy")
def test_a_machine_with_all_that_is_required_is_ready() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "Ready for quickstart" in result.output
    for section in ("machine", "disk", "packages", "devices", "models"):
        assert section in result.output


@pytest.mark.usefixtures("easy")
def test_json_holds_every_finding() -> None:
    report = json.loads(run("--json").stdout)
    assert report["ready"] is True
    assert {"section", "name", "value", "state", "fix"} == set(report["findings"][0])
    sections = {"machine", "disk", "packages", "devices", "models", "code"}
    assert {f["section"] for f in report["findings"]} == sections


def test_what_is_missing_or_worth_knowing_comes_with_a_way_to_mend_it() -> None:
    assert all(f.fix for recipe in NEEDS for f in examine(recipe) if f.state is State.MISSING)


def requires(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: list(lines))


@pytest.mark.usefixtures("easy")
def test_a_missing_package_fails_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    requires(monkeypatch, "no-such-package>=3", "rich>=13")
    result = run("--json")
    assert result.exit_code == 1
    found = {f["name"]: f for f in json.loads(result.stdout)["findings"]}
    assert found["no-such-package"]["state"] == "missing"
    assert 'pip install "no-such-package>=3"' in found["no-such-package"]["fix"]
    assert found["rich"]["state"] == "ok"


@pytest.mark.parametrize(
    ("range_", "state"),
    [
        (">=2.11", State.OK),
        (">=2.13", State.OK),
        (">=2.13.0", State.OK),
        (">=2.14", State.MISSING),
        ("<2.13", State.MISSING),
        ("<3,>=2", State.OK),
        (">=2.9", State.OK),
        ("[extra]<2.14,>=2.13", State.OK),
    ],
)
def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch, range_: str, state: State) -> None:
    requires(monkeypatch, f"thing{range_}", 'other>=9; extra == "ray"')
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.13.0+cpu")
    findings = examine()
    assert finding("thing", findings).state is state
    assert "other" not in {f.name for f in findings}


def test_too_little_disk_is_missing_and_says_how_much_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "quickstart", Needs(disk=1e9, memory=0, gpu=0))
    found = finding("working directory", examine())
    assert found.state is State.MISSING
    assert "quickstart needs about 1e+09 GB" in str(found.fix)


def test_a_cache_that_does_not_exist_yet_is_judged_by_the_disk_it_will_be_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path / "deep" / "er"))
    findings = examine()
    assert "GB free" in finding("cache", findings).value
    assert finding("smollm2-135m", findings).state is State.NOTE
    assert "bethink models pull smollm2-135m" in str(finding("smollm2-135m", findings).fix)
    assert not (tmp_path / "deep").exists()


def test_little_memory_and_no_gpu_are_told_against_the_recipes_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 2_000_000_000)
    assert finding("memory", examine()).state is State.NOTE
    gpu = next(
        f
        for f in examine("weekend-8b")
        if f.section == "devices" and f.name not in ("cpu", "compiled operations")
    )
    assert gpu.state is not State.OK or machine.best_device() == "cuda"


@pytest.mark.usefixtures("easy")
def test_without_bubblewrap_there_is_a_way_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    report = json.loads(run("--json").stdout)
    assert report["ready"] is True  # nothing but coding problems needs it
    (sandbox,) = [f for f in report["findings"] if f["section"] == "code"]
    assert sandbox["state"] == "note"
    assert "install bubblewrap" in sandbox["fix"]
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    (sandbox,) = [f for f in json.loads(run("--json").stdout)["findings"] if f["section"] == "code"]
    assert sandbox["state"] == "note"
    assert "needs Linux" in sandbox["value"]
    assert "bubblewrap" not in sandbox["fix"]


@pytest.mark.usefixtures("easy")
def test_the_layers_of_the_sandbox_are_tried() -> None:
    if shutil.which("bwrap") is None:
        if os.environ.get("BETHINK_REQUIRE_SANDBOX"):
            pytest.fail("the sandbox is required here: there is no bubblewrap")
        pytest.skip("there is no bubblewrap")
    sandbox = next(f for f in json.loads(run("--json").stdout)["findings"] if f["section"] == "code")
    assert sandbox["state"] == "ok"
    for layer in (
        "network",
        "memory",
        "processes",
        "system calls",
        "clock",
        "output",
        "processor time",
        "die with parent",
    ):
        assert layer in sandbox["value"]


def test_an_unreachable_hub_is_worth_knowing_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub = finding("model hub", examine(network=True))
    assert hub.state is State.NOTE
    assert "local model directories" in str(hub.fix)


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    result = run("--recipe", "quickstrat")
    assert isinstance(result.exception, ConfigError)
    assert "quickstart" in str(result.exception)


@pytest.mark.usefixtures("easy")
def test_bench_tells_what_the_machine_can_do(tiny_model_dir: Path) -> None:
    shown = run("--bench", "--model", str(tiny_model_dir), "--device", "cpu")
    assert shown.exit_code == 0, shown.output
    for words in ("products of 64 rows", "GFLOP/s", "reading memory", "decoding 16 rows", "tokens/s"):
        assert words in shown.output
    document = json.loads(run("--bench", "--json", "--model", str(tiny_model_dir)).stdout)
    assert document["bench"]["bandwidth"] > 0
