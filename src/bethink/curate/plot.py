"""The pictures of a run: the funnel (what each filter dropped) and the curriculum (how difficulty rises).

Drawn from the report alone, so they can be drawn again; equal reports give equal files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bethink.core.files import atomic_path
from bethink.curate.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ON, OFF, DROPPED, INK, FAINT, LINE = "#7048c6", "#d9822b", "#c8372d", "#1f2328", "#69707a", "#d8dce1"

_STYLE = {
    "svg.hashsalt": "bethink",
    "svg.fonttype": "none",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def draw(report: Report, directory: Path) -> None:
    """Write funnel.svg, funnel.png, curriculum.svg and curriculum.png to `directory`."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        _save(funnel(report), directory, "funnel")
        _save(curriculum(report), directory, "curriculum")


def funnel(report: Report) -> Figure:
    """Rows left after each filter that dropped some, and how many it dropped."""
    from matplotlib.figure import Figure

    read = report.rows.read
    steps = [("read", read, 0)]
    for name, dropped in report.rows.dropped.items():
        if dropped:
            steps.append((name.replace("_", " "), steps[-1][1] - dropped, dropped))
    figure = Figure(figsize=(8.4, 1.1 + 0.36 * len(steps)), layout="constrained")
    axes = figure.add_subplot()
    whole = max(read, 1)
    for y, (_, left, dropped) in enumerate(steps):
        axes.barh(y, left / whole, height=0.7, color=ON)
        axes.barh(y, dropped / whole, left=left / whole, height=0.7, color=DROPPED, alpha=0.28)
        axes.text(
            (left + dropped) / whole + 0.012,
            y,
            f"{left:,}",
            va="center",
            fontweight="bold" if y == 0 else None,
        )
        if dropped:
            axes.text(1.24, y, f"−{dropped:,}", va="center", ha="right", color=DROPPED)
            axes.text(1.335, y, f"{dropped / whole:.1%}", va="center", ha="right", color=FAINT)
    axes.set_yticks(range(len(steps)), [name for name, _, _ in steps])
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.34)
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    share = report.rows.kept / whole
    axes.set_title(f"{report.rows.kept:,} of {read:,} rows kept ({share:.0%})")
    return figure


def curriculum(report: Report) -> Figure:
    """Above, the difficulty along the curriculum for each mode; below, the share of thinking-on rows in each stretch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    curve, kept = report.curve, report.rows.kept
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    places = [(place or 0.0) * kept for place in curve["place"]]
    for mode, colour, style in (("on", ON, "-"), ("off", OFF, (0, (4, 1.5)))):
        points = [(x, y) for x, y in zip(places, curve[mode], strict=True) if y is not None]
        if points:
            label = f"thinking {mode} ({report.modes[mode]:,} rows)"
            upper.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=2, label=label)
    shares = [share or 0.0 for share in curve["on_share"]]
    lower.fill_between(places, shares, color=ON, alpha=0.3, linewidth=0)
    lower.fill_between(places, shares, 1, color=OFF, alpha=0.3, linewidth=0)
    lower.set_ylim(0, 1)
    lower.set_yticks([0, 0.5, 1])
    lower.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set_xlabel("row in training order")
    lower.set_ylabel("on | off")
    lower.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    upper.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if abs(y) >= 10 else f"{y:g}"))
    upper.set_ylabel(_difficulty_name(report))
    upper.set_title("The curriculum: difficulty rises within each mode")
    upper.grid(axis="y")
    if upper.get_legend_handles_labels()[0]:
        upper.legend(loc="upper left")
        upper.set_ylim(bottom=min(0, *upper.get_ylim()))
    for axes in (upper, lower):
        axes.margins(x=0.01)
    return figure


def _difficulty_name(report: Report) -> str:
    config: dict[str, Any] = report.config
    if config["order"] == "random":
        return "position drawn (order random)"
    return str(config["difficulty"]).removeprefix("field:").replace("_", " ")


def _save(figure: Figure, directory: Path, name: str) -> None:
    kinds = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    for kind, metadata in kinds.items():
        with atomic_path(directory / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=144, metadata=metadata, facecolor="white")
