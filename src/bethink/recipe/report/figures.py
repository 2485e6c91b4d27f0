"""The report's figures: plain data in, one inline SVG out.

The rooms' palette is replaced by CSS variables of the page afterwards, so a figure follows the reader's light or dark theme. Text stays text. Thinking on is solid, off is hatched or dashed: nothing is told by colour alone.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from bethink.curate import plot
from bethink.curate.plot import DROPPED, FAINT, INK, LINE, OFF, ON
from bethink.curate.report import Report
from bethink.recipe.report.collect import Stretch
from bethink.recipe.results import percent
from bethink.train.plot import epoch_ends, smoothed
from bethink.train.rl.plot import curves

_VARIABLES = {INK: "--ink", FAINT: "--faint", LINE: "--line", ON: "--on", OFF: "--off", DROPPED: "--drop"}
_OFF_HATCH = "////"
_ROWS_OF_A_STRETCH = 30
_LINES: tuple[dict[str, Any], ...] = (
    {"color": ON},
    {"color": OFF, "linestyle": (0, (4, 1.5))},
    {"color": DROPPED, "linestyle": ":"},
    {"color": INK, "linestyle": "-."},
)
_WIDTH = 10.2
"""Inches; the page shows them up to 1,020 pixels wide."""
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
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
        figure, axes = _canvas(0.55 + 0.36 * len(models) * len(modes) + 0.2 * len(models))
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
        axes.tick_params(axis="y", labelsize=11, labelcolor=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.22)  # room for the label of a full bar
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.spines["bottom"].set_bounds(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
        return _svg(
            figure, "accuracy", f"Accuracy on {task} by model, thinking off and on, with 95 % intervals"
        )


def _bar(axes: Any, y: float, row: dict[str, Any], mode: str) -> None:
    colour = ON if mode == "on" else OFF
    style = (
        {"color": colour} if mode == "on" else {"facecolor": "none", "edgecolor": colour, "hatch": _OFF_HATCH}
    )
    axes.barh(y, row["accuracy"], height=0.78, linewidth=1, **style)
    axes.plot([row["low"], row["high"]], [y, y], color=INK, linewidth=1.4, solid_capstyle="butt")
    for end in (row["low"], row["high"]):
        axes.plot([end, end], [y - 0.16, y + 0.16], color=INK, linewidth=1.4)
    label = f"{percent(row['accuracy'])}  thinking {mode}"
    axes.text(row["high"] + 0.015, y, label, va="center", fontsize=10)


def accuracy_against_tokens(rows: Sequence[dict[str, Any]], task: str) -> str:
    """What each model and mode costs in generated tokens, and what it gets for them."""
    points = [_Point.of(row) for row in rows if row["task"] == task and row["accuracy"] is not None]
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(3.6)
        for point in points:
            colour = ON if point.on else OFF
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
            arrowprops={"arrowstyle": "-", "color": LINE, "shrinkA": 0, "shrinkB": 6}
            if box[1] > y + height
            else None,
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def funnel(report: Report, stage: str) -> str:
    """Rows left after each filter that dropped some, with what it dropped."""
    with mpl.rc_context(_STYLE):
        figure = plot.funnel(report)
        return _svg(figure, f"funnel-{stage}", "Rows left after each curation filter")


def curriculum(report: Report, stage: str) -> str:
    """Difficulty along the training order for each mode, and the mix of modes."""
    with mpl.rc_context(_STYLE):
        figure = plot.curriculum(_coarser(report))
        return _svg(figure, f"curriculum-{stage}", "Difficulty along the training order, by mode")


def lengths(stretches: Sequence[Stretch], stage: str) -> str:
    """Completion length along the training order for each mode, where that order is no curriculum."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(2.8)
        for mode in ("on", "off"):
            points = [(stretch.row, stretch.tokens[mode]) for stretch in stretches if mode in stretch.tokens]
            if points:
                axes.plot(*zip(*points, strict=True), label=f"thinking {mode}", **_line_style(mode))
        axes.set_title("Random order: completion length along the training rows")
        axes.set_xlabel("row in training order")
        axes.set_ylabel("completion tokens")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.legend(loc="center right")
        return _svg(figure, f"lengths-{stage}", "Completion tokens along the training order, by mode")


