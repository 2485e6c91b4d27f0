"""How many rows of each source and mode are taken, so that sources and modes have their shares: arithmetic on counts alone.

A source is a part of the rows that has a share of its own. Nothing is repeated: the source that is scarcest for its share decides how
many rows there are, and the others give way. A source that is to have `up to` a share decides nothing and fills up what the others leave.

With a ratio of the modes both hold at once: of the rows a source may have, each source gives more of one mode or of the other, by the
same part of the way to the most it can give, until the whole has the ratio. How many rows there can be then is a transportation problem
with two columns: rows of mode m suffice for t rows a part when, for every set S of sources, those of S and the parts of the others do
(max-flow min-cut), and the sets to look at are those that run out first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

ANY = "any"
UP_TO = "up to "
_PARTS = re.compile(rf"({UP_TO})?(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Source:
    """A part of the rows. name: the number of an input, a category or `any`; parts: its share, 0 for rows that get none; fills: it
    has up to these parts."""

    name: str
    parts: Fraction
    fills: bool = False


WHOLE = (Source(ANY, Fraction(1)),)
"""All rows as one source."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many rows of one source and mode there are (found), may stay for the mix (mixed) and for the ratio (balanced), and are taken."""

    found: int
    mixed: int
    balanced: int
    taken: int


Pair = tuple[int, int]
"""Rows with thinking on and off."""


def read_sources(mix: Mapping[str, str]) -> tuple[Source, ...]:
    """The sources of a mix, in its order. Raises ValueError for a share that is none, and where no source decides the number of rows."""
    sources = []
    for name, share in mix.items():
        found = _PARTS.fullmatch(share)
        if not name or found is None or not float(found[2]):
            raise ValueError(
                f"{name}={share} is no share: write a number above 0 (1=3,any=1), or `{UP_TO}3` for a source that fills up"
            )
        sources.append(Source(name, Fraction(found[2]), fills=found[1] is not None))
    if all(source.fills for source in sources):
        raise ValueError(f"nothing says how many rows there are: give one share without `{UP_TO.strip()}`")
    return tuple(sources)


def by_input(sources: Sequence[Source]) -> bool:
    """Whether the sources are inputs, called by their number from 1; else they are categories."""
    return all(source.name == ANY or source.name.isdecimal() for source in sources)


def shares(
    found: Sequence[Pair],
    sources: Sequence[Source],
    on_per_off: Fraction | None = None,
    max_samples: int | None = None,
) -> list[tuple[Share, Share]]:
    """How many of the rows `found` of each source are taken, thinking on and off.

    A source's share holds to within a row, the ratio to within a row a source. The ratio needs sources that all have fixed shares.
    """
    scale = min(
        Fraction(sum(rows), source.parts)
        for rows, source in zip(found, sources, strict=True)
        if source.parts and not source.fills
    )
    mixed = _rows(found, sources, scale)
    on = None
    if on_per_off is not None:
        on_share = on_per_off / (1 + on_per_off)
        scale = min(scale, _most_with_ratio(found, sources, on_share))
        on = math.floor(scale * on_share * sum(source.parts for source in sources))
    balanced = _by_mode(found, _rows(found, sources, scale), on)
    taken = _taken(balanced, sources, max_samples)
    result = []
    for rows, kept, few, fewer in zip(found, mixed, balanced, taken, strict=True):
        by_mix = scaled([rows[0] - few[0], rows[1] - few[1]], sum(rows) - kept)
        thinking, plain = (
            Share(rows[mode], rows[mode] - by_mix[mode], few[mode], fewer[mode]) for mode in (0, 1)
        )
        result.append((thinking, plain))
    return result


def scaled(counts: Sequence[int], total: int) -> list[int]:
    """`counts` brought down to a sum of `total` in proportion, none above what it was."""
    whole = sum(counts)
    return _whole([Fraction(count * total, whole) if whole else Fraction(0) for count in counts], total)


def _whole(values: Sequence[Fraction], total: int) -> list[int]:
    """Whole numbers with the sum `total`, each next to its value: the largest remainders are rounded up, of equal ones the first."""
    whole = [math.floor(value) for value in values]
    by_rest = sorted(range(len(values)), key=lambda index: (whole[index] - values[index], index))
    for index in by_rest[: total - sum(whole)]:
        whole[index] += 1
    return whole


def _rows(found: Sequence[Pair], sources: Sequence[Source], scale: Fraction) -> list[int]:
    """Rows of each source at `scale` rows a part."""
    return [
        min(sum(rows), math.floor(source.parts * scale)) for rows, source in zip(found, sources, strict=True)
    ]


def _most_with_ratio(found: Sequence[Pair], sources: Sequence[Source], on_share: Fraction) -> Fraction:
    """The most rows a part at which the whole can have its share of each mode."""
    having = [(rows, source.parts) for rows, source in zip(found, sources, strict=True) if source.parts]
    total = sum(parts for _, parts in having)
    bounds = []
    for mode, share in ((0, on_share), (1, 1 - on_share)):
        rows, others = 0, total
        for pair, parts in sorted(having, key=lambda one: Fraction(one[0][mode], one[1])):
            rows, others = rows + pair[mode], others - parts
            if share * total > others:
                bounds.append(rows / (share * total - others))
    return min(bounds)


def _by_mode(found: Sequence[Pair], rows: Sequence[int], on: int | None) -> list[Pair]:
    """The `rows` of each source by mode: as it has them, or so that `on` of all are thinking-on rows, as nearly as can be."""
    least = [max(0, count - pair[1]) for count, pair in zip(rows, found, strict=True)]
    most = [min(count, pair[0]) for count, pair in zip(rows, found, strict=True)]
    own = [Fraction(count * pair[0], max(sum(pair), 1)) for count, pair in zip(rows, found, strict=True)]
    have = sum(own, Fraction(0))
    wanted = round(have) if on is None else min(max(on, sum(least)), sum(most))
    ends = most if wanted > have else least
    way = Fraction(wanted - have, sum(ends) - have) if wanted != have else Fraction(0)
    thinking = _whole([here + way * (end - here) for here, end in zip(own, ends, strict=True)], wanted)
    return [(here, count - here) for here, count in zip(thinking, rows, strict=True)]


def _taken(balanced: Sequence[Pair], sources: Sequence[Source], most: int | None) -> list[Pair]:
    """At most `most` of the rows: those that fill up give way first, then all in proportion."""
    taken = [list(pair) for pair in balanced]
    left = most if most is not None else sum(map(sum, balanced))
    for fills in (False, True):
        cells = [(s, mode) for s, source in enumerate(sources) if source.fills is fills for mode in (0, 1)]
        counts = [balanced[s][mode] for s, mode in cells]
        kept = min(left, sum(counts))
        for (s, mode), count in zip(cells, scaled(counts, kept), strict=True):
            taken[s][mode] = count
        left -= kept
    return [(on, off) for on, off in taken]
