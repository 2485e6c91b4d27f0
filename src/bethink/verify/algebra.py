r"""Exact values of the expressions most answers are: sums of products of rational numbers, square roots, i, π, e and letters.

`value` reads cleaned LaTeX (see `latex`) into a `polynomial`. Whatever does not fit (functions, roots of sums, symbolic exponents, huge
numbers) is None: the slow judge, `symbolic`, takes over.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from bethink.verify.polynomial import (
    Polynomial,
    UnreadableError,
    add,
    binomial,
    constant,
    factorial,
    inverse,
    letter,
    multiply,
    power,
    quotient,
    rational,
    scale,
    square_root,
)

_GREEK_NAMES = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell infty"
)
_GREEK = frozenset("\\" + name for name in _GREEK_NAMES.split())
_MAX_CHARACTERS = 400
_MAX_DEPTH = 30

_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_PERIOD = re.compile(r"(?P<point>\.?)\s*\\overline\s*\{(?P<digits>\d{1,20})\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_SUBSCRIPT = re.compile(r"_(?:\{([A-Za-z0-9]{1,8})\}|([A-Za-z0-9]))")
_PLAIN_FRACTION = re.compile(r"\s*\\frac\s*(?:\{(\d{1,18})\}|(\d))\s*(?:\{(\d{1,18})\}|(\d))")
_MIXED_PLAIN = re.compile(r"(-?)(\d{1,18}) (\d{1,18})\s*/\s*(\d{1,18})")


@lru_cache(maxsize=8192)
def value(text: str) -> Polynomial | None:
    """The canonical form of a cleaned expression, or None when it is not of the kind that has one here."""
    if not text or len(text) > _MAX_CHARACTERS:
        return None
    try:
        if mixed := _MIXED_PLAIN.fullmatch(text):
            whole, over, under = int(mixed[2]), int(mixed[3]), int(mixed[4])
            total = whole + quotient(over, under)
            return constant(-total if mixed[1] else total)
        return _Reader(text).whole()
    except UnreadableError:
        return None


class _Reader:
    """A recursive-descent reader of one expression; holds the place reached."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> Polynomial:
        result = self._sum()
        if self._peek():
            raise UnreadableError
        return result

    def _peek(self) -> str:
        """The next character that is not a space, "" at the end."""
        while self._at < len(self._text) and self._text[self._at] == " ":
            self._at += 1
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self, literal: str) -> bool:
        self._peek()
        if not self._text.startswith(literal, self._at):
            return False
        if literal[0] == "\\" and literal[-1].isalpha():
            after = self._text[self._at + len(literal) : self._at + len(literal) + 1]
            if after.isalpha():
                return False
        self._at += len(literal)
        return True

    def _sum(self) -> Polynomial:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnreadableError
        total: Polynomial = {}
        sign = self._sign()
        while True:
            total = add(total, scale(self._product(), sign))
            if self._peek() not in ("+", "-"):
                self._depth -= 1
                return total
            sign = self._sign()

    def _sign(self) -> Fraction:
        sign = Fraction(1)
        while self._peek() in ("+", "-") and self._peek():
            sign = -sign if self._text[self._at] == "-" else sign
            self._at += 1
        return sign

    def _product(self) -> Polynomial:
        result = self._factor()
        while True:
            if self._take("**"):
                raise UnreadableError
            if self._take(r"\cdot") or self._take("*"):
                sign = self._sign()
                result = multiply(result, scale(self._factor(), sign))
            elif self._take("/"):
                sign = self._sign()
                result = multiply(result, inverse(scale(self._factor(), sign)))
            elif (after := self._peek()) and (after.isalpha() or after in "({[\\"):
                result = multiply(result, self._factor())
            else:
                return result

    def _factor(self) -> Polynomial:
        base, raised = self._base(), False
        while True:
            if self._take("^") or self._take("**"):
                if raised:
                    raise UnreadableError  # 2^3^4 is read in two ways
                base, raised = power(base, self._exponent()), True
            elif self._take("!"):
                base = factorial(base)
            else:
                return base

    def _exponent(self) -> int:
        if self._take("{"):
            exponent = rational(self._sum())
            self._expect("}")
        elif self._take("("):
            exponent = rational(self._sum())
            self._expect(")")
        else:
            sign = self._sign()
            exponent = Fraction(self._literal()) * sign
        if exponent is None or exponent.denominator != 1 or abs(exponent) > 100_000:
            raise UnreadableError
        return int(exponent)

    def _expect(self, literal: str) -> None:
        if not self._take(literal):
            raise UnreadableError

    def _literal(self) -> Fraction:
        self._peek()
        match = _NUMBER.match(self._text, self._at)
        if not match:
            raise UnreadableError
        self._at = match.end()
        number, decimals = Fraction(match[0]), match[0].partition(".")[2]
        period = _PERIOD.match(self._text, match.end())
        if period and bool(period["point"]) != ("." in match[0]):
            self._at = period.end()
            length = len(period["digits"])
            number += Fraction(int(period["digits"]), (10**length - 1) * 10 ** len(decimals))
        return number

    def _base(self) -> Polynomial:
        character = self._peek()
        if character.isdecimal() or character == ".":
            return self._number()
        for opener, closer in (("(", ")"), ("[", "]"), ("{", "}")):
            if self._take(opener):
                inside = self._sum()
                self._expect(closer)
                return inside
        if character == "\\":
            return self._named()
        if character.isascii() and character.isalpha():
            self._at += 1
            return self._letter(character)
        raise UnreadableError

    def _number(self) -> Polynomial:
        starts_product = self._text[: self._at].rstrip()[-1:] in ("", "-", "+", "(", "{", "[")
        number = self._literal()
        if starts_product and (match := _PLAIN_FRACTION.match(self._text, self._at)):
            over, under = int(match[1] or match[2]), int(match[3] or match[4])
            if number.denominator == 1 and number and 0 < over < under:
                self._at = match.end()
                return constant(number + Fraction(over, under))
        return constant(number)

    def _letter(self, name: str) -> Polynomial:
        if match := _SUBSCRIPT.match(self._text, self._at):
            self._at = match.end()
            name = f"{name}_{match[1] or match[2]}"
        return letter(name)

    def _named(self) -> Polynomial:
        match = _COMMAND.match(self._text, self._at)
        if not match:
            raise UnreadableError
        self._at = match.end()
        name = match[0]
        if name == r"\frac":
            over = self._argument()
            return multiply(over, inverse(self._argument()))
        if name == r"\sqrt":
            if self._peek() == "[":
                raise UnreadableError
            return square_root(self._argument())
        if name in (r"\binom", r"\dbinom", r"\tbinom"):
            return binomial(rational(self._argument()), rational(self._argument()))
        if name in _GREEK:
            return self._letter(name)
        raise UnreadableError

    def _argument(self) -> Polynomial:
        """What TeX takes as an argument: a braced group, or one digit, letter or command."""
        character = self._peek()
        if character == "{":
            return self._base()
        if character.isdecimal():
            self._at += 1
            return constant(int(character))
        if character == "\\" or (character.isascii() and character.isalpha()):
            return self._base()
        raise UnreadableError
