"""One row of a post-training set: from bytes to a `Sample`, or the reason why not.

Knows the row format of the Llama-Nemotron Post-Training Dataset and its looser relatives: `input` a message list or a string,
`used_in_training` a list or a string, everything but `input`, `output` and `reasoning` optional. Nothing a row can hold raises:
what cannot be used comes back as a `Drop`. Whether a good row is wanted is for `filters`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bethink.chat.parse import Parsed, parse, retagged
from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat, read_toggle
from bethink.tasks.problem import Message

UNREADABLE = {
    "unreadable_file": "the rest of the file cannot be read",
    "blank_line": "a line without a row",
    "line_too_long": "a line longer than any row can be",
    "bad_utf8": "bytes that are not text",
    "bad_json": "a line that is not JSON",
    "not_an_object": "JSON, but not an object",
    "missing_field": "a required field is missing",
    "null_field": "a required field is null",
    "wrong_type": "a field of the wrong type",
    "empty_input": "no question in the last user message",
}
"""The reasons for which a row cannot be read at all: they count towards the bad share."""

LABELS = ("category", "license", "generator", "version", "used_in_training")
COLUMNS = ("input", "output", "reasoning", "system_prompt", *LABELS)
_ROLES = frozenset({"system", "user", "assistant"})
_NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row is not in the output. reason: a name to count by; detail: what was seen, for the one who looks."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Sample:
    """A readable row.

    messages: the conversation to answer, toggles taken out; the last one is the user's.
    said: the modes its system prompt and messages name (none, one, or two that may disagree).
    labels: the metadata present in the row, each as a tuple of names.
    difficulty: the number in the field the curriculum is ordered by, if it is ordered by one and the row has it.
    think: the tags of the think block in `output`.
    """

    messages: list[Message]
    output: str
    mode: Mode
    said: tuple[Mode, ...]
    labels: Mapping[str, tuple[str, ...]]
    difficulty: float | None = None
    think: ThinkFormat = DEFAULT_FORMAT

    @cached_property
    def parsed(self) -> Parsed:
        """The output as thinking and answer."""
        return parse(self.output, think=self.think)

    @property
    def answer(self) -> str:
        """What the output says after its think block: all of it when there is none. (`parsed.answer` has what stands before it too.)"""
        return self.output.rpartition(self.think.close)[2]


class _UnusableError(Exception):
    """Carries a Drop out of the checks below; never leaves this module."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.drop = Drop(reason, detail)


def read_line(line: bytes) -> dict[str, Any] | Drop:
    """The object on one line of a JSON Lines file."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Drop("bad_utf8", f"byte {error.start}: {error.reason}")
    text = text.removeprefix("\ufeff")
    if not text.strip():
        return Drop("blank_line", "")
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        return Drop("bad_json", f"{error.msg} at character {error.pos + 1}")
    except RecursionError:
        return Drop("bad_json", "nested too deeply")
    except ValueError as error:  # a number of more digits than Python converts
        return Drop("bad_json", str(error))
    return row if isinstance(row, dict) else Drop("not_an_object", f"found {_kind(row)}")


def read_row(
    row: Mapping[str, Any], difficulty_field: str | None = None, think: ThinkFormat = DEFAULT_FORMAT
) -> Sample | Drop:
    """A decoded row as a Sample. think: the model's tags; the usual ones become them."""
    try:
        return _sample(row, difficulty_field, think)
    except _UnusableError as error:
        return error.drop


def _sample(row: Mapping[str, Any], difficulty_field: str | None, think: ThinkFormat) -> Sample:
    for name in ("input", "output", "reasoning"):
        if name not in row:
            raise _UnusableError("missing_field", f"`{name}`")
        if row[name] is None:
            raise _UnusableError("null_field", f"`{name}`")
    output = retagged(_text(row["output"], "output"), think)
    mode = _mode(row["reasoning"])
    messages = _messages(row["input"])
    said, messages = _read_toggles(messages, row.get("system_prompt"))
    if not messages[-1]["content"].strip():
        raise _UnusableError("empty_input", "the last user message is empty")
    labels = {name: _labels(row[name], name) for name in LABELS if row.get(name) is not None}
    difficulty = _number(row.get(difficulty_field)) if difficulty_field else None
    return Sample(messages, output, mode, said, labels, difficulty, think)


def _mode(value: Any) -> Mode:
    if isinstance(value, bool):
        return Mode.ON if value else Mode.OFF
    if isinstance(value, str) and value.strip().lower() in ("on", "off"):
        return Mode(value.strip().lower())
    raise _UnusableError("wrong_type", f"`reasoning` is {_shown(value)}, not on or off")


def _messages(value: Any) -> list[Message]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise _UnusableError("wrong_type", f"`input` is {_kind(value)}, not a message list or a string")
    messages = [_message(entry, f"input[{index}]") for index, entry in enumerate(value)]
    if not messages or messages[-1]["role"] != "user":
        raise _UnusableError(
            "empty_input", "the last message is not the user's" if messages else "no messages"
        )
    return messages


def _message(entry: Any, where: str) -> Message:
    if not isinstance(entry, dict):
        raise _UnusableError("wrong_type", f"`{where}` is {_kind(entry)}, not an object")
    for name in ("role", "content"):
        if name not in entry:
            raise _UnusableError("missing_field", f"`{where}.{name}`")
        if entry[name] is None:
            raise _UnusableError("null_field", f"`{where}.{name}`")
    if not isinstance(entry["role"], str) or entry["role"] not in _ROLES:
        raise _UnusableError("wrong_type", f"`{where}.role` is {_shown(entry['role'])}")
    return {"role": entry["role"], "content": _text(entry["content"], f"{where}.content")}


def _read_toggles(messages: list[Message], system_prompt: Any) -> tuple[tuple[Mode, ...], list[Message]]:
    """The modes named by the messages and by the `system_prompt` field, and the messages with neither toggle.

    What else the field says becomes (the beginning of) the system message, unless the messages say it already.
    """
    said_inside, messages = read_toggle(messages)
    said_beside: Mode | None = None
    if system_prompt is not None:
        prompt = _text(system_prompt, "system_prompt")
        said_beside, rest = read_toggle([{"role": "system", "content": prompt}])
        own = rest[0]["content"].strip() if rest else ""
        has_system = bool(messages) and messages[0]["role"] == "system"
        if own and has_system and own not in messages[0]["content"]:
            joined = f"{own}\n\n{messages[0]['content']}"
            messages = [{"role": "system", "content": joined}, *messages[1:]]
        elif own and not has_system:
            messages = [{"role": "system", "content": own}, *messages]
    return tuple(mode for mode in (said_beside, said_inside) if mode is not None), messages


def _labels(value: Any, name: str) -> tuple[str, ...]:
    """A label's names: of a list its entries; of a string itself, but the tags in it ("['Ultra', 'Nano']") for `used_in_training`."""
    if isinstance(value, str) and name == "used_in_training":
        return tuple(_NAME.findall(_text(value, name)))
    entries = value if isinstance(value, list) else [value]
    if all(isinstance(entry, str | int | float) for entry in entries):
        return tuple(_text(str(entry), name).strip() for entry in entries)
    raise _UnusableError("wrong_type", f"`{name}` is {_kind(value)}, not text or a list of texts")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _UnusableError("wrong_type", f"`{where}` is {_kind(value)}, not a string")
    try:
        value.encode("utf-8")  # JSON can spell half of a surrogate pair, which no file can hold
    except UnicodeEncodeError as error:
        raise _UnusableError(
            "bad_utf8", f"`{where}`: {error.reason} at character {error.start + 1}"
        ) from None
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else _kind(value)
