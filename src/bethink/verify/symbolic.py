r"""The slow judge of mathematics: math-verify and SymPy, for what has no exact value in `algebra`. Runs in a worker process only.

math-verify's parser (latex2sympy) reads the leaves of the two forms. Two expressions that differ at 40 digits, at the constants they
are or at several points of their letters, are different; that settles most of them without `simplify`, which may run for minutes,
and it vetoes what math-verify lets pass (it compares to 15 decimal places, so 2^-98 equals 2^-99). math-verify's own `verify`
decides where there is nothing to evaluate, and on whole answers whose shape `forms` does not know.

Its traps, and what is done here: its time limits are alarms in the main thread, so they are off and the process is killed from outside;
symbols would be lower-cased (R = r); units would be cut off expressions (a + b + c → a +), so they are cut before by `units`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.grader import should_treat_as_complex
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from bethink.verify.compare import ExactJudge, is_rounded, same
from bethink.verify.forms import Leaf, Relation, read

logging.getLogger("math_verify").setLevel(logging.CRITICAL)

EQUAL, DIFFERENT, GOLD_UNREADABLE, ANSWER_UNREADABLE = (
    "equal",
    "different",
    "gold unreadable",
    "answer unreadable",
)

_DIGITS = 40
_TOLERANCE = sympy.Float("1e-25", _DIGITS)
_NOTHING = sympy.Float("1e-35", _DIGITS)
_INTEGER_NAMES = frozenset("jklmnN")
_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none"
)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\\degree")
_TARGETS = [LatexExtractionConfig(normalization_config=_NORMALIZATION)]
_CONVERSION = ConversionConfig(lowercase_symbols=False)


class _UnreadableError(Exception):
    """One of the two sides cannot be parsed; the argument is the outcome."""


def judge(gold: str, answer: str) -> str:
    """EQUAL, DIFFERENT, GOLD_UNREADABLE or ANSWER_UNREADABLE."""
    try:
        verdict = same(read(gold), read(answer), SymbolicJudge())
    except _UnreadableError as unreadable:
        return str(unreadable)
    if verdict is None:
        return _whole(gold, answer)
    return EQUAL if verdict else DIFFERENT


def _whole(gold: str, answer: str) -> str:
    """math-verify on the answers as they are, the gold wrapped in dollars (many golds do not parse without)."""
    parsed_gold = parse(f"${gold}$", _TARGETS, fallback_mode="no_fallback", parsing_timeout=None)
    if not parsed_gold:
        return GOLD_UNREADABLE
    parsed_answer = parse(f"${answer}$", _TARGETS, fallback_mode="no_fallback", parsing_timeout=None)
    if not parsed_answer:
        return ANSWER_UNREADABLE
    return EQUAL if verify(parsed_gold, parsed_answer, timeout_seconds=None) else DIFFERENT


class SymbolicJudge:
    """Judges leaves and relations that `ExactJudge` leaves open."""

    def __init__(self) -> None:
        self._exact = ExactJudge()

    def leaves(self, gold: Leaf, answer: Leaf) -> bool | None:
        verdict = self._exact.leaves(gold, answer)
        if verdict is not None:
            return verdict
        left, right = _sympy(gold.text, GOLD_UNREADABLE), _sympy(answer.text, ANSWER_UNREADABLE)
        return _equal(left, right, _decimal(gold, answer))

    def relations(self, gold: Relation, answer: Relation) -> bool | None:
        verdict = self._exact.relations(gold, answer)
        if verdict is not None:
            return verdict
        sides = [_sympy(leaf.text, GOLD_UNREADABLE) for leaf in (gold.left, gold.right)]
        sides += [_sympy(leaf.text, ANSWER_UNREADABLE) for leaf in (answer.left, answer.right)]
        return _proportional(sides[0] - sides[1], sides[2] - sides[3], positive=gold.op in ("<", "<="))


def _decimal(gold: Leaf, answer: Leaf) -> str | None:
    """The text of the one side that is a plain decimal number, when the other is not one."""
    written = [
        leaf.text
        for leaf in (gold, answer)
        if leaf.decimal and leaf.text.replace(".", "").lstrip("-").isdecimal()
    ]
    return written[0] if len(written) == 1 else None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    latex = (
        _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
        .replace(r"\newline", r"\\")
        .replace(r"\degree", r"^{\circ}")
    )
    try:
        return latex2sympy(
            latex,
            is_real=not should_treat_as_complex(latex),
            convert_degrees=False,
            normalization_config=_NORMALIZATION,
            conversion_config=_CONVERSION,
        )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  the parser raises bare Exception and what its internals happen to raise
        return None


def _sympy(text: str, outcome: str) -> Any:
    expression = _parsed(text)
    if expression is None:
        raise _UnreadableError(outcome)
    return expression


def _equal(left: Any, right: Any, decimal: str | None) -> bool:
    """Whether two parsed leaves are equal; decimal: the text of the side that may be a rounded number."""
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return bool(verify(left, right, timeout_seconds=None))
    agreed = 0
    for a, b in _evaluated(left, right):
        if decimal is not None and b.is_real and a.is_real:
            return _close(a, b) or _rounds_to(decimal, a, b)
        if not _close(a, b):
            return False
        agreed += 1
    if agreed and (left.free_symbols or right.free_symbols or _of_usual_size(left)):
        return True
    return bool(verify(left, right, timeout_seconds=None))


def _proportional(left: Any, right: Any, *, positive: bool) -> bool:
    """Whether left = c · right with a constant c ≠ 0 (c > 0 when `positive`)."""
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return False
    ratios = [a / b for a, b in _evaluated(left, right) if b and a]
    if len(ratios) < 2 or any(not _close(ratio, ratios[0]) for ratio in ratios):
        return False
    return not positive or bool(ratios[0].is_real and ratios[0] > 0)


def _evaluated(left: Any, right: Any) -> Iterator[tuple[Any, Any]]:
    """Both sides as numbers of `_DIGITS` digits, at up to five points of their letters. Points outside the reals' domain are left out."""
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    domains = {symbol: _domain(symbol, left, right) for symbol in symbols}
    complex_numbers = left.has(sympy.I) or right.has(sympy.I)
    for point in islice(_points(domains), 5 if symbols else 1):
        a, b = _number(left, point), _number(right, point)
        if a is not None and b is not None and (complex_numbers or not symbols or (a.is_real and b.is_real)):
            yield a, b


