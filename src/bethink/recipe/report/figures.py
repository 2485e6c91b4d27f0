"""The report's figures: plain data in, one inline SVG out.

Each colour is a CSS variable of the page (drawn with a stand-in that is replaced afterwards), so a figure follows the reader's light
or dark theme. Text stays text. Thinking on is solid, off is hatched or dashed: nothing is told by colour alone.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bethink.recipe.report.collect import CurriculumPoint, FunnelStep
from bethink.recipe.results import percent
from bethink.train.plot import epoch_ends, smoothed

_INK, _FAINT, _LINE, _ON, _OFF, _DROP = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {
    _INK: "--ink",
    _FAINT: "--faint",
    _LINE: "--line",
    _ON: "--on",
    _OFF: "--off",
    _DROP: "--drop",
}
_OFF_HATCH = "////"
_FULL_WIDTH, _HALF_WIDTH = 10.2, 5.0
"""Inches; the page shows them 972 and 470 pixels wide, so that text has one size everywhere."""
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "hatch.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
}


def accuracy_bars(rows: Sequence[dict[str, Any]], task: str) -> str:
    """Accuracy of every model with thinking off and on, with 95 % intervals."""
    rows = [row for row in rows if row["task"] == task]
    models = list(dict.fromkeys(row["model"] for row in rows))
    modes = [mode for mode in ("off", "on") if any(row["mode"] == mode for row in rows)]
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(height=0.55 + 0.36 * len(models) * len(modes) + 0.2 * len(models))
        axes.grid(axis="y", visible=False)
        ticks = []
        for index, model in enumerate(models):
            top = index * (len(modes) + 0.55)
            ticks.append(top + (len(modes) - 1) / 2)
            for offset, mode in enumerate(modes):
                row = next((r for r in rows if r["model"] == model and r["mode"] == mode), None)
                if row is None or row["accuracy"] is None:
                    continue
                _bar(axes, top + offset, row, mode)
        axes.set_yticks(ticks, models)
        axes.tick_params(axis="y", labelsize=11, labelcolor=_INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
        return _svg(
            figure, "accuracy", f"Accuracy on {task} by model, thinking off and on, with 95 % intervals"
        )


def _bar(axes: Any, y: float, row: dict[str, Any], mode: str) -> None:
    colour = _ON if mode == "on" else _OFF
    style = (
        {"color": colour} if mode == "on" else {"facecolor": "none", "edgecolor": colour, "hatch": _OFF_HATCH}
    )
    axes.barh(y, row["accuracy"], height=0.78, linewidth=1, **style)
    axes.plot([row["low"], row["high"]], [y, y], color=_INK, linewidth=1.4, solid_capstyle="butt")
    for end in (row["low"], row["high"]):
        axes.plot([end, end], [y - 0.16, y + 0.16], color=_INK, linewidth=1.4)
    label = f"{percent(row['accuracy'])}  thinking {mode}"
    outside = row["high"] < 0.72
    at = row["high"] + 0.015 if outside else 0.012
    axes.text(at, y, label, va="center", fontsize=10, color=_INK)


def accuracy_against_tokens(rows: Sequence[dict[str, Any]], task: str) -> str:
    """What each model and mode costs in generated tokens, and what it gets for them."""
    points = [_Point.of(row) for row in rows if row["task"] == task and row["accuracy"] is not None]
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(height=3.6)
        for point in points:
            colour = _ON if point.on else _OFF
            axes.plot([point.x, point.x], [point.low, point.high], color=colour, linewidth=1.3)
            axes.plot(
                point.x,
                point.y,
                marker="o" if point.on else "D",
                markersize=8,
                markerfacecolor=colour if point.on else "none",
                markeredgecolor=colour,
                markeredgewidth=1.6,
                linestyle="none",
            )
        axes.set_ylim(-0.04, 1.04)
        axes.set_xlim(0, 1.22 * max((point.x for point in points), default=1) or 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
        axes.set_xlabel("mean generated tokens a problem, thinking and answer")
        axes.set_ylabel("accuracy")
        _label_points(figure, axes, points)
        return _svg(figure, "tokens", "Accuracy against mean generated tokens, by model and mode")


@dataclass(frozen=True, slots=True)
class _Point:
    x: float
    y: float
    low: float
    high: float
    on: bool
    text: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> _Point:
        tokens = (row["thinking_tokens"] or 0) + (row["answer_tokens"] or 0)
        text = f"{row['model']}, {row['mode']}"
        return cls(tokens, row["accuracy"], row["low"], row["high"], row["mode"] == "on", text)


def _label_points(figure: Figure, axes: Any, points: Sequence[_Point]) -> None:
    """Label each point in the nearest free place: beside it, else stepwise above it with a thin leader line."""
    figure.draw_without_rendering()  # fixes the layout, so that data positions are known on paper
    paper = [axes.transData.transform((p.x, p.y)) * 72 / figure.dpi for p in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in paper]
    right_edge = axes.get_window_extent().x1 * 72 / figure.dpi
    for point, (x, y) in sorted(zip(points, paper, strict=True), key=lambda pair: pair[1][0]):
        width, height = 5.4 * len(point.text), 11.0
        beside = [(x + 10, y - height / 2), (x - 10 - width, y - height / 2)]
        above = [(x - width / 2, y + lift) for lift in range(22, 150, 13)]
        places = [(left, low, left + width, low + height) for left, low in (*beside, *above)]
        box = next(
            (b for b in places if b[2] < right_edge and not any(_overlap(b, t) for t in taken)), places[0]
        )
        taken.append(box)
        axes.annotate(
            point.text,
            (point.x, point.y),
            xytext=(box[0] - x, box[1] - y + height / 2),
            textcoords="offset points",
            va="center",
            arrowprops={"arrowstyle": "-", "color": _LINE, "shrinkA": 0, "shrinkB": 6}
            if box[1] > y + height
            else None,
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def funnel(steps: Sequence[FunnelStep]) -> str:
    """Rows left after each filter that dropped some, with what it dropped."""
    shown = [step for index, step in enumerate(steps) if index == 0 or step.dropped or step is steps[-1]]
    total = max(shown[0].left, 1)
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(height=0.3 + 0.3 * len(shown), width=_HALF_WIDTH)
        axes.grid(visible=False)
        for y, step in enumerate(shown):
            axes.barh(y, step.left / total, height=0.72, color=_ON, alpha=0.85)
            if step.dropped:
                axes.barh(
                    y,
                    step.dropped / total,
                    left=step.left / total,
                    height=0.72,
                    facecolor="none",
                    edgecolor=_DROP,
                    hatch=_OFF_HATCH,
                    linewidth=0.8,
                )
            text = f"{step.left:,}" + (f"   −{step.dropped:,}" if step.dropped else "")
            axes.text((step.left + step.dropped) / total + 0.012, y, text, va="center", fontsize=9.5)
        axes.set_yticks(range(len(shown)), [step.label for step in shown])
        axes.tick_params(axis="y", labelcolor=_INK)
        axes.set_xlim(0, 1.3)
        axes.set_xticks([])
        axes.invert_yaxis()
        axes.spines["bottom"].set_visible(False)
        return _svg(figure, "funnel", "Rows left after each curation filter")


def curriculum(points: Sequence[CurriculumPoint]) -> str:
    """Median completion length along the training order, for each mode."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(height=3.0, width=_HALF_WIDTH)
        for mode in ("on", "off"):
            line = [(p.position, p.median_tokens) for p in points if p.mode == mode]
            if line:
                axes.plot(*zip(*line, strict=True), label=f"thinking {mode}", **_line_style(mode))
        axes.set_xlabel("row in training order")
        axes.set_ylabel("completion tokens")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        _legend_above(axes)
        return _svg(figure, "curriculum", "Completion tokens along the training order, by mode")


