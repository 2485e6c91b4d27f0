"""A comparison as people read it in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bethink.evaluate.compare import Comparison, Flip

_EXCERPT, _LINES = 480, 8
"""The most characters and lines shown of an output."""


def comparison_view(comparisons: Sequence[Comparison], a: str, b: str, *, flips: int) -> RenderableType:
    """The table of differences, and up to `flips` problems that B fixed and that it broke, with both outputs' ends."""
    parts: list[RenderableType] = [Text(f"A = {a}\nB = {b}"), _table(comparisons)]
    for one in comparisons:
        if flips and not _is_sum(one, comparisons):
            parts += _flips(one, "fixed", one.fixed, flips) + _flips(one, "broken", one.broken, flips)
    return Group(*parts)


def _is_sum(one: Comparison, comparisons: Sequence[Comparison]) -> bool:
    """Whether this is the row over all tasks, whose flips the tasks' own rows show already."""
    return one is not comparisons[0] and one.task == "all"


def _table(comparisons: Sequence[Comparison]) -> Table:
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column("task", overflow="fold", min_width=10)
    table.add_column("mode", no_wrap=True)
    for name in ("n", "A", "B", "B − A", "95 %", "p", "fixed", "broken"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in comparisons:
        table.add_row(
            one.task,
            _modes(one),
            f"{one.problems:,}" + (f" (−{one.skipped})" if one.skipped else ""),
            f"{100 * one.accuracy_a:.1f}",
            f"{100 * one.accuracy_b:.1f}",
            points(one.difference),
            f"{points(one.low)}…{points(one.high)}",
            p_text(one.p_value),
            str(len(one.fixed)),
            str(len(one.broken)),
        )
    tests = ", ".join(dict.fromkeys(one.test for one in comparisons))
    skipped = sum(one.skipped for one in comparisons if not _is_sum(one, comparisons))
    table.caption = f"shares in percent; p: two-sided, {tests}" + (
        f"; {skipped:,} problems left out: a grader failed" if skipped else ""
    )
    return table


def _modes(one: Comparison) -> str:
    return one.mode_a if one.mode_a == one.mode_b else f"{one.mode_a}→{one.mode_b}"


def _flips(one: Comparison, what: str, flips: Sequence[Flip], limit: int) -> list[RenderableType]:
    if not flips:
        return []
    head = Text(f"\n{one.task}, thinking {_modes(one)}: {len(flips)} {what}", style="bold")
    lines: list[RenderableType] = [head]
    for flip in flips[:limit]:
        lines.append(Text(f"\n{flip.id}  answer: {flip.answer}", style="bold"))
        lines += [_quoted(mark, text) for mark, text in _shown(flip)]
    if len(flips) > limit:
        lines.append(Text(f"… and {len(flips) - limit} more (--flips N, or --json for all)", style="dim"))
    return lines


def _shown(flip: Flip) -> list[tuple[str, str]]:
    return [("Q:", flip.question), ("A:", flip.output_a), ("B:", flip.output_b)]


def _quoted(mark: str, text: str) -> Table:
    """The end of a text, where answers stand, its lines kept, beside its mark."""
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    whole = "\n".join(lines)
    end = "\n".join(lines[-_LINES:])[-_EXCERPT:]
    block = Table.grid(padding=(0, 1, 0, 0))
    block.add_row(Text(mark), Text(end if end == whole else f"… {end}"))
    return block


def points(difference: float) -> str:
    """A difference of shares in percentage points: +12.5."""
    return f"{100 * difference:+.1f}"


def p_text(p_value: float) -> str:
    """A p-value as it is read: 0.031, < 0.001."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
