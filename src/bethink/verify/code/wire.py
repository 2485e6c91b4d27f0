"""Plain values between processes, with their exact types: what a sandboxed program is given and what it gives back.

A value is a *cell* and a *table*, both of JSON's own kinds. None, truth values, small whole numbers, floats and texts are cells
themselves; everything else is an entry `[tag, body]` of the table, and its cell is `[index]`. Types are compared by identity: a subclass
with an `__eq__` of its own is no list. Nothing here calls a method that a value could have overridden.

Instances of the classes a caller names (`ListNode`, say) travel as their attributes, each once, so that rings and shared tails survive;
what cannot travel is kept where it is and travels as a number, where the caller allows it (`keep`).

Reading trusts nothing: every entry but an instance may be used once, nesting is bounded, and only tags of this file build anything.
Standard library only: this file runs in the sandbox, too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

MAX_DEPTH = 100
MAX_CELLS = 1_000_000

Wire = dict[str, Any]
"""{"root": cell, "table": [[tag, body], …]}."""

_SMALL = 2**63
_SCALARS = (type(None), bool, int, float, str)
_SEQUENCES: dict[type[Any], str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
}
_MAPPINGS: dict[type[Any], str] = {
    dict: "dict",
    OrderedDict: "OrderedDict",
    defaultdict: "defaultdict",
    Counter: "Counter",
}
_ITERABLES: list[Any] = [iter([]), iter(()), iter({}), iter(set()), iter(""), iter(range(0)), reversed([])]
_ITERABLES += [{}.keys(), {}.values(), {}.items(), (name for name in list[str]())]
_ITERATORS = {map, filter, zip, enumerate, reversed, *map(type, _ITERABLES)}


_PLAIN: tuple[type[Any], ...] = (int, float, bool, complex, str, bytes, *_SEQUENCES, *_MAPPINGS)
_TYPES = {kind.__name__: kind for kind in _PLAIN}
"""Types that are values themselves, as in `of_type(items, str)`."""


class WireError(Exception):
    """A value that cannot travel, or a message that is no value."""


class UnsendableError(WireError):
    """A value of a type that cannot travel."""


def encode(
    value: object,
    *,
    classes: Mapping[str, type[Any]] | None = None,
    keep: Callable[[object], int] | None = None,
) -> Wire:
    """A value as it travels.

    classes: by name, those whose instances may travel; keep: gives a number to what cannot. An iterator travels as what it still yields.
    Raises WireError for what cannot travel, is nested deeper than MAX_DEPTH or has more than MAX_CELLS parts.
    """
    return _Writer(classes or {}, keep).write(value)


class _Writer:
    def __init__(self, classes: Mapping[str, type[Any]], keep: Callable[[object], int] | None) -> None:
        self._classes = classes
        self._keep = keep
        self._table: list[Any] = []
        self._places: dict[int, int] = {}
        self._waiting: list[tuple[int, Any]] = []
        self._cells = 0

    def write(self, value: object) -> Wire:
        root = self._cell(value, 0)
        while self._waiting:
            place, instance = self._waiting.pop()
            flat = [self._cell(part, 1) for pair in _attributes(instance).items() for part in pair]
            self._table[place] = ["object", [type(instance).__name__, flat]]
        return {"root": root, "table": self._table}

    def _cell(self, item: Any, depth: int) -> Any:
        self._cells += 1
        if self._cells > MAX_CELLS:
            raise WireError(f"more than {MAX_CELLS:,} parts")
        kind = type(item)
        if item is None or kind is bool or kind is str or kind is float:
            return item
        if kind is int:
            return item if -_SMALL <= item < _SMALL else self._add("int", hex(item))
        if depth >= MAX_DEPTH:
            raise WireError(f"nested more than {MAX_DEPTH} deep")
        if kind in _SEQUENCES:
            return self._add(_SEQUENCES[kind], [self._cell(part, depth + 1) for part in kind.__iter__(item)])
        if kind in _MAPPINGS:
            pairs = [part for pair in dict.items(item) for part in pair]
            return self._add(_MAPPINGS[kind], [self._cell(part, depth + 1) for part in pairs])
        if kind in (bytes, bytearray):
            return self._add(kind.__name__, item.hex())
        if kind is complex:
            return self._add("complex", [item.real, item.imag])
        if kind is range:
            return self._add("range", [self._cell(n, depth) for n in (item.start, item.stop, item.step)])
        if kind in _ITERATORS:
            parts = islice(iter(item), MAX_CELLS)
            return self._add("iterator", [self._cell(part, depth + 1) for part in parts])
        if _is_plain_type(item):
            return self._add("type", item.__name__)
        if self._classes.get(kind.__name__) is kind:
            return self._instance(item)
        if self._keep is None:
            raise UnsendableError(f"a value of type {kind.__name__} cannot be sent")
        return self._add("kept", self._keep(item))

    def _instance(self, item: Any) -> list[int]:
        place = self._places.get(id(item))
        if place is None:
            place = self._places[id(item)] = self._add("object", None)[0]
            self._waiting.append((place, item))
        return [place]

    def _add(self, tag: str, body: Any) -> list[int]:
        self._table.append([tag, body])
        return [len(self._table) - 1]


def _is_plain_type(item: Any) -> bool:
    return type(item) is type and _TYPES.get(item.__name__) is item


def _attributes(instance: Any) -> dict[str, Any]:
    held = getattr(instance, "__dict__", None)
    if type(held) is dict:
        return held
    names = getattr(type(instance), "__slots__", ())
    return {name: getattr(instance, name) for name in names if hasattr(instance, name)}


class Reader:
    """A travelled value, read piece by piece.

    classes: those whose instances may come; kept: gives back what a number stands for. Everything raises WireError for a message that
    `encode` would not have written.
    """

    def __init__(
        self,
        wire: object,
        *,
        classes: Mapping[str, type[Any]] | None = None,
        kept: Callable[[int], object] | None = None,
    ) -> None:
        if not isinstance(wire, dict) or "root" not in wire or not isinstance(wire.get("table"), list):
            raise WireError("not a value")
        self.root: Any = wire["root"]
        self._table: list[Any] = wire["table"]
        self._classes = classes or {}
        self._kept = kept
        self._used: set[int] = set()
        self._instances: dict[int, Any] = {}
        self._waiting: list[tuple[Any, list[Any]]] = []

    def look(self, cell: object) -> tuple[str, Any]:
        """A cell's tag and body: of a scalar its type's name and itself."""
        if type(cell) in _SCALARS:
            return type(cell).__name__, cell
        if not isinstance(cell, list) or len(cell) != 1 or type(cell[0]) is not int:
            raise WireError("not a cell")
        entry = self._table[cell[0]] if 0 <= cell[0] < len(self._table) else None
        if not isinstance(entry, list) or len(entry) != 2 or type(entry[0]) is not str:
            raise WireError("not an entry")
        return entry[0], entry[1]

    def value(self) -> Any:
        """The whole value."""
        return self.part(self.root)

    def part(self, cell: object) -> Any:
        """The value of one cell."""
        built = self._build(cell, 0)
        while self._waiting:
            instance, flat = self._waiting.pop()
            for name, held in zip(flat[::2], flat[1::2], strict=True):
                if type(name) is not str:
                    raise WireError("not an attribute")
                value = self._build(held, 1)
                try:
                    object.__setattr__(instance, name, value)
                except (AttributeError, TypeError) as error:
                    raise WireError(str(error)) from None
        return built

    def _build(self, cell: object, depth: int) -> Any:
        tag, body = self.look(cell)
        if type(cell) in _SCALARS:
            return cell
        if depth >= MAX_DEPTH:
            raise WireError(f"nested more than {MAX_DEPTH} deep")
        place: int = cell[0]  # type: ignore[index]
        if tag == "object":
            return self._instance(place, body)
        if place in self._used:
            raise WireError("an entry is used twice")
        self._used.add(place)
        try:
            return self._plain(tag, body, depth)
        except (TypeError, ValueError, OverflowError) as error:
            raise WireError(f"not a {tag}: {error}") from None

    def _plain(self, tag: str, body: Any, depth: int) -> Any:
        if tag == "int":
            return int(body, 16)
        if tag in ("bytes", "bytearray"):
            return bytes.fromhex(body) if tag == "bytes" else bytearray.fromhex(body)
        if tag == "type" and type(body) is str and body in _TYPES:
            return _TYPES[body]
        if tag == "kept":
            if self._kept is None or type(body) is not int:
                raise WireError("a value that stayed where it was")
            return self._kept(body)
        if not isinstance(body, list):
            raise WireError("not an entry")
        if tag == "complex":
            return complex(*map(_number, body))
        parts = [self._build(part, depth + 1) for part in body]
        if tag == "range":
            return range(*parts)
        if tag == "iterator":
            return iter(parts)
        for kind, name in _SEQUENCES.items():
            if tag == name:
                return kind(parts)
        for kind, name in _MAPPINGS.items():
            if tag == name:
                pairs = zip(parts[::2], parts[1::2], strict=True)
                made = kind()
                for key, held in pairs:
                    dict.__setitem__(made, key, held)
                return made
        raise WireError(f"there is no type `{tag[:40]}`")

    def _instance(self, place: int, body: Any) -> Any:
        if place in self._instances:
            return self._instances[place]
        if not isinstance(body, list) or len(body) != 2 or not isinstance(body[1], list):
            raise WireError("not an instance")
        known = self._classes.get(body[0]) if type(body[0]) is str else None
        if known is None:
            raise WireError("an instance of an unknown class")
        made = self._instances[place] = object.__new__(known)
        self._waiting.append((made, body[1]))
        return made


def _number(item: object) -> float:
    if type(item) not in (int, float):
        raise WireError("not a number")
    return item  # type: ignore[return-value]
