"""What the benchmark scripts share: the machine they ran on, peers in environments of their own, runs in turn, memory of a process tree."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bethink.models.speed import Speed

RESULTS = Path(__file__).parent / "results"
ENVIRONMENTS = Path(os.environ.get("BETHINK_BENCH", Path.home() / ".cache" / "bethink-bench"))


def parser_for(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows a script's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def speed_now() -> Speed:
    """How fast this CPU multiplies and reads now, in the number format the package computes in here."""
    from bethink.models.machine import best_dtype
    from bethink.models.speed import measure

    return measure("cpu", best_dtype("cpu"))


def machine(*packages: str) -> dict[str, Any]:
    """The processor, how many of its cores this process may use, and the versions of some packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": named[0] if named else platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def environment(
    name: str, pins: Sequence[str], *, bare: Sequence[str] = (), without: Sequence[str] = ()
) -> Path:
    """The python of a virtual environment with exactly these packages, made when it is first asked for.

    bare: packages installed without what they depend on. without: packages that come along and are taken out again.
    """
    home = ENVIRONMENTS / name
    wanted = "\n".join(
        [*pins, *(f"{pin} (bare)" for pin in bare), *(f"without {package}" for package in without)]
    )
    made = home / "pins.txt"
    if not made.exists() or made.read_text() != wanted:
        print(f"making the environment {home}: {', '.join([*pins, *bare])}", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "pip"), "--quiet", "--disable-pip-version-check"]
        for pin in pins:  # one by one: the first, torch, settles what the others depend on
            subprocess.run([*pip, "install", pin], check=True)
        for pin in bare:
            subprocess.run([*pip, "install", "--no-deps", pin], check=True)
        if without:
            subprocess.run([*pip, "uninstall", "--yes", *without], check=True)
        made.write_text(wanted)
    return home / "bin" / "python"


def in_turn(
    programs: Mapping[str, Callable[[], dict[str, Any]]],
    rounds: int,
    *,
    shown: Callable[[dict[str, Any]], Any] = lambda run: run,
) -> dict[str, list[dict[str, Any]]]:
    """Every program once a round, A B C A B C …, so that what disturbs the machine disturbs all of them. shown: what is printed of a run."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    for number in range(1, rounds + 1):
        for name, program in programs.items():
            runs[name].append(program())
            print(f"round {number}, {name}: {json.dumps(shown(runs[name][-1]))}", file=sys.stderr, flush=True)
    return runs


def median_of(runs: Iterable[Mapping[str, Any]], key: str) -> float:
    """The median over runs of one figure."""
    return float(statistics.median(run[key] for run in runs))


def run(
    command: Sequence[str], variables: Mapping[str, str] = {}, *, may_fail: bool = False
) -> tuple[str, int]:
    """What a command prints, and the most memory (bytes) its processes held together. variables: of its environment, beside ours.

    A failure ends the benchmark with its output, or raises CalledProcessError where it `may_fail`.
    """
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )
    peak = PeakMemory(started.pid)
    output, errors = started.communicate()
    memory = peak.stop()
    if started.returncode:
        if may_fail:
            raise subprocess.CalledProcessError(started.returncode, command, output, errors)
        sys.exit(f"{' '.join(command)}\nfailed:\n{output[-3000:]}\n{errors[-5000:]}")
    return output, memory


def report_times(result: Mapping[str, Any], see: str) -> None:
    """Say how many times as fast as each peer, and where to look when the work was not the same. see: names of figures of the runs."""
    for name, times in result["times"].items():
        print(f"{times} × {name}")
    if not result["same_work"]:
        print(f"NOT the same work: see {see} of the runs")


def write(name: str, result: Mapping[str, Any]) -> None:
    """Keep a result as results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path}")


def curated_rows(task: str, rows: int, seed: int, tokenizer: str, scratch: Path) -> Path:
    """A curated file of so many rows, made from a generator's problems."""
    from bethink.curate.config import CurateConfig
    from bethink.curate.pipeline import curate
    from bethink.curate.synthesize import SynthesizeConfig, synthesize

    raw, curated = scratch / "raw", scratch / "curated"
    synthesize(SynthesizeConfig(output=raw, task=task, problems=rows, defects=0, seed=seed))
    curate(CurateConfig(input=(raw / "rows.jsonl",), output=curated, tokenizer=tokenizer, max_samples=rows))
    return curated / "train-00000.jsonl"


class PeakMemory:
    """Samples the resident memory of a process and all its descendants, pages they share counted for each."""

    def __init__(self, root: int) -> None:
        self._root, self._peak, self._running = root, 0, True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The highest sum seen, in bytes."""
        self._running = False
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while self._running:
            resident = {}
            parents = {}
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    except OSError:
                        continue
                    parents[int(entry.name)] = int(stat[1])
                    resident[int(entry.name)] = int(stat[21]) * page
            tree = {self._root}
            while found := {pid for pid, parent in parents.items() if parent in tree} - tree:
                tree |= found
            self._peak = max(self._peak, sum(resident.get(pid, 0) for pid in tree))
            time.sleep(0.1)