def _coarser(report: Report) -> Report:
    """The report with its curve in stretches of at least 30 rows, so that the mix of modes is no flicker."""
    points = len(report.curve["place"])
    size = -(-_ROWS_OF_A_STRETCH * points // max(report.rows.kept, 1))
    curve = {
        name: [_mean(values[i : i + size]) for i in range(0, points, size)]
        for name, values in report.curve.items()
    }
    return report.model_copy(update={"curve": curve})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def losses(metrics: Sequence[Mapping[str, Any]], stage: str) -> str:
    """Training loss, with thinking on and off where they are told apart, held-out loss, and where passes over the data end."""
    apart = any(row.get(f"loss_{mode}") is not None for row in metrics for mode in ("on", "off"))
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(3.6)
        for mode in ("on", "off") if apart else ("",):
            key = f"loss_{mode}" if mode else "loss"
            line = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
            if line:
                steps, values = zip(*line, strict=True)
                style = _line_style(mode)
                axes.plot(steps, values, **{**style, "alpha": 0.28, "linewidth": 0.9, "linestyle": "-"})
                axes.plot(
                    steps,
                    smoothed(values, _share(len(values))),
                    label=f"thinking {mode}" if mode else "loss",
                    **style,
                )
            held_out = [
                (row["step"], row[f"eval_{key}"]) for row in metrics if row.get(f"eval_{key}") is not None
            ]
            if held_out:
                face = {
                    "markerfacecolor": "none" if mode == "off" else ON,
                    "markeredgecolor": OFF if mode == "off" else ON,
                }
                label = f"{mode}, held-out rows" if mode else "held out"
                axes.plot(*zip(*held_out, strict=True), "D" if mode == "off" else "o", label=label, **face)
        for number, step in enumerate(epoch_ends(metrics), 1):
            axes.axvline(step, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
            axes.annotate(
                f"epoch {number} ends",
                (step, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-4, -2),
                textcoords="offset points",
                fontsize=9,
                color=FAINT,
                ha="right",
                va="top",
                rotation=90,
            )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats a completion token)" if apart else "loss")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_above(axes)
        return _svg(figure, f"losses-{stage}", "Training loss, and held-out loss")


def reinforcement(metrics: Sequence[Mapping[str, Any]], stage: str) -> str:
    """Reward, pass rate, compliance, length, entropy and divergences by step."""
    with mpl.rc_context(_STYLE):
        figure = curves(metrics, columns=2, size=(_WIDTH, 13.75))
        return _svg(figure, "reinforcement", f"Reinforcement learning of stage {stage}")


def levels(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """Held-out accuracy on every level by the completion tokens sampled so far, a line for each stage; None where no stage measured it.

    runs: stage → its metrics.
    """
    prefix = "eval_on_level_"
    rows = {stage: [row for row in found if f"{prefix}0" in row] for stage, found in runs.items()}
    rows = {stage: found for stage, found in rows.items() if found}
    if not rows:
        return None
    count = 1 + max(
        int(key.removeprefix(prefix))
        for found in rows.values()
        for key in found[-1]
        if key.startswith(prefix)
    )
    sampled = {
        stage: dict(
            zip((row["step"] for row in found), accumulate(row["tokens"] for row in found), strict=True)
        )
        for stage, found in runs.items()
    }
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
        panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        for level, axes in enumerate(panels):
            for (stage, found), style in zip(rows.items(), cycle(_LINES), strict=False):
                points = [(sampled[stage][row["step"]] / 1000, row.get(f"{prefix}{level}")) for row in found]
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=stage, **style)
            axes.set_title(f"level {level}", loc="left", fontsize=10)
            axes.grid(visible=True)
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_xlabel("thousand tokens sampled")
        panels[0].set_ylabel("held-out accuracy")
        panels[0].legend(frameon=False, fontsize=8)
        return _svg(figure, "levels", "Held-out accuracy on every level while the stages learn")


def _legend_above(axes: Any) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2, handlelength=2.4)


def _share(points: int) -> float:
    """How much of the past a smoothed curve of so many points keeps: none in a short run."""
    return min(0.97, max(0.0, 1 - 30 / points))


def _line_style(mode: str) -> dict[str, Any]:
    return {"color": OFF, "linestyle": (0, (4, 1.5))} if mode == "off" else {"color": ON}


def _canvas(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True)
    return figure, axes


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an <svg> element with page colours, its own ids, and a title for screen readers."""
    buffer = io.StringIO()
    figure.set_size_inches(_WIDTH, figure.get_figheight())
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_alpha(0)
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A page may hold several figures of a kind: their stage, or what is drawn, tells them apart.
    prefix = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]+;?", "", text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r'\s(width|height|xmlns:xlink|version)="[^"]*"', "", opening)
    title = html.escape(title)
    return f'{opening} role="img" aria-label="{title}"><title>{title}</title>{rest.replace("xlink:href", "href")}'
