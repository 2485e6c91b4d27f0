"""The page itself: words for the headline, figures, and the template that holds them together.

Everything a model or a user wrote is escaped by the template; only our own figures go in as markup.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bethink.core.console import duration
from bethink.core.files import write_text
from bethink.recipe.report import figures
from bethink.recipe.report.collect import Curation, Story, collect
from bethink.recipe.results import number, percent

FILE = "report.html"


def write_report(run_dir: Path, *, examples: int = 4, every: bool | None = None) -> Path:
    """Write `run_dir/report.html` from what the run's stages wrote; returns its path. Raises DataError for no run.

    every: the examples show every evaluated model's output, not the first's and the last's alone; None: as the recipe says.
    """
    story = collect(run_dir, examples=examples, every=every)
    path = run_dir / FILE
    write_text(path, render(story))
    return path


def render(story: Story) -> str:
    """The whole page as HTML: no outside file, font or script."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "number": number,
        "duration": duration,
        "p_value": lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}",
        "points": signed_points,
        "when": lambda text: text.replace("T", " ").replace("+00:00", " UTC"),
        "gib": lambda n: f"{n / 2**30:.2f} GiB",
        "thousands": lambda n: f"{n:,}",
        "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    here = files("bethink.recipe.report")
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        story=story,
        manifest=story.manifest,
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        headline=headline(story),
        tiles=tiles(story),
        results=[
            {
                "task": task,
                "rows": [row for row in story.rows if row["task"] == task],
                "bars": Markup(figures.accuracy_bars(story.rows, task)),
                "tokens": Markup(figures.accuracy_against_tokens(story.rows, task)),
            }
            for task in story.tasks
        ],
        curations=[
            {
                "story": curation,
                "funnel": Markup(figures.funnel(curation.report, curation.stage)),
                "order": Markup(_order(curation)) if curation.report.rows.kept else None,
            }
            for curation in story.curations
        ],
        trainings=[
            {
                "story": training,
                "losses": Markup(figures.losses(training.metrics, training.stage)),
                "words": training_words(training.options),
                "facts": training_facts(training.metrics),
            }
            for training in story.trainings
        ],
        reinforcements=[
            {
                "story": stage,
                "curves": Markup(figures.reinforcement(stage.metrics, stage.stage)),
                "facts": reinforcement_facts(stage.metrics),
                "warnings": hacking_warnings(stage.metrics),
                "rollouts": f"{stage.stage}/rollouts.html",
            }
            for stage in story.reinforcements
        ],
        levels=Markup(figures.levels({stage.stage: stage.metrics for stage in story.reinforcements}) or ""),
        recipe=yaml.safe_dump(story.manifest.recipe, sort_keys=False, allow_unicode=True, width=100),
    )


def _order(curation: Curation) -> str:
    if curation.stretches:
        return figures.lengths(curation.stretches, curation.stage)
    return figures.curriculum(curation.report, curation.stage)


def _row(story: Story, model: str, mode: str) -> dict[str, Any] | None:
    """The row of the aggregate task, or of the only one, or of the first."""
    found = [row for row in story.rows if row["model"] == model and row["mode"] == mode]
    return found[-1] if found and found[-1]["task"] == "all" else (found[0] if found else None)


def headline(story: Story) -> str:
    """The result in one or two sentences."""
    if not story.rows:
        return "No evaluation has finished yet."
    last = story.models[-1]
    on, off = _row(story, last, "on"), _row(story, last, "off")
    best = on or off
    assert best is not None  # a model in `models` has a row
    if best["accuracy"] is None:
        return f"No answer of the {last} model was right or wrong: its problems have no grader, or the graders failed."
    text = f"The {last} model solves {percent(best['accuracy'])} of {best['n']} held-out problems with thinking {best['mode']}"
    if on and off:
        text += f", {percent(off['accuracy'])} with thinking off"
    before = [
        row
        for row in (_row(story, model, mode) for model in story.models[:-1] for mode in ("on", "off"))
        if row
    ]
    if before:
        top = max(before, key=lambda row: row["accuracy"] or 0)
        text += f"; before, the best was {percent(top['accuracy'])} ({top['model']}, {top['mode']})"
    return f"{text}."


