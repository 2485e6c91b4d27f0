"""Step-by-step solutions of reasoning-gym's arithmetic problems.

Each function takes an item's metadata and gives the lines of working and the final value, or None where the problem cannot be
worked in exact short steps. Every line is true as it stands.
"""

from __future__ import annotations

import ast
import re
from decimal import Decimal
from typing import Any

from bethink.tasks.arithmetic import false_equations

Working = tuple[list[str], str]


def chain_sum(item: dict[str, Any]) -> Working | None:
    """Running total: 7 - 3 + 12 gives "7 - 3 = 4", "4 + 12 = 16"."""
    return _running_total(item["expression"].split(" "), int)


def decimal_chain_sum(item: dict[str, Any]) -> Working | None:
    """Running total of decimals."""
    return _running_total(item["expression"].split(" "), Decimal)


def _running_total(tokens: list[str], number: type[int] | type[Decimal]) -> Working:
    total: int | Decimal = number(tokens[0])
    lines = []
    for sign, term in zip(tokens[1::2], tokens[2::2], strict=True):
        after = total + number(term) if sign == "+" else total - number(term)
        lines.append(f"{total} {sign} {term} = {after}")
        total = after
    return lines or [f"{tokens[0]} = {total}"], str(total)


def products(item: dict[str, Any]) -> Working | None:
    """Long multiplication, a factor after the other."""
    factors = [int(token) for token in item["expression"].split(" * ")]
    total, lines = factors[0], []
    for factor in factors[1:]:
        lines += _times(total, factor)
        total *= factor
    return lines or [f"{total} = {total}"], str(total)


