"""Rows of samples → the results table: what each number means is said here, and only here.

accuracy        share of right verdicts; every problem weighs the same; a grader's own failure counts for nothing, nor does a problem
                without a grader; a completion cut at the token limit before it answered counts as wrong. None where nothing counts.
                low, high: its 95 % interval (see `statistics.accuracy`).
n               problems that count (those with at least one verdict that says right or wrong).
compliance      share of completions that do what the toggle says: one closed think block and an answer (on), no tags (off).
truncated       share of completions that ended at the token limit. no_answer: share that ended without committing to an answer.
thinking_tokens, answer_tokens: means over completions.
tokens_per_second  of the mode's whole generation. floor_share: the least time this device can take for it, of the time taken.
grader_errors   completions that could not be graded. not_judged: completions of problems without a grader.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from bethink.engine.api import FinishReason
from bethink.evaluate.samples import Row
from bethink.evaluate.statistics import accuracy
from bethink.models.speed import of_the_floor
from bethink.verify.verdict import UNCOUNTED, Outcome

if TYPE_CHECKING:
    from bethink.evaluate.draw import Pace

ALL = "all"


def summarize(rows: Iterable[Row], *, model: str, speed: Mapping[str, Pace]) -> list[dict[str, Any]]:
    """One result a task and mode, in the rows' order; a row "all" a mode when there are several tasks.

    speed: by mode. The rows are read once, and not kept.
    """
    groups: dict[tuple[str, str], _Tally] = defaultdict(_Tally)
    whole: dict[tuple[str, str], _Tally] = defaultdict(_Tally)
    for row in rows:
        groups[row["task"], row["mode"]].add(row)
        whole[ALL, row["mode"]].add(row)
    if len({task for task, _ in groups}) > 1:
        groups |= whole
    return [_summary(group, model, task, mode, speed.get(mode)) for (task, mode), group in groups.items()]


@dataclass(slots=True)
class _Tally:
    """What is counted of the rows of one mode. outcomes: by problem, whether each answer that a grader judged was right."""

    outcomes: dict[tuple[str, str], list[bool]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    samples: int = 0

    def add(self, row: Row) -> None:
        if row["verdict"] not in UNCOUNTED:
            self.outcomes[row["task"], row["id"]].append(row["verdict"] == Outcome.CORRECT)
        self.samples = max(self.samples, row["sample"] + 1)
        self.counts.update(
            rows=1,
            compliance=row["compliant"],
            truncated=row["finish_reason"] == FinishReason.LENGTH,
            no_answer=row["verdict"] == Outcome.NO_ANSWER,
            grader_errors=row["verdict"] == Outcome.GRADER_ERROR,
            not_judged=row["verdict"] == Outcome.NOT_JUDGED,
            thinking_tokens=row["thinking_tokens"],
            answer_tokens=row["answer_tokens"],
        )

    def mean(self, name: str) -> float:
        return self.counts[name] / self.counts["rows"]


def _summary(tally: _Tally, model: str, task: str, mode: str, pace: Pace | None) -> dict[str, Any]:
    interval = accuracy(list(tally.outcomes.values()))
    return {
        "model": model,
        "mode": mode,
        "task": task,
        "n": len(tally.outcomes),
        "samples": tally.samples,
        "accuracy": interval.estimate if tally.outcomes else None,
        "low": interval.low,
        "high": interval.high,
        "compliance": tally.mean("compliance"),
        "truncated": tally.mean("truncated"),
        "no_answer": tally.mean("no_answer"),
        "thinking_tokens": tally.mean("thinking_tokens"),
        "answer_tokens": tally.mean("answer_tokens"),
        "grader_errors": tally.counts["grader_errors"],
        "not_judged": tally.counts["not_judged"],
        "tokens_per_second": pace and pace.tokens_per_second,
        "floor_share": pace and pace.floor_share,
    }


def results_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """The results of one model or several, shares in percent, for a terminal of 80 columns."""
    one_model = len({row["model"] for row in results}) == 1
    one_task = len({row["task"] for row in results}) == 1
    table = Table(
        title=results[0]["model"] if one_model else None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        caption=_caption(results, speeds=one_model),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name, shown in (("model", not one_model), ("task", not one_task)):
        if shown:
            table.add_column(name, overflow="fold")
    table.add_column("mode", no_wrap=True)
    for name in ("n", "accu-\nracy", "95 %", "com-\nplies", "cut\noff", "no\nansw.", "\nthink", "\nanswer"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in results:
        table.add_row(
            *([] if one_model else [row["model"]]),
            *([] if one_task else [row["task"]]),
            row["mode"],
            f"{row['n']:,}" + (f"×{row['samples']}" if row["samples"] > 1 else ""),
            "–" if row["accuracy"] is None else _points(row["accuracy"]),
            "–" if row["accuracy"] is None else f"{_points(row['low'])}–{_points(row['high'])}",
            *(_points(row[name]) for name in ("compliance", "truncated", "no_answer")),
            f"{row['thinking_tokens']:.0f}",
            f"{row['answer_tokens']:.0f}",
        )
    return table


def _caption(results: Sequence[Mapping[str, Any]], *, speeds: bool) -> str:
    lines = ["percent of n problems; think, answer: mean tokens; cut off: at the token limit"]
    rates = {
        row["mode"]: f"{row['tokens_per_second']:,.0f}{of_the_floor(row.get('floor_share'))}"
        for row in results
        if row["tokens_per_second"]
    }
    if speeds and rates:
        lines.append("tokens/s: " + ", ".join(f"{mode} {rate}" for mode, rate in rates.items()))
    if failures := sum(row["grader_errors"] for row in results if row["task"] != ALL):
        lines.append(f"{failures:,} completions could not be graded and count for nothing")
    if open_ones := sum(row.get("not_judged", 0) for row in results if row["task"] != ALL):
        lines.append(f"{open_ones:,} completions are of problems without a grader: neither right nor wrong")
    return "\n".join(lines)


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
