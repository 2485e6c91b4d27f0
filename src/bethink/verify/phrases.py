r"""What a sentence says the answer is: "the answer is …", "Final answer: …", a heading "Answer" with the answer below it.

A sentence counts when it states a value. What is asked ("The answer is 7?"), negated, doubted, supposed or another's ("a common wrong
answer is 7") is passed over, and so is a sentence about the answer that gives none ("the answer is correct", "the final answer is a whole
number"). Which of several statements counts is decided by `extract`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_TAIL = 400
_MAX_FORMULA = 2000
_MAX_PHRASES = 100  # of a text that repeats itself only the end is looked at
_LOOK_BACK = 200


@dataclass(frozen=True, slots=True)
class Phrase:
    """One statement. text: the answer in it; block: with all lines of its paragraph; final: "final answer"; closed: something marks its
    end; describes: it judges or describes the answer instead of giving it; start: where in the text."""

    text: str
    block: str
    final: bool
    closed: bool
    describes: bool
    start: int


_ANSWER = re.compile(
    r"\b(?P<final>final[ \t]++)?answers?\b[\"']?(?:[ \t]++(?:to|for|of|in|here)\b[^.:\n?!=]{0,80}?)?[ \t]*+[*_]{0,3}[ \t]*+"
    r"(?P<verb>(?:[:=]|\b(?:is|are|equals|must be)\b)[ \t]*+(?:[*_]{1,3}(?=[ \t]*+:))?[ \t]*+(?P<colon>:?)|(?=\n))",
    re.IGNORECASE,
)
_HEADING = re.compile(r"(?:^|\n)[#*_ \t]*(?:(?:the|my)[ \t]+)?$", re.IGNORECASE)
# "A is wrong, so the answer is B" doubts nothing: a conclusion begins a clause of its own.
_CLAUSE_START = re.compile(r"[.!?;:,\n]|(?<!\bif )\b(?:so|therefore|thus|hence|but)\b", re.IGNORECASE)
_UNSURE = re.compile(
    r"\b(?:if|whether|suppos\w+|assum\w+|unless|doubt\w*|thought|maybe|perhaps|possibly|might|could|wonder\w*|"
    r"initial|previous|earlier|(?:wrong|incorrect)(?!\s+(?:the|our|my)\s*$)|student's|claimed|claims)\b"
    r"|(?:\bnot|n't)(?:\s+\w+){0,2}\s+(?:the|my)?\s*$"
    # another's answer: "a common answer is", "the second best answer is"
    r"|\b(?:common|typical|frequent|popular|tempting|(?:second|third|next)[- ](?:best|likely|closest))\s*$",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"(?:not|never|no longer|neither|unclear|unknown)\b", re.IGNORECASE)


def last_clause(before: str) -> str:
    """The clause that `before` ends in."""
    starts = [match.end() for match in _CLAUSE_START.finditer(before)]
    return before[starts[-1] :] if starts else before


def doubtful(clause: str) -> bool:
    """Whether what a clause leads up to is supposed, doubted, called wrong or said to be another's."""
    return bool(_UNSURE.search(clause))


def phrases(text: str) -> Iterator[Phrase]:
    """Every "answer is …" that is a statement."""
    for match in list(_ANSWER.finditer(text))[-_MAX_PHRASES:]:
        verb = match["verb"].strip(" \t*_")
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if (not verb and not _HEADING.search(before)) or doubtful(last_clause(before)):
            continue
        tail, block, closed = _tail(text, match.end())
        if not tail or tail.endswith("?") or _ANSWER.search(tail):
            continue
        if verb[:1] not in ":=" and not match["colon"] and _NEGATION.match(tail):
            continue
        trimmed = trim(tail)
        if trimmed and trimmed[-1:] != "?":
            final = bool(match["final"])
            yield Phrase(trimmed, block, final, closed, _describes(trimmed), match.start())


def names_answer(line: str) -> bool:
    """Whether the line has words such as "the answer is" in it."""
    return bool(_ANSWER.search(line))


