"""Answers compared as text (`exact`) and as numbers (`numeric`).

exact: the same characters, apart from case, white space, Markdown, quotes and punctuation around the answer. numeric: the same number,
within a tolerance when the problem states one; units, currency signs and thousands separators do not matter, but what compares ("less than
5") or goes on ("5 squared") is not the number in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from typing import Any

from bethink.verify import polynomial, units
from bethink.verify.extract import reference
from bethink.verify.forms import Chain, Form, Leaf, Named, Ratio, read, scientific
from bethink.verify.latex import clean
from bethink.verify.verdict import Outcome, Verdict

_AROUND = " \t\n.,;:!*_`\"'$"
_NUMBER = re.compile(r"(?<![\w.])[-−]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?!\w)")
_PLAIN = re.compile(r"[-+]?(?:0|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,200})(?:\.\d{1,200})?")
_COMPARED = re.compile(
    r"\b(?:(?:less|more|fewer|greater|larger|smaller|bigger|higher|lower|other|rather) than|at (?:least|most)|up to|"
    r"(?:under|over|above|below|beyond|between|almost|nearly|minus|negative|exceed\w*|not|never)(?=\W{0,3}\d)|"
    r"or (?:more|less|fewer|greater|higher|lower|above|below|over|under))\b|[<>≤≥≠]|\\(?:leq?|geq?|lt|gt|neq?)\b",
    re.IGNORECASE,
)
_PHRASE_END = re.compile(r"[,;:!?()]|\.(?!\d)")
_TOLERANCE = re.compile(r"(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3})?|\d{1,30}/\d{1,30}")


def judge_exact(gold: str, answers: tuple[str, ...], meta: Mapping[str, Any]) -> Verdict:
    """answers: spellings of the one committed answer, best first; meta["case_sensitive"]: whether case matters (default: not)."""
    wanted = _normal(gold, meta)
    if not wanted:
        return Verdict(Outcome.GRADER_ERROR, answers[0], "no reference answer")
    for answer in answers:
        if _normal(answer, meta) == wanted:
            return Verdict(Outcome.CORRECT, answer, "the same text", score=1.0)
    return Verdict(Outcome.WRONG, answers[0], "another text")


def _normal(text: str, meta: Mapping[str, Any]) -> str:
    text = re.sub(r"^\\text\{([^{}]*)\}$", r"\1", text.strip(_AROUND))
    text = " ".join(text.split()).strip(_AROUND)
    return text if meta.get("case_sensitive") else text.casefold()


def judge_numeric(gold: str, answer: str, meta: Mapping[str, Any]) -> Verdict:
    """meta["tolerance"]: the largest absolute difference allowed; meta["relative_tolerance"]: as a share of the reference answer."""
    wanted = number(reference(gold))
    if wanted is None:
        return Verdict(Outcome.GRADER_ERROR, answer, "the reference answer is not a number")
    try:
        absolute, relative = tolerances(meta)
    except ValueError as error:
        return Verdict(Outcome.GRADER_ERROR, answer, str(error))
    given = number(answer)
    if given is None:
        return Verdict(Outcome.WRONG, answer, "not one number")
    equal = abs(given - wanted) <= max(absolute, relative * abs(wanted))
    detail = "the same number" if equal else "another number"
    return Verdict(Outcome.CORRECT if equal else Outcome.WRONG, answer, detail, score=float(equal))


def tolerances(meta: Mapping[str, Any]) -> tuple[Fraction, Fraction]:
    """(absolute, relative), 0 where the problem states none. Raises ValueError that says which of them is no number."""
    absolute, relative = (_tolerance(meta, name) for name in ("tolerance", "relative_tolerance"))
    return absolute, relative


def _tolerance(meta: Mapping[str, Any], name: str) -> Fraction:
    written = str(meta.get(name) or 0).strip()
    with suppress(ZeroDivisionError):
        if _TOLERANCE.fullmatch(written):
            return Fraction(written)
    raise ValueError(f"`{name}` must be a number of 0 or more, found {written[:40]!r}")


def number(text: str) -> Fraction | None:
    """The number an answer is, units aside; where it is a sentence with one number in it, that one. None when there are several, or when
    the sentence compares with it or goes on from it."""
    if (found := scientific(text)) is not None:
        return found
    if (found := _value(read(text))) is not None:
        return found
    numbers = list(_NUMBER.finditer(text))
    if len(numbers) != 1 or len(numbers[0][0]) > 100 or _COMPARED.search(text):
        return None
    digits, rest = numbers[0][0], text[numbers[0].end() :]
    phrase = digits + _PHRASE_END.split(rest)[0]
    if units.goes_on(clean(phrase)):
        return None
    found = _value(read(phrase))
    return Fraction(re.sub(r"[,$]", "", digits.replace("−", "-"))) if found is None else found


def plain_number(text: str) -> Fraction | None:
    """The number a text is and nothing else: digits, sign, decimal point, thousands separators; no leading zeros, which may matter."""
    text = text.strip()
    return Fraction(text.replace(",", "")) if _PLAIN.fullmatch(text) else None


def _value(form: Form) -> Fraction | None:
    if isinstance(form, Named):
        return _value(form.value)
    if isinstance(form, Chain):
        return _value(form.items[-1])
    if isinstance(form, Ratio):
        return None
    return polynomial.rational(form.value) if isinstance(form, Leaf) else None
