r"""Which letter of a multiple-choice question was committed to.

A letter counts where it is said to be the answer ("The final answer is [A]", "**Answer:** b", "option C is correct", "I choose D"), in
a `\boxed{…}`, or where it is all the answer or begins all of it ("B", "(B)", "B. Paris"). A letter that is asked about, negated,
doubted or called wrong is none. The last one counts; where that is one of several ("A or B") or no choice at all, nothing was committed
to. An answer that is the text of exactly one choice is that choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bethink.verify.extract import committed
from bethink.verify.latex import clean
from bethink.verify.phrases import doubtful, last_clause, taken_back
from bethink.verify.verdict import Outcome, Verdict

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DEFAULT_LETTERS = 10

_LOOK_BACK = 120
_LONG_RUN = re.compile(r"([^\w])\1{3,}")  # more white space or stars say nothing more
# Markup that may stand before and after a letter.
_OPEN = r"(?:[\s*_`\"'$\[({:]|\\\(|\\\[|\\(?:boxed|fbox|text(?:bf|it|rm)?|math(?:bf|rm)|mbox)\s?\{){0,16}"
_CLOSE = r"(?:[*_`\"'$\])}]|\\\)|\\\]){0,16}"
_WORD = r"(?:option|choice|letter|answer(?:\s+choice)?)"
_VERDICT = r"(?:correct|right|best|(?:the\s+)?(?:correct|right|best|final)\s+(?:answer|option|choice|one)|the\s+answer|my\s+(?:final\s+)?answer)"
_NEVER = re.compile(r"\b(?:not|never)\b|n't\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\s*(?:isn't|aren't|cannot|can't|(?:is|are|was|were|would be)\s+(?:clearly |also |therefore |both )?"
    r"(?:wrong|incorrect|false|not|eliminated|ruled out|impossible|(?:a|the) (?:distractor|wrong|incorrect)))\b",
    re.IGNORECASE,
)
_PLACEHOLDER = "X"  # of a repeated instruction: end with "The answer is (X)"
_CLAUSE_ENDS = re.compile(r"\s*(?:[.,;!?)]|\n|$)")
_FOLLOWED_BY_WORD = re.compile(r"\s+(?P<word>[a-z]+)")
_CONNECTIVES = "because since as is which due for with it so therefore hence and but while where in on according based by from given that this"
_GOES_ON = frozenset(_CONNECTIVES.split())
_MARKS_BEFORE, _MARKS_AFTER = frozenset("([{*$_`"), frozenset(")]}*$_`.:")
_ANOTHER = re.compile(
    r"\s*(?P<mark>,|/|&|\+|and/or|or|and)\s*(?:(?:option|choice)\s+)?[\s*_`\"'$\[({]*(?:\\text\{)?(?P<letter>[A-Za-z])(?![A-Za-z'])(?!(?<=[AIai])\s+[a-z])",
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


_LETTER_AND_TEXT = re.compile(r"\(?(?P<letter>[A-Za-z])[).:\]]+\s*(?P<text>\S.*)", re.DOTALL)


def _gold_letter(gold: str, texts: Sequence[str], known: str) -> str | None:
    """The letter a reference answer names: "B", "(B)", the text of one choice, or both ("B) London")."""
    bare = gold.strip().strip("()[]. ").upper()
    if len(bare) == 1 and bare in known:
        return bare
    if letter := _of_text(gold, known, texts):
        return letter
    match = _LETTER_AND_TEXT.fullmatch(gold.strip())
    if not match or match["letter"].upper() not in known:
        return None
    letter = match["letter"].upper()
    return letter if not texts or _of_text(match["text"], known, texts) == letter else None


def _of_text(answer: str, known: str, texts: Sequence[str]) -> str | None:
    """The letter of the one choice whose text this is."""
    matches = [letter for letter, text in zip(known, texts, strict=False) if _plain(text) == _plain(answer)]
    return matches[0] if len(matches) == 1 else None


def _plain(text: str) -> str:
    return " ".join(clean(text).casefold().split())


_UNUSABLE = ""
"""In place of a letter: several were named, or one that is no choice."""


def committed_letter(
    text: str, known: str, texts: Sequence[str] = (), *, truncated: bool = False
) -> str | None:
    """The last committed letter among `known`, or None."""
    text = _LONG_RUN.sub(r"\1\1\1", text)
    found = [*_statements(text, known, truncated), *_alone(text, known)]
    stated = committed(text, truncated=truncated, like=max(texts, key=len, default=""))
    if stated and (letter := _of_commitment(stated.text, known, texts)) is not None:
        # At its end: what it says as a whole ("A and B", where that is a choice) outdoes the letters in it.
        found.append((text.find(stated.text, stated.start) + len(stated.text), letter))
    latest = max(found, key=lambda pair: pair[0], default=(0, _UNUSABLE))
    return latest[1] or None


def _of_commitment(answer: str, known: str, texts: Sequence[str]) -> str | None:
    """What a committed answer names: a letter, a letter and its text, or the text of one choice; None when it is none of these."""
    letter = _leading(answer, known)
    return letter or _of_text(answer, known, texts) or letter


def _leading(answer: str, known: str) -> str | None:
    match = re.match(
        rf"{_OPEN}(?:{_WORD}\s+{_OPEN})?(?P<letter>[A-Za-z]){_CLOSE}(?![A-Za-z'])", answer, re.IGNORECASE
    )
    return _named(answer, match, known) if match else None


def _named(text: str, match: re.Match[str], known: str) -> str | None:
    """The letter matched, `_UNUSABLE` for one that is committed to and no choice, or None: an article or a word of a sentence, asked
    about, taken back, or called wrong."""
    letter, start, end = match["letter"], match.start("letter"), match.end("letter")
    rest = text[match.end() : match.end() + 200]
    marked = text[end : end + 1] in _MARKS_AFTER or (start > 0 and text[start - 1] in _MARKS_BEFORE)
    if re.match(r"\s*\?", rest) or taken_back(text, match.end()) or _DENIED.match(rest):
        return None
    if _one_of_several(letter, rest, known):
        return _UNUSABLE
    if not marked and _is_word(letter, rest):
        return None
    if letter.upper() in known:
        return letter.upper()
    committed_to = letter.isupper() and letter != _PLACEHOLDER and (marked or _CLAUSE_ENDS.match(rest))
    return _UNUSABLE if committed_to else None


def _is_word(letter: str, rest: str) -> bool:
    """Whether the letter is the article "a", the pronoun "I" or a variable."""
    word = _FOLLOWED_BY_WORD.match(rest)
    if word and word["word"] not in _GOES_ON and letter in "aAiI":
        return True
    return letter.islower() and bool(re.match(r"\s+\w|['’]|\s*[-=+^]", rest))


def _one_of_several(letter: str, rest: str, known: str) -> bool:
    another = _ANOTHER.match(rest)
    if not another or another["letter"].upper() not in known:
        return False
    after = rest[another.end() :]
    apart = _DENIED.match(after) or (another["mark"] == "," and re.match(r"\s+(?:is|was|has|does)\b", after))
    return another["letter"].isupper() == letter.isupper() and not apart


_LETTER = rf"{_OPEN}(?:{_WORD}\b\s*:?{_OPEN})?(?P<letter>[A-Za-z]){_CLOSE}(?![A-Za-z'])"
_HEDGE = r"(?:most likely|therefore|clearly|thus|indeed|hence|definitely)"
_ANSWER = r"\banswers?\b[\"']?(?:\s+choice\b)?(?:\s+(?:to|for|of|here)\b[^.:\n?!]{0,80}?)?\s*(?:\*\*|__)?\s*"
_IS_ANSWER = re.compile(
    rf"{_ANSWER}(?:[:=]|\b(?:is|would be|should be|must be)\b)\s*:?\s*(?:{_HEDGE}\s+)?{_LETTER}",
    re.IGNORECASE,
)
# "Thus answer choice (B)." but not "Answer choice (A) confuses the two."
_ANSWER_ALONE = re.compile(
    rf"\banswer\s+(?:choice\s|(?=[(\[*])){_OPEN}(?P<letter>[A-Za-z]){_CLOSE}(?![A-Za-z'])(?=\s*(?:[.!;\n]|$))",
    re.IGNORECASE,
)
_IS_OPTION = re.compile(
    rf"\b(?:correct|right|best|final)\s+(?:option|choice|one)\s*(?:\*\*)?\s*(?:is|:)\s*:?\s*{_LETTER}",
    re.IGNORECASE,
)
_LETTER_IS = re.compile(
    rf"(?:\b{_WORD}\s+)?(?<![A-Za-z'\\]){_OPEN}(?P<letter>[A-Z]){_CLOSE}\s+(?i:is|must be)\s+(?i:{_HEDGE}\s+|the\s+)?(?i:{_VERDICT})\b"
)
_CHOOSE = re.compile(
    r"(?:\b(?i:I|we)(?i:'ll|'d| will| would| must| should| can| therefore| thus)?\s+(?i:choose|select|pick|go with|answer)"
    r"|(?:^|[.!:;\n]|\b(?i:so|thus|therefore|hence),?)[\s*_]*(?i:choose|select|pick))\s+"
    rf"(?i:{_WORD}\s+)?{_OPEN}(?P<letter>[A-Z]){_CLOSE}(?![A-Za-z'])"
)
_THEREFORE = re.compile(
    r"(?i:\b(?:therefore|thus|hence|so)\b),?\s+"
    r"(?:(?:(?i:it is|it's|it must be|the)\s+)?(?:(?i:option|choice)\s+)?[*\s]*\((?=[A-Z]\))|(?:(?i:the)\s+)?(?i:answer|correct is)\s+[*\s]*\(?)"
    r"(?P<letter>[A-Z])\)?[*\s]*(?:[.!]|$)"
)


def _statements(text: str, known: str, truncated: bool) -> Iterator[tuple[int, str]]:
    """(where, letter or `_UNUSABLE`) of every sentence that says which letter is the answer."""
    for pattern in (_IS_ANSWER, _ANSWER_ALONE, _IS_OPTION, _LETTER_IS, _CHOOSE, _THEREFORE):
        for match in pattern.finditer(text):
            if truncated and match.end("letter") == len(text):
                continue  # "the answer is A" may have been going to be "a triangle"
            clause = last_clause(text[max(0, match.start() - _LOOK_BACK) : match.start()])
            if doubtful(clause) or _NEVER.search(clause):
                continue
            if (letter := _named(text, match, known)) is not None:
                yield match.start("letter"), letter


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
