r"""Which answer a completion committed to.

Only the text after thinking counts. An answer is committed by one of:

1. strong marks: `\boxed{…}` (or `\fbox`), "final answer is/:", `<answer>…</answer>`, a last line "#### …";
2. phrases: "the answer is", "answer:", "answer =";
3. an answer that is nothing but the value.

The last strong mark wins; phrases count where there is no strong mark, the last of them; the whole text only where there is neither.
(A `\boxed` outranks a later "the answer is", which usually goes on "… correct because".) Boxes that follow each other with nothing but
"and" or a comma between are one answer. What is asked ("The answer is B?"), negated, supposed or taken back at once ("No, that is
wrong") was never committed, and a box that does not close takes back what came before. Numbers of a ramble are never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bethink.chat.parse import Status, parse
from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat
from bethink.verify.latex import closing_braces

_MAX_TAIL = 400
_MAX_WHOLE = 200
_MAX_FORMULA = 2000
_MAX_PHRASES = 100  # of a text that repeats itself only the end is looked at


@dataclass(frozen=True, slots=True)
class Commitment:
    """An answer and how it was committed.

    text: the answer as written, without markup around it; block: the same with all the lines that belong to it; strong: by a strong
    mark; closed: something marks its end, so that it is whole even where the completion was cut; start: where in the answer text.
    """

    text: str
    block: str
    strong: bool
    closed: bool
    start: int


_END_TOKEN = re.compile(r"(?:<\|[^<>|]{1,30}\|>|</s>|<eos>|<end_of_turn>)$")


def answer_text(
    output: str, *, think: ThinkFormat = DEFAULT_FORMAT, opened: bool = False
) -> tuple[str, Status]:
    """The text outside all think blocks, and what became of the block. opened: the prompt opened it.

    A closing tag without an opening one shows that the prompt did, and a second block in the answer is thinking as well. "" when a
    block is not closed. End-of-turn tokens that were left at the end are no part of it.
    """
    before, closed, _ = output.partition(think.close)
    parsed = parse(output, think=think, opened=opened or bool(closed and think.open not in before))
    status, answer = parsed.status, parsed.answer
    while think.open in answer:
        again = parse(answer, think=think)
        status, answer = again.status, again.answer
    while answer.rstrip().endswith(">") and (token := _END_TOKEN.search(answer.rstrip())):
        answer = answer[: token.start()]
    return answer, status


def committed(text: str, *, truncated: bool = False, like: str = "") -> Commitment | None:
    """The answer `text` (after thinking) committed to, or None.

    truncated: the completion was cut, so its end may be missing; like: the reference answer, where answers may be texts: what is nothing but
    an answer may then be as long and have as many words.
    """
    boxes, open_box = _boxes(text)
    marks = [*boxes, *_tagged(text), *_hashes(text), *_phrases(text)]
    marks = [mark for mark in marks if mark.text and mark.start > open_box and (mark.closed or not truncated)]
    marks = [mark for mark in marks if not _retracted(text, mark)]
    strong = [mark for mark in marks if mark.strong]
    if found := max(strong or marks, key=lambda mark: mark.start, default=None):
        return found
    return _whole(text, like) if not truncated and open_box < 0 else None


def reference(answer: str) -> str:
    r"""The reference answer itself, where a data set wraps it (`\boxed{…}`, a solution that ends in "#### 18")."""
    if r"\boxed{" in answer or "####" in answer:
        found = committed(answer)
        return found.text if found else answer
    return answer


_BOX = re.compile(
    r"\\(?:boxed|fbox|framebox)\s*(?:(?=\{)|(?P<token>-?\d+(?:\.\d+)?|\\[A-Za-z]+(?!\s*[A-Za-z{])))"
)
_PLACEHOLDER = re.compile(
    r"(?:\\text\s*\{)?\s*(?:your |the |final )*answer(?: here)?\s*\}?|[.…_?]*|\\[lc]?dots", re.IGNORECASE
)
_BETWEEN_BOXES = re.compile(r"(?:[\s$,;.&]|\\[()]|\\text\s*\{|\}|\b(?:and|or)\b)*")
_LONGEST_GAP = 40
_MAX_NESTING = 20


def _boxes(text: str) -> tuple[list[Commitment], int]:
    """Every box, and where the last one begins that does not close (-1 when all do)."""
    found: list[Commitment] = []
    if "box" not in text:
        return found, -1
    closing = closing_braces(text)
    at, previous_end, open_box = 0, -1, -1
    while match := _BOX.search(text, at):
        if match["token"]:
            content, at = match["token"], match.end()
        elif match.end() in closing:
            content, at = text[match.end() + 1 : closing[match.end()]], closing[match.end()] + 1
        else:
            open_box, at = match.start(), match.end()
            continue
        content = _unbox(content)
        if _PLACEHOLDER.fullmatch(content):
            continue
        gap = text[previous_end : match.start()] if found else None
        if (
            gap is not None
            and len(gap) <= _LONGEST_GAP
            and _BETWEEN_BOXES.fullmatch(gap)
            and content != found[-1].text
        ):
            content = f"{found.pop().text}, {content}"
        found.append(Commitment(content, content, strong=True, closed=True, start=match.start()))
        previous_end = at
    return found, open_box


def _unbox(content: str) -> str:
    """What stands inside boxes in boxes, and behind "the answer is" inside a box."""
    for _ in range(_MAX_NESTING):
        match = _BOX.search(content)
        if not match or match["token"]:
            break
        end = closing_braces(content).get(match.end())
        if end is None:
            break
        content = content[match.end() + 1 : end]
    if "nswer" in content and (inner := list(_phrases(content.replace(r"\text{", " ").replace("}", " ")))):
        return inner[-1].text
    return content.strip()


_OPEN_TAG, _CLOSE_TAG = "<answer>", "</answer>"


def _tagged(text: str) -> Iterator[Commitment]:
    """The last <answer>…</answer>, unless a box stands in it, which is found by itself."""
    lower = text.lower()
    end = lower.rfind(_CLOSE_TAG)
    start = lower.rfind(_OPEN_TAG, 0, end) if end >= 0 else -1
    if start < 0 or len(lower) != len(text):
        return
    inside = text[start + len(_OPEN_TAG) : end].strip("\n")
    if not _boxes(inside)[0]:
        yield Commitment(inside.strip(), inside, strong=True, closed=True, start=start)


def _hashes(text: str) -> Iterator[Commitment]:
    """The GSM8K way: a last line that begins with ####. Elsewhere it is a heading."""
    start = text.rstrip().rfind("\n") + 1
    line = text[start:].strip()
    if line.startswith("####") and not line.startswith("#####") and not _ANSWER.search(line):
        tail = line[4 : 4 + _MAX_TAIL].strip()
        yield Commitment(_trim(tail), tail, strong=True, closed=False, start=start)


