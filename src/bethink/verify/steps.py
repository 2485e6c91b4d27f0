r"""The arithmetic in a thinking text, step by step: every equation found, checked exactly, and located when it is wrong.

`find_steps` looks at each = and ≈ with a calculation of numbers on both sides (see `prose` for what is read as one) and says whether
it holds. A step is called wrong only when no reading of it is right, and is left unjudged where prose keeps open what is meant:

- rounding: a side that is one written number needs to be right to half a unit of its last decimal, next to ≈ (or before "…") to a whole
  unit; next to ≈ the zeros at the end of a whole number are no digits of it (5.9 × 1000 ≈ 6000);
- rounding on the way: a difference of up to a hundredth is left unjudged where a number with three or more decimals is calculated with,
  or where neither side is one written number and there are decimals;
- sums that run on: in 2 + 3 = 5 + 4 = 9 both 2 + 3 = 5 and 5 + 4 = 9 are right;
- percentages: 5/20 × 100 = 25% is as right as 5/20 = 25%;
- unjudged: a variable or a word on one side, two different units of one kind (2 hours + 30 minutes = 150 minutes) unless the numbers
  agree, what is asked, supposed ("if 2 + 2 = 5") or taken back at once ("no, that is wrong"), and what calculates nothing (7 = 7, 7 + 0 = 7).

`check` is the text's summary, `feedback` a line for people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from bethink.verify.phrases import taken_back
from bethink.verify.prose.sides import Side, conflicting, left_of, right_of
from bethink.verify.prose.tokens import Chain, chains
from bethink.verify.verdict import Outcome, Verdict

_CLOSE = Fraction(1, 100)
_SPACE = re.compile(r"\s+")
_MOST_DECIMALS = 6
_LONGEST_QUOTE = 120
_MOST_QUOTED = 4
_ROUNDED = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One equation.

    index:      1 for the first of the text.
    start, end: its characters in the text; of an equation that goes on (2 + 3 = 5 = 10/2) the part that is new.
    claim:      where what it claims begins, behind its sign: what stands before is taken as given.
    text:       the whole equation, white space as single spaces.
    right:      whether it holds; None: not judged.
    why:        "it is 19" for a wrong one, what kept an unjudged one from being judged, "rounded" or "" for a right one.
    """

    index: int
    start: int
    claim: int
    end: int
    text: str
    right: bool | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """The steps of a text. judged: how many different ones were judged; wrong: those of them that are wrong, in order."""

    steps: tuple[Step, ...]
    judged: int
    wrong: tuple[Step, ...]

    @property
    def share_right(self) -> float | None:
        """Of the different steps that were judged; None when there are none."""
        return 1 - len(self.wrong) / self.judged if self.judged else None


def find_steps(text: str) -> list[Step]:
    """Every equation with a number in it, in order. Takes time linear in the length of `text` and never raises."""
    steps: list[Step] = []
    for chain in chains(text):
        _add_steps(text, chain, steps)
    return steps


def check(text: str) -> Checked:
    """The steps of `text`. The same equation written again counts once."""
    steps = find_steps(text)
    different = {_SPACE.sub("", step.text): step for step in reversed(steps) if step.right is not None}
    wrong = sorted((step for step in different.values() if not step.right), key=lambda step: step.index)
    return Checked(tuple(steps), len(different), tuple(wrong))


def feedback(verdict: Verdict, checked: Checked) -> str:
    """What was right and what was not, in one line: "answer right, step 3 wrong: 12 + 7 = 18, it is 19"."""
    answer = {
        Outcome.CORRECT: "answer right",
        Outcome.WRONG: "answer wrong",
        Outcome.NO_ANSWER: "no answer",
        Outcome.TRUNCATED: "cut before an answer",
        Outcome.GRADER_ERROR: "answer not graded",
        Outcome.NOT_JUDGED: "answer not judged",
    }[verdict.outcome]
    if checked.wrong:
        first, others = checked.wrong[0], len(checked.wrong) - 1
        more = f" (and {others} more)" if others else ""
        return f"{answer}, step {first.index} wrong: {_quoted(first.text)}, {first.why}{more}"
    if checked.judged:
        return f"{answer}, {checked.judged} step{'s' if checked.judged > 1 else ''} checked, all right"
    return f"{answer}, no step to check"


