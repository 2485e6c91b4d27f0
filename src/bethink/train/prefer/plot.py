"""The curves of a run: margin, accuracy, loss, and what became of the chosen and the rejected completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bethink.train.plot import save_figure, smoothed

_ON, _OFF, _CHOSEN, _REJECTED = "#7048c6", "#d9822b", "#2b7a78", "#b23a48"
_MODES = (("_on", "thinking on", _ON), ("_off", "thinking off", _OFF))
_PANELS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("margin", tuple((f"margin{end}", label, colour) for end, label, colour in _MODES)),
    ("accuracy", tuple((f"accuracy{end}", label, colour) for end, label, colour in _MODES)),
    ("loss", tuple((f"loss{end}", label, colour) for end, label, colour in _MODES)),
    ("change since before training (nats a token)", (("chosen_change", "chosen", _CHOSEN), ("rejected_change", "rejected", _REJECTED))),
)  # fmt: skip
_SCORES = ("score", (("chosen", "chosen", _CHOSEN), ("rejected", "rejected", _REJECTED)))


def plot_preferences(rows: Sequence[Mapping[str, Any]], directory: Path) -> None:
    """Write directory/training.svg and training.png from the lines of metrics.jsonl; points are held-out pairs."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    panels = _PANELS if any("chosen_change" in row for row in rows) else (*_PANELS[:3], _SCORES)
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for key, label, colour in series:
            for name, marks in ((key, False), (f"eval_{key}", True)):
                points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
                if not points:
                    continue
                steps, values = zip(*points, strict=True)
                if marks:
                    axes.plot(steps, values, "o", color=colour, markersize=4)
                    continue
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
                axes.plot(steps, smoothed(values), color=colour, linewidth=1.6, label=label)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        if title == "accuracy":
            axes.set_ylim(0, 1.02)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    save_figure(figure, directory, "training")
