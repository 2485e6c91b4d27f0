r"""Polynomials with rational coefficients in letters, i, π, e and square roots: exact arithmetic with a canonical form.

A monomial is √r · x^a · y^b … with r square-free and integer exponents (negative ones, too). Square roots of different square-free
numbers are linearly independent over the rationals, and π and e are taken as independent of everything, so two polynomials are equal
exactly when their values are. Sizes are limited: what would grow past them raises UnreadableError. Nothing here rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

Monomial = tuple[int, tuple[tuple[str, int], ...]]
"""(square-free radicand, ((letter, exponent), …) sorted by letter)."""

Polynomial = Mapping[Monomial, Fraction]

_ONE: Monomial = (1, ())
_MAX_TERMS = 300
_MAX_BITS = 50_000
_MAX_RADICAND = 10**10

_CONSTANTS = ("e", "i", r"\pi", r"\infty")


class UnreadableError(Exception):
    """The value has no canonical form here, or one too large."""


def constant(number: Fraction | int) -> Polynomial:
    """A rational number as a polynomial."""
    return {_ONE: Fraction(number)} if number else {}


def letter(name: str) -> Polynomial:
    """A letter (or π, e, i) as a polynomial."""
    return {(1, ((name, 1),)): Fraction(1)}


def rational(polynomial: Polynomial | None) -> Fraction | None:
    """The polynomial as a rational number, or None when it is not one."""
    if polynomial is None:
        return None
    if not polynomial:
        return Fraction(0)
    return polynomial.get(_ONE) if len(polynomial) == 1 else None


def letters(polynomial: Polynomial) -> set[str]:
    """The variables that occur: the letters that are not π, e, i or ∞."""
    return {name for _, powers in polynomial for name, _ in powers if name not in _CONSTANTS}


def equal_times(left: Polynomial, right: Polynomial, factor: Fraction) -> bool:
    """Whether left = factor · right."""
    return left.keys() == right.keys() and all(left[m] == factor * right[m] for m in left)


def subtract(left: Polynomial, right: Polynomial) -> Polynomial | None:
    """left - right; None when it grows past what this module handles."""
    try:
        return add(left, scale(right, Fraction(-1)))
    except UnreadableError:
        return None


def proportion(left: Polynomial, right: Polynomial) -> Fraction | None:
    """The rational number c with left = c · right and c ≠ 0, if there is one; 1 where both are zero."""
    if left.keys() != right.keys():
        return None
    if not left:
        return Fraction(1)
    ratios = {left[monomial] / right[monomial] for monomial in left}
    return ratios.pop() if len(ratios) == 1 else None


def add(left: Polynomial, right: Polynomial) -> Polynomial:
    """left + right."""
    total = dict(left)
    for monomial, coefficient in right.items():
        total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    return _without_zeros(total)


def scale(polynomial: Polynomial, factor: Fraction) -> Polynomial:
    """factor · polynomial."""
    return _without_zeros({monomial: coefficient * factor for monomial, coefficient in polynomial.items()})


def _without_zeros(terms: dict[Monomial, Fraction]) -> Polynomial:
    if len(terms) > _MAX_TERMS:
        raise UnreadableError
    for coefficient in terms.values():
        if coefficient.numerator.bit_length() + coefficient.denominator.bit_length() > _MAX_BITS:
            raise UnreadableError
    return {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}


def multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    """left · right."""
    if len(left) * len(right) > 4 * _MAX_TERMS:
        raise UnreadableError
    product: dict[Monomial, Fraction] = {}
    for (root_a, powers_a), a in left.items():
        for (root_b, powers_b), b in right.items():
            common = math.gcd(root_a, root_b)
            powers = dict(powers_a)
            for name, exponent in powers_b:
                powers[name] = powers.get(name, 0) + exponent
            coefficient = a * b * common
            if "i" in powers:
                turns = powers.pop("i") % 4
                coefficient = -coefficient if turns >= 2 else coefficient
                if turns % 2:
                    powers["i"] = 1
            monomial = (
                root_a * root_b // common**2,
                tuple(sorted((name, exponent) for name, exponent in powers.items() if exponent)),
            )
            product[monomial] = product.get(monomial, Fraction(0)) + coefficient
    return _without_zeros(product)


def inverse(polynomial: Polynomial) -> Polynomial:
    """1 / polynomial, for one term, or for two whose product with their conjugate is one term (√3 - 1, 2 + i)."""
    if len(polynomial) == 1:
        [((root, powers), coefficient)] = polynomial.items()
        inverted = tuple((name, -exponent) for name, exponent in powers)
        # 1/√r = √r / r; passing through `_multiply` brings i^-1 back to -i.
        return multiply({(root, inverted): 1 / (coefficient * root)}, constant(1))
    if len(polynomial) == 2:
        (first, a), (second, b) = polynomial.items()
        conjugate: Polynomial = {first: a, second: -b}
        product = multiply(polynomial, conjugate)
        if len(product) == 1:
            return multiply(conjugate, inverse(product))
    raise UnreadableError


def power(base: Polynomial, exponent: int) -> Polynomial:
    """base ^ exponent."""
    if exponent < 0:
        return power(inverse(base), -exponent)
    number = rational(base)
    if number is not None:
        bits = max(number.numerator.bit_length(), number.denominator.bit_length())
        if bits * exponent > _MAX_BITS and abs(number) != 1:
            raise UnreadableError
        return constant(number**exponent) if abs(number) != 1 else constant(number ** (exponent % 2))
    if (len(base) > 1 and exponent > 24) or exponent > 10_000:
        raise UnreadableError
    result = constant(1)
    while exponent:
        if exponent % 2:
            result = multiply(result, base)
        exponent //= 2
        base = multiply(base, base) if exponent else base
    return result


def square_root(polynomial: Polynomial) -> Polynomial:
    """√polynomial, for rational numbers; of a negative one, i times the root."""
    number = rational(polynomial)
    if number is None:
        raise UnreadableError
    radicand = abs(number.numerator * number.denominator)
    if radicand > _MAX_RADICAND:
        root = math.isqrt(radicand)
        if root * root != radicand:
            raise UnreadableError
        outside, inside = root, 1
    else:
        outside, inside = _square_part(radicand)
    powers = (("i", 1),) if number < 0 else ()
    return _without_zeros({(inside, powers): Fraction(outside, number.denominator)}) if number else {}


@lru_cache(maxsize=1024)
def _square_part(number: int) -> tuple[int, int]:
    """(a, b) with number = a² · b and b square-free."""
    outside, inside, factor = 1, 1, 2
    while factor * factor <= number:
        count = 0
        while number % factor == 0:
            number //= factor
            count += 1
        outside *= factor ** (count // 2)
        inside *= factor ** (count % 2)
        factor += 1
    return outside, inside * number


def quotient(over: int, under: int) -> Fraction:
    """over / under."""
    if not under:
        raise UnreadableError
    return Fraction(over, under)


def factorial(base: Polynomial) -> Polynomial:
    """base!, up to 1000!."""
    number = rational(base)
    if number is None or number.denominator != 1 or not 0 <= number <= 1000:
        raise UnreadableError
    return constant(math.factorial(int(number)))


def binomial(n: Fraction | None, k: Fraction | None) -> Polynomial:
    """n choose k, for whole numbers up to 1000."""
    if n is None or k is None or n.denominator != 1 or k.denominator != 1 or not (k >= 0 and 0 <= n <= 1000):
        raise UnreadableError
    return constant(math.comb(int(n), int(k)))
