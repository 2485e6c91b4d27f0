"""The README's table of measured comparisons, from benchmarks/results/*.json.

    python benchmarks/table.py [--check]

Puts the table between the marks in README.md; a script that has no result yet has no row. Work that was not the same on both sides is
no comparison: such a peer is left out and named. --check changes nothing and fails when the README shows another table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from harness import RESULTS, parser_for

README = RESULTS.parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->\n", "<!-- benchmarks:end -->"
Result = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line: the work, how bethink compares with whom, and its share of what the machine allows."""

    work: str
    beside: str
    floor: str
    script: str


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    results = {path.stem: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}
    readme = README.read_text("utf-8")
    before, mark, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        sys.exit(f"{README} has no marks {BEGIN.strip()} and {END}")
    wanted = before + BEGIN + table(results) + END + after
    if options.check:
        sys.exit("the README's table is not that of the results" if wanted != readme else 0)
    README.write_text(wanted, "utf-8")


def table(results: dict[str, Result]) -> str:
    rows = [row for name, lines in LINES.items() if name in results for row in lines(results[name])]
    measured = {_machine(results[name]["machine"]) for name in LINES if name in results}
    lines = [
        "| work | bethink beside | of what the machine allows | script |",
        "|---|---|---|---|",
        *(
            f"| {row.work} | {row.beside} | {row.floor} | [`{row.script}`](benchmarks/{row.script}) |"
            for row in rows
        ),
        "",
        f"Each figure is a ratio of medians, programs run in turn on {' and on '.join(sorted(measured))}, without GPU.",
        "",
    ]
    return "\n".join(lines)


def _machine(machine: Result) -> str:
    return f"{machine['cpus']} cores of an {machine['processor']}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _list(times: dict[str, float], left_out: list[str]) -> str:
    told = [f"{name}: {value:.1f} ×" for name, value in times.items()]
    return "; ".join([*told, *(f"{name}: other work, not compared" for name in left_out)])


def training(result: Result) -> Iterator[Row]:
    yield _beside_trl("sft", "LoRA step, {model}, useful tokens/s", result)


def reinforcement(result: Result) -> Iterator[Row]:
    yield _beside_trl("grpo", "GRPO step, {model}, sampling and learning, tokens/s", result)


def preferences(result: Result) -> Iterator[Row]:
    yield _beside_trl("dpo", "DPO, {model}, the reference included, useful tokens/s", result)


def _beside_trl(name: str, work: str, result: Result) -> Row:
    """The row of results/NAME.json. work: with the model's place in it. A result of work that was not the same ends the script."""
    if not result["same_work"]:
        sys.exit(f"results/{name}.json is of work that was not the same")
    version = next(pin.partition("==")[2] for pin in result["peer"] if pin.startswith("trl"))
    times = {peer.replace("TRL", f"TRL {version}", 1): value for peer, value in result["times"].items()}
    share = result.get("floor_share")
    told = work.format(model=result["work"]["model"])
    return Row(told, _list(times, []), "–" if share is None else _percent(share), f"{name}.py")


def sampling(result: Result) -> Iterator[Row]:
    for rows, share in sorted(result["floor_share"].items(), key=lambda item: int(item[0])):
        work = f"sampling, {rows} row{'s' if int(rows) > 1 else ''}, tokens/s"
        yield Row(work, _list(*_kinds(result, rows)), _percent(share), "rollouts.py")


def _kinds(result: Result, rows: str) -> tuple[dict[str, float], list[str]]:
    """How many times the best variant of each kind of peer, and the kinds of which no variant did the same work."""
    rates = {name: of[rows] for name, of in result["tokens_per_second"].items()}
    ours = rates["bethink"]
    best: dict[str, float] = {}
    peers = [name for name in rates if name not in ("bethink", "floor")]
    for name in peers:
        if result["same_work"][name]:
            kind = name.partition(",")[0]
            best[kind] = max(best.get(kind, 0.0), rates[name])
    left_out = {name.partition(",")[0] for name in peers} - best.keys()
    return {kind: ours / rate for kind, rate in best.items()}, sorted(left_out)


def serving(result: Result) -> Iterator[Row]:
    same = {name: times for name, times in result["times"].items() if result["same_work"][name]}
    first = result["first_token"]["bethink serve"]
    beside = _list(same, sorted(result["times"].keys() - same.keys()))
    yield Row(
        f"serving {result['work']['streams']} streams, tokens/s",
        f"{beside}; first token after {first['p50']:.2f} s, p99 {first['p99']:.2f} s",
        f"{_percent(result['engine_share'])} of its engine's rate",
        "serving.py",
    )


def grading(result: Result) -> Iterator[Row]:
    version = result["machine"]["versions"]["math-verify"]
    times = {
        name.replace("math-verify", f"math-verify {version}"): value
        for name, value in result["speedup"].items()
    }
    yield Row("grading mathematics, answers/s", _list(times, []), "–", "grading.py")


def curation(result: Result) -> Iterator[Row]:
    cost = result["cost"]
    yield Row(
        f"curating {cost['rows']:,} rows",
        f"at most {cost['peak_mb']:.0f} MB; {cost['peak_mb_of_a_tenth']:.0f} MB for a tenth of the rows",
        f"{_percent(1 / cost['cpu_to_floor'])} (CPU time)",
        "curate.py",
    )


LINES: dict[str, Callable[[Result], Iterator[Row]]] = {
    "sft": training,
    "grpo": reinforcement,
    "dpo": preferences,
    "rollouts": sampling,
    "serving": serving,
    "grading": grading,
    "curate": curation,
}

if __name__ == "__main__":
    main()
