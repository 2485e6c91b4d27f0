"""Reads one calculation out of a run of tokens: sums, products, powers, brackets, and the units and labels around the numbers.

Values are exact fractions. Numbers, powers and depth are limited, so that whatever a model writes is read in time linear in its length;
what is beyond the limits or holds more than numbers is read past and marked `opaque`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from fractions import Fraction
from math import factorial, isqrt
from typing import Any

from bethink.verify import units
from bethink.verify.prose.tokens import OPERATORS, Token, is_letter

_MAX_DIGITS = 40
_MAX_BITS = 4096
_MAX_EXPONENT = 400
_MAX_FACTORIAL = 60
_MAX_DEPTH = 20
_MOST_LABELS = 3

_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_PLAIN = re.compile(r"\d*\.?\d+")
_SEPARATOR = re.compile(r"\{,\}|\\,|[ \u00a0\u2009\u202f]")
_PROPER = re.compile(r"(\d{1,9})/(\d{1,9})")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_PARTS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_PART_TEXTS = "1/2 1/3 2/3 1/4 3/4 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8"
_VULGAR = {sign: Fraction(text) for sign, text in zip(_PARTS, _PART_TEXTS.split(), strict=True)}
_PER = {"mph": ("mi", "h"), "km/h": ("km", "h"), "m/s": ("m", "s")}
_QUANTITIES = (
    "squared cubed dozen dozens hundred hundreds thousand thousands million millions billion billions trillion trillions half halves third "
    "thirds quarter quarters fourth fourths fifth fifths tenth tenths hundredth hundredths pair pairs penny pennies nickel nickels dime "
    "dimes decade decades century centuries remainder rem mod modulo choose root over ten tens ones"
)
_OTHER_NUMBER = frozenset(_QUANTITIES.split())
"""Words behind a number that make another number of it, or of the calculation."""
_OTHER_NUMBER_SIGNS = re.compile("[百千万亿半打余]")


class UnreadableError(Exception):
    """No calculation begins here."""


@dataclass(slots=True)
class Reader:
    """A recursive-descent reader of one calculation from run[at] on; `at` ends behind it.

    loose: a bracket behind a space multiplies; banged: an exclamation mark at the end is a factorial.
    """

    run: list[Token]
    at: int
    loose: bool = True
    banged: bool = True
    value: Fraction = Fraction(0)
    first: Fraction = Fraction(0)
    numbers: int = 0
    operations: int = 0
    idle: int = 0
    places: int | None = None
    percent: bool = False
    dots: bool = False
    decimals: int = 0
    labelled: bool = False
    doubtful: bool = False
    opaque: bool = False
    banged_at_end: bool = False
    loosely_joined: bool = False
    units: tuple[str, ...] = ()
    _depth: int = 0

    def calculation(self) -> None:
        """Read as far as it goes. Raises UnreadableError when not even a number stands here."""
        self.value = self._sum()

    def _peek(self, ahead: int = 0) -> Token | None:
        index = self.at + ahead
        return self.run[index] if index < len(self.run) else None

    def _kind(self, ahead: int = 0) -> str:
        token = self._peek(ahead)
        return token.kind if token else ""

    def _next(self) -> Token:
        token = self._peek()
        if token is None:
            raise UnreadableError
        return token

    def _state(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in _STATE)

    def _go_back(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(_STATE, state, strict=True):
            setattr(self, name, value)

    def _count(self, *, idle: bool) -> None:
        self.operations += 1
        self.idle += idle

    def _bounded(self, value: Fraction) -> Fraction:
        if value.numerator.bit_length() + value.denominator.bit_length() <= _MAX_BITS:
            return value
        self.opaque = True
        return Fraction(0)

    def _sum(self) -> Fraction:
        if self._depth == _MAX_DEPTH:
            raise UnreadableError
        self._depth += 1
        try:
            total, share = self._product()
            shares, terms = int(share), 1
            while (kind := self._kind()) in ("plus", "minus"):
                state = self._state()
                self.at += 1
                try:
                    term, share = self._product()
                except UnreadableError:
                    self._go_back(state)
                    break
                self._count(idle=term == 0 or (total == 0 and kind == "plus"))
                total = self._bounded(total + term if kind == "plus" else total - term)
                shares, terms = shares + share, terms + 1
        finally:
            self._depth -= 1
        self.doubtful |= 0 < shares < terms  # 50 + 10% may be 55
        return total

    def _product(self) -> tuple[Fraction, bool]:
        """(its value, whether it is nothing but a percentage)."""
        result, share = self._factor()
        divided = ""
        while (token := self._peek()) is not None:
            state, kind = self._state(), token.kind
            try:
                if kind in ("times", "over") or (token.text == "of" and (share or divided)):
                    self.at += 1
                    self.doubtful |= kind == "over" and divided not in ("", token.text)  # 11 ÷ 1/2
                elif kind in ("open", "fraction", "root") and self._multiplies():
                    self.doubtful |= bool(divided)  # 6/2(1 + 2) is read in two ways
                else:
                    break
                factor = self._factor()[0]
            except UnreadableError:
                self._go_back(state)
                break
            self._count(idle=factor == 1 or (result == 1 and kind != "over"))
            divided = token.text if kind == "over" else ""
            result = self._quotient(result, factor) if divided else self._bounded(result * factor)
            share = False
        return result, share

    def _quotient(self, over: Fraction, under: Fraction) -> Fraction:
        if under:
            return self._bounded(over / under)
        self.opaque = True
        return Fraction(0)

    def _multiplies(self) -> bool:
        """Whether the bracket, fraction or root here multiplies what stands in front of it."""
        here, last = self.run[self.at], self.run[self.at - 1]
        if here.kind == "open" and here.start > last.end:
            self.loosely_joined |= self._depth == 1
            return self.loose
        self.doubtful |= here.kind == "fraction"  # 2\frac{1}{3} is 7/3 or 2/3
        return last.kind != "word"

    def _factor(self) -> tuple[Fraction, bool]:
        """(its value, whether it is nothing but a percentage)."""
        while self._kind() == "money" and self._kind(1) in ("plus", "minus"):  # the $ that begins a formula
            self.at += 1
        sign, signed = 1, self._kind() in ("plus", "minus")
        if signed:
            sign = -1 if self._kind() == "minus" else 1
            self.at += 1
        value, share = self._behind(self._operand(), signed)
        if self.numbers == 1:
            self.first = sign * value
        return sign * value, share

    def _operand(self) -> Fraction:
        while self._kind() == "money":
            self.units += ("€" if self._next().text == "€" else "$",)
            self.at += 1
        token = self._next()
        self.at += 1
        match token.kind:
            case "number" | "spaced":
                return self._number(token)
            case "vulgar":
                self.numbers += 1
                return _VULGAR[token.text]
            case "open":
                value = self._sum()
                if self._next().kind != "close":
                    raise UnreadableError
                self.at += 1
                self.places = None
                return value
            case "fraction":
                over = self._group()
                under = self._group()
                self._count(idle=under == 1)
                return self._quotient(over, under)
            case "root":
                return self._root()
        raise UnreadableError

    def _number(self, token: Token) -> Fraction:
        digits = _SEPARATOR.sub("", token.text)
        if _GROUPED.fullmatch(digits):
            digits = digits.replace(",", "")
        self.numbers += 1
        self.doubtful |= token.kind == "spaced"
        if not _PLAIN.fullmatch(digits) or len(digits) > _MAX_DIGITS:
            self.opaque = True
            return Fraction(0)
        whole, point, decimals = digits.partition(".")
        if point:
            self.places = len(decimals)
            self.decimals = max(self.decimals, len(decimals))
            return Fraction(digits)
        self.places = len(whole.rstrip("0")) - len(whole) if whole.strip("0") else 0
        return int(whole) + self._rest_of_mixed(token)

    def _rest_of_mixed(self, whole: Token) -> Fraction:
        """The 1/2 of "1 1/2" and 1½, else 0."""
        rest = Fraction(0)
        over, slash, under = self._peek(), self._peek(1), self._peek(2)
        if over is None or over.start - whole.end > 1:
            return rest
        if over.kind == "vulgar":
            self.at, rest = self.at + 1, _VULGAR[over.text]
        elif (
            slash is not None
            and under is not None
            and over.kind == under.kind == "number"
            and slash.text == "/"
        ):
            match = _PROPER.fullmatch(over.text + slash.text + under.text)
            together = whole.end < over.start and over.end == slash.start and slash.end == under.start
            if match and together and 0 < int(match[1]) < int(match[2]):
                self.at, rest = self.at + 3, Fraction(int(match[1]), int(match[2]))
        if rest:
            self.numbers, self.places = self.numbers + 1, None
        return rest

    def _group(self) -> Fraction:
        """{…}, as LaTeX's arguments are."""
        if self._next().text != "{":
            raise UnreadableError
        return self._operand()

    def _root(self) -> Fraction:
        if self._next().text == "[":
            raise UnreadableError
        value = self._operand()
        self._count(idle=value == 1)
        over, under = isqrt(max(value.numerator, 0)), isqrt(value.denominator)
        self.opaque |= over * over != value.numerator or under * under != value.denominator
        return Fraction(over, under)

    def _behind(self, value: Fraction, signed: bool) -> tuple[Fraction, bool]:
        """The operand with the ! % and powers behind it; (its value, whether it is nothing but a percentage)."""
        share, raised = False, False
        while (token := self._peek()) is not None:
            touching = token.start == self.run[self.at - 1].end
            if token.kind == "bang" and touching and value.denominator == 1 and 0 <= value <= _MAX_FACTORIAL:
                self.at += 1
                at_end = self._peek() is None
                self.banged_at_end |= at_end
                if self.banged or not at_end:
                    self._count(idle=value <= 1)
                    value = Fraction(factorial(int(value)))
            elif token.kind == "percent" and not share:
                self.at += 1
                value, share, self.percent = value / 100, True, True
            elif token.kind == "dots" and touching:
                self.at += 1
                self.dots = True
            elif token.kind in ("power", "raised") and self._begins_exponent():
                self.doubtful |= raised or signed  # 2^3^4 and -3^2 are read in two ways
                value, raised = self._power(value), True
            elif token.kind == "money" and self._kind(1) in ("", "close", *OPERATORS):
                self.at += 1
                self.units += ("€" if token.text == "€" else "$",)
            else:
                break
        self._labels()
        return value, share

    def _begins_exponent(self) -> bool:
        """Not the ** that ends bold type."""
        if self._kind() == "raised":
            return True
        signed = self._kind(1) == "minus"
        return self._kind(1 + signed) in ("number", "open")

    def _power(self, base: Fraction) -> Fraction:
        token, places = self._next(), self.places
        self.at += 1
        if token.kind == "raised":
            exponent = Fraction(token.text[:6].translate(_RAISED))
        else:
            negative = self._kind() == "minus"
            self.at += negative
            exponent = -self._operand() if negative else self._operand()
        self.places = places
        self._count(idle=exponent == 1)
        bits = base.numerator.bit_length() + base.denominator.bit_length()
        whole = exponent.denominator == 1 and abs(exponent) <= _MAX_EXPONENT
        if not whole or bits * abs(exponent) > _MAX_BITS or (exponent < 0 and not base):
            self.opaque = True
            return base
        return base ** int(exponent)

    def _labels(self) -> None:
        """Note the units and labels behind an operand, and read past them where the calculation goes on or ends behind them."""
        words = self._label_words()
        for token in words[:_MOST_LABELS]:
            self._note(token)
        if words:
            if len(words) <= _MOST_LABELS and self._kind(len(words)) in ("", "close", *OPERATORS):
                self.at += len(words)
        elif (behind := self._peek()) is not None and behind.kind in ("word", "command"):
            touching = behind.start == self.run[self.at - 1].end and behind.text.isascii()
            self.opaque |= touching or behind.kind == "command" or is_letter(behind)  # 2x, 2\pi, 5 m
        while self._kind() == "over" and self._kind(1) == "word":  # $12/hour
            slash, word = self.run[self.at], self.run[self.at + 1]
            if slash.text != "/" or word.start > slash.end or is_letter(word):
                break
            self._note(word)
            self.at += 2

    def _label_words(self) -> list[Token]:
        """The words behind an operand, as many as can be its label and one more."""
        words: list[Token] = []
        while (token := self._peek(len(words))) is not None and len(words) <= _MOST_LABELS:
            if token.kind == "word":
                touching = not words and token.start == self.run[self.at - 1].end and token.text.isascii()
                if is_letter(token) or (touching and not units.canonical(token.text)):
                    break
                if not words and token.text == "of":
                    break
            elif token.kind != "label":
                break
            words.append(token)
        return words

    def _note(self, token: Token) -> None:
        """Remember a unit or a label."""
        text = token.text
        if token.kind == "label":
            text = text[text.index("{") + 1 : -1].strip()
        self.labelled = True
        self.doubtful |= any(map(_makes_another_number, text.lower().split()))
        for name in [text] if units.canonical(text) else text.split("/"):
            if unit := units.canonical(name).partition("^")[0]:
                self.units += _PER.get(unit, (unit,))


_STATE = tuple(
    each.name for each in fields(Reader) if each.name not in ("run", "loose", "banged", "value", "_depth")
)
"""What an attempt that fails takes back."""


def _makes_another_number(word: str) -> bool:
    return word in _OTHER_NUMBER or (not word.isascii() and bool(_OTHER_NUMBER_SIGNS.search(word)))