_ANSWER = re.compile(
    r"\b(?P<final>final[ \t]++)?answers?\b[\"']?(?:[ \t]++(?:to|for|of|in|here)\b[^.:\n?!=]{0,80}?)?[ \t]*+[*_]{0,3}[ \t]*+"
    r"(?P<verb>(?:[:=]|\b(?:is|are|equals|must be)\b)[ \t]*+(?:[*_]{1,3}(?=[ \t]*+:))?[ \t]*+(?P<colon>:?)|(?=\n))",
    re.IGNORECASE,
)
_HEADING = re.compile(r"(?:^|\n)[#*_ \t]*(?:(?:the|my)[ \t]+)?$", re.IGNORECASE)
_CLAUSE_START = re.compile(r"[.!?;:,\n][^.!?;:,\n]*$")
_UNSURE = re.compile(
    r"\b(?:if|whether|suppos\w+|assum\w+|unless|doubt\w*|thought|maybe|perhaps|possibly|might|could|wonder\w*|"
    r"initial|previous|earlier|wrong|incorrect|student's|claimed|claims)\b|(?:\bnot|n't)(?:\s+\w+){0,2}\s+(?:the|my)?\s*$",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"(?:not|never|no longer|neither|unclear|unknown)\b", re.IGNORECASE)


