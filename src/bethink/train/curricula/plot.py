"""Pictures of a curriculum, from the lines of metrics.jsonl: what it aimed at, what it drew, how that was solved.

The metrics of a curriculum stand there under the prefix `curriculum/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bethink.train.curricula.progressive import POOLS
from bethink.train.plot import save_figure, smoothed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "curriculum"
PREFIX = "curriculum/"
_AIM, _DRAWN, _SOLVED, _FAINT = "#69707a", "#7048c6", "#d9822b", "#d8dce1"
_STYLE = {"svg.hashsalt": "bethink", "svg.fonttype": "none", "text.parse_math": False}

Row = Mapping[str, Any]


def plot_curriculum(rows: Sequence[Row], directory: Path) -> bool:
    """Write directory/curriculum.svg and curriculum.png; False, and nothing, when the rows are of no run with a curriculum."""
    import matplotlib

    matplotlib.use("agg")
    draw = next((draw for key, draw in _KINDS.items() if any(PREFIX + key in row for row in rows)), None)
    if draw is None:
        return False
    with matplotlib.rc_context(_STYLE):
        figure = draw([row for row in rows if any(key.startswith(PREFIX) for key in row)])
        save_figure(figure, directory, FILE)
    return True


def progressive(rows: Sequence[Row]) -> Figure:
    """Above, the Gaussian's centre, the pass rates of what was drawn, and how it was solved; below, the pools that were drawn from."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import PercentFormatter

    figure, (upper, lower) = _two_panels()
    steps, target = _series(rows, "target")
    upper.plot(steps, target, color=_AIM, linestyle="--", label="target: centre of the Gaussian")
    upper.plot(
        *_series(rows, "offline_rate"), color=_DRAWN, linewidth=1.8, label="drawn: pass rate before training"
    )
    _plot_solved(upper, rows)
    upper.set(ylabel="pass rate", ylim=(0, 1))
    upper.set_title("Progressive batching: from easy to hard", loc="left")
    upper.legend(frameon=False)

    counts = [
        [row.get(f"{PREFIX}pool_{100 * pool // POOLS:02d}", 0) for row in rows] for pool in range(POOLS)
    ]
    highest = max((pool + 1 for pool in range(POOLS) if any(counts[pool])), default=POOLS)
    first, last = rows[0]["step"], rows[-1]["step"]
    shade = LinearSegmentedColormap.from_list("drawn", ["#ffffff", _DRAWN])
    lower.imshow(
        counts[:highest],
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap=shade,
        extent=(first - 0.5, last + 0.5, 0, highest / POOLS),
    )
    lower.plot(steps, target, color=_AIM, linestyle="--", linewidth=1)
    lower.set(
        xlabel="step", ylabel="pool drawn from", ylim=(0, highest / POOLS), xlim=(first - 0.5, last + 0.5)
    )
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def mastery(rows: Sequence[Row]) -> Figure:
    """Above, the moving pass rate of each open level; below, the newest open level."""
    import matplotlib
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, (upper, lower) = _two_panels()
    prefix = f"{PREFIX}rate_level_"
    levels = sorted({int(key.removeprefix(prefix)) for row in rows for key in row if key.startswith(prefix)})
    shades = matplotlib.colormaps["viridis"]
    for place, level in enumerate(levels):
        colour = shades(0.9 * (1 - place / max(len(levels) - 1, 1)))
        steps, rates = _series(rows, f"rate_level_{level}")
        upper.plot(steps, rates, color=colour, linewidth=1.8, label=f"level {level}")
        shown = [(step, rate) for step, rate in zip(steps, rates, strict=True) if not math.isnan(rate)]
        # The number where the line begins: levels are not told apart by colour alone.
        upper.annotate(f"{level} ", shown[0], color=colour, fontsize=9, ha="right", va="center")
    upper.set(ylabel="moving pass rate", ylim=(0, 1.02))
    upper.set_title("Mastery gating: pass rate of each open level", loc="left")
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    if 0 < len(levels) <= 12:
        upper.legend(frameon=False, ncols=2)
    lower.step(*_series(rows, "level"), where="post", color=_DRAWN, linewidth=1.8)
    lower.set(xlabel="step", ylabel="newest open level")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


_KINDS = {"target": progressive, "level": mastery}
"""The metric that only one curriculum writes → its picture."""


def _two_panels() -> tuple[Figure, Any]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2]})
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=_FAINT, alpha=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, panels


def _series(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric; NaN where a row has none, which leaves a gap in a line."""
    values = [row.get(PREFIX + name) for row in rows]
    return [row["step"] for row in rows], [math.nan if value is None else value for value in values]


def _plot_solved(axes: Any, rows: Sequence[Row]) -> None:
    known = [row for row in rows if row.get(f"{PREFIX}rate") is not None]
    if not known:
        return
    steps, rates = _series(known, "rate")
    axes.plot(steps, rates, color=_SOLVED, alpha=0.3, linewidth=1)
    axes.plot(steps, smoothed(rates), color=_SOLVED, linewidth=1.8, label="drawn: pass rate now")