def _quoted(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"


def _add_steps(text: str, chain: Chain, steps: list[Step]) -> None:
    """The steps of one chain. One letter between two signs is passed over: in 12/4 = x = 3 the 3 is compared with 12/4."""
    first = left = left_of(chain.runs[0], chain.before)
    about, covered = False, 0
    for i, (sign, run) in enumerate(zip(chain.signs, chain.runs[1:], strict=True)):
        goes_on = i + 1 < len(chain.signs)
        right = right_of(run, None if goes_on else chain.end)
        about = about or sign.kind == "about"
        if left is not None and right is not None:
            found, why = _unsaid(text, left, right) or _judge(
                left, right, about=about, first=left is first, goes_on=goes_on and right.whole
            )
        else:
            found, why = None, "not only numbers"
        if left is not None or right is not None:
            start = left.start if left else (chain.runs[i][-_MOST_QUOTED:] or [sign])[0].start
            end = right.end if right else (run[:_MOST_QUOTED] or [sign])[-1].end
            quote = _SPACE.sub(" ", text[start:end])
            steps.append(Step(len(steps) + 1, max(start, covered), sign.end, end, quote, found, why))
            covered = end
        passed_over = len(run) == 1 and run[0].kind == "word"
        if not passed_over:
            left, about = left_of(run, None), False


def _unsaid(text: str, left: Side, right: Side) -> tuple[None, str] | None:
    """Why an equation was not claimed to hold, if so."""
    if right.asked:
        return None, "asked"
    if left.supposed:
        return None, "supposed"
    if taken_back(text, right.end + (text[right.end : right.end + 1] in (",", ";"))):
        return None, "taken back"
    return None


def _judge(left: Side, right: Side, *, about: bool, first: bool, goes_on: bool) -> tuple[bool | None, str]:
    """(whether left = right, why). first: `left` begins the chain; goes_on: behind `right` comes another sign."""
    if not left.values or not right.values:
        return None, "not only numbers"
    if _equal(left, right, about=about):
        if left.operations == left.idle and right.operations == right.idle and left.percent == right.percent:
            return None, "nothing calculated"
        return True, "" if left.values[0] == right.values[0] else "rounded"
    if goes_on and right.operations and right.first in left.values and left.operations > left.idle:
        return True, ""
    if left.doubtful or right.doubtful:
        return None, "not clear what is meant"
    if not left.operations and (
        left.after_word or left.labelled or not (right.operations or (left.whole and not first))
    ):
        return None, "nothing calculated"
    if conflicting(left, right):
        return None, "different units"
    if _may_be_rounded(left, right, about) and abs(left.values[0] - right.values[0]) <= _CLOSE * abs(
        left.values[0]
    ):
        return None, "rounded on the way"
    return False, _correction(left, right)


def _may_be_rounded(left: Side, right: Side, about: bool) -> bool:
    """Whether a small difference may come from numbers that were rounded before: 48 × 0.333 = 16, 1/3 + 1/3 = 0.33 + 0.33."""
    if any(side.operations and side.decimals >= _ROUNDED for side in (left, right)):
        return True
    return left.places is None and right.places is None and bool(left.decimals or right.decimals or about)


def _equal(left: Side, right: Side, *, about: bool) -> bool:
    """Whether some reading of one is some reading of the other, to the precision they are written with."""
    slack, strict = max(_precision(left, about), _precision(right, about))
    for a in left.values:
        for b in right.values:
            if _within(a - b, slack, strict):
                return True
            # 5/20 × 100 = 25% says that it is 25 of a hundred.
            if left.percent != right.percent:
                a_plain, b_plain = (a * 100, b) if left.percent else (a, b * 100)
                if _within(a_plain - b_plain, slack * 100, strict):
                    return True
    return False


def _within(difference: Fraction, slack: Fraction, strict: bool) -> bool:
    return abs(difference) < slack if strict else abs(difference) <= slack


def _precision(side: Side, about: bool) -> tuple[Fraction, bool]:
    """(how far off a side may be, whether it must be less)."""
    if side.places is None:
        return Fraction(0), False
    unit = Fraction(10) ** -side.places / (100 if side.percent else 1)
    if about or (side.dots and side.places > 0):
        return unit, True
    return (unit / 2, False) if side.places > 0 else (Fraction(0), False)


def _correction(left: Side, right: Side) -> str:
    """What a wrong equation should have said."""
    if right.places is not None:
        return f"it is {_value_text(left.values[0], right)}"
    if left.places is not None:
        return f"it is {_value_text(right.values[0], left)}"
    return f"{_number_text(left.values[0])} is not {_number_text(right.values[0])}"


def _value_text(value: Fraction, written: Side) -> str:
    """A value in place of the number that was written; where that is a percentage, in the reading that is nearer to it."""
    if not written.percent:
        return _number_text(value)
    wanted = written.values[0]
    return _number_text(min(value * 100, value, key=lambda share: abs(share - wanted * 100))) + "%"


def _number_text(value: Fraction) -> str:
    """A value as people write it: 19, 2.5, 10/3; long ones in scientific notation."""
    if abs(value.numerator) >= 10**20 or value.denominator >= 10**9:
        return _about(value)
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**_MOST_DECIMALS
    if scaled.denominator == 1:
        whole, decimals = divmod(abs(scaled.numerator), 10**_MOST_DECIMALS)
        return f"{'-' if value < 0 else ''}{whole}.{decimals:0{_MOST_DECIMALS}d}".rstrip("0")
    return f"{value.numerator}/{value.denominator}"


def _about(value: Fraction) -> str:
    """Six digits of a value too long to write out, which may be beyond the range of floats."""
    size = len(str(abs(value.numerator))) - len(str(value.denominator))
    if abs(size) <= 12:
        return f"about {float(value):.6g}"
    mantissa = float(value / Fraction(10) ** size)
    return f"about {mantissa:.6g}e{size}"
