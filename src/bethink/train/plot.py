"""The loss curve: thinking on and off apart, held-out points, and where each pass over the data ends.

Epoch ends are marked because a curriculum starts again with easy rows there: the loss falls for that reason alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bethink.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SERIES = (("loss_on", "thinking on", "#7048c6"), ("loss_off", "thinking off", "#d9822b"))
_PLAIN = (("loss", "all tokens", "#7048c6"),)
_SMOOTHING = 0.9


def plot_loss(rows: Sequence[Mapping[str, Any]], directory: Path) -> None:
    """Write directory/loss.svg and loss.png from the lines of metrics.jsonl, if there is one; the modes apart where the rows tell them."""
    if not rows:
        return
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for key, label, colour in _SERIES if "loss_on" in rows[0] else _PLAIN:
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=1)
            axes.plot(steps, smoothed(losses), color=colour, linewidth=1.8, label=label)
        held_out = [(row["step"], row[f"eval_{key}"]) for row in rows if row.get(f"eval_{key}") is not None]
        if held_out:
            axes.plot(
                *zip(*held_out, strict=True), "o", color=colour, markersize=5, label=f"{label}, held out"
            )
    for number, step in enumerate(epoch_ends(rows), 1):
        axes.axvline(step, color="#888888", linestyle="--", linewidth=0.8)
        axes.annotate(
            f"epoch {number}",
            (step, 1),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color="#666666",
            rotation=90,
            ha="right",
            va="top",
        )
    axes.set(xlabel="optimizer step", ylabel="loss (nats per completion token)", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    save_figure(figure, directory, "loss")


def save_figure(figure: Figure, directory: Path, name: str) -> None:
    """Write directory/NAME.svg and NAME.png; the same figure gives the same bytes."""
    for kind in ("svg", "png"):
        with atomic_path(directory / f"{name}.{kind}") as temporary:
            figure.savefig(
                temporary, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None
            )


def epoch_ends(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The steps in which a whole pass over the data was completed."""
    ends, before = [], 0
    for row in rows:
        whole = int(row["epoch"] + 1e-9)
        if whole > before:
            ends.append(row["step"])
        before = whole
    return ends


def smoothed(values: Sequence[float], share: float = _SMOOTHING) -> list[float]:
    """Exponential moving average that starts unbiased: weights share^age, normalised."""
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = total * share + value, weight * share + 1
        result.append(total / weight)
    return result
