"""Arithmetic as it is written in worked solutions: evaluating it exactly, and finding where it is false.

Knows numbers, the four operations and brackets, with units and currency signs around them. Nothing is executed: expressions are
parsed by Python's own parser and walked.
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction

_CURRENCY = re.compile(r"[$€£¥]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_TIMES = re.compile(r"(?<=[\d)])\s*x\s*(?=[\d(])")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-"})
_UNIT = re.compile(r"(?<=\d)(?:\s+[A-Za-z][A-Za-z/-]*|[A-Za-z/]+[A-Za-z])+")
_EQUATION = re.compile(
    r"(?<![\w.)+\-*/%:^])(?P<left>[\d.+\-*/()\s]*[\d)])\s*=\s*(?P<right>-?\d+(?:\.\d+)?)"
    r"(?!\.?\d|\w|%|:\d|\s*[-+*/(]\s*[\d(]|\s+\d+\s*/)"  # 1 1/2 is one number, and so is a time
)
_HALF = re.compile(r"[-+*/]\s")  # how a left side begins when a variable or a word stood before it
_BARE = re.compile(r"[-+]?[\d.]+")  # nothing is calculated: `dividing by 3 gives x = 4` would be 3 = 4


def evaluate(expression: str) -> Fraction | None:
    """The exact value of an expression of numbers, + - * / and brackets; None when it is anything else or divides by zero."""
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, expression.strip())
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr, source: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(ast.get_source_segment(source, node) or "")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, source)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, source)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, source), _value(right, source)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise ValueError(f"not arithmetic: {ast.dump(node)}")


def equations(text: str) -> list[tuple[str, str]]:
    """Every calculation `expression = number` in a text, units and currency signs taken off: [("3 + 4", "7"), …]."""
    found = []
    for line in text.splitlines():
        bare = _THOUSANDS.sub("", _CURRENCY.sub("", line.translate(_SIGNS)))
        bare = _TIMES.sub(" * ", bare)
        bare = _UNIT.sub(" ", bare)
        pairs = [(match["left"].strip(), match["right"]) for match in _EQUATION.finditer(bare)]
        found += [pair for pair in pairs if not _HALF.match(pair[0]) and not _BARE.fullmatch(pair[0])]
    return found


def false_equations(text: str) -> list[str]:
    """The equations of a text that do not hold to the precision at which their right side is written."""
    wrong = []
    for left, right in equations(text):
        value = evaluate(left)
        if value is None:
            continue
        decimals = len(right.partition(".")[2])
        if abs(value - Fraction(right)) > Fraction(1, 2 * 10**decimals) * bool(decimals):
            wrong.append(f"{left} = {right}")
    return wrong
