"""What the page shows, gathered from what the stages wrote. Everything is optional: a half-finished run has a report too, and the page of
a run at work is what its files hold at that moment.

Reads: manifest.json and results.json of the run; summary.json (synthesize), report.json (curate), metrics.jsonl (what trains), samples.jsonl
(eval), comparison.json (compare).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from bethink.chat.toggle import DEFAULT_FORMAT, Mode
from bethink.core.errors import DataError
from bethink.core.files import read_json, read_jsonl
from bethink.curate.report import Report as CurateReport
from bethink.recipe.manifest import Manifest, load_manifest
from bethink.recipe.report.examples import Example, choose_examples
from bethink.recipe.results import read_results

_ROWS_LOOKED_AT = 20_000
_ROWS_OF_A_STRETCH = 30
_STRETCHES = 60
_TRAININGS = ("pretrain", "sft", "distill", "prefer")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Mean completion tokens of each mode around one place in the training order."""

    row: float
    tokens: dict[str, float]


@dataclass(frozen=True, slots=True)
class Curation:
    """One curate stage. stretches: how long completions are along an order that is no curriculum; planted: how many rows of each
    defect the synthesize stage before it put in on purpose."""

    stage: str
    report: CurateReport
    stretches: tuple[Stretch, ...]
    planted: dict[str, int]


@dataclass(frozen=True, slots=True)
class Training:
    """One stage that trains: its options and the lines of its metrics."""

    stage: str
    options: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Pairing:
    """One line of a compare stage: the same problems on two sides. difference is B minus A; fixed and broken count problems."""

    a: str
    b: str
    task: str
    problems: int
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    fixed: int
    broken: int


@dataclass(frozen=True, slots=True)
class Story:
    """Everything the page shows.

    manifest: the run's, without the stage that writes the page, which is never done by then. rows: the results, as in results.json.
    """

    run_dir: Path
    manifest: Manifest
    rows: list[dict[str, Any]] = field(default_factory=list)
    curations: tuple[Curation, ...] = ()
    trainings: tuple[Training, ...] = ()
    reinforcements: tuple[Training, ...] = ()
    pairings: tuple[Pairing, ...] = ()
    examples: tuple[Example, ...] = ()

    @property
    def finished(self) -> str | None:
        """When the last stage was done; None while one is not."""
        stages = self.manifest.stages
        times = [stage.finished for stage in stages if stage.state == "done" and stage.finished]
        return max(times) if len(times) == len(stages) > 0 else None

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row["model"] for row in self.rows))

    @property
    def tasks(self) -> list[str]:
        """The tasks, the aggregate `all` last."""
        return sorted(dict.fromkeys(row["task"] for row in self.rows), key=lambda task: task == "all")


def collect(run_dir: Path, *, examples: int, every: bool | None = None) -> Story:
    """Gather a run's story; see `page.write_report`. Raises DataError when the directory holds no run, or a file of it cannot be read."""
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
    reinforcements: list[Training] = []
    pairings: list[Pairing] = []
    evals: dict[str, Path] = {}
    think = DEFAULT_FORMAT
    for record in manifest.stages:
        folder = run_dir / record.name
        if record.uses == "synthesize" and (folder / "summary.json").exists():
            planted = {kind: n for kind, n in read_json(folder / "summary.json")["defects"].items() if n}
        elif record.uses == "curate" and (folder / "report.json").exists():
            curations.append(_curation(record.name, folder, planted))
        elif record.uses in (*_TRAININGS, "grpo") and (folder / "metrics.jsonl").exists():
            metrics = tuple(read_jsonl(folder / "metrics.jsonl", growing=True))
            if metrics:
                kind = reinforcements if record.uses == "grpo" else trainings
                kind.append(Training(record.name, record.options, metrics))
        elif record.uses == "compare" and (folder / "comparison.json").exists():
            pairings += _pairings(read_json(folder / "comparison.json"))
        elif record.uses == "eval" and (folder / "samples.jsonl").exists():
            evals[record.name] = folder / "samples.jsonl"
            tags = {
                name.removeprefix("think_"): record.options.get(name)
                for name in ("think_open", "think_close")
            }
            think = replace(DEFAULT_FORMAT, **{name: tag for name, tag in tags.items() if tag})
    return Story(
        run_dir=run_dir,
        manifest=manifest.model_copy(update={"stages": [s for s in manifest.stages if s.uses != "report"]}),
        rows=read_results(run_dir),
        curations=tuple(curations),
        trainings=tuple(trainings),
        reinforcements=tuple(reinforcements),
        pairings=tuple(pairings),
        examples=choose_examples(
            evals, examples, every=_every(manifest) if every is None else every, think=think
        ),
    )


def _every(manifest: Manifest) -> bool:
    """What the recipe's last report stage says."""
    said = [stage.get("with", {}) for stage in manifest.recipe["stages"] if stage["uses"] == "report"]
    return bool(said and said[-1].get("every"))


def _curation(stage: str, folder: Path, planted: dict[str, int]) -> Curation:
    report = CurateReport.model_validate(read_json(folder / "report.json"))
    stretches = () if report.config["order"] == "curriculum" else tuple(_stretches(folder, report.rows.kept))
    return Curation(stage, report, stretches, planted)


def _stretches(folder: Path, rows: int) -> Iterator[Stretch]:
    """The rows of the train shards in equal stretches; of very many rows every k-th."""
    stride = max(1, rows // _ROWS_LOOKED_AT)
    looked_at = list(islice(_lengths(folder), 0, None, stride))
    size = max(_ROWS_OF_A_STRETCH, -(-len(looked_at) // _STRETCHES))
    for first in range(0, len(looked_at), size):
        block = looked_at[first : first + size]
        by_mode = {mode: [n for found, n in block if found == mode] for mode in Mode}
        tokens = {str(mode): fmean(counts) for mode, counts in by_mode.items() if counts}
        yield Stretch((first + len(block) / 2) * stride, tokens)


def _lengths(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.glob("train-*.jsonl")):
        yield from ((row["mode"], row["completion_tokens"]) for row in read_jsonl(path))
    for path in sorted(folder.glob("train-*.parquet")):
        import pyarrow.parquet as parquet

        table = parquet.read_table(path, columns=["mode", "completion_tokens"])
        yield from zip(table["mode"].to_pylist(), table["completion_tokens"].to_pylist(), strict=True)


def _pairings(document: dict[str, Any]) -> list[Pairing]:
    return [
        Pairing(
            a=f"{document['a']}, {one['mode_a']}",
            b=f"{document['b']}, {one['mode_b']}",
            fixed=len(one["fixed"]),
            broken=len(one["broken"]),
            **{
                name: one[name]
                for name in ("task", "problems", "difference", "low", "high", "p_value", "test")
            },
        )
        for one in document["comparisons"]
    ]
