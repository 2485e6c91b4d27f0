r"""One spelling for what LaTeX, Markdown and Unicode spell many ways.

Knows how answers are typeset, nothing of what they mean: `clean` takes away what only changes the looks (spacing, sizes, dollar
signs, bold) and settles on one name for each symbol; `split_top` and `closing` find the parts of what is left. What the parts mean
is read by `forms`.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SYMBOLS = {
    "÷": "/",
    "⁄": "/",
    "∗": "*",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "°": r"\degree ",
    "∞": r"\infty ",
    "π": r"\pi ",
    "θ": r"\theta ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "½": r"\frac{1}{2}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "（": "(",
    "）": ")",
    "，": ",",
    "：": ":",
    "ℝ": r"\mathbb{R}",
}
_UNICODE = str.maketrans(
    _SYMBOLS
    | dict.fromkeys("−–—‐‑", "-")
    | dict.fromkeys("×·⋅", r"\cdot ")
    | {digit: f"^{n}" for n, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
    | {digit: f"_{n}" for n, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")}
    | dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f\t\r\n", " ")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", "")
)
_UNICODE_ROOT = re.compile(r"√\s*(?:(\d+|[A-Za-z])|\(([^()]*)\))")


def _command(names: str) -> str:
    return rf"\\(?:{names})(?![A-Za-z])"


_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Thousands separators that can be nothing else; a bare comma is left for `forms`, which sees the context.
        (r"(?<=\d)(?:\{,\}|\{,\\!\}|,\\!|\\!,|\\,|\\ )\s*(?=\d{3}(?!\d))", ""),
        (r"\\(?:left|right|middle)(?![A-Za-z])\s*\.?|\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
        (r"\\[,;:!>]|\\ |(?<!\\)~", " "),
        (
            _command(
                "quad|qquad|thinspace|displaystyle|textstyle|limits|nolimits|strut|boldsymbol|bm|phantom"
            ),
            " ",
        ),
        (r"\\[hv]space\*?\s*\{[^{}]*\}", " "),
        (r"\\\(|\\\)|\\\[|\\\]|(?<!\\)\$", " "),
        (
            r"\\(?:text(?:normal|rm|bf|it|sf|tt|sc|up)|[mh]box|math(?:rm|bf|it|sf|tt|normal)|operatorname\*?)\s*(?=\{)",
            r"\\text",
        ),
        (r"\\(?:rm|bf|it)(?![A-Za-z])", " "),
        (r"\\text\s+(?=\{)", r"\\text"),
        (_command("[dtc]frac"), r"\\frac"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|" + _command("degrees?|textdegree"), r"\\degree "),
        (_command("times|ast|cdotp|bullet"), r"\\cdot "),
        (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\cdot "),
        (_command("div"), "/"),
        (_command("leq?(?:slant|q)?") + "|<=|=<", r"\\le "),
        (_command("geq?(?:slant|q)?") + "|>=", r"\\ge "),
        (_command("lt"), "<"),
        (_command("gt"), ">"),
        (_command("neq?") + "|!=", r"\\ne "),
        (_command("approx(?:eq)?|simeq|doteq|cong"), r"\\approx "),
        (_command("varnothing|emptyset"), r"\\emptyset "),
        (_command("lbrace"), r"\\{"),
        (_command("rbrace"), r"\\}"),
        (_command("[lr]?vert"), "|"),
        (_command("colon"), ":"),
        (_command("imath"), "i"),
        (r"\\(?:mathbb|Bbb)\s*(?:\{\s*R\s*\}|R(?![A-Za-z]))", r"(-\\infty ,\\infty )"),
        (r"\\(begin|end)\s*\{(?:[pbB]?matrix|smallmatrix)\*?\}", r"\\\1{matrix}"),
        (r"\\begin\s*\{array\}\s*\{[^{}]*\}", r"\\begin{matrix}"),
        (r"\\end\s*\{array\}", r"\\end{matrix}"),
        (r"(?<!\\)%", r"\\%"),
        (r"\^\s*\{?\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
        (r"\s+", " "),
    )
)
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z{}%$()\[\]])")
_HEAD = " *_`\"'"
_TAIL = " .,;:*_`\"'"


@lru_cache(maxsize=8192)
def clean(text: str) -> str:
    """`text` in one spelling: no layout, no outer delimiters, no trailing punctuation, single spaces. Idempotent in meaning."""
    text = _row_breaks(text.translate(_UNICODE))
    text = _UNICODE_ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return strip_ends(text)


def _row_breaks(text: str) -> str:
    """Name the row breaks of a matrix, so that no other rule takes half of one; elsewhere `\\\\frac` is `\\frac` escaped twice."""
    if r"\\" not in text:
        return text
    if "matrix}" in text or "array}" in text or "cases}" in text:
        return text.replace(r"\\", r"\newline ")
    return _DOUBLED.sub(r"\\", text).replace(r"\\", " ")


def strip_ends(text: str) -> str:
    """`text` without the Markdown and punctuation around it."""
    text = text.lstrip(_HEAD).rstrip(_TAIL)
    while text.endswith("\\"):
        text = text[:-1].rstrip(_TAIL)
    return text


_STEP = re.compile(r"\\begin\{[^}]*\}|\\end\{[^}]*\}|\\[{}]|\\[A-Za-z]+|\\.|[^\\]|\\", re.DOTALL)


def tokens(text: str) -> list[str]:
    """`text` cut into commands (`\\frac`, `\\{`, `\\begin{matrix}`) and single characters; joined they are `text` again."""
    return _STEP.findall(text)


def _depth_change(token: str) -> int:
    if token in ("(", "[", "{", r"\{", r"\langle") or token.startswith(r"\begin{"):
        return 1
    if token in (")", "]", "}", r"\}", r"\rangle") or token.startswith(r"\end{"):
        return -1
    return 0


def split_top(text: str, separators: frozenset[str]) -> list[tuple[str, str]]:
    """Cut `text` at every separator token outside all brackets: [("", part), (separator, part), …]."""
    parts: list[tuple[str, str]] = []
    current: list[str] = []
    depth, separator = 0, ""
    for token in tokens(text):
        depth += _depth_change(token)
        if depth == 0 and token in separators:
            parts.append((separator, "".join(current).strip()))
            separator, current = token, []
        else:
            current.append(token)
    parts.append((separator, "".join(current).strip()))
    return parts


def enclosed(text: str) -> tuple[str, str, str] | None:
    """(opener, inside, closer) when one pair of brackets encloses all of `text`, else None. `(0, 1]` counts: ends need not match."""
    found = tokens(text)
    if len(found) < 2 or _depth_change(found[0]) != 1 or _depth_change(found[-1]) != -1:
        return None
    depth = 0
    for index, token in enumerate(found):
        depth += _depth_change(token)
        if depth == 0 and index < len(found) - 1:
            return None
    return (found[0], "".join(found[1:-1]).strip(), found[-1]) if depth == 0 else None


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def closing_braces(text: str) -> dict[int, int]:
    """For every `{` that closes, where its `}` is. Escaped braces do not count; stray ones disturb no other pair."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            pairs[opened.pop()] = match.start()
    return pairs
