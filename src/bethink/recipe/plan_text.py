"""A recipe's plan as a person reads it: the table of its stages, and in words what the estimates rest on."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from bethink.core.console import duration
from bethink.recipe.inputs import Missing, listed
from bethink.recipe.plan import Estimate
from bethink.recipe.schema import Recipe


def plan_table(lines: Sequence[Estimate]) -> Table:
    """The plan for a terminal."""
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    table.add_column("what", overflow="fold")
    for column in ("rows", "tokens", "hours", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            line.stage,
            f"{line.uses}: {line.what}" if line.what else line.uses,
            _short(line.rows, line.at_most),
            _short(line.tokens, line.at_most),
            _hours(line.hours),
            f"{line.memory / 2**30:.1f} GiB" if line.memory else "",
        )
    return table


def plan_words(recipe: Recipe, lines: Sequence[Estimate], missing: Sequence[Missing] = ()) -> str:
    """What the estimates rest on, and their sum; missing: the inputs that are not there yet."""
    assume = recipe.assume
    text = f"{recipe.name}: {len(lines)} stages, every option checked, nothing run."
    if missing:
        text += f"\nNot here yet: {listed(missing)}."
    for uses, work, per, mean in (
        ("pretrain", "Pretraining", "text", assume.tokens_per_sample),
        ("sft", "Training", "sample", assume.tokens_per_sample),
        ("distill", "Distillation", "sample", assume.tokens_per_sample),
        ("prefer", "Preference tuning", "row", assume.tokens_per_sample),
        ("grpo", "Reinforcement learning", "completion", assume.tokens_per_completion),
        ("sample", "Sampling", "completion", assume.tokens_per_completion),
        ("eval", "Evaluation", "completion", assume.tokens_per_completion),
    ):
        told = [line for line in lines if line.uses == uses and line.hours]
        if told:
            hours = _hours(sum(line.hours or 0.0 for line in told))
            rates = "; ".join(dict.fromkeys(line.rate.words for line in told if line.rate))
            each = f"{mean:,.0f} tokens a {per}, " if mean else ""
            text += f"\n{work} about {hours} on {assume.device}: {each}{rates}."
    if paid := [line for line in lines if line.cost]:
        each = ", ".join(f"{line.stage} {line.cost:,.2f}" for line in paid)
        text += f"\nAnswers of endpoints cost at most {sum(line.cost or 0 for line in paid):,.2f} ({each}); what the prompts cost comes on top."
    needed = max((line.memory for line in lines if line.memory), default=0)
    if needed and assume.memory_gib:
        fits = "fits in" if needed <= assume.memory_gib * 2**30 else "does NOT fit in"
        text += (
            f"\nTraining memory about {needed / 2**30:.1f} GiB {fits} the device's {assume.memory_gib:g} GiB."
        )
    return text


def _short(count: int | None, at_most: bool) -> str:
    if not count:
        return ""
    sign = "≤ " if at_most else ""
    for size, unit in ((1e9, " G"), (1e6, " M")):
        if count >= size:
            return f"{sign}{count / size:.3g}{unit}"
    return f"{sign}{count:,}"


def _hours(hours: float | None) -> str:
    if not hours:
        return ""
    return duration(3600 * hours) if hours < 10 else f"{hours:.0f} h"
