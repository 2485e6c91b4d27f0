"""Which part of an answer is the program.

The last fenced block that is marked as Python, else the last unmarked one. An answer without any fence is a program when it begins like
one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"[ \t]{0,3}(?P<marks>`{3,}|~{3,})[ \t]*(?P<name>[\w+.#-]*)[^`]*$")
_PYTHON = ("python", "python3", "py", "py3", "python2")
_BEGINNING = re.compile(
    r"(?:[ \t]+\S|@\w|#|(?:async[ \t]+)?def[ \t]+\w+\(|class[ \t]+\w+[(:]|import[ \t]+\w|from[ \t]+[\w.]+[ \t]+import\b"
    r"|if __name__\b|[A-Za-z_]\w*(?:[ \t]*,[ \t]*\w+)*[ \t]*=[^=])"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of code. closed: its end is marked, so that it is whole even where the completion was cut."""

    code: str
    closed: bool


def program(text: str) -> Block | None:
    """The program in an answer (the text after thinking), or None."""
    blocks = _blocks(text)
    for wanted in (_PYTHON, ("",)):
        for name, block in reversed(blocks):
            if name in wanted and block.code.strip():
                return block
    if not blocks and _BEGINNING.match(text.lstrip("\n")):
        return Block(text.strip("\n") + "\n", closed=False)
    return None


def _blocks(text: str) -> list[tuple[str, Block]]:
    """(language, block) of every fenced block, in order; one that is not closed ends with the text."""
    found: list[tuple[str, Block]] = []
    inside: list[str] | None = None
    name = marks = ""
    for line in text.splitlines(keepends=True):
        fence = _FENCE.match(line.rstrip("\r\n"))
        if inside is None:
            if fence:
                inside, name, marks = [], fence["name"].lower(), fence["marks"]
        elif fence and not fence["name"] and fence["marks"].startswith(marks):
            found.append((name, Block("".join(inside), closed=True)))
            inside = None
        else:
            inside.append(line)
    if inside is not None:
        found.append((name, Block("".join(inside), closed=False)))
    return found
