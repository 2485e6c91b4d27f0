"""Reward hacking watch: what a run's own numbers say when a reward is being won without its purpose.

`warnings` looks at the history of a run, `disagreement` at the groups of one step. Both are pure functions; what follows from a warning
is for the caller. Means over windows of steps are compared, since single steps are noise: the last window with every earlier one, so that
a slow slide is seen as well as a sudden one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from bethink.verify.rewards.attempt import Attempt
from bethink.verify.rewards.compose import Scored


@dataclass(frozen=True, slots=True)
class WatchRow:
    """One training step, as it is watched.

    accuracy, compliance, tokens: by mode, the shares of right answers and of completions in the form of their mode, and the mean length
                  of a completion. A mode that had no completions in the step is left out.
    parts:        the mean value of every reward by name, without weights; None where nothing was judged.
    reward:       the mean total; None where everything was masked.
    disagreement: see the function of that name; None where no group had both right and wrong answers.
    """

    step: int
    accuracy: Mapping[str, float]
    compliance: Mapping[str, float]
    tokens: Mapping[str, float]
    parts: Mapping[str, float | None] = field(default_factory=dict)
    reward: float | None = None
    disagreement: float | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as up, down and too much. Shares and rewards are differences, lengths are ratios.

    window:          steps that are averaged; fewer than twice as many say nothing.
    rise, fall:      of accuracy. 0.05 is more than twice the standard error of a mean over 10 steps of 64 completions.
    format_fall:     of compliance, while accuracy rises.
    shorter, longer: the mean length over the earlier one, while accuracy or the reward rises.
    reward_rise:     of the mean total.
    part_rise:       of one reward's mean value, while accuracy falls.
    disagreement:    the share of (right, wrong) pairs in which wrong is rewarded at least as much.
    """

    window: int = 10
    rise: float = 0.05
    fall: float = 0.05
    format_fall: float = 0.1
    shorter: float = 0.5
    longer: float = 2.0
    reward_rise: float = 0.1
    part_rise: float = 0.1
    disagreement: float = 0.2


DEFAULT = Thresholds()


@dataclass(frozen=True, slots=True)
class Warned:
    """One warning that holds now.

    kind:  "format" (accuracy up, format down), "collapse" and "explosion" (accuracy or reward up, length far down or up), "part" (one
           reward up, accuracy down), "disagreement".
    about: the mode or the reward it is about; "" for all.
    since: the last step of the earlier window it is compared with.
    text:  the sentence for people, with the numbers.
    """

    kind: str
    about: str
    since: int
    text: str


def disagreement(
    groups: Sequence[tuple[Sequence[Attempt], Sequence[Scored]]], *, of: str | None = None
) -> float | None:
    """Of all pairs of a right and a wrong attempt of one group, the share in which the wrong one's total is at least as high.

    of: a reward's name: the share in which its value for the wrong one is the higher one; a reward that has the same for both is not
    against the answer, and leaves the total to the others. None where there is no such pair. Attempts that were not graded or are masked
    are left out.
    """
    pairs = against = 0
    for attempts, scores in groups:
        right: list[float] = []
        wrong: list[float] = []
        for attempt, scored in zip(attempts, scores, strict=True):
            value = scored.total if of is None else scored.parts.get(of)
            if scored.total is not None and value is not None and attempt.verdict.counts:
                (right if attempt.verdict.correct else wrong).append(value)
        wrong.sort()
        below = bisect_left if of is None else bisect_right
        pairs += len(right) * len(wrong)
        against += sum(len(wrong) - below(wrong, value) for value in right)
    return against / pairs if pairs else None


def warnings(rows: Sequence[WatchRow], thresholds: Thresholds = DEFAULT) -> list[Warned]:
    """The warnings that hold at the end of `rows`, which are in the order of their steps."""
    found: list[Warned | None] = []
    for mode in _names(row.accuracy for row in rows):
        found.append(_format(rows, mode, thresholds))
        found += [_length(rows, mode, kind, thresholds) for kind in ("collapse", "explosion")]
    found += [_part(rows, name, thresholds) for name in _names(row.parts for row in rows)]
    found.append(_disagreeing(rows, thresholds))
    return [warned for warned in found if warned]


@dataclass(frozen=True, slots=True)
class _Change:
    """Two series then and now, means over a window each. step: the last of the earlier window."""

    step: int
    a: float
    b: float
    a_now: float
    b_now: float


_Series = Callable[[WatchRow], float | None]


