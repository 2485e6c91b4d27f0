r"""Which answer a completion committed to.

Only the text after thinking counts. An answer is committed by one of:

1. strong marks: `\boxed{…}` (or `\fbox`), "final answer is/:", `<answer>…</answer>`, a last line "#### …";
2. phrases: "the answer is", "answer:", "answer =";
3. an answer that is nothing but the value.

The last strong mark wins; phrases count where there is no strong mark, the last of them; the whole text only where there is neither.
(A `\boxed` outranks a later "the answer is", which usually goes on "… correct because", and a "final answer is" that goes on in prose.)
Boxes that follow each other with nothing but "and" or a comma between are one answer. What is asked ("The answer is B?"), negated,
supposed or taken back at once ("No, that is wrong") was never committed, nor is what only judges or describes the answer ("the answer is
correct"; see `phrases`), and a box that does not close takes back what came before. Numbers of a ramble are never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bethink.chat.parse import Status, parse
from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat
from bethink.verify.latex import closing_braces
from bethink.verify.phrases import names_answer, phrases, taken_back, trim

_MAX_WHOLE = 200
_MAX_HASHED = 400
_MOST_WORDS_OF_A_VALUE = 3


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
    marks = [*boxes, *_tagged(text), *_hashes(text), *_stated(text, like)]
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


def _box_spans(text: str) -> Iterator[tuple[int, int, str | None]]:
    """(start, end, content) of every outermost box; content None: it does not close, and `end` is where its content begins."""
    if "box" not in text:
        return
    closing, at = closing_braces(text), 0
    while match := _BOX.search(text, at):
        content: str | None = None
        at = match.end()
        if match["token"]:
            content = match["token"]
        elif at in closing:
            content, at = text[at + 1 : closing[at]], closing[at] + 1
        yield match.start(), at, content


def _boxes(text: str) -> tuple[list[Commitment], int]:
    """Every box with something in it, and where the last one begins that does not close (-1 when all do)."""
    found: list[Commitment] = []
    previous_end, open_box = 0, -1
    for start, end, inside in _box_spans(text):
        if inside is None:
            open_box = start
            continue
        content = _unbox(inside)
        if _PLACEHOLDER.fullmatch(content):
            continue
        if found and content != found[-1].text and _adjoin(text, previous_end, start):
            content = f"{found.pop().text}, {content}"
        found.append(Commitment(content, content, strong=True, closed=True, start=start))
        previous_end = end
    return found, open_box


def _adjoin(text: str, end: int, start: int) -> bool:
    """Whether nothing but "and" or a comma stands between the end of one box and the start of the next."""
    return start - end <= _LONGEST_GAP and bool(_BETWEEN_BOXES.fullmatch(text, end, start))


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
    if "nswer" in content and (inner := list(phrases(content.replace(r"\text{", " ").replace("}", " ")))):
        return inner[-1].text
    return content.strip()


def _without_placeholders(text: str) -> str:
    """`text` without the boxes in it that nobody filled in."""
    for start, end, inside in reversed(list(_box_spans(text))):
        if inside is not None and _PLACEHOLDER.fullmatch(_unbox(inside)):
            text = text[:start] + text[end:]
    return text


def _stated(text: str, like: str) -> Iterator[Commitment]:
    """Every "answer is …" that gives a value: strong when it is the final answer and no long prose."""
    most_words = max(_MOST_WORDS_OF_A_VALUE, _words(like))
    found = list(phrases(text))
    # Where answers are texts, "correct" may be one: where nothing else is said the first such word counts.
    values = [phrase for phrase in found if not phrase.describes] or (found[:1] if like else [])
    for phrase in values:
        said = _without_placeholders(phrase.text).strip()
        if not said.strip(_MATH_ENDS):
            continue
        block = _without_placeholders(phrase.block)
        short = _words(said) <= most_words or bool(_NUMBER_OR_FORMULA.search(said))
        strong = phrase.final and short and not phrase.describes
        yield Commitment(said, block, strong, phrase.closed, phrase.start)


_MATH_ENDS = " \n$.\\()[]"
_NUMBER_OR_FORMULA = re.compile(r"[\d$\\]")


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
    if line.startswith("####") and not line.startswith("#####") and not names_answer(line):
        tail = line[4 : 4 + _MAX_HASHED].strip()
        yield Commitment(trim(tail), tail, strong=True, closed=False, start=start)


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
    trimmed = trim(line)
    if _words(line) > most_words or not trimmed:
        return None
    return Commitment(trimmed, line, strong=False, closed=False, start=0)


def _words(text: str) -> int:
    return sum(not word.startswith("\\") for word in _PROSE.findall(text))
