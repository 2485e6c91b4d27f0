r"""Whether two answers are the same, in three values: True, False, and None for "cannot tell from here".

Shapes are compared by the rules of `same`; what stands at the leaves is put to a `Judge`. `ExactJudge` knows exact values, units and
words, and never calls two different things equal; where it cannot tell, the question goes to `symbolic`.

What is accepted beyond equality, because mathematicians write it: a missing or an extra unit, percent sign, "x =" or base; a fraction
rounded to six or more digits; an interval as an inequality; a list in any order; a pair or vector without its brackets, in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Protocol

from bethink.verify import polynomial, units
from bethink.verify.forms import Based, Chain, Form, Group, Leaf, Matrix, Named, Ratio, Relation

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
        if _is_time(gold) or _is_time(answer) or not gold.terms[0] or not answer.terms[0]:
            return False
        return all(
            a * answer.terms[0] == b * gold.terms[0] for a, b in zip(gold.terms, answer.terms, strict=True)
        )
    ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    if (
        isinstance(ratio, Ratio)
        and isinstance(other, Leaf)
        and other.unit is None
        and len(ratio.terms) == 2
        and ratio.terms[1]
    ):
        number = polynomial.rational(other.value)
        return (
            number == ratio.terms[0] / ratio.terms[1] if number is not None and not _is_time(ratio) else False
        )
    return False


def _is_time(ratio: Ratio) -> bool:
    """12:30 is a time of day; 19:60 and 3:5 are not (or nobody would write them so)."""
    if ratio.unit in _CLOCK:
        return True
    hour, *rest = ratio.terms
    return hour < 24 and all(10 <= term < 60 or term == 0 for term in rest)


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
        answer = _unit_like(gold, answer)
        if units.conflict(gold.unit, answer.unit):
            return False
        if gold.words is not None or answer.words is not None:
            return _letters_of(gold) == _letters_of(answer)
        if gold.text.replace(" ", "") == answer.text.replace(" ", "") and not _SPACED_DIGITS.search(
            gold.text + "|" + answer.text
        ):
            return True
        left, right = gold.value, answer.value
        if left is None or right is None:
            return None
        if left == right or self._by_percent(gold, answer, left, right):
            return True
        return self._rounded(gold, answer, left, right)

    def relations(self, gold: Relation, answer: Relation) -> bool | None:
        if gold.op != answer.op:
            return False
        sides = [leaf.value for leaf in (gold.left, gold.right, answer.left, answer.right)]
        a, b, c, d = sides
        if a is None or b is None or c is None or d is None:
            equal = [
                one.text == other.text
                for one, other in ((gold.left, answer.left), (gold.right, answer.right))
            ]
            return True if all(equal) else None
        difference, other = polynomial.subtract(a, b), polynomial.subtract(c, d)
        if difference is None or other is None:
            return None
        ratio = polynomial.proportion(difference, other)
        return ratio is not None and (gold.op in ("=", "!=") or ratio > 0)

    def _by_percent(
        self, gold: Leaf, answer: Leaf, left: polynomial.Polynomial, right: polynomial.Polynomial
    ) -> bool:
        """10% is 0.1 as well as 10 percent."""
        hundredth = Fraction(1, 100)
        if gold.unit == "%" and answer.unit is None:
            return polynomial.equal_times(right, left, hundredth)
        if answer.unit == "%" and gold.unit is None:
            return polynomial.equal_times(left, right, hundredth)
        return False

    def _rounded(
        self, gold: Leaf, answer: Leaf, left: polynomial.Polynomial, right: polynomial.Polynomial
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


def _unit_like(gold: Leaf, answer: Leaf) -> Leaf:
    """`5m` read as five metres where the reference answer is in metres."""
    if not gold.unit or answer.unit is not None:
        return answer
    match = _LETTER_UNIT.fullmatch(answer.text)
    return Leaf(match["head"], gold.unit) if match and units.canonical(match["unit"]) == gold.unit else answer