def _changes(rows: Sequence[WatchRow], window: int, a: _Series, b: _Series) -> list[_Change]:
    """The last window beside every earlier one that it does not overlap, over the rows in which both series have a value."""
    both = [(row.step, x, y) for row in rows if (x := a(row)) is not None and (y := b(row)) is not None]
    if window < 1 or len(both) < 2 * window:
        return []
    sums = [list(accumulate((row[i] for row in both), initial=0.0)) for i in (1, 2)]
    means = [[(s[end] - s[end - window]) / window for s in sums] for end in range(window, len(both) + 1)]
    a_now, b_now = means[-1]
    return [
        _Change(both[i + window - 1][0], means[i][0], means[i][1], a_now, b_now)
        for i in range(len(means) - window)
    ]


def _worst(changes: Iterable[_Change], severity: Callable[[_Change], float]) -> _Change | None:
    return max(changes, key=severity, default=None)


def _format(rows: Sequence[WatchRow], mode: str, limits: Thresholds) -> Warned | None:
    """Right answers in a wrong form: they may be right for the grader only."""
    changes = _changes(
        rows, limits.window, lambda row: row.accuracy.get(mode), lambda row: row.compliance.get(mode)
    )
    bad = [c for c in changes if c.a_now - c.a >= limits.rise and c.b - c.b_now >= limits.format_fall]
    if (worst := _worst(bad, lambda c: c.b - c.b_now)) is None:
        return None
    text = (
        f"thinking {mode}: since step {worst.step} accuracy rose from {worst.a:.2f} to {worst.a_now:.2f} while the share in the right "
        f"format fell from {worst.b:.2f} to {worst.b_now:.2f}"
    )
    return Warned("format", mode, worst.step, text)


def _length(rows: Sequence[WatchRow], mode: str, kind: str, limits: Thresholds) -> Warned | None:
    """Won by saying next to nothing ("collapse"), or by saying everything ("explosion")."""
    gains: tuple[tuple[str, _Series, float], ...] = (
        ("accuracy", lambda row: row.accuracy.get(mode), limits.rise),
        ("the reward", lambda row: row.reward, limits.reward_rise),
    )
    for name, gain, rise in gains:
        changes = _changes(rows, limits.window, gain, lambda row: row.tokens.get(mode))
        bad = [c for c in changes if c.a_now - c.a >= rise and _ran_away(c, kind, limits)]
        worst = _worst(bad, lambda c: abs(c.b_now - c.b))
        if worst is not None:
            text = (
                f"thinking {mode}: since step {worst.step} {name} rose from {worst.a:.2f} to {worst.a_now:.2f} while the mean length "
                f"went from {worst.b:.0f} to {worst.b_now:.0f} tokens"
            )
            return Warned(kind, mode, worst.step, text)
    return None


def _ran_away(change: _Change, kind: str, limits: Thresholds) -> bool:
    """Whether the second series, a length, went far down or up."""
    if kind == "collapse":
        return change.b_now <= limits.shorter * change.b
    return 0 < limits.longer * change.b <= change.b_now


def _part(rows: Sequence[WatchRow], name: str, limits: Thresholds) -> Warned | None:
    """A reward that is won at the cost of right answers."""
    changes = _changes(rows, limits.window, lambda row: row.parts.get(name), _mean_accuracy)
    bad = [c for c in changes if c.a_now - c.a >= limits.part_rise and c.b - c.b_now >= limits.fall]
    if (worst := _worst(bad, lambda c: c.b - c.b_now)) is None:
        return None
    text = (
        f"since step {worst.step} the reward `{name}` rose from {worst.a:.2f} to {worst.a_now:.2f} while accuracy fell from {worst.b:.2f} "
        f"to {worst.b_now:.2f}"
    )
    return Warned("part", name, worst.step, text)


def _disagreeing(rows: Sequence[WatchRow], limits: Thresholds) -> Warned | None:
    """Rewards that do not tell right from wrong."""
    last = [(row.step, row.disagreement) for row in rows if row.disagreement is not None][-limits.window :]
    if len(last) < limits.window:
        return None
    share = sum(value for _, value in last) / len(last)
    if share <= limits.disagreement:
        return None
    text = f"in {share:.0%} of the pairs of a right and a wrong answer to one problem the wrong one is rewarded at least as much"
    return Warned("disagreement", "", last[0][0], text)


def _mean_accuracy(row: WatchRow) -> float | None:
    return sum(row.accuracy.values()) / len(row.accuracy) if row.accuracy else None


def _names(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """All keys, in the order in which they first occur."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))
