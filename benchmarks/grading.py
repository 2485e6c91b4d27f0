r"""Grading mathematics: `bethink`'s graders against math-verify called one answer after the other.

    python benchmarks/grading.py ANSWERS.jsonl [--items 3000] [--rounds 3] [--workers N]

ANSWERS.jsonl holds reference answers (column `answer`, or --column). From each an output is made as a model would write it: the answer
itself, the same value spelled another way, or a wrong value; so which verdict is right is known. Both programs judge the same outputs in
fresh processes, in turn (A B C A B C …), after one round each that is not counted. The time is from the first item to the last verdict;
libraries are imported before, bethink's workers are started (and import theirs) within it. CPU time, of workers too, is given
beside the clock's, which says little on a busy machine.

math-verify is called as its README says, with the reference answer in dollars; and tuned for speed. Every item on which the two disagree is listed with the
kind of reference answer it is. The result is written to benchmarks/results/grading.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import machine, parser_for, write

GOAL = 5.0


@dataclass(frozen=True)
class Item:
    """A reference answer, an output, and whether the output is right; how it was made."""

    answer: str
    output: str
    right: bool
    made: str


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--column", default="answer")
    parser.add_argument("--distinct", action="store_true", help="each reference answer once: harder")
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--run", choices=sorted(PROGRAMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(PROGRAMS[options.run](read_items(options.answers), options.workers)))
        return
    answers = read_answers(options.answers, options.column)
    items = make_items(sorted(set(answers)) if options.distinct else answers, options.items)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(item)) + "\n" for item in items)
        file.flush()
        runs = measure(Path(file.name), options)
    result = summary(items, runs, options)
    write("grading", result)
    report(result)


def read_answers(path: Path, column: str) -> list[str]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [answer for row in rows if isinstance(answer := row.get(column), str) and answer.strip()]


def read_items(path: Path) -> list[Item]:
    return [Item(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def make_items(answers: list[str], count: int) -> list[Item]:
    """`count` items from answers drawn at random (a fixed seed): 60 % right."""
    rng = random.Random(0)
    chosen = rng.sample(answers, min(count, len(answers)))
    return [make_item(answer, answers, rng) for answer in chosen]


def make_item(answer: str, answers: list[str], rng: random.Random) -> Item:
    if rng.random() < 0.6:
        made, written = rephrased(answer.strip(), rng)
        right = True
    else:
        made, written = mistaken(answer.strip(), answers, rng)
        right = False
    return Item(answer, sentence(written, rng), right, made)


def rephrased(answer: str, rng: random.Random) -> tuple[str, str]:
    """The same value in another spelling."""
    ways = [("as it is", answer)]
    if re.fullmatch(r"-?\d+", answer):
        ways += [
            ("x =", f"x = {answer}"),
            ("decimal", f"{answer}.0"),
            ("thousands", f"{int(answer):,}"),
            ("unit", rf"{answer}\text{{ units}}"),
        ]
    if match := re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", answer):
        sign, over, under = match[1], int(match[2]), int(match[3])
        ways += [
            ("slash", f"{sign}{over}/{under}"),
            ("dfrac", answer.replace(r"\frac", r"\dfrac")),
            ("expanded", rf"{sign}\frac{{{2 * over}}}{{{2 * under}}}"),
        ]
    if answer.startswith("(") and answer.endswith(")") and answer.count("(") == 1:
        ways.append(("left right", rf"\left{answer[:-1]}\right)"))
    if re.fullmatch(r"[\d\s+x^-]+", answer) and "+" in answer and "-" not in answer:
        ways.append(("order of terms", " + ".join(reversed([term.strip() for term in answer.split("+")]))))
    return rng.choice(ways)


def mistaken(answer: str, answers: list[str], rng: random.Random) -> tuple[str, str]:
    """Another value: near the right one where there is such a thing, else the answer to another question."""
    if near := [(made, other) for made, other in near_misses(answer) if other != answer]:
        return rng.choice(near)
    if re.fullmatch(r"-?\d+", answer) and rng.random() < 0.7:
        return "off by some", str(int(answer) + rng.choice([-10, -2, -1, 1, 2, 10]))
    if (match := re.fullmatch(r"-?\\frac\{(\d+)\}\{(\d+)\}", answer)) and match[1] != match[2]:
        return "upside down", rf"\frac{{{match[2]}}}{{{match[1]}}}"
    while True:
        other = rng.choice(answers).strip()
        if _digits_and_letters(other) != _digits_and_letters(answer):
            return "another answer", other


def near_misses(answer: str) -> list[tuple[str, str]]:
    """Answers that look like the right one and are not."""
    misses = []
    if match := re.fullmatch(r"(-?\w+)_\{?(\d+)\}?", answer):
        misses.append(("other base", f"{match[1]}_{{{int(match[2]) + 1}}}"))
    if match := re.fullmatch(r"\(([^(),]+),([^(),]+)\)", answer):
        if match[1].strip() != match[2].strip():
            misses.append(("other order", f"({match[2]},{match[1]})"))
        misses.append(("other brackets", f"[{match[1]},{match[2]}]"))
    if match := re.fullmatch(r"\[([^\[\](),]+),([^\[\](),]+)\]", answer):
        misses.append(("other brackets", f"({match[1]},{match[2]})"))
    if match := re.search(r"\\text\{ ?(cm|inches|feet|miles|hours)\}$", answer):
        misses.append(("other unit", answer[: match.start()] + r"\text{ days}"))
    if "=" in answer and answer.endswith("0"):
        misses.append(("right side only", "0"))
    if re.search(r"(?<![A-Za-z\\])R(?![A-Za-z])", answer):
        misses.append(("other letter", answer.replace("R", "r")))
    if match := re.fullmatch(r"\\frac\{1\}\{(\d)\^\{(\d+)\}\}", answer):
        misses.append(("other power", rf"\frac{{1}}{{{match[1]}^{{{int(match[2]) + 1}}}}}"))
    return misses


def _digits_and_letters(answer: str) -> str:
    """What is left without units, names and typesetting: answers that agree in it may be equal."""
    return re.sub(r"\\text\{[^}]*\}|\\mbox\{[^}]*\}|^[A-Za-z] ?=|\\circ|frac|[^0-9A-Za-z]", "", answer)


def sentence(answer: str, rng: random.Random) -> str:
    """A worked answer around it, in one of the usual styles."""
    work = "We add what is given and simplify. " * rng.randint(3, 30)
    ends = [
        rf"Therefore, the answer is $\boxed{{{answer}}}$.",
        f"\\[\n\\boxed{{{answer}}}\n\\]",
        rf"**Final Answer**\n\nThe final answer is $\boxed{{{answer}}}$.".replace(r"\n", "\n"),
        f"The final answer is ${answer}$.",
    ]
    return f"{work}\n\n{rng.choice(ends)}"


class Watch:
    """Seconds by the clock, and of CPU time of this process and its ended children, since it was made."""

    def __init__(self) -> None:
        self._start, self._cpu = time.perf_counter(), self._cpu_seconds()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._start, "cpu_seconds": self._cpu_seconds() - self._cpu}

    @staticmethod
    def _cpu_seconds() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def by_bethink(items: list[Item], workers: int | None) -> dict[str, Any]:
    from bethink.verify.grade import GradeItem, grade_many

    watch = Watch()
    verdicts = list(grade_many((GradeItem(item.answer, item.output, "math") for item in items), workers))
    return {
        **watch.read(),
        "verdicts": [verdict.outcome for verdict in verdicts],
        "how": Counter(verdict.detail for verdict in verdicts),
    }


def by_math_verify(items: list[Item], workers: int | None) -> dict[str, Any]:
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    watch = Watch()
    verdicts = [
        "correct" if verify(parse(f"${item.answer}$"), parse(item.output)) else "wrong" for item in items
    ]
    return {**watch.read(), "verdicts": verdicts}


def by_tuned_math_verify(items: list[Item], workers: int | None) -> dict[str, Any]:
    """What its documentation offers to go faster: LaTeX only, boxes first, no alarm; and only the end of the output, where answers are."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    latex = [LatexExtractionConfig(boxed_match_priority=0)]
    watch = Watch()
    verdicts = []
    for item in items:
        gold = parse(f"${item.answer}$", latex, parsing_timeout=None)
        answer = parse(item.output[-400:], latex, parsing_timeout=None)
        verdicts.append("correct" if verify(gold, answer, timeout_seconds=None) else "wrong")
    return {**watch.read(), "verdicts": verdicts}


