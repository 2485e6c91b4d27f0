"""The two sides of an equation in prose: from "so 3 boxes × 4 pens = 12 pens" to 3 × 4 and 12.

Finds the calculation that a stretch of text ends or begins with, and says what its surroundings make of it: what stands in front ("the cost
of 3 pens"), what it may mean besides (`Side.values`), and whether what is meant is certain at all. What two sides have to do with each
other is for `steps`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction

from bethink.verify.prose.reader import Reader, UnreadableError
from bethink.verify.prose.tokens import OPERATORS, Token, is_letter

_MAX_RUN = 300
_MODULO = ("mod", "modulo", r"\pmod", r"\bmod", r"\mod")
_STARTS = ("number", "spaced", "vulgar", "open", "fraction", "root", "money", "plus", "minus")
_KINDS_OF_UNITS = {
    "money": "$ ¢ €",
    "time": "s min h day week month year",
    "length": "mm cm m km in ft yd mi",
    "mass": "mg g kg lb oz ton",
    "volume": "mL L gal",
}
_KIND_OF = {unit: kind for kind, names in _KINDS_OF_UNITS.items() for unit in names.split()}
_JOINING_TEXT = (
    "and or of from to by than into mod modulo over choose per less more root with between sum product base"
)
_JOINING = frozenset(_JOINING_TEXT.split())
"""Words before a number that make it a part of something said in words."""
_CONNECTIVES_TEXT = "so then hence thus therefore because since where next now"
_CONNECTIVES = frozenset(_CONNECTIVES_TEXT.split())
_SUPPOSING_TEXT = "if whether unless suppose supposing assume assuming not isn't maybe perhaps"
_SUPPOSING = frozenset(_SUPPOSING_TEXT.split())


@dataclass(frozen=True, slots=True)
class Side:
    """A calculation as one side of an equation.

    start, end:  characters of the text.
    values:      its value, exactly, and behind it those of other readings; empty where it holds more than numbers.
    first:       the value of its first number, for sums that run on (2 + 3 = 5 + 4 = 9).
    operations:  how many operations there are; idle: how many of them change nothing (+ 0, × 1).
    places:      for a side that is one number written out: how many decimals it has, negative for zeros at its end; else None.
    percent:     that number is a percentage. dots: it goes on ("3.33…"). decimals: the most that a number in it has.
    units:       known units in it. labelled: words stand behind its numbers.
    doubtful:    what is meant is not certain, so that it can be right, but not wrong.
    after_word:  a word stands before it: "the cost of 3 pens". whole: nothing else stands in the run.
    supposed:    "if" or the like stands before it. asked: the run ends in a question mark.
    """

    start: int
    end: int
    values: tuple[Fraction, ...]
    first: Fraction
    operations: int
    idle: int
    places: int | None
    percent: bool
    dots: bool
    decimals: int
    units: frozenset[str]
    labelled: bool
    doubtful: bool
    after_word: bool = False
    whole: bool = False
    supposed: bool = False
    asked: bool = False


def right_of(run: list[Token], end: Token | None) -> Side | None:
    """The calculation that `run` begins with, None when it begins with something else. end: the token behind the run, if it is no sign."""
    run = run[:_MAX_RUN]
    reader = Reader(run, 0)
    try:
        reader.calculation()
    except UnreadableError:
        return None
    rest = run[reader.at :]
    asked = end is not None and end.text in ("?", "？")
    side = replace(_side(reader, 0), whole=not rest, asked=asked)
    if len(rest) > 1 and rest[0].kind in (*OPERATORS, "power"):
        # "7 * y" is more than 7; "7 - which is" may be.
        more = rest[1].kind != "word" or is_letter(rest[1])
        return replace(side, values=()) if more else replace(side, doubtful=True)
    if rest and rest[0].kind in ("open", "fraction", "root") and rest[0].start == side.end:
        return replace(side, values=())
    modulo = any(token.text.lower() in _MODULO for token in rest[:2])
    return replace(side, doubtful=side.doubtful or modulo)


def left_of(run: list[Token], before: Token | None) -> Side | None:
    """The calculation that `run` ends with, None when it ends in something else. before: the token in front of the run, if it is no sign."""
    run = run[-_MAX_RUN:]
    while run and run[-1].kind == "money":  # the $ that ends a formula
        run = run[:-1]
    at = 0
    while at < len(run):
        reader = Reader(run, at)
        try:
            if run[at].kind not in _STARTS:
                raise UnreadableError
            reader.calculation()
        except UnreadableError:
            at += 1
            continue
        if reader.at == len(run):
            return _with_context(_side(reader, at), run, at, before)
        at = reader.at
    return None


def _with_context(side: Side, run: list[Token], at: int, before: Token | None) -> Side:
    """A left side with what stands in front of it: a word, an operator that takes something else, "if"."""
    here, last = run[at], run[at - 1] if at else None
    supposed = any(
        token.kind == "word" and token.text.lower() in _SUPPOSING for token in run[max(0, at - 3) : at]
    )
    side = replace(
        side, after_word=last is not None and last.kind == "word", whole=at == 0, supposed=supposed
    )
    if here.kind in ("plus", "minus") and (last is None or last.kind not in ("open", "money")):
        spaced = at + 1 < len(run) and run[at + 1].start > here.end
        if last is None:
            list_mark = here.kind == "minus" and (before is None or before.kind == "row" or not spaced)
            return side if list_mark else replace(side, values=())
        signs_number = last.kind == "word" and last.end < here.start and not spaced  # "is -5 + 3"
        return replace(side, doubtful=True) if signs_number else replace(side, values=())
    if last is None or last.kind in ("open", "money", "label"):
        return side
    if last.kind in (*OPERATORS, "power"):
        # The * of a list or of bold type takes nothing in front of it.
        mark = last.text in ("*", "**") and (
            at == 1 or (run[at - 2].end < last.start and last.end == here.start)
        )
        return side if mark else replace(side, values=())
    if last.kind == "word":
        if last.end == here.start and last.text.isascii():
            return replace(side, values=())  # x2, f(3)
        operand = at > 1 and run[at - 2].kind in ("number", "spaced", "vulgar", "percent", "close")
        joined = operand and last.text.lower() not in _CONNECTIVES  # 2 mod 5 + 3
        return replace(side, doubtful=side.doubtful or joined or last.text.lower() in _JOINING)
    numbering = last.kind == "close" and at <= 3
    return replace(side, doubtful=side.doubtful or not numbering)


def conflicting(left: Side, right: Side) -> bool:
    """Whether different units of one kind (hours and minutes) stand in them, so that a conversion may be meant."""
    seen: dict[str, str] = {}
    for unit in left.units | right.units:
        kind = _KIND_OF.get(unit)
        if kind and seen.setdefault(kind, unit) != unit:
            return True
    return False


def _side(reader: Reader, at: int) -> Side:
    """What `reader` read from run[at] on, with its other readings."""
    values: list[Fraction] = []
    if not reader.opaque:
        values = list(dict.fromkeys([reader.value, *_other_readings(reader, at)]))
    bare = reader.numbers == 1 and not reader.operations
    return Side(
        start=reader.run[at].start,
        end=reader.run[reader.at - 1].end,
        values=tuple(values),
        first=reader.first,
        operations=reader.operations,
        idle=reader.idle,
        places=reader.places if bare else None,
        percent=bare and reader.percent,
        dots=bare and reader.dots,
        decimals=reader.decimals,
        units=frozenset(reader.units),
        labelled=reader.labelled,
        doubtful=reader.doubtful,
    )


def _other_readings(reader: Reader, at: int) -> Iterator[Fraction]:
    """The list mark of "- 5 + 3", the exclamation of "= 7!", the remark of "= 7 (2)", taken for what they may be."""
    run, others = reader.run, []
    if run[at].kind == "minus" and run[at + 1].start > run[at].end:
        others.append(Reader(run, at + 1))
    if reader.banged_at_end:
        others.append(Reader(run, at, banged=False))
    if reader.loosely_joined:
        others.append(Reader(run, at, loose=False))
    for other in others:
        with suppress(UnreadableError):
            other.calculation()
            if not other.opaque:
                yield other.value
