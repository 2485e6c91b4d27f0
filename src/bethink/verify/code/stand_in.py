"""What stands in for a program where a data set's test runs: the test calls a function, and the program answers from its own sandbox.

Standard library only: imported by name in the sandbox, where the package is not.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any, NoReturn

from bethink.verify.code.wire import Reader, UnsendableError, encode

Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Puts a question to the parent and gives its answer."""


class Desk:
    """Where stand-ins ask. answered: how many calls have come back with a value."""

    def __init__(self, ask: Ask, class_names: list[str]) -> None:
        self.names: dict[str, Any] = {}
        self.answered = 0
        self._parent = ask
        self._class_names = class_names

    def ask(self, target: list[Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        found = {name: self.names.get(name) for name in self._class_names}
        classes = {name: kind for name, kind in found.items() if isinstance(kind, type)}
        try:
            sent = encode([list(arguments), options], classes=classes, keep=_number_of)
        except UnsendableError as error:
            raise UnaskableError(str(error)) from None
        reply = self._parent({"call": target, "arguments": sent})
        self.answered += 1
        if "raised" in reply:
            _raise(reply["raised"], reply["text"])

        def kept(number: int) -> StandIn:
            return StandIn(self, ["kept", number])

        value = Reader(reply["value"], classes=classes, kept=kept).value()
        if (
            value is None
        ):  # a function that works on its argument; of one that returns a result nothing else counts
            changed = Reader(reply["after"], classes=classes, kept=kept).value()
            for before, after in zip(arguments, changed, strict=True):
                _become(before, after)
        return value


class StandIn:
    """Something that lives in the other sandbox: a function, or a value that cannot travel."""

    __slots__ = ("_desk", "_target")

    def __init__(self, desk: Desk, target: list[Any]) -> None:
        object.__setattr__(self, "_desk", desk)
        object.__setattr__(self, "_target", target)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._desk.ask(self._target, arguments, options)

    def __getattr__(self, name: str) -> Any:
        if self._target[0] != "kept" or name.startswith("__"):
            raise AttributeError(name)
        return self._desk.ask(["get", self._target[1], name], (), {})

    def __setattr__(self, name: str, value: object) -> None:
        if self._target[0] != "kept":
            raise AttributeError(name)
        self._desk.ask(["set", self._target[1], name], (value,), {})


def _number_of(item: object) -> int:
    target: list[Any] = object.__getattribute__(item, "_target") if type(item) is StandIn else [""]
    if target[0] != "kept":
        raise UnsendableError(f"a value of type {type(item).__name__} cannot be sent")
    return target[1]  # type: ignore[no-any-return]


def _become(before: Any, after: Any) -> None:
    """Do to an argument what the call did to it."""
    if type(before) is not type(after):
        return
    if type(before) in (list, bytearray):
        before[:] = after
    elif type(before) in (dict, set):
        before.clear()
        before.update(after)


class UnaskableError(Exception):
    """The test asks with a value of a type that cannot travel, such as a function of its own. The code under test can give it none of those."""


class CandidateError(Exception):
    """What the code under test raised, where it is no exception of Python's own."""


def _raise(name: str, text: str) -> NoReturn:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            error = kind(text)
        except TypeError:  # UnicodeDecodeError wants five arguments
            error = CandidateError(f"{name}: {text}")
        raise error
    raise CandidateError(f"{name}: {text}")