def _phrases(text: str) -> Iterator[Commitment]:
    """Every "answer is …" that is a statement."""
    for match in list(_ANSWER.finditer(text))[-_MAX_PHRASES:]:
        verb = match["verb"].strip(" \t*_")
        before = text[max(0, match.start() - 200) : match.start()]
        if not verb and not _HEADING.search(before):
            continue
        clause = _CLAUSE_START.search(before)
        if _UNSURE.search(before[clause.start() :] if clause else before):
            continue
        tail, block, closed = _tail(text, match.end())
        if not tail or tail.endswith("?") or _ANSWER.search(tail):
            continue
        if verb[:1] not in ":=" and not match["colon"] and _NEGATION.match(tail):
            continue
        trimmed = _trim(tail)
        if trimmed and trimmed[-1:] != "?":
            yield Commitment(trimmed, block, strong=bool(match["final"]), closed=closed, start=match.start())


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
    r"for (?:the|this|all|any)|I hope)\b.*|,\s*(?:as|so|and (?:we|so|thus|this|the))\b.*",
    re.DOTALL,
)
_LEAD = re.compile(
    r"(?:(?:therefore|thus|then|hence|simply|just|exactly|approximately|about|roughly|clearly|indeed|equal to|given by|as follows|"
    r"option|choice|(?:that )?the (?:number|value|integer|fraction|point|interval|set|function))\b[,:]?\s+)+",
    re.IGNORECASE,
)


_EMPHASIS = re.compile(r"[*_]{1,3}(?=\s|$)|[*_]{2,3}")
_SUBJECT = re.compile(
    r"[A-Za-z][^$\\\d]*?\b(?:is|are|equals)\s+(?:exactly |approximately |about )?(?P<rest>.*\S)", re.DOTALL
)

_BEFORE_FORMULA = re.compile(r"(?:[A-Za-z'-]+,?\s+){3,}(?=\$|\\\()")
_ASIDE = re.compile(r"(?<=\S)\s+\((?=[^()\\]*[A-Za-z]{3})[^()\\]*\)\W*$")


def _trim(tail: str) -> str:
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
    elif not math and (match := _SUBJECT.fullmatch(tail)):
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


_TAKEN_BACK = re.compile(
    r"[\s.\"'*$)}\]]*(?:\bno\b[.!,]|(?:\b(?:no|wait|hmm|actually|oops|sorry)\b)[^.\n]{0,80}?\b(?:wrong|incorrect|mistake|not (?:right|correct|it|true))\b"
    r"|\b(?:that|this|it)(?:'s| is| was) (?:wrong|incorrect|not (?:right|correct|true)|a mistake)\b)",
    re.IGNORECASE,
)


def taken_back(text: str, end: int) -> bool:
    """Whether what ends at `end` is taken back at once ("No, that is wrong")."""
    return bool(_TAKEN_BACK.match(text, end))


def _retracted(text: str, mark: Commitment) -> bool:
    end = text.find(mark.text, mark.start)
    return end >= 0 and taken_back(text, end + len(mark.text))


_PROSE = re.compile(r"\\[A-Za-z]+(?:\{[a-z]*\})?|[A-Za-z]{2,}")


def _whole(text: str, like: str) -> Commitment | None:
    """The text itself, when it is one short line with hardly a word in it."""
    line = text.strip()
    if (
        not line
        or "\n" in line
        or len(line) > max(_MAX_WHOLE, 2 * len(like))
        or line.endswith("?")
        or r"\boxed" in line
    ):
        return None
    most_words = max(1, _words(like)) + any(character.isdecimal() for character in line)
    trimmed = _trim(line)
    if _words(line) > most_words or not trimmed:
        return None
    return Commitment(trimmed, line, strong=False, closed=False, start=0)


def _words(text: str) -> int:
    return sum(not word.startswith("\\") for word in _PROSE.findall(text))