def _times(a: int, b: int) -> list[str]:
    """The lines of a * b: a times each digit of b by its place, then their running total."""
    whole = f"{a} * {b} = {a * b}"
    digits = str(abs(b))
    places = [int(d) * 10 ** (len(digits) - 1 - i) for i, d in enumerate(digits) if d != "0"]
    if len(places) < 2 or len(str(abs(a))) < 2:
        return [whole]
    parts = [abs(a) * place for place in places]
    lines = [f"{abs(a)} * {place} = {part}" for place, part in zip(places, parts, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        lines.append(f"{total} + {part} = {total + part}")
        total += part
    return lines if (a > 0 and b > 0) else [*lines, whole]


def basic_arithmetic(item: dict[str, Any]) -> Working | None:
    """Every operation in the order of evaluation; None where a division leaves a remainder (the reference floors it)."""
    lines: list[str] = []
    value = _reduce(ast.parse(item["expression"].strip(), mode="eval").body, lines)
    return None if value is None else (lines or [f"{value} = {value}"], str(value))


def _reduce(node: ast.expr, lines: list[str]) -> int | None:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
            return -value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _reduce(operand, lines)
            if inner is not None:
                lines.append(f"-({inner}) = {-inner}")
            return None if inner is None else -inner
        case ast.BinOp(left=left, op=op, right=right):
            a = _reduce(left, lines)
            b = _reduce(right, lines)
            return None if a is None or b is None else _operate(a, op, b, lines)
    return None


def _operate(a: int, op: ast.operator, b: int, lines: list[str]) -> int | None:
    match op:
        case ast.Add():
            lines.append(f"{a} + {b} = {a + b}")
            return a + b
        case ast.Sub():
            lines.append(f"{a} - {b} = {a - b}")
            return a - b
        case ast.Mult():
            lines += _times(a, b)
            return a * b
        case ast.Div() if b != 0 and a % b == 0:
            lines.append(f"{a} / {b} = {a // b}")
            return a // b
    return None


def simple_equations(item: dict[str, Any]) -> Working | None:
    """a*x + b = c: take b to the right, divide by a."""
    left, right = item["equation"].split(" = ")
    name = re.escape(item["variable"])
    form = rf"(?:(?P<b>-?\d+) (?P<minus>[+-]) )?(?P<lead>-)?(?:(?P<a>\d+)\*)?{name}(?: (?P<sign>[+-]) (?P<d>\d+))?"
    found = re.fullmatch(form, left)
    if not found or not right.lstrip("-").isdigit():
        return None
    a = int(found["a"] or 1) * (-1 if found["lead"] or found["minus"] == "-" else 1)
    constant = int(found["b"] or 0) + int(f"{found['sign'] or '+'}{found['d'] or 0}")
    total, variable = int(right), item["variable"]
    if a == 0 or (total - constant) % a:
        return None
    lines = [item["equation"]]
    if constant:
        step = f"{total} - {constant}" if constant > 0 else f"{total} + {-constant}"
        lines.append(f"{_term(a, variable)} = {step} = {total - constant}")
    value = (total - constant) // a
    if a != 1:
        lines.append(f"{variable} = {total - constant} / {a} = {value}")
    return lines, str(value)


def _term(a: int, variable: str) -> str:
    return {1: variable, -1: f"-{variable}"}.get(a, f"{a}*{variable}")


def gcd(item: dict[str, Any]) -> Working | None:
    """Euclid's algorithm over the numbers, one after the other."""
    lines: list[str] = []
    result = int(item["numbers"][0])
    for number in item["numbers"][1:]:
        result = _euclid(result, int(number), lines)
    return lines, str(result)


def _euclid(a: int, b: int, lines: list[str]) -> int:
    a, b = max(a, b), min(a, b)
    pair = f"gcd({a}, {b})"
    while b:
        lines.append(f"{a // b} * {b} + {a % b} = {a}")
        a, b = b, a % b
    lines.append(f"{pair} is {a}")
    return a


def lcm(item: dict[str, Any]) -> Working | None:
    """Product divided by the greatest common divisor, number after number."""
    lines: list[str] = []
    result = int(item["numbers"][0])
    for number in map(int, item["numbers"][1:]):
        divisor = _euclid(result, number, lines)
        lines.append(f"{result} / {divisor} = {result // divisor}")
        lines += _times(result // divisor, number)
        result = result // divisor * number
    return lines, str(result)


def prime_factorization(item: dict[str, Any]) -> Working | None:
    """Divide by the smallest prime that goes, until 1 is left."""
    rest, lines = int(item["number"]), []
    for factor in item["factors"]:
        lines.append(f"{rest} / {factor} = {rest // factor}")
        rest //= factor
    return (lines, " × ".join(map(str, item["factors"]))) if rest == 1 else None


def fraction_simplification(item: dict[str, Any]) -> Working | None:
    """Euclid's algorithm, then both parts divided by the greatest common divisor; the answer in the question's notation."""
    top, bottom = int(item["numerator"]), int(item["denominator"])
    lines: list[str] = []
    divisor = _euclid(top, bottom, lines)
    lines += [f"{top} / {divisor} = {top // divisor}", f"{bottom} / {divisor} = {bottom // divisor}"]
    command = {"latex_frac": "frac", "latex_dfrac": "dfrac"}.get(item["style"])
    a, b = top // divisor, bottom // divisor
    return lines, f"\\{command}{{{a}}}{{{b}}}" if command else f"{a}/{b}"


def count_bits(item: dict[str, Any]) -> Working | None:
    """Halve until 0 is left, counting the remainders of 1."""
    number, ones, lines = int(item["number"]), 0, []
    while number:
        ones += number % 2
        lines.append(f"{number // 2} * 2 + {number % 2} = {number}, ones so far: {ones}")
        number //= 2
    return lines or ["0 has no ones"], str(ones)


def base_conversion(item: dict[str, Any]) -> Working | None:
    """Read the digits into a running value, then divide by the new base and read the remainders backwards."""
    source, target, value = int(item["source_base"]), int(item["target_base"]), 0
    lines = [f"In base 10, from {item['source_repr']}:"]
    for digit in item["source_repr"]:
        after = value * source + int(digit, 36)
        lines.append(f"{value} * {source} + {int(digit, 36)} = {after}")
        value = after
    lines.append(f"To base {target}, the remainders are the digits from the last to the first:")
    rest, digits = value, ""
    while rest or not digits:
        lines.append(f"{rest // target} * {target} + {rest % target} = {rest}")
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest % target] + digits
        rest //= target
    return lines, digits


def gsm_symbolic(item: dict[str, Any]) -> Working | None:
    """The generator's own working. Whole numbers lose their ".0"; working with rounding noise or a false line is refused."""
    working, mark, final = item["answer_cot"].rpartition("####")
    if not mark or re.search(r"\d\.\d{5,}", working):
        return None
    working, final = (re.sub(r"(?<=\d)\.0+(?!\d)", "", text).strip() for text in (working, final))
    return None if not working or false_equations(working) else (working.splitlines(), final)
