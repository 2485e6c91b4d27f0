"""A text as tokens of arithmetic, and the stretches of it that = and ≈ stand between.

Knows how numbers, operations and signs are spelled in plain text, Unicode and LaTeX; what they amount to is read by `reader`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Token(NamedTuple):
    """kind: the name of a group of `_TOKEN`; start, end: characters of the text."""

    kind: str
    text: str
    start: int
    end: int


_LETTERS = r"[^\W\d_]"
_END = r"(?![A-Za-z])"
_TOKEN = re.compile(
    rf"""
    (?P<skip>[ \t\r\u00a0\u2009\u202f]+|<<[^<>\n]{{0,200}}>>|°|\^\s?\{{?\s?\\circ\s?\}}?|&|\\[,;:!\ ]|\\[()\[\]]
        |\\(?:left|right|[bB]igg?[lrm]?|displaystyle|q?quad|boxed|fbox){_END})
    |(?P<row>\\\\[ \t]*\n?|\n)
    |(?P<about>≈|≃|≅|~=|\\(?:approx|simeq|cong|doteq){_END})
    |(?P<order>[=<>!:+\-*/]?=[=<>]+|[<>!:+\-*/]=|[<>≤≥≠→⇒])
    |(?P<equals>=)
    |(?P<code>0[xXbBoO][0-9a-fA-F]+)
    |(?P<ratio>\d+(?:\.\d+)?(?::\d+)+)
    |(?P<spaced>(?<![\d.,])\d{{1,3}}(?:[ \u00a0\u2009\u202f]\d{{3}})+(?!\d)(?:\.\d+)?)
    |(?P<number>\d(?:[\d,.]|\{{,\}}|\\,(?=\d{{3}}))*\d|\d|(?<![\w.])\.\d+)
    |(?P<vulgar>[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])
    |(?P<dots>\.{{2,}}|…|\\[lc]?dots{_END})
    |(?P<percent>\\?%|(?:percent|per\ cent|pct)\b)
    |(?P<money>\\?\$|[€£¥])
    |(?P<power>\*\*|\^)
    |(?P<raised>[⁰¹²³⁴⁵⁶⁷⁸⁹]+)
    |(?P<times>[*×·⋅∙∗]|\\(?:times|cdot|ast){_END}|(?:multiplied\ by|times)\b|(?<=\d)[xX](?=\d)|(?<=[\w)%]\ )[xX](?=\ [\d(\[{{$€£¥\\]))
    |(?P<over>[/÷⁄]|\\div{_END}|divided\ by\b)
    |(?P<plus>\+|plus\b)
    |(?P<minus>[-−–‐‑]|minus\b)
    |(?P<open>[(\[{{（])
    |(?P<close>[)\]}}）])
    |(?P<fraction>\\[dtc]?frac{_END})
    |(?P<root>\\sqrt{_END}|√)
    |(?P<label>\\(?:text\w{{0,6}}|mathrm|mathbf|mbox)\s?\{{[^{{}}]{{0,60}}\}})
    |(?P<command>\\[A-Za-z]+)
    |(?P<word>{_LETTERS}{{2,}}(?:['’-]{_LETTERS}{{2,}})*(?:/{_LETTERS}+)*|[A-Za-z_][A-Za-z0-9_]*|{_LETTERS})
    |(?P<bang>!)
    |(?P<stop>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_SIGNS = ("equals", "about")
_ENDS = ("row", "order", "stop")
OPERATORS = ("plus", "minus", "times", "over")


@dataclass(slots=True)
class Chain:
    """Runs of tokens joined by = or ≈: signs[i] stands between runs[i] and runs[i + 1].

    before: the token in front of the first run, end: the one behind the last; None at the ends of the text.
    """

    before: Token | None
    runs: list[list[Token]]
    signs: list[Token]
    end: Token | None = None


def chains(text: str) -> Iterator[Chain]:
    """Every chain with at least one sign. A line break beside a sign does not end a run."""
    tokens = list(_tokens(text))
    chain = Chain(None, [[]], [])
    for i, token in enumerate(tokens):
        if token.kind in _SIGNS:
            chain.signs.append(token)
            chain.runs.append([])
        elif token.kind not in _ENDS and not (token.kind == "dots" and not _goes_on(tokens, i)):
            chain.runs[-1].append(token)
        elif token.kind != "row" or not _beside_sign(tokens, i):
            if chain.signs:
                chain.end = token
                yield chain
            chain = Chain(token, [[]], [])
    if chain.signs:
        yield chain


def _tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "stop"
        if kind != "skip":
            yield Token(kind, match[0], match.start(), match.end())


def _beside_sign(tokens: list[Token], i: int) -> bool:
    neighbours = tokens[max(0, i - 1) : i] + tokens[i + 1 : i + 2]
    return any(token.kind in _SIGNS for token in neighbours)


def _goes_on(tokens: list[Token], i: int) -> bool:
    """Whether the dots tokens[i] belong to the number in front of them: 3.33…"""
    return i > 0 and tokens[i - 1].kind == "number" and tokens[i - 1].end == tokens[i].start


def is_letter(token: Token) -> bool:
    """A variable, for all that can be told."""
    return token.kind == "word" and len(token.text) == 1 and token.text not in "aI"
