r"""The shape of an answer: a number or expression, a list, a pair, a set, a matrix, an equation, a word.

`read` takes cleaned LaTeX apart down to leaves without brackets or commas. Shapes are read here, by rules that can be looked up below,
and not by a computer algebra system, because there (1,2) is an open interval equal to the set {2, 1}, x + y = 0 equals 0, and 2516_8
equals 2516_7. What two leaves have to do with each other is decided by `compare`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from bethink.verify import algebra, polynomial, units
from bethink.verify.latex import clean, enclosed, split_top

MAX_CHARACTERS = 1000
"""Longer answers are not read: no reference answer is that long, and reading must stay fast whatever a model writes."""


@dataclass(frozen=True)
class Leaf:
    """An expression without parts. text: its cleaned LaTeX, unit taken off; unit: see `units.take`; words: the text when it is language,
    not mathematics, in lower case; decimal: it is written with a decimal point."""

    text: str
    unit: str | None = None
    words: str | None = None

    @property
    def value(self) -> polynomial.Polynomial | None:
        """The exact value, where `algebra` knows it."""
        return None if self.words is not None else algebra.value(self.text)

    @property
    def decimal(self) -> bool:
        return "." in self.text


@dataclass(frozen=True)
class Based:
    """Digits in a stated base (2516_8)."""

    digits: str
    base: int


@dataclass(frozen=True)
class Ratio:
    """Numbers with colons between them: a ratio or a time of day."""

    terms: tuple[Fraction, ...]
    unit: str | None = None


@dataclass(frozen=True)
class Group:
    """Several answers in one. list: bare commas or "and"/"or", any order; set: {…}; tuple: (…) in order, of three or more or ⟨…⟩;
    pair: two between ( or [ and ) or ], a point or an interval; union: intervals joined by ∪, any order."""

    kind: Literal["list", "set", "tuple", "pair", "union"]
    items: tuple[Form, ...]
    ends: str = ""


@dataclass(frozen=True)
class Matrix:
    """Rows of equal or unequal length."""

    rows: tuple[tuple[Form, ...], ...]


@dataclass(frozen=True)
class Relation:
    """left op right, op one of = <  ≤ ≠ (spelled "=", "<", "<=", "!=")."""

    op: str
    left: Leaf
    right: Leaf


@dataclass(frozen=True)
class Named:
    """name = value: an answer with its name (x = 5, f(x) = 2x). `relation` is the same as an equation, where the value is a leaf."""

    name: str
    value: Form
    relation: Relation | None


@dataclass(frozen=True)
class Chain:
    """The same value several times (0.56 = 56\\%, 2/3 ≈ 0.67). `about`: with an approximation sign."""

    items: tuple[Form, ...]
    about: bool


Form = Leaf | Based | Ratio | Group | Matrix | Relation | Named | Chain

_AND_OR = re.compile(r"\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\{])(?:and|or)(?![A-Za-z])")
_REPEATED_COMMA = re.compile(r",(?:\s*,)+")
_ALL_TEXT = re.compile(r"\\text\{(?P<inside>[^{}]*)\}(?P<base>\s*_\s*\{?\s*\d+\s*\}?)?")
_COMMAS = frozenset({",", ";"})
_CUPS = frozenset({r"\cup"})
_ROWS = frozenset({r"\newline"})
_CELLS = frozenset({"&"})
_EQUALS = frozenset({"=", r"\approx"})
_ORDER = frozenset({"<", ">", r"\le", r"\ge", r"\ne"})
_SUCH_THAT = frozenset({r"\mid", "|", ":"})
_IN = frozenset({r"\in"})
_THEREFORE = re.compile(r".*\\(?:implies|Rightarrow|Longrightarrow|therefore|iff)(?![A-Za-z])", re.DOTALL)
_GROUPED_NUMBER = re.compile(
    r"(?:\\\$)?\s*-?\s*(?:\\\$)?\s*\d{1,3}(?P<mark>[, ])\d{3}(?:(?P=mark)\d{3})*(?![\d,])(?:\.\d+)?(?P<rest>[^,;]*)"
)
_BASED = re.compile(
    r"(?P<digits>-?\d[0-9A-Za-z]*|[A-F][0-9A-F]*)\s*_\s*(?:\{\s*(?:\\text\{\s*(?:base)?\s*)?(?P<base>\d{1,2})\s*\}?\s*\}|(?P<short>\d{1,2}))"
)
_BASE_WORDS = re.compile(
    r"(?P<digits>-?[0-9A-F]+),? \(?(?:in )?base[- ](?P<base>\d{1,2}|[a-z]+)\)?", re.IGNORECASE
)
_RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+")
_NUMBER_WORDS = {word: n for n, word in enumerate(units.NUMBER_NAMES)}
_SHORT_WORDS = frozenset({*_NUMBER_WORDS, "yes", "no", "true", "none", "odd", "even", "left", "up", "down"})
"""Words that are read as words without \\text, though they are short enough for a product of letters."""
_LETTER = r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|phi|omega|Delta))"
_NAME = re.compile(
    rf"(?:m?\s*\\(?:angle|triangle|overline|vec|hat)\s*\{{?\s*)?{_LETTER}(?:_\{{?\w+\}}?)?'*(?:\^\{{-1\}})?(?:\s*\([^=<>]*\))?\s*\}}?"
    r"|(?:m?\s*\\(?:angle|triangle|overline)\s*\{?\s*)?[A-Z]{2,4}\s*\}?"
    r"|\\text\{[^{}]*\}|[A-Za-z]{4,}(?: [A-Za-z]+)*"
)
_EMPTY = Leaf(r"\emptyset", words="empty set")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_SCIENTIFIC = re.compile(r"[-+]?\s*(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})[eE][-+]?\d{1,3}")


@lru_cache(maxsize=8192)
def read(answer: str) -> Form:
    """The form of an answer as it was written. Never raises; what has no other shape is a leaf."""
    if len(answer) > MAX_CHARACTERS:
        return Leaf(answer)
    return _read(clean(answer))


def scientific(text: str) -> Fraction | None:
    """The number that "1.5e-3" is in scientific notation. As mathematics it may also be 1.5·e - 3: `compare` tries both."""
    text = text.strip().replace("−", "-")
    return Fraction(text.replace(" ", "")) if _SCIENTIFIC.fullmatch(text) else None


def _read(text: str, *, depth: int = 0) -> Form:
    if depth > 20:
        return Leaf(text)
    text = _THEREFORE.sub("", text).strip()
    while match := _ALL_TEXT.fullmatch(text):
        text = clean(match["inside"] + (match["base"] or ""))
        if _WORDS.fullmatch(text) and (len(text) > 1):
            return _words(text)
    for reader in (_matrix, _several, _statement, _bracketed):
        if (form := reader(text, depth)) is not None:
            return form
    return _digits(text) or _leaf(text)


def _inner(text: str, depth: int) -> Form:
    return _read(text, depth=depth + 1)


def _parts(text: str, separators: frozenset[str]) -> list[str]:
    return [part for _, part in split_top(text, separators) if part]


def _items(text: str, depth: int) -> tuple[Form, ...]:
    return tuple(_inner(part, depth) for part in _parts(_commas(text), _COMMAS))


def _commas(text: str) -> str:
    return _REPEATED_COMMA.sub(",", _AND_OR.sub(",", text))


def _matrix(text: str, depth: int) -> Matrix | None:
    outer = enclosed(text)
    if not outer or outer[0] != r"\begin{matrix}":
        return None
    rows = (tuple(_inner(cell, depth) for cell in _cells(row)) for row in _parts(outer[1], _ROWS))
    return Matrix(tuple(rows))


def _cells(row: str) -> list[str]:
    return [part for _, part in split_top(row, _CELLS)]


def _several(text: str, depth: int) -> Form | None:
    """Commas, "and", "or", ∪ and ± outside brackets. A comma between groups of three digits belongs to the number."""
    if (match := _GROUPED_NUMBER.fullmatch(text)) and not any(sign in match["rest"] for sign in "([{=/"):
        return _inner(text[: match.start("rest")].replace(match["mark"], "") + match["rest"], depth)
    joined = _commas(text)
    parts = _parts(joined, _COMMAS)
    if len(parts) > 1:
        items = tuple(_inner(part, depth) for part in parts)
        if len(split_top(text, _COMMAS)) == 1 and all(
            isinstance(item, Group) and item.kind == "pair" for item in items
        ):
            return Group("union", items)
        return Group("list", items)
    if len(pieces := _parts(text, _CUPS)) > 1:
        return Group("union", tuple(_inner(piece, depth) for piece in pieces))
    if text.count(r"\pm") == 1:
        name, equals, _ = text.partition("=")
        names = name + equals if equals and r"\pm" not in name else ""
        plus, minus = text.replace(r"\pm", "+"), text.replace(r"\pm", "-")
        return Group("list", (_inner(plus, depth), _inner(minus, depth))) if names or not equals else None
    return None


def _statement(text: str, depth: int) -> Form | None:
    """Membership, equalities, inequalities."""
    belongs = split_top(text, _IN)
    if len(belongs) == 2 and _NAME.fullmatch(belongs[0][1]):
        return _inner(belongs[1][1], depth)
    equal = [(sign, part) for sign, part in split_top(text, _EQUALS) if part]
    if len(equal) == 1 and equal[0][0]:
        return _inner(equal[0][1], depth)  # "= 5", "≈ 5"
    if len(equal) > 1:
        return _equality(equal, depth)
    ordered = split_top(text, _ORDER)
    return _inequality(ordered, depth) if len(ordered) > 1 and all(part for _, part in ordered) else None


def _equality(parts: list[tuple[str, str]], depth: int) -> Form:
    if len(parts) == 2 and _NAME.fullmatch(parts[1][1]) and not _NAME.fullmatch(parts[0][1]):
        parts = [parts[1], (parts[1][0], parts[0][1])]  # 5 = x is x = 5
    first, rest = parts[0][1], parts[1:]
    about = any(sign == r"\approx" for sign, _ in rest)
    values = tuple(_inner(part, depth) for _, part in rest)
    if _NAME.fullmatch(first):
        value = values[0] if len(values) == 1 else Chain(values, about)
        relation = Relation("=", _leaf(first), value) if isinstance(value, Leaf) and not about else None
        return Named(first.replace(" ", ""), value, relation)
    left = _inner(first, depth)
    if (
        len(values) == 1
        and isinstance(left, Leaf)
        and isinstance(values[0], Leaf)
        and not about
        and _has_letters(left, values[0])
    ):
        return Relation("=", left, values[0])
    return Chain((left, *values), about)


def _has_letters(*leaves: Leaf) -> bool:
    return any(leaf.value is None or polynomial.letters(leaf.value) for leaf in leaves)


def _inequality(parts: list[tuple[str, str]], depth: int) -> Form | None:
    """A bound on one name is the interval it means; any other inequality stays one, turned to < or ≤."""
    signs, sides = [sign for sign, _ in parts[1:]], [part for _, part in parts]
    if any(sign in (">", r"\ge") for sign in signs):
        signs = [{">": "<", r"\ge": r"\le"}.get(sign, "") for sign in reversed(signs)]
        sides.reverse()
    if not all(sign in ("<", r"\le") for sign in signs):
        return Relation("!=", _leaf(sides[0]), _leaf(sides[1])) if signs == [r"\ne"] else None
    minus, plus = r"-\infty", r"\infty"
    if len(sides) == 3 and _NAME.fullmatch(sides[1]):
        low, high = sides[0], sides[2]
        ends = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    elif len(sides) == 2 and _NAME.fullmatch(sides[0]) and _is_constant(sides[1]):
        low, high, ends = minus, sides[1], "()" if signs[0] == "<" else "(]"
    elif len(sides) == 2 and _NAME.fullmatch(sides[1]) and _is_constant(sides[0]):
        low, high, ends = sides[0], plus, "()" if signs[0] == "<" else "[)"
    else:
        return (
            Relation("<" if signs[0] == "<" else "<=", _leaf(sides[0]), _leaf(sides[1]))
            if len(sides) == 2
            else None
        )
    return Group("pair", (_inner(low, depth), _inner(high, depth)), ends)


def _is_constant(text: str) -> bool:
    value = _leaf(text).value
    return value is not None and not polynomial.letters(value)


def _bracketed(text: str, depth: int) -> Form | None:
    outer = enclosed(text)
    if not outer:
        return None
    opener, inside, closer = outer
    if (opener, closer) == ("{", "}"):
        return _inner(inside, depth)
    if (
        opener == r"\{"
        and len(condition := split_top(inside, _SUCH_THAT)) == 2
        and _NAME.match(condition[0][1])
    ):
        return _inner(condition[1][1], depth)
    items = _items(inside, depth)
    if opener == r"\{" and closer == r"\}":
        return Group("set", items) if inside else _EMPTY
    if opener == r"\langle" and len(items) > 1:
        return Group("tuple" if len(items) > 2 else "pair", items, "()")
    if opener in "([" and closer in ")]":
        if len(items) == 2:
            return Group("pair", items, opener + closer)
        if len(items) > 2:
            return Group("tuple", items)
        if len(items) == 1 and opener + closer in ("()", "[]"):
            return items[0]
    return None


def _digits(text: str) -> Form | None:
    """Numbers in a base, ratios and times."""
    if match := _BASED.fullmatch(text):
        return Based(match["digits"].upper(), int(match["base"] or match["short"]))
    if match := _BASE_WORDS.fullmatch(text):
        base = match["base"].lower()
        number = int(base) if base.isdecimal() else _NUMBER_WORDS.get(base)
        return Based(match["digits"].upper(), number) if number else None
    rest, unit = units.take(text)
    if _RATIO.fullmatch(rest.strip()):
        return Ratio(tuple(Fraction(term.strip()) for term in rest.split(":")), unit)
    return None


def _leaf(text: str) -> Leaf:
    if text == r"\emptyset":
        return _EMPTY
    if units.goes_on(text):
        return _words(text)
    rest, unit = units.take(text)
    rest = rest.strip()
    if unit is not None and rest:
        outer = enclosed(rest)
        return Leaf(outer[1] if outer and outer[0] in "({" else rest, unit)
    if _WORDS.fullmatch(text) and (len(text) >= 5 or " " in text or text.lower() in _SHORT_WORDS):
        return _words(text)
    return Leaf(rest)


def _words(text: str) -> Leaf:
    plain = " ".join(text.lower().replace("-", " ").split())
    if plain in _NUMBER_WORDS:
        return Leaf(str(_NUMBER_WORDS[plain]))
    return Leaf(text, words=plain)
