"""The curves of a run: reward, pass rate and compliance by mode, length, entropy, and how far the policies are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bethink.train.plot import save_figure, smoothed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

_ON, _OFF, _OTHER, _FOURTH = "#7048c6", "#d9822b", "#2b7a78", "#b23a48"
_MISMATCH = "sampler from trainer (nats a token)"
"""On a logarithmic scale: from rounding (1e-7) to two programs that no longer compute the same policy (1) it is a long way."""
_PANELS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("reward", (("reward", "all", _OTHER), ("reward_on", "thinking on", _ON), ("reward_off", "off", _OFF))),
    (
        "correct",
        (
            ("pass_on", "thinking on", _ON),
            ("pass_off", "off", _OFF),
            ("eval_on", "on, held out", _OTHER),
            ("eval_off", "off, held out", _FOURTH),
        ),
    ),
    ("does what the toggle says", (("compliance_on", "thinking on", _ON), ("compliance_off", "off", _OFF))),
    ("tokens of a completion", (("tokens_on", "thinking on", _ON), ("tokens_off", "off", _OFF))),
    ("entropy (nats)", (("entropy", "of a token", _OTHER),)),
    ("KL (nats a token)", (("kl", "policy from reference", _OTHER),)),
    (
        _MISMATCH,
        (
            ("mismatch", "mean", _OTHER),
            ("mismatch_max", "largest", _FOURTH),
            ("mismatch_kl", "KL", _ON),
        ),
    ),
    ("share of tokens", (("clipped", "clipped", _OTHER), ("capped", "importance weight capped", _FOURTH))),
    ("share", (("truncated", "cut at the limit", _OTHER), ("idle", "groups without signal", _FOURTH))),
    ("wrong paid like right", (("disagreement", "share of pairs", _FOURTH),)),
)  # fmt: skip


def plot_run(rows: Sequence[Row], directory: Path) -> None:
    """Write directory/training.svg and training.png from the lines of metrics.jsonl."""
    import matplotlib

    matplotlib.use("agg")
    save_figure(curves(rows, columns=5, size=(17, 6)), directory, "training")


def curves(rows: Sequence[Row], *, columns: int, size: tuple[float, float]) -> Figure:
    """Ten small plots, so many beside each other. size: of all, in inches."""
    from matplotlib.figure import Figure

    rows = [{**row, "idle": row["without_signal"] / max(row["groups"], 1)} for row in rows]
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(_PANELS) // columns, columns)
    for axes, (title, series) in zip(grid.flat, _PANELS, strict=True):
        seen: list[float] = []
        for key, label, colour in series:
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if title == _MISMATCH:
                points = [(step, value) for step, value in points if value > 0]
            if points:
                steps, values = zip(*points, strict=True)
                seen += values
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
                axes.plot(steps, smoothed(values), color=colour, linewidth=1.6, label=label)
        if title == _MISMATCH and seen:
            axes.set_ylim(min(seen) / 2, max(seen) * 2)
            axes.set_yscale("log")
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        if title in ("correct", "does what the toggle says", "wrong paid like right"):
            axes.set_ylim(0, 1.02)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return figure