_MATH = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\$([^$\n]+)\$|\\\((.+?)\\\)", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?](?=[\s*\"')\]]|$)")
_ABBREVIATION = re.compile(r"\b(?:[ap]\.m|sq|cu|ft|in|approx|vs|Mr|Mrs|Dr|St|No|[A-Z])$", re.IGNORECASE)


_BLANK = re.compile(r"\s*(?:```\w*\n\s*)?")


def _tail(text: str, start: int) -> tuple[str, str, bool]:
    """What follows a phrase: (to the end of the sentence, to the end of the paragraph, whether something ends it)."""
    blank = _BLANK.match(text, start)
    start = blank.end() if blank else start
    end_of_paragraph = text.find("\n\n", start)
    end_of_paragraph = len(text) if end_of_paragraph < 0 else end_of_paragraph
    block = text[start:end_of_paragraph].strip()
    if (math := _MATH.match(text, start, start + _MAX_FORMULA)) and (math[1] or math[2]):
        return math[0], block, True
    end_of_line = text.find("\n", start)
    stop = min(len(text) if end_of_line < 0 else end_of_line, start + _MAX_TAIL)
    formulas = [found.span() for found in _MATH.finditer(text, start, stop)]
    for found in _SENTENCE_END.finditer(text, start, stop):
        inside = any(a < found.start() < b for a, b in formulas)
        abbreviated = (
            found[0] == "." and found.end() < stop and _ABBREVIATION.search(text, start, found.start())
        )
        if not inside and not abbreviated:
            return text[start : found.end()].strip(), block, True
    tail = text[start:stop].strip()
    ends_itself = (bool(formulas) and formulas[-1][1] >= stop - 1) or tail.endswith(("**", "`"))
    return tail, block, end_of_line >= 0 or ends_itself


_WRAPPED = re.compile(r"(\*\*|__|`|\*)(?P<inside>[^*_`\n]+?)\1")
_REASON = re.compile(
    r",?\s+(?:because|since|due to|which|as (?:we|it|the|there|this)|so (?:the|we|it)|where|when|given|according to|based on|"
    r"for (?:the|this|all|any)|rather than|instead of|I hope)\b.*|,\s*(?:as|so|and (?:we|so|thus|this|the)|(?:and |but )?not)\b.*",
    re.DOTALL,
)
_LEAD = re.compile(
    r"(?:(?:therefore|thus|then|hence|simply|just|exactly|approximately|about|roughly|clearly|indeed|equal to|found to be|given (?:by|as)|as follows|"
    r"option|choice|(?:that )?the (?:number|value|integer|fraction|point|interval|set|function))\b[,:]?\s+)+",
    re.IGNORECASE,
)


_EMPHASIS = re.compile(r"[*_]{1,3}(?=\s|$)|[*_]{2,3}")
_ARRIVES = r"(?:(?:we|I|you)\s+(?:\w+\s+)?(?:get|obtain|find|have|arrive at|conclude)|to (?:get|give|obtain))"
_SUBJECT = re.compile(
    rf"[A-Za-z][^$\\\d]*?\b(?:is|are|equals|{_ARRIVES})\s+(?:exactly |approximately |about )?(?P<rest>.*\S)",
    re.DOTALL,
)
_WORKED = re.compile(
    rf"(?:after|by|from|using|with|\w+ing)\b.*\b{_ARRIVES}\s+(?P<rest>.*\S)", re.DOTALL | re.IGNORECASE
)
_BEFORE_FORMULA = re.compile(r"(?:[A-Za-z'-]+,?\s+){3,}(?=\$|\\\()")
_ASIDE = re.compile(r"(?<=\S)\s+\((?=[^()\\]*[A-Za-z]{3})[^()\\]*\)\W*$")