def tiles(story: Story) -> list[tuple[str, str, str]]:
    """The few numbers that matter most: (value, what it is, detail)."""
    if not story.rows:
        return []
    last = story.models[-1]
    on, off = _row(story, last, "on"), _row(story, last, "off")
    shown = []
    for row in (on, off):
        if row and row["accuracy"] is not None:
            interval = f"95 % interval {100 * row['low']:.1f} to {percent(row['high'])}"
            shown.append((percent(row["accuracy"]), f"{last}, thinking {row['mode']}", interval))
    if on and off and on["accuracy"] is not None and off["accuracy"] is not None:
        gain = signed_points(on["accuracy"] - off["accuracy"])
        apart = (
            "intervals apart" if on["low"] > off["high"] or off["low"] > on["high"] else "intervals overlap"
        )
        shown.append((gain, "points from thinking", apart))
    obeyed = [row["compliance"] for row in (on, off) if row and row["compliance"] is not None]
    if obeyed:
        shown.append((percent(min(obeyed)), "toggle obeyed", "the lower of the two modes"))
    return shown


def signed_points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def training_words(options: Mapping[str, Any]) -> str:
    """What a training stage trained, and in what steps."""
    what = f"LoRA of rank {options['rank']}" if options.get("full") is False else "all weights"
    size = (
        f"{options['batch_size']:,} samples"
        if "batch_size" in options
        else f"about {options['tokens_per_step']:,} tokens"
    )
    return f"{what}, learning rate {options['lr']}, {size} a step."


def training_facts(metrics: tuple[dict[str, Any], ...]) -> dict[str, str]:
    """What a training came to, in numbers."""
    last = metrics[-1]
    seconds = sum(row["seconds"] for row in metrics)
    tokens = sum(row["tokens"] for row in metrics)
    facts = {
        "steps": f"{last['step']:,}",
        "tokens": f"{tokens:,}",
        "tokens a second": f"{tokens / seconds:,.0f}" if seconds else "–",
        "last loss": f"{last['loss']:.4f}",
    }
    held_out: list[Mapping[str, Any]] = [row for row in metrics if row.get("eval_loss") is not None]
    if held_out:
        facts["held-out loss"] = f"{held_out[-1]['eval_loss']:.4f}"
    return facts


def reinforcement_facts(metrics: tuple[dict[str, Any], ...]) -> dict[str, str]:
    """What a reinforcement learning stage came to, in numbers; shares are those of its first and last fifth of steps."""
    part = max(1, len(metrics) // 5)
    seconds, tokens = (sum(row[name] for row in metrics) for name in ("seconds", "tokens"))
    facts = {
        "steps": f"{metrics[-1]['step']:,}",
        "completion tokens": f"{tokens:,}",
        "tokens a second": f"{tokens / seconds:,.0f}" if seconds else "–",
    }
    for name, key in (("correct, thinking on", "pass_on"), ("correct, off", "pass_off")):
        begun, ended = (
            [row[key] for row in rows if row.get(key) is not None]
            for rows in (metrics[:part], metrics[-part:])
        )
        if begun and ended:
            facts[name] = f"{percent(fmean(begun))} → {percent(fmean(ended))}"
    if (dropped := metrics[-1].get("curriculum/dropped")) is not None:
        facts["problems dropped as too easy"] = f"{dropped:,}"
    return facts


def hacking_warnings(metrics: tuple[dict[str, Any], ...]) -> list[str]:
    """Each warning of the reward hacking watch as it last was, with the steps in which it held."""
    held: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for row in metrics:
        for warned in row.get("warnings", ()):
            held.setdefault((warned["kind"], warned["about"]), []).append((row["step"], warned["text"]))
    last = metrics[-1]["step"]
    return [
        f"Steps {found[0][0]:,} to {found[-1][0]:,}, {len(found):,} of {last:,}: {found[-1][1]}."
        for found in held.values()
    ]