PROGRAMS = {"bethink": by_bethink, "math-verify": by_math_verify, "math-verify, tuned": by_tuned_math_verify}


def measure(items: Path, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The runs of each program, the warm-up left out."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    for round_ in range(options.rounds + 1):
        for name in PROGRAMS:
            arguments = [sys.executable, __file__, str(items), "--run", name]
            if options.workers:
                arguments += ["--workers", str(options.workers)]
            done = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
            print(
                f"{'warm-up' if not round_ else f'round {round_}':8} {name:20} {done['seconds']:8.1f} s",
                file=sys.stderr,
            )
            if round_:
                runs[name].append(done)
    return runs


def summary(
    items: list[Item], runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace
) -> dict[str, Any]:
    seconds, cpu = (
        {name: statistics.median(run[clock] for run in done) for name, done in runs.items()}
        for clock in ("seconds", "cpu_seconds")
    )
    verdicts = {name: done[0]["verdicts"] for name, done in runs.items()}
    mistakes = {
        name: {
            "right called wrong": sum(
                item.right and v == "wrong" for item, v in zip(items, found, strict=True)
            ),
            "wrong called right": sum(
                not item.right and v == "correct" for item, v in zip(items, found, strict=True)
            ),
            "grader errors": sum(v == "grader_error" for v in found),
        }
        for name, found in verdicts.items()
    }
    differing = [
        asdict(item)
        | {
            "output": item.output.rstrip()[-120:],
            "bethink": ours,
            "math-verify": theirs,
            "kind": kind(item.answer),
        }
        for item, ours, theirs in zip(items, verdicts["bethink"], verdicts["math-verify"], strict=True)
        if ours != theirs
    ]
    return {
        "machine": machine("bethink", "math-verify", "sympy"),
        "items": len(items),
        "rounds": options.rounds,
        "seconds": {name: [round(run["seconds"], 2) for run in done] for name, done in runs.items()},
        "cpu_seconds": {name: [round(run["cpu_seconds"], 2) for run in done] for name, done in runs.items()},
        "answers_per_second": {name: round(len(items) / median, 1) for name, median in seconds.items()},
        "speedup": {
            name: round(seconds[name] / seconds["bethink"], 1) for name in seconds if name != "bethink"
        },
        "speedup_in_cpu_time": {
            name: round(cpu[name] / cpu["bethink"], 1) for name in cpu if name != "bethink"
        },
        "goal": GOAL,
        "settled_by": runs["bethink"][0]["how"],
        "mistakes": mistakes,
        "differing": sorted(differing, key=lambda row: (row["kind"], row["answer"])),
    }


KINDS = (
    ("a number in a base: math-verify reads 12_5 as 12", r"_\{?\d"),
    ("text: math-verify reads letters as a product, or cannot parse", r"^\\(?:text|mbox)\{|^\(\\text"),
    (
        "a tuple or interval: math-verify equates (1,2) with the set {2,1}",
        r"^\\?(?:left)?\s*[\[(].*,.*[\])]$",
    ),
    ("several answers", r",|\\text\{ (?:or|and)"),
    ("a unit, which math-verify drops unseen", r"\\text|\\mbox|\\circ|\\\$|\\%"),
    ("an equation or inequality", r"=|\\le|\\ge|<|>"),
    ("letters: math-verify takes some for units (t, h, c) and ignores case", r"(?<!\\)\b[A-Za-z]\b|[a-z]\^"),
)


def kind(answer: str) -> str:
    """What kind of reference answer this is, and what math-verify is known to do with it."""
    return next(
        (name for name, pattern in KINDS if re.search(pattern, answer.strip())), "a number or expression"
    )


def report(result: dict[str, Any]) -> None:
    for name, rate in result["answers_per_second"].items():
        print(f"{name:20} {rate:10,.0f} answers/s   {result['mistakes'][name]}")
    for name, ratio in result["speedup"].items():
        print(
            f"{ratio} times as fast as {name} ({result['speedup_in_cpu_time'][name]} in CPU time); goal {GOAL:g}"
        )
    print(f"{len(result['differing'])} of {result['items']} verdicts differ, see results/grading.json")
    if min(result["speedup"].values()) < GOAL:
        sys.exit("the goal was missed")


if __name__ == "__main__":
    main()
