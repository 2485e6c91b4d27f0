r"""Whether two answers are the same, in three values: True, False, and None for "cannot tell from here".

Shapes are compared by the rules of `same`; what stands at the leaves is put to a `Judge`. `ExactJudge` knows exact values, units and
words, and never calls two different things equal; where it cannot tell, the question goes to `symbolic`.

What is accepted beyond equality, because mathematicians write it: a missing or an extra unit, percent sign, "x =" or base; degrees as
radians; a fraction rounded to six or more digits; an interval as an inequality; a list in any order; a pair or vector without its
brackets, in order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Protocol

from bethink.verify import polynomial, units
from bethink.verify.forms import Based, Chain, Form, Group, Leaf, Matrix, Named, Ratio, Relation, scientific

_ROUNDED_DIGITS = 6
_MAX_ITEMS = 60
_DECIMAL = re.compile(r"-?\s*\d*\.(\d+)")
_LETTER_UNIT = re.compile(r"(?P<head>.*[\d)}])\s*(?P<unit>[A-Za-z]{1,3}(?:\^\{?[23]\}?)?)")
_CLOCK = ("am", "pm")


class Judge(Protocol):
    """Decides what `same` cannot: whether two expressions, or two equations or inequalities, are equal."""

    def leaves(self, gold: Leaf, answer: Leaf) -> bool | None: ...

    def relations(self, gold: Relation, answer: Relation) -> bool | None: ...


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """True when all are, False when one is, else None."""
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown = unknown or verdict is None
    return None if unknown else True


def some(verdicts: Iterable[bool | None]) -> bool | None:
    """True when one is, False when all are, else None."""
    unknown = False
    for verdict in verdicts:
        if verdict:
            return True
        unknown = unknown or verdict is None
    return None if unknown else False


def same(gold: Form, answer: Form, judge: Judge) -> bool | None:
    """Whether `answer` says what `gold` says."""
    if isinstance(gold, Chain):
        return some(same(item, answer, judge) for item in gold.items)
    if isinstance(answer, Chain):
        # Only the last of a chain is what it arrived at; around ≈ the exact value counts as well.
        said = (
            (answer.items[0], answer.items[-1])
            if answer.about and len(answer.items) == 2
            else answer.items[-1:]
        )
        return some(same(gold, item, judge) for item in said)
    if isinstance(gold, Named | Relation) and isinstance(answer, Named | Relation):
        return _statements(gold, answer, judge)
    if isinstance(gold, Named):
        return same(gold.value, answer, judge)
    if isinstance(answer, Named):
        return same(gold, answer.value, judge)
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        return judge.leaves(gold, answer)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return _based(gold, answer)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _ratios(gold, answer, judge)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _matrices(gold, answer, judge)
    if isinstance(gold, Group) or isinstance(answer, Group):
        return _groups(gold, answer, judge)
    return _not_alike(gold, answer)


def _not_alike(gold: Form, answer: Form) -> bool | None:
    """Different shapes differ, unless one is a leaf that nobody here could read."""
    unread = any(
        isinstance(form, Leaf) and form.words is None and form.value is None for form in (gold, answer)
    )
    return None if unread else False


def _statements(gold: Named | Relation, answer: Named | Relation, judge: Judge) -> bool | None:
    if (
        isinstance(gold, Named)
        and isinstance(answer, Named)
        and gold.name.casefold() == answer.name.casefold()
    ):
        return same(gold.value, answer.value, judge)
    left = gold.relation if isinstance(gold, Named) else gold
    right = answer.relation if isinstance(answer, Named) else answer
    return judge.relations(left, right) if left and right else False


def _based(gold: Form, answer: Form) -> bool | None:
    """Digits are compared as digits: 2516_8 is 2516 in a question that asks for base 8, and never 2516_7."""
    if isinstance(gold, Based) and isinstance(answer, Based):
        return gold == answer
    based, other = (gold, answer) if isinstance(gold, Based) else (answer, gold)
    if not isinstance(based, Based) or not isinstance(other, Leaf) or other.unit is not None:
        return False
    return other.text.replace(" ", "").upper() == based.digits


def _ratios(gold: Form, answer: Form, judge: Judge) -> bool | None:
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        if units.conflict(gold.unit, answer.unit) or len(gold.terms) != len(answer.terms):
            return False
        if gold.terms == answer.terms:
            return True
        if _is_time(gold) or answer.unit in _CLOCK or not gold.terms[0] or not answer.terms[0]:
            return False
        return all(
            a * answer.terms[0] == b * gold.terms[0] for a, b in zip(gold.terms, answer.terms, strict=True)
        )
    ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    if (
        not isinstance(ratio, Ratio)
        or not isinstance(other, Leaf)
        or other.unit is not None
        or len(ratio.terms) != 2
        or not ratio.terms[1]
        or (_is_time(ratio) if ratio is gold else ratio.unit in _CLOCK)
    ):
        return False
    number = polynomial.rational(other.value)
    return number is not None and number == ratio.terms[0] / ratio.terms[1]


def _is_time(gold: Ratio) -> bool:
    """Whether a reference answer with colons is a time of day and no ratio.

    12:30 and 5:00 are; 19:60 and 3:5 can be none. What could be both is a time unless it is in lowest terms, as a reference answer that
    is a ratio would be: 9:24 is a time, 3:20 a ratio. Only the reference is asked: 6:40 may be how a model says 3:20.
    """
    if gold.unit in _CLOCK:
        return True
    if any(term.denominator != 1 for term in gold.terms):
        return False
    hour, *rest = (int(term) for term in gold.terms)
    return (
        hour < 24
        and all(10 <= term < 60 or term == 0 for term in rest)
        and (0 in rest or math.gcd(hour, *rest) > 1 or len(rest) > 1)
    )


def _matrices(gold: Form, answer: Form, judge: Judge) -> bool | None:
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
            return False
        pairs = zip(_cells(gold), _cells(answer), strict=True)
        return every(same(a, b, judge) for a, b in pairs)
    matrix, other = (gold, answer) if isinstance(gold, Matrix) else (answer, gold)
    if (
        isinstance(matrix, Matrix)
        and isinstance(other, Group)
        and other.kind in ("tuple", "pair")
        and 1 in _shape(matrix)
    ):
        items = _cells(matrix)
        if len(items) != len(other.items) or other.ends in ("(]", "[)"):
            return False
        left, right = (items, other.items) if matrix is gold else (other.items, items)
        return every(same(a, b, judge) for a, b in zip(left, right, strict=True))
    return _not_alike(gold, answer)


def _cells(matrix: Matrix) -> Sequence[Form]:
    return [cell for row in matrix.rows for cell in row]


def _shape(matrix: Matrix) -> tuple[int, int]:
    return len(matrix.rows), max((len(row) for row in matrix.rows), default=0)


def _groups(gold: Form, answer: Form, judge: Judge) -> bool | None:
    gold_kind, gold_items = _as_items(gold)
    answer_kind, answer_items = _as_items(answer)
    if not (isinstance(gold, Group) and isinstance(answer, Group)):
        group, lone = (gold, answer) if isinstance(gold, Group) else (answer, gold)
        # "5/2 or 2.5" is one answer said twice.
        if isinstance(group, Group) and (
            len(group.items) == 1 or (group is answer and group.kind == "list" and _all_equal(group.items))
        ):
            return same(gold_items[0], answer_items[0], judge)
        return _not_alike(group, lone)
    if len(gold_items) != len(answer_items) or len(gold_items) > _MAX_ITEMS:
        return False
    if "pair" in (gold_kind, answer_kind) and gold_kind == answer_kind and gold.ends != answer.ends:
        return False
    kinds = {gold_kind, answer_kind}
    if kinds <= {"list", "set"} and not _order_matters(gold_items, answer_items):
        return _any_order(gold_items, answer_items, judge)
    if "union" in kinds and kinds <= {"union", "list"}:
        return _any_order(gold_items, answer_items, judge)
    if kinds in ({"pair", "list"}, {"tuple", "list"}) and (gold.ends or answer.ends or "()") != "()":
        return False
    if kinds in ({"list"}, {"pair"}, {"tuple"}, {"pair", "list"}, {"tuple", "list"}):
        return every(same(a, b, judge) for a, b in zip(gold_items, answer_items, strict=True))
    return False


def _all_equal(items: Sequence[Form]) -> bool:
    return 0 < len(items) <= _MAX_ITEMS and all(same(items[0], item, ExactJudge()) for item in items[1:])


def _as_items(form: Form) -> tuple[str, tuple[Form, ...]]:
    return (form.kind, form.items) if isinstance(form, Group) else ("one", (form,))


def _order_matters(gold: Sequence[Form], answer: Sequence[Form]) -> bool:
    """A list of words is an order of words; and "x = 1, y = 2" said as "1, 2" says which is which by its order."""
    if all(isinstance(item, Leaf) and item.words is not None for item in gold):
        return True
    for named, bare in ((gold, answer), (answer, gold)):
        names = {item.name for item in named if isinstance(item, Named)}
        if len(names) > 1 and not any(isinstance(item, Named | Relation) for item in bare):
            return True
    return False


def _any_order(gold: Sequence[Form], answer: Sequence[Form], judge: Judge) -> bool | None:
    """Whether the items pair off. Equality is transitive, so taking the first partner found loses nothing."""
    left = list(answer)
    unknown = False
    for wanted in gold:
        verdicts: list[bool | None] = []
        for item in left:
            verdicts.append(same(wanted, item, judge))
            if verdicts[-1]:
                break
        if verdicts and verdicts[-1]:
            left.pop(len(verdicts) - 1)
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


class ExactJudge:
    """Judges by exact values, units and words. None where it cannot read one side."""

    def leaves(self, gold: Leaf, answer: Leaf) -> bool | None:
        gold, answer = _unit_like(answer, gold), _unit_like(gold, answer)
        if _by_degrees(gold, answer) or _by_degrees(answer, gold):
            return True
        if units.conflict(gold.unit, answer.unit):
            return False
        if gold.words is not None or answer.words is not None:
            return _letters_of(gold) == _letters_of(answer)
        if _is_run(gold.text) and _is_run(answer.text):
            return _same_run(gold.text, answer.text)
        if gold.text.replace(" ", "") == answer.text.replace(" ", "") and not _SPACED_DIGITS.search(
            gold.text + "|" + answer.text
        ):
            return True
        if _same_scientific(gold, answer):
            return True
        left, right = gold.value, answer.value
        if left is None or right is None:
            return None
        if left == right or _by_percent(gold, answer) or _by_percent(answer, gold):
            return True
        return _rounded(gold, answer, left, right)

    def relations(self, gold: Relation, answer: Relation) -> bool | None:
        if gold.op != answer.op:
            return False
        leaves = (gold.left, gold.right, answer.left, answer.right)
        a, b, c, d = (leaf.value for leaf in leaves)
        if a is None or b is None or c is None or d is None:
            if (gold.left.text, gold.right.text) == (answer.left.text, answer.right.text):
                return True
            return False if any(leaf.words is not None for leaf in leaves) else None
        difference, other = polynomial.subtract(a, b), polynomial.subtract(c, d)
        if difference is None or other is None:
            return None
        ratio = polynomial.proportion(difference, other)
        return ratio is not None and (gold.op in ("=", "!=") or ratio > 0)


_HUNDREDTH = Fraction(1, 100)
_DEGREE = polynomial.scale(polynomial.letter(r"\pi"), Fraction(1, 180))


def _by_percent(percent: Leaf, bare: Leaf) -> bool:
    """10% is 0.1 as well as 10 percent."""
    if percent.unit != "%" or bare.unit is not None or percent.value is None or bare.value is None:
        return False
    return polynomial.equal_times(bare.value, percent.value, _HUNDREDTH)


def _by_degrees(degrees: Leaf, radians: Leaf) -> bool:
    """15° is π/12."""
    if degrees.unit != "deg" or radians.unit not in (None, "rad"):
        return False
    number = polynomial.rational(degrees.value)
    return bool(number) and number is not None and polynomial.scale(_DEGREE, number) == radians.value


def _same_scientific(left: Leaf, right: Leaf) -> bool:
    """Whether one side is in scientific notation (1e-5) and the other the same number, in that notation or another."""
    a, b = scientific(left.text), scientific(right.text)
    if a is None and b is None:
        return False
    return (polynomial.rational(left.value) if a is None else a) == (
        polynomial.rational(right.value) if b is None else b
    )


def _rounded(
    gold: Leaf, answer: Leaf, left: polynomial.Polynomial, right: polynomial.Polynomial
) -> bool | None:
    """Unequal exact values: still the same when one is the other rounded to `_ROUNDED_DIGITS` digits or more."""
    if gold.decimal == answer.decimal:
        return False
    decimal, exact, number = (gold, right, left) if gold.decimal else (answer, left, right)
    approximate, value = polynomial.rational(number), polynomial.rational(exact)
    if approximate is None or polynomial.letters(exact):
        return False
    return None if value is None else is_rounded(decimal.text, approximate, value)


def is_rounded(written: str, approximate: Fraction, value: Fraction) -> bool:
    """Whether `written` (a decimal, = approximate) is `value` rounded or cut to its digits, and has enough of them."""
    match = _DECIMAL.fullmatch(written)
    if not match or len(written.replace(".", "").lstrip("-0 ")) < _ROUNDED_DIGITS:
        return False
    return abs(approximate - value) < Fraction(1, 10 ** len(match[1]))


_SPACED_DIGITS = re.compile(r"\d \d")
_LATEX_WORDS = re.compile(r"\\text|\\[,;! ]|[{}()\s.,'\"-]")


def _letters_of(leaf: Leaf) -> str:
    return _LATEX_WORDS.sub("", leaf.words if leaf.words is not None else leaf.text).lower()


def _is_run(text: str) -> bool:
    """Three letters or more and nothing else (longer ones are words already, see `forms`)."""
    return len(text) > 2 and text.isascii() and text.isalpha()


def _same_run(gold: str, answer: str) -> bool:
    """Runs of letters are compared as they are written, but for a capital at the start: they are words (east, not seat) or labels (angle
    ABC, not BAC) more often than products, and a product's letters are written in one order. Against any other expression a run is a
    product: abc is a · c · b."""
    return gold[0].lower() + gold[1:] == answer[0].lower() + answer[1:]


def _unit_like(like: Leaf, leaf: Leaf) -> Leaf:
    """`5m` read as five metres where the other side is in metres."""
    if not like.unit or leaf.unit is not None:
        return leaf
    match = _LETTER_UNIT.fullmatch(leaf.text)
    return Leaf(match["head"], like.unit) if match and units.canonical(match["unit"]) == like.unit else leaf
