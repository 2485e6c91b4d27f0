"""Reads texts as values without running them: what reasoning-gym's scorers get in place of `eval` and of SymPy's `parse_expr`.

A text is parsed to Python's syntax tree, and the tree is walked. Each function here names its whole language; anything else raises
ValueError. Sizes are bounded before anything is computed, so that no short text is a long computation. Knows no generators: which of
them reads what is said in `gym_worker`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import sympy

MAX_LENGTH = 100_000
"""Characters of a text."""

MAX_DEPTH = 100
_MAX_FACTORS = 200
"""Products, quotients and powers in one row: SymPy takes time that is quadratic in them."""

_MAX_BITS = 2**14
"""Of a whole number, written or computed."""

_MAX_DIGITS = 60
"""Characters of a number with a decimal point."""

_MAX_EXPONENT = 1000
_MAX_INSIDE = 10**12
"""Of a number inside a function's argument or beside a symbol in an exponent."""

_MAX_TERMS = 500
"""Of one term of an expression when it is multiplied out."""

_CIRCULAR = ("sin", "cos", "tan", "cot", "sec", "csc")
_HYPERBOLIC = ("sinh", "cosh", "tanh", "coth", "sech", "csch")
_FUNCTIONS = {
    name: getattr(sympy, name)
    for name in (
        *("log", "ln", *_CIRCULAR, *_HYPERBOLIC, *(f"a{name}" for name in (*_CIRCULAR, *_HYPERBOLIC))),
        *("Abs", "sign", "erf", "erfc", "erfi", "Si", "Ci", "Ei", "Rational", "Integral"),
    )
}
_CONSTANTS = {"E": sympy.E, "I": sympy.I, "pi": sympy.pi}
_INFINITE = (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)

_SIGNS: dict[type[ast.AST], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_WHOLE: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.inv,
}


def refuse(*_: object, **__: object) -> NoReturn:
    """What stands in for `eval` where nothing may be evaluated. Raises ValueError."""
    raise ValueError("not in the language of answers")


def literal(text: str) -> Any:
    """The value of a Python literal: numbers, texts, None, True and False, and lists, tuples, sets and dicts of them."""
    return ast.literal_eval(_parsed(text))


def whole_number(text: str) -> int:
    """The value of sums, differences, products, shifts and bitwise operations of whole numbers."""

    def leaf(node: ast.expr) -> int:
        if not isinstance(node, ast.Constant) or type(node.value) is not int:
            refuse()
        return _bounded_whole(node.value)

    def sign(kind: type[ast.AST], value: int) -> int:
        return _bounded_whole(_WHOLE.get(kind, refuse)(value))

    def row(value: int, others: Row) -> int:
        for kind, other in others:
            if kind is ast.LShift and other > _MAX_BITS:
                raise ValueError("too large a number")
            value = _bounded_whole(_WHOLE.get(kind, refuse)(value, other))
        return value

    value: int = _walk(_parsed(text).body, _Language(leaf, sign, row))
    return value


def arithmetic(text: str) -> sympy.Expr:
    """The value of + - * / ** of whole numbers in their usual digits. No other numbers, no names, no functions."""
    tree = _parsed(text)
    source = _Source(text)

    def leaf(node: ast.expr) -> sympy.Expr:
        if not isinstance(node, ast.Constant) or not source.of(node).isdecimal():
            refuse()
        return sympy.Integer(_bounded_whole(int(source.of(node))))

    return _bounded(_walk(tree.body, _Language(leaf, _sign, _row)))


def expression(text: str, local_dict: Mapping[str, Any] | None = None) -> sympy.Expr:
    """The expression that SymPy's `parse_expr` makes of numbers, symbols, + - * / ** and elementary functions.

    local_dict: what names stand for. Other names are symbols, but for E, I and pi.
    """
    tree = _parsed(text)
    source = _Source(text)
    names = {**_CONSTANTS, **(local_dict or {})}

    def leaf(node: ast.expr) -> sympy.Expr:
        if isinstance(node, ast.Name):
            return names[node.id] if node.id in names else sympy.Symbol(node.id)
        number = node.value if isinstance(node, ast.Constant) else None
        if isinstance(number, bool) or not isinstance(number, int | float):
            refuse()
        if isinstance(number, int):
            return sympy.Integer(_bounded_whole(number))
        written = source.of(node)
        if len(written) > _MAX_DIGITS or not math.isfinite(number):
            raise ValueError("too large a number")
        return sympy.Float(written)

    return _bounded(_walk(tree.body, _Language(leaf, _sign, _row, _call)))


def _parsed(text: str) -> ast.Expression:
    """The syntax tree. Raises SyntaxError, as `eval` does, or ValueError."""
    if len(text) > MAX_LENGTH:
        raise ValueError("too long a text")
    try:
        return ast.parse(text.strip(), mode="eval")
    except (MemoryError, RecursionError):  # the parser's own bounds
        raise ValueError("nested too deeply") from None


class _Source:
    """Where the tree's numbers stand in the text."""

    def __init__(self, text: str) -> None:
        if "#" in text:  # numbers of a comment would count for a scorer that looks which were used
            refuse()
        self._lines = text.strip().encode().splitlines()

    def of(self, node: ast.expr) -> str:
        return self._lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()


