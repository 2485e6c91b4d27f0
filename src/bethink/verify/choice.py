r"""Which letter of a multiple-choice question was committed to.

A letter counts where it is said to be the answer ("The final answer is [A]", "**Answer:** b", "option C is correct", "I choose D"), in
a `\boxed{…}`, or where it is all the answer or begins all of it ("B", "(B)", "B. Paris"). The last one counts. A letter that is
asked about, negated or one of several ("A or B") is none. An answer that is the text of exactly one choice is that choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bethink.verify.extract import committed, taken_back
from bethink.verify.latex import clean
from bethink.verify.verdict import Outcome, Verdict

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DEFAULT_LETTERS = 10

_LONG_RUN = re.compile(r"([^\w])\1{3,}")  # more white space or stars say nothing more
# Markup that may stand before and after a letter.
_OPEN = r"(?:[\s*_`\"'$\[({:]|\\\(|\\\[|\\(?:boxed|fbox|text(?:bf|it|rm)?|math(?:bf|rm)|mbox)\s?\{){0,16}"
_CLOSE = r"(?:[*_`\"'$\])}]|\\\)|\\\]){0,16}"
_WORD = r"(?:option|choice|letter|answer(?:\s+choice)?)"
_VERDICT = r"(?:correct|right|best|(?:the\s+)?(?:correct|right|best|final)\s+(?:answer|option|choice|one)|the\s+answer|my\s+(?:final\s+)?answer)"
_UNSURE = re.compile(
    r"\b(?:if|whether|unless|suppose|assume|maybe|perhaps|possibly|might|could|not|never)\b|n't\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.!?;:,\n]")
_FOLLOWED_BY_WORD = re.compile(r"\s+(?P<word>[a-z]+)")
_CONNECTIVES = "because since as is which due for with it so therefore hence and but while where in on according based by from given that this"
_GOES_ON = frozenset(_CONNECTIVES.split())
_MARKS_BEFORE, _MARKS_AFTER = frozenset("([{*$_`"), frozenset(")]}*$_`.:")
_ANOTHER = re.compile(
    r"\s*(?:,|/|&|\+|and/or|or|and)\s*(?:(?:option|choice)\s+)?[\s*_`\"'$\[({]*(?:\\text\{)?(?P<letter>[A-Za-z])(?![A-Za-z'])(?!(?<=[AIai])\s+[a-z])",
    re.IGNORECASE,
)


def judge(gold: str, text: str, meta: Mapping[str, Any], *, truncated: bool = False) -> Verdict | None:
    """The verdict on an answer text (after thinking); None when no letter was committed to. meta["choices"]: see `labels`."""
    texts = choice_texts(meta)
    known = labels(meta, texts)
    wanted = _gold_letter(gold, texts, known)
    if wanted is None:
        return Verdict(
            Outcome.GRADER_ERROR, None, f"the reference answer {gold[:40]!r} is not one of {''.join(known)}"
        )
    letter = committed_letter(text, known, texts, truncated=truncated)
    if letter is None:
        return None
    correct = letter == wanted
    return Verdict(
        Outcome.CORRECT if correct else Outcome.WRONG, letter, "the committed letter", score=float(correct)
    )


def choice_texts(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of the choices, where meta["choices"] has them (a list, or {"label": […], "text": […]})."""
    choices = meta.get("choices")
    if isinstance(choices, Mapping):
        choices = choices.get("text")
    if isinstance(choices, Sequence) and not isinstance(choices, str):
        return tuple(str(choice) for choice in choices)
    return ()


def labels(meta: Mapping[str, Any], texts: Sequence[str] = ()) -> str:
    """The letters that can be chosen: as many as there are choices, or as meta["choices"] says when it is a number or a string of
    letters; ten when nothing is said."""
    choices = meta.get("choices")
    if isinstance(choices, int) and not isinstance(choices, bool) and 0 < choices <= len(_ALPHABET):
        return _ALPHABET[:choices]
    if isinstance(choices, str) and choices.isalpha():
        return choices.upper()
    return _ALPHABET[: len(texts) or _DEFAULT_LETTERS]


def _gold_letter(gold: str, texts: Sequence[str], known: str) -> str | None:
    bare = gold.strip().strip("()[]. ").upper()
    if len(bare) == 1 and bare in known:
        return bare
    matches = [
        known[i] for i, choice in enumerate(texts) if i < len(known) and _plain(choice) == _plain(gold)
    ]
    return matches[0] if len(matches) == 1 else None


def _plain(text: str) -> str:
    return " ".join(clean(text).casefold().split())


def committed_letter(
    text: str, known: str, texts: Sequence[str] = (), *, truncated: bool = False
) -> str | None:
    """The last committed letter among `known`, or None."""
    text = _LONG_RUN.sub(r"\1\1\1", text)
    found = [*_statements(text, known, truncated), *_alone(text, known)]
    strong = committed(text, truncated=truncated)
    if strong and (letter := _of_commitment(strong.text, known, texts)):
        found.append((strong.start, letter))
    latest = max(found, key=lambda pair: pair[0], default=None)
    return latest[1] if latest else None


def _of_commitment(answer: str, known: str, texts: Sequence[str]) -> str | None:
    """The letter a committed answer names: the letter, a letter and its text, or the text of one choice."""
    if letter := _leading(answer, known):
        return letter
    matches = [
        known[i] for i, choice in enumerate(texts) if i < len(known) and _plain(choice) == _plain(answer)
    ]
    return matches[0] if len(matches) == 1 else None