def losses(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Training loss with thinking on and off, held-out loss, and where passes over the data end."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(height=3.6)
        for mode in ("on", "off"):
            key = f"loss_{mode}"
            line = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
            if line:
                steps, values = zip(*line, strict=True)
                style = _line_style(mode)
                axes.plot(steps, values, **{**style, "alpha": 0.28, "linewidth": 0.9, "linestyle": "-"})
                axes.plot(steps, smoothed(values), label=f"thinking {mode}", **style)
            held_out = [
                (row["step"], row[f"eval_{key}"]) for row in metrics if row.get(f"eval_{key}") is not None
            ]
            if held_out:
                face = {
                    "markerfacecolor": _ON if mode == "on" else "none",
                    "markeredgecolor": _ON if mode == "on" else _OFF,
                }
                label = f"{mode}, held-out rows"
                axes.plot(*zip(*held_out, strict=True), "o" if mode == "on" else "D", label=label, **face)
        for number, step in enumerate(epoch_ends(metrics), 1):
            axes.axvline(step, color=_FAINT, linewidth=1, linestyle=(0, (2, 2)))
            axes.annotate(
                f"epoch {number} ends",
                (step, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-4, -2),
                textcoords="offset points",
                fontsize=9,
                color=_FAINT,
                ha="right",
                va="top",
                rotation=90,
            )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats a completion token)")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_above(axes)
        return _svg(figure, "losses", "Training loss by mode, and held-out loss")


def _legend_above(axes: Any) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2, handlelength=2.4)


def _line_style(mode: str) -> dict[str, Any]:
    return {"color": _ON} if mode == "on" else {"color": _OFF, "linestyle": (0, (4, 1.5))}


def _canvas(*, height: float, width: float = _FULL_WIDTH) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an <svg> element with page colours, its own ids, and a title for screen readers."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]+;?", "", text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r'\s(width|height|xmlns:xlink|version)="[^"]*"', "", opening)
    title = html.escape(title)
    return f'{opening} role="img" aria-label="{title}"><title>{title}</title>{rest.replace("xlink:href", "href")}'