Row = list[tuple[type[ast.AST], Any]]
"""Kinds of operators and the operands after them."""


@dataclass(frozen=True, slots=True)
class _Language:
    """What the parts of a tree are worth. leaf: what has no operator; sign: a sign and its operand; row: the first operand and the
    others; call: a function's name and its arguments."""

    leaf: Callable[[ast.expr], Any]
    sign: Callable[[type[ast.AST], Any], Any]
    row: Callable[[Any, Row], Any]
    call: Callable[[str, Sequence[Any]], Any] = refuse


def _walk(node: ast.expr, language: _Language, depth: int = 0) -> Any:
    """The value of a tree. A long sum is a chain to the left, which is followed without recursion."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    chain = []
    while isinstance(node, ast.BinOp):
        chain.append(node)
        node = node.left
    if isinstance(node, ast.UnaryOp):
        value = language.sign(type(node.op), _walk(node.operand, language, depth + 1))
    elif isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.keywords:
            refuse()
        value = language.call(node.func.id, [_walk(part, language, depth + 1) for part in node.args])
    else:
        value = language.leaf(node)
    if not chain:
        return value
    return language.row(
        value, [(type(part.op), _walk(part.right, language, depth + 1)) for part in reversed(chain)]
    )


def _sign(kind: type[ast.AST], value: sympy.Expr) -> sympy.Expr:
    return _SIGNS.get(kind, refuse)(value)


def _row(value: sympy.Expr, others: Row) -> sympy.Expr:
    """The operations from left to right, sums at once: SymPy takes quadratic time for one summand after another."""
    if sum(kind not in (ast.Add, ast.Sub) for kind, _ in others) > _MAX_FACTORS:
        raise ValueError("too many factors")
    summands = [value]
    for kind, other in others:
        if kind is ast.Add:
            summands.append(other)
        elif kind is ast.Sub:
            summands.append(-other)
        else:
            value = sympy.Add(*summands)
            if kind is ast.Mult:
                value = value * other
            elif kind is ast.Div:
                value = value / other
            elif kind is ast.Pow:
                value = _power(value, other)
            else:
                refuse()
            summands = [value]
    return sympy.Add(*summands)


def _call(name: str, values: Sequence[sympy.Expr]) -> sympy.Expr:
    match name, values:
        case "exp", [value]:
            return _power(sympy.E, value)
        case "sqrt", [value]:
            return _power(value, sympy.Rational(1, 2))
        case "cbrt", [value]:
            return _power(value, sympy.Rational(1, 3))
        case "root", [value, degree]:
            return _power(value, 1 / degree)
    function = _FUNCTIONS.get(name, refuse)
    for value in values:
        _check_numbers(value, _MAX_INSIDE)
    return function(*values)


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    """base ** exponent. SymPy computes powers of numbers at once, also those it finds in exp(3 log 2) and sqrt(2) ** 6."""
    highest = 1
    for term in sympy.Add.make_args(exponent):
        symbolic = term.free_symbols and not term.has(sympy.log)
        _check_numbers(term, _MAX_INSIDE if symbolic else _MAX_EXPONENT)
        if not symbolic:
            highest = max([highest, *(math.ceil(abs(number)) for number in term.atoms(sympy.Number))])
    for number in base.atoms(sympy.Rational):
        if max(number.p.bit_length(), number.q.bit_length()) * highest > _MAX_BITS:
            raise ValueError("too large a number")
    return base**exponent


def _check_numbers(value: sympy.Expr, most: int) -> None:
    """Raises ValueError for a number in an expression with a size, or a denominator, above `most`."""
    for number in value.atoms(sympy.Number):
        size = max(abs(number.p), number.q) if isinstance(number, sympy.Rational) else abs(number)
        if not size <= most:  # also of what is no number
            raise ValueError("too large a number")


def _bounded_whole(value: int) -> int:
    if value.bit_length() > _MAX_BITS:
        raise ValueError("too large a number")
    return value


def _bounded(value: sympy.Expr) -> sympy.Expr:
    """An expression that can be worked with. Raises ValueError for any other."""
    if not isinstance(value, sympy.Expr) or value.has(*_INFINITE):
        refuse()
    _check_numbers(value, 2**_MAX_BITS)
    if any(_terms(part) > _MAX_TERMS for part in sympy.Add.make_args(value)):
        raise ValueError("too large an expression")
    return value


def _terms(value: sympy.Basic) -> int:
    """How many terms it has when it is multiplied out, counted up to one more than are allowed."""
    inside = [_terms(part) for part in value.args]
    if isinstance(value, sympy.Add):
        count = sum(inside)
    elif isinstance(value, sympy.Mul):
        count = math.prod(inside)
    elif isinstance(value, sympy.Pow) and value.exp.is_Integer:
        count = math.comb(inside[0] + abs(int(value.exp)) - 1, inside[0] - 1)
    else:
        count = max(inside, default=1)
    return min(count, _MAX_TERMS + 1)
