"""What the page shows, gathered from what the stages wrote. Everything is optional: a half-finished run has a report too.

Reads: manifest.json and results.json of the run; summary.json (synthesize), report.json and the train shards (curate), metrics.jsonl
(sft), samples.jsonl (eval).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from bethink.core.errors import DataError
from bethink.core.files import read_json, read_jsonl
from bethink.recipe.manifest import Manifest, load_manifest
from bethink.recipe.report.examples import Example, choose_examples
from bethink.recipe.results import read_results

_CURRICULUM_ROWS = 20_000
_CURRICULUM_BINS = 60


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """One filter of a curation: rows left after it, rows it dropped."""

    label: str
    left: int
    dropped: int


@dataclass(frozen=True, slots=True)
class CurriculumPoint:
    """Median completion tokens of one mode in one stretch of the training order."""

    position: float
    mode: str
    median_tokens: float


@dataclass(frozen=True, slots=True)
class Curation:
    """One curate stage."""

    stage: str
    report: dict[str, Any]
    funnel: tuple[FunnelStep, ...]
    curriculum: tuple[CurriculumPoint, ...]
    planted: dict[str, int]


@dataclass(frozen=True, slots=True)
class Training:
    """One sft stage: its options and the lines of its metrics."""

    stage: str
    options: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Story:
    """Everything the page shows. rows: the results, as in results.json; models: the eval stages' names in order."""

    run_dir: Path
    manifest: Manifest
    rows: list[dict[str, Any]] = field(default_factory=list)
    curations: tuple[Curation, ...] = ()
    trainings: tuple[Training, ...] = ()
    examples: tuple[Example, ...] = ()

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row["model"] for row in self.rows))

    @property
    def tasks(self) -> list[str]:
        """The tasks, the aggregate `all` last."""
        return sorted(dict.fromkeys(row["task"] for row in self.rows), key=lambda task: task == "all")


def collect(run_dir: Path, *, examples: int) -> Story:
    """Gather a run's story. Raises DataError when the directory holds no run, or a file of it cannot be read."""
    manifest = load_manifest(run_dir)
    if manifest is None:
        raise DataError(
            "no manifest.json there: not a run directory",
            where=str(run_dir),
            fix="name a directory `bethink run` wrote",
        )
    planted: dict[str, int] = {}
    curations: list[Curation] = []
    trainings: list[Training] = []
    evals: dict[str, Path] = {}
    for record in manifest.stages:
        folder = run_dir / record.name
        if record.uses == "synthesize" and (folder / "summary.json").exists():
            planted = {kind: n for kind, n in read_json(folder / "summary.json")["defects"].items() if n}
        elif record.uses == "curate" and (folder / "report.json").exists():
            curations.append(_curation(record.name, folder, planted))
        elif record.uses == "sft" and (folder / "metrics.jsonl").exists():
            metrics = tuple(read_jsonl(folder / "metrics.jsonl"))
            if metrics:
                trainings.append(Training(record.name, record.options, metrics))
        elif record.uses == "eval" and (folder / "samples.jsonl").exists():
            evals[record.name] = folder / "samples.jsonl"
    return Story(
        run_dir=run_dir,
        manifest=manifest,
        rows=read_results(run_dir),
        curations=tuple(curations),
        trainings=tuple(trainings),
        examples=choose_examples(evals, examples),
    )


def _curation(stage: str, folder: Path, planted: dict[str, int]) -> Curation:
    report = read_json(folder / "report.json")
    rows = report["rows"]
    left = rows["read"]
    steps = [FunnelStep("read", left, 0)]
    for name, dropped in rows["dropped"].items():
        left -= dropped
        steps.append(FunnelStep(name.replace("_", " "), left, dropped))
    return Curation(stage, report, tuple(steps), tuple(_curriculum(folder, left)), planted)


def _curriculum(folder: Path, rows: int) -> Iterator[CurriculumPoint]:
    """The curve over the rows of the train shards, every k-th of them when there are many."""
    stride = max(1, rows // _CURRICULUM_ROWS)
    lengths = list(islice(_lengths(folder), 0, None, stride))
    size = max(1, -(-len(lengths) // _CURRICULUM_BINS))
    for first in range(0, len(lengths), size):
        block = lengths[first : first + size]
        for mode in ("on", "off"):
            if tokens := [n for kind, n in block if kind == mode]:
                yield CurriculumPoint((first + len(block) / 2) * stride, mode, statistics.median(tokens))


def _lengths(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.glob("train-*.jsonl")):
        for row in read_jsonl(path):
            yield row["mode"], row["completion_tokens"]
    for path in sorted(folder.glob("train-*.parquet")):
        import pyarrow.parquet as parquet

        table = parquet.read_table(path, columns=["mode", "completion_tokens"])
        yield from zip(table["mode"].to_pylist(), table["completion_tokens"].to_pylist(), strict=True)