class _Domain(Enum):
    """What numbers a letter is tried at."""

    REAL = auto()
    MIXED = auto()  # usually whole, but nothing depends on it
    WHOLE = auto()
    POSITIVE = auto()  # whole and positive


_WHOLE_ARGUMENTS = (TrigonometricFunction, sympy.Mod)


def _domain(symbol: Any, *expressions: Any) -> _Domain:
    """Letters that usually stand for whole numbers are so where the expression may need it: in an exponent ((-1)^{2n} is 1), in a
    periodic function (cos 2πn is 1), as a bound of a sum. Elsewhere fractions are tried as well, so that ⌊n⌋ is not n."""
    if str(symbol) not in _INTEGER_NAMES:
        return _Domain.REAL
    for expression in expressions:
        for sum_ in expression.atoms(sympy.Sum, sympy.Product):
            if any(symbol in bound.free_symbols for limits in sum_.limits for bound in limits[1:]):
                return _Domain.POSITIVE
    for expression in expressions:
        exponents = [power.exp for power in expression.atoms(sympy.Pow, sympy.exp)]
        if any(symbol in part.free_symbols for part in (*exponents, *expression.atoms(*_WHOLE_ARGUMENTS))):
            return _Domain.WHOLE
    return _Domain.MIXED


def _points(domains: Mapping[Any, _Domain]) -> Iterator[dict[Any, Any]]:
    """Values for the letters, the same in every run: fractions of primes or small whole numbers, as their domains want it; in every
    second point with alternating signs, in the others positive. A mixed domain's are whole in the first, third and fifth."""
    primes = [sympy.prime(index) for index in range(5, 5 + 12 * 5)]
    for shift in range(5):
        point = {}
        for place, (symbol, domain) in enumerate(domains.items()):
            over, under = primes[(7 * shift + 3 * place) % 60], primes[(11 * shift + 5 * place + 17) % 60]
            negative = shift % 2 and (place + shift // 2) % 2 == 0 and domain is not _Domain.POSITIVE
            fraction = domain is _Domain.REAL or (domain is _Domain.MIXED and shift % 2)
            size = sympy.Rational(over, under) if fraction else sympy.Integer(shift + 2 * place + 3)
            point[symbol] = -size if negative else size
        yield point


def _number(expression: Any, point: dict[Any, Any]) -> Any:
    """The value at a point, None where there is none (undefined functions, divisions by zero)."""
    try:
        # Without letters nothing is rebuilt: rebuilding would carry out 100000! and 2^(10^10).
        value = (expression.xreplace(point) if point else expression).evalf(_DIGITS)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  evalf raises whatever the functions inside do
        return None
    return (
        value
        if value.is_number and value.is_finite and (value.is_Number or value.as_real_imag()[1].is_Number)
        else None
    )


def _close(a: Any, b: Any) -> bool:
    size = max(abs(a), abs(b))
    if not a or not b:
        return bool(size < _NOTHING)  # what cancels, such as sin π, leaves a trace
    return bool(abs(a - b) <= size * _TOLERANCE)


def _rounds_to(decimal: str, a: Any, b: Any) -> bool:
    written = Fraction(decimal)
    left, right = Fraction(str(sympy.Rational(a))), Fraction(str(sympy.Rational(b)))
    exact = left if abs(right - written) < abs(left - written) else right
    return is_rounded(decimal, written, exact)


def _of_usual_size(expression: Any) -> bool:
    """Between 10^-12 and 10^12 agreement to 25 digits leaves no room for a difference between numbers anyone writes; 2^1000 and
    2^1000 + 1 agree as well, and zero hides what cancels."""
    value = _number(expression, {})
    return value is not None and bool(sympy.Float("1e-12") < abs(value) < sympy.Float("1e12"))