def trim(tail: str) -> str:
    """The answer in a sentence: without emphasis around it, reasons after it, filling words before it."""
    tail = _LEAD.sub("", tail.lstrip(), count=1) if _LEAD.match(tail.lstrip()) else tail.lstrip()
    if match := _WRAPPED.match(tail):
        return _bare(match["inside"])
    tail = _EMPHASIS.sub("", tail, count=1).lstrip() if _EMPHASIS.match(tail) else tail
    math = _MATH.match(tail)
    kept = math.end() if math else 0
    tail = tail[:kept] + _REASON.sub("", tail[kept:])
    tail = _ASIDE.sub("", tail)
    if not math and (match := _BEFORE_FORMULA.match(tail)) and len(_MATH.findall(tail)) == 1:
        tail = tail[match.end() :]
    elif not math and (match := _SUBJECT.fullmatch(tail) or _WORKED.fullmatch(tail)):
        tail = match["rest"]
        if match := _WRAPPED.match(tail):
            return _bare(match["inside"])
    return _bare(tail)


_EMOJI_AT_END = re.compile(
    "(?<=[^\U0001f000-\U0001faff\u2600-\u27bf\ufe0f\\s])\\s*[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f]+\\s*$"
)


def _bare(text: str) -> str:
    text = _EMOJI_AT_END.sub("", text).strip().rstrip(".,;:!*_ ")
    return (text if "{" in text else text.rstrip("} ")).strip(" \"'")


_ADVERBS = r"(?:(?:\w+ly|indeed|also|both|now|still)\s+)*"
_GOES_ON = r"(?:[\s,;]+(?:and|as|for|to|in|with|by|if|but|here|now|indeed|too|given|so)\b.*)?"
_JUDGEMENT = re.compile(
    rf"{_ADVERBS}(?:the )?(?:correct|incorrect|right|wrong|reasonable|unreasonable|valid|plausible|sensible|consistent|accurate|complete|"
    rf"unique|obvious|clear|fine|ready|done|close)(?: (?:answer|one))?{_GOES_ON}",
    re.IGNORECASE | re.DOTALL,
)
_KIND = re.compile(
    rf"(?:an?|some|the)\s+(?:[a-z-]+\s+){{0,3}}?(?:number|integer|fraction|decimal|percentage|ratio|value|expression|quantity)s?{_GOES_ON}",
    re.IGNORECASE | re.DOTALL,
)
_MANNER = re.compile(
    rf"{_ADVERBS}(?:given|shown|left|written|expressed|stated|presented|boxed|rounded|simplified|reduced|verified|checked|confirmed|"
    r"found|obtained|computed|calculated|derived|explained|required|needed|expected|summarized)"
    r"(?:[\s,;]+(?:to (?!be\b)|in|by|with|up|for|as an?|as the|as required|as expected|using|on|from|and|above|below|here|earlier)\b.*)?"
    r"|(?:as follows|above|below|here|in (?:the|its|a) (?:box|form|simplest|lowest|correct)\b.*)",
    re.IGNORECASE | re.DOTALL,
)
_COMPARISON = re.compile(
    rf"{_ADVERBS}(?:much |far |slightly )?(?:less|more|larger|greater|smaller|bigger|higher|lower|fewer)\s+than\b.*",
    re.IGNORECASE | re.DOTALL,
)
_VALUE_FOLLOWS = re.compile(r"\b(?:to be|equals)\b|:")


def _describes(answer: str) -> bool:
    """Whether words after "the answer is" judge it ("correct"), name its kind ("a whole number"), compare it ("less than 5") or say where
    or how it is given, and so give none."""
    described = any(pattern.fullmatch(answer) for pattern in (_JUDGEMENT, _KIND, _MANNER, _COMPARISON))
    return described and not _VALUE_FOLLOWS.search(answer)


_WRONG = r"(?:wrong|incorrect|a mistake|mistaken|not (?:right|correct|true))\b(?!\s+(?:to|that)\b)"
_TAKEN_BACK = re.compile(
    r"[\s.\"'*$)}\]]*(?:\bno\b[.!,]"
    rf"|\b(?:no|wait|hmm|actually|oops|sorry)\b[^.\n]{{0,80}}?\b(?:mistake\b|not it\b|{_WRONG})"
    rf"|\b(?:that|this|it)(?:'s| is| was) {_WRONG})",
    re.IGNORECASE,
)


def taken_back(text: str, end: int) -> bool:
    """Whether what ends at `end` is taken back at once ("No, that is wrong")."""
    return bool(_TAKEN_BACK.match(text, end))