def _leading(answer: str, known: str) -> str | None:
    match = re.match(
        rf"{_OPEN}(?:{_WORD}\s+{_OPEN})?(?P<letter>[A-Za-z]){_CLOSE}(?![A-Za-z'])", answer, re.IGNORECASE
    )
    return _accepted(answer, match, known) if match else None


def _group(match: re.Match[str]) -> str:
    """Which of a pattern's groups holds the letter."""
    return "letter" if match["letter"] else "bare"


def _accepted(text: str, match: re.Match[str], known: str) -> str | None:
    """The letter matched, unless it is an article or a word of a sentence, one of several, or asked about."""
    letter = match[_group(match)]
    start, end = match.span(_group(match))
    if letter.upper() not in known:
        return None
    marked = text[end : end + 1] in _MARKS_AFTER or (start > 0 and text[start - 1] in _MARKS_BEFORE)
    rest = text[match.end() : match.end() + 200]
    another = _ANOTHER.match(rest)
    if another and another["letter"].upper() in known and another["letter"].isupper() == letter.isupper():
        return None
    if re.match(r"\s*\?", rest) or taken_back(text, match.end()):
        return None
    if (
        (word := _FOLLOWED_BY_WORD.match(rest))
        and not marked
        and word["word"] not in _GOES_ON
        and letter in "aAiI"
    ):
        return None
    if letter.islower() and not marked and re.match(r"\s+\w|['’]|\s*[-=+^]", rest):
        return None
    return letter.upper()


_IS_ANSWER = re.compile(
    rf"\banswers?\b[\"']?(?:\s+choice\b)?(?:\s+(?:to|for|of|here)\b[^.:\n?!]{{0,80}}?)?\s*(?:\*\*|__)?\s*"
    rf"(?:[:=]|(?=\s*\()|\b(?:is|would be|should be|must be|choice)\b)\s*:?\s*(?:most likely\s+|therefore\s+|clearly\s+|thus\s+)?"
    rf"{_OPEN}(?:{_WORD}\b\s*:?{_OPEN})?(?P<letter>[A-Za-z]){_CLOSE}(?![A-Za-z'])",
    re.IGNORECASE,
)
_IS_OPTION = re.compile(
    rf"\b(?:correct|right|best|final)\s+(?:option|choice|one)\s*(?:\*\*)?\s*(?:is|:)\s*:?\s*{_OPEN}(?:{_WORD}\b{_OPEN})?(?P<letter>[A-Za-z]){_CLOSE}(?![A-Za-z'])",
    re.IGNORECASE,
)
_LETTER_IS = re.compile(
    rf"(?:\b{_WORD}\s+)?(?<![A-Za-z'\\]){_OPEN}(?P<letter>[A-Z]){_CLOSE}\s+(?i:is|must be)\s+(?i:therefore\s+|thus\s+|indeed\s+|clearly\s+|the\s+)?(?i:{_VERDICT})\b"
)
_CHOOSE = re.compile(
    rf"\b(?i:I(?:'ll| will| would)?\s+(?:choose|select|pick|go with|answer)|(?:we|I)\s+(?:choose|select|pick)|choose|select|pick)\s+"
    rf"(?i:{_WORD}\s+)?{_OPEN}(?P<letter>[A-Z]){_CLOSE}(?![A-Za-z'])"
)
_THEREFORE = re.compile(
    r"(?i:\b(?:therefore|thus|hence|so)\b),?\s+(?:(?:(?i:it is|it's|it must be|the)\s+)?(?:(?i:option|choice)\s+)?[*\s]*\((?P<letter>[A-Z])\)"
    r"|(?:(?i:the)\s+)?(?i:answer|correct is)\s+[*\s]*\(?(?P<bare>[A-Z])\)?)[*\s]*(?:[.!]|$)"
)


def _statements(text: str, known: str, truncated: bool) -> Iterator[tuple[int, str]]:
    """(where, letter) of every sentence that says which letter is the answer."""
    for pattern in (_IS_ANSWER, _IS_OPTION, _LETTER_IS, _CHOOSE, _THEREFORE):
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - 120) : match.start()]
            clause = _CLAUSE.split(before)[-1]
            if truncated and match.end(_group(match)) == len(text):
                continue  # "the answer is A" may have been going to be "a triangle"
            if not _UNSURE.search(clause) and (letter := _accepted(text, match, known)):
                yield match.start(), letter


_LINE = re.compile(
    rf"^\s*{_OPEN}(?:{_WORD}\b\s*:?{_OPEN})?(?P<letter>[A-Za-z])(?P<mark>{_CLOSE}[.):\]]?{_CLOSE})(?P<text>\s.*|)$",
    re.IGNORECASE,
)


def _alone(text: str, known: str) -> Iterator[tuple[int, str]]:
    """A letter that is a line of its own, or marks the first or last line ("B) Paris"), when no other line has another letter."""
    lines = [
        (match, line) for line in text.strip().splitlines() if line.strip() for match in [_LINE.match(line)]
    ]
    if not lines:
        return
    marked = {
        m["letter"].upper()
        for m, _ in lines
        if m and (m["mark"].strip("*_` ") or not m["text"].strip()) and m["letter"].upper() in known
    }
    if len(marked) != 1:
        return
    letter = marked.pop()
    for match, line in (lines[0], lines[-1]):
        if not match or match["letter"].upper() != letter or line.rstrip().endswith("?"):
            continue
        alone = not match["text"].strip()
        if alone or (re.search(r"[.):\]]", match["mark"]) and match["letter"].isupper()):
            yield -1, letter
