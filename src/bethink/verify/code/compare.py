"""Whether what a program returned is what was expected, by exact type and value.

The returned value is never built: it is read piece by piece beside the expected one, so that its size and depth cost nothing beyond what
the expected value has, and no method of its own is ever called.
"""

from __future__ import annotations

import cmath
import math
from enum import StrEnum
from typing import Any

from bethink.verify.code.wire import Reader, WireError


class Same(StrEnum):
    """What counts as the same.

    EXACT: types and values. PYTHON: as `==` of an assert says, between plain values: 240.0 is 240, True is 1, a Counter is a dict. JSON: as
    a file of JSON can tell: a tuple is a list, 2.0 is 2, but True is not 1.
    """

    EXACT = "exact"
    PYTHON = "python"
    JSON = "json"


_NUMBERS = ("bool", "int", "float", "complex")
_LISTS, _SETS = ("list", "tuple", "deque"), ("set", "frozenset")
_DICTS = ("dict", "OrderedDict", "defaultdict", "Counter")
_BYTES = ("bytes", "bytearray")


def same(expected: object, found: Reader, how: Same = Same.EXACT, *, tolerance: float | None = None) -> bool:
    """Whether a returned value is the expected one. tolerance: for floats, absolute and relative; without it they must be equal.

    A NaN is the same as another, except to PYTHON. What cannot be read is the same as nothing.
    """
    try:
        return _Comparison(found, how, tolerance).same(expected, found.root)
    except (WireError, RecursionError):
        return False


class _Comparison:
    def __init__(self, found: Reader, how: Same, tolerance: float | None) -> None:
        self._found = found
        self._how = how
        self._tolerance = tolerance

    def same(self, expected: Any, cell: object) -> bool:
        kind = type(expected).__name__
        tag, body = self._found.look(cell)
        if kind in _NUMBERS and tag in _NUMBERS:
            return self._numbers(expected, self._found.part(cell))
        if not self._kinds(kind, tag):
            return False
        if kind in _LISTS:
            return self._each(list(expected), body)
        if kind in _DICTS:
            return self._dicts(expected, body)
        if kind in _SETS:
            return self._sets(expected, body)
        if kind in ("str", "NoneType", "range", *_BYTES):
            return bool(expected == self._found.part(cell))
        return False

    def _kinds(self, kind: str, tag: str) -> bool:
        """Whether values of the two types can be the same at all."""
        if kind == tag:
            return True
        if self._how is Same.JSON:
            return {kind, tag} <= {"list", "tuple"}
        families = (_SETS, _DICTS, _BYTES)
        return self._how is Same.PYTHON and any(kind in family and tag in family for family in families)

    def _numbers(self, expected: Any, found: Any) -> bool:
        if self._how is Same.EXACT and type(expected) is not type(found):
            return False
        if self._how is Same.JSON and (type(expected) is bool) != (type(found) is bool):
            return False
        if expected == found:
            return True
        if float not in (type(expected), type(found)) and complex not in (type(expected), type(found)):
            return False
        try:
            if self._how is not Same.PYTHON and cmath.isnan(expected) and cmath.isnan(found):
                return True
            if self._tolerance is None or complex in (type(expected), type(found)):
                return False
            return math.isclose(expected, found, rel_tol=self._tolerance, abs_tol=self._tolerance)
        except OverflowError:
            return False

    def _each(self, expected: list[Any], body: Any) -> bool:
        if not isinstance(body, list) or len(body) != len(expected):
            return False
        return all(self.same(one, cell) for one, cell in zip(expected, body, strict=True))

    def _dicts(self, expected: dict[Any, Any], body: Any) -> bool:
        if not isinstance(body, list) or len(body) != 2 * len(expected):
            return False
        cells = {
            self._key(self._found.part(key)): cell for key, cell in zip(body[::2], body[1::2], strict=True)
        }
        return all(
            self._key(key) in cells and self.same(item, cells[self._key(key)])
            for key, item in expected.items()
        )

    def _sets(self, expected: Any, body: Any) -> bool:
        if not isinstance(body, list) or len(body) != len(expected):
            return False
        return {self._key(item) for item in expected} == {self._key(self._found.part(cell)) for cell in body}

    def _key(self, item: Any) -> Any:
        """A member of a set or a key, told apart from its equals of other types where that matters."""
        try:
            hash(item)
        except TypeError:
            raise WireError("not hashable") from None
        return item if self._how is Same.PYTHON else _with_types(item)


def _with_types(item: Any) -> Any:
    """A hashable value with the types of its parts: (1, 2) and (True, 2.0) are equal and hash alike."""
    if type(item) is tuple:
        return "tuple", tuple(map(_with_types, item))
    if type(item) is frozenset:
        return "frozenset", frozenset(map(_with_types, item))
    return type(item).__name__, item
