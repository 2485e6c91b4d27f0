"""What "thinking on" and "off" mean, and every way a client can say it.

Writing: `apply_toggle` puts one style of toggle into the messages, `template_kwargs` is what the chat template is told.
Reading: `read_toggle` understands all the conventions at once, says which mode was meant and hands back the messages without it.
Knows nothing of templates or tokens.

Sources of the conventions: the system line is Llama-Nemotron's (arXiv 2505.00949), saying in words what form the answer is to have is
DeepSeek-R1-Zero's way with a base model (arXiv 2501.12948, table 1), the slash commands and `enable_thinking` are
Qwen3's (arXiv 2505.09388), `thinking` is DeepSeek-V3.1's, `reasoning_effort` is the OpenAI API's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bethink.core.errors import ConfigError
from bethink.tasks.problem import Message


class Mode(StrEnum):
    """Whether the model thinks before it answers."""

    ON = "on"
    OFF = "off"


class ToggleStyle(StrEnum):
    """How the model is told the mode. The template kwargs are passed with every style."""

    SYSTEM = "system"  # "detailed thinking on|off" as the first line of the system prompt
    KWARGS = "kwargs"  # by the template kwargs alone
    WORDS = "words"  # a sentence at the head of the system prompt that says what is asked: for models that know no toggle
    SLASH = "slash"  # /think or /no_think at the end of the last user message


@dataclass(frozen=True, slots=True)
class ThinkFormat:
    """How a model marks its thinking. The tags are data, so that models with other tags need no code.

    open, close: the tags, case-sensitive.
    prefilled: with thinking on, the prompt opens the block even where the template does not. (A template that opens it by itself
    needs no setting: that is seen in its rendering.)
    """

    open: str = "<think>"
    close: str = "</think>"
    prefilled: bool = False


DEFAULT_FORMAT = ThinkFormat()

_SYSTEM_LINE = re.compile(
    r"^[ \t]*detailed thinking (on|off)[ \t]*\.?[ \t]*(?:\n|\Z)", re.IGNORECASE | re.MULTILINE
)
_WORDS = {
    Mode.ON: "Think first, and write your thinking between {open} and {close}. Then give the answer.",
    Mode.OFF: "Give the answer at once, without writing any thinking before it.",
}
_TAG = re.compile(r"\\{(?:open|close)\\}")
_WORDS_LINE = {
    mode: re.compile("^" + _TAG.sub(r"\\S.*?", re.escape(text)) + r"[ \t]*(?:\n|\Z)", re.MULTILINE)
    for mode, text in _WORDS.items()
}
_SLASH = re.compile(r"[ \t]*(?<!\S)/(no_?)?think(?!\S)")
_SLASH_TEXT = {Mode.ON: "/think", Mode.OFF: "/no_think"}
_EFFORTS = {
    "none": Mode.OFF,
    "minimal": Mode.OFF,
    "low": Mode.ON,
    "medium": Mode.ON,
    "high": Mode.ON,
    "xhigh": Mode.ON,
    "max": Mode.ON,
}
_KWARGS = ("enable_thinking", "thinking")


def template_kwargs(mode: Mode) -> dict[str, bool]:
    """The mode as chat templates know it; a template that knows none of the names ignores them."""
    return dict.fromkeys(_KWARGS, mode is Mode.ON)


def apply_toggle(
    messages: Sequence[Message],
    mode: Mode,
    style: ToggleStyle = ToggleStyle.SYSTEM,
    think: ThinkFormat = DEFAULT_FORMAT,
) -> list[Message]:
    """`messages` with the toggle of `style` in them; a toggle of that style already there is replaced.

    SYSTEM, WORDS: a line comes first, the user's own system text after a blank line; WORDS names the tags of `think`. SLASH: the command ends the last user
    message (the system message where there is no user message). KWARGS: the messages as they are.
    """
    messages = [dict(message) for message in messages]
    if style is ToggleStyle.KWARGS:
        return messages
    if style in (ToggleStyle.SYSTEM, ToggleStyle.WORDS):
        system = _with_system(messages)
        own = _without_system_lines(system["content"]).strip("\n")
        words = _WORDS[mode].format(open=think.open, close=think.close)
        line = words if style is ToggleStyle.WORDS else f"detailed thinking {mode}"
        system["content"] = f"{line}\n\n{own}" if own.strip() else line
        return messages
    users = [message for message in messages if message["role"] == "user"]
    target = users[-1] if users else _with_system(messages)
    own = _without_slashes(target["content"]).strip()
    target["content"] = f"{own} {_SLASH_TEXT[mode]}" if own else _SLASH_TEXT[mode]
    return messages


def read_toggle(
    messages: Sequence[Message],
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    reasoning_effort: str | None = None,
) -> tuple[Mode | None, list[Message]]:
    """The mode a client asked for, by any convention (None: it said nothing), and the messages without what said it.

    Where they disagree: 1. a parameter that turns thinking off is final; 2. then a slash command in the last user message;
    3. then a parameter that turns thinking on; 4. then the system message, whose last word counts. A system message that held
    nothing but the toggle is dropped. Raises ConfigError for a parameter with a value of no meaning.
    """
    asked = _parameter_modes(template_kwargs or {}, reasoning_effort)
    in_system: Mode | None = None
    in_user: Mode | None = None
    kept: list[Message] = []
    for message in messages:
        text = message["content"]
        if message["role"] == "system":
            in_system = _system_mode(text) or in_system
            own = _without_slashes(_without_system_lines(text))
            if own or not text.strip():
                kept.append({**message, "content": own or text})
        elif message["role"] == "user":
            in_user = _last_slash(text)
            kept.append({**message, "content": _without_slashes(text)})
        else:
            kept.append(dict(message))
    if Mode.OFF in asked:
        return Mode.OFF, kept
    return in_user or (asked[0] if asked else in_system), kept


def _parameter_modes(kwargs: Mapping[str, Any], effort: str | None) -> list[Mode]:
    modes = []
    for name in _KWARGS:
        value = kwargs.get(name)
        if value is None:
            continue
        if not isinstance(value, bool):
            raise ConfigError(f"`{name}` is {value!r}", fix=f"`{name}` must be true or false")
        modes.append(Mode.ON if value else Mode.OFF)
    if effort is not None:
        if effort not in _EFFORTS:
            raise ConfigError(f"`reasoning_effort` is {effort!r}", fix=f"use one of {', '.join(_EFFORTS)}")
        modes.append(_EFFORTS[effort])
    return modes


def _with_system(messages: list[Message]) -> Message:
    """The system message at the front of `messages`, put there when there is none."""
    if not messages or messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": ""})
    return messages[0]


def _without_system_lines(text: str) -> str:
    lines = [line for line in (_SYSTEM_LINE, *_WORDS_LINE.values()) if line.search(text)]
    for line in lines:
        text = line.sub("", text)
    return text.strip("\n") if lines else text


def _without_slashes(text: str) -> str:
    return _SLASH.sub("", text).strip() if _SLASH.search(text) else text


def _last_slash(text: str) -> Mode | None:
    found = list(_SLASH.finditer(text))
    return (Mode.OFF if found[-1][1] else Mode.ON) if found else None


def _system_mode(text: str) -> Mode | None:
    said = [(match.start(), Mode(match[1].lower())) for match in _SYSTEM_LINE.finditer(text)]
    said += [(match.start(), mode) for mode, line in _WORDS_LINE.items() for match in line.finditer(text)]
    said += [(match.end(), Mode.OFF if match[1] else Mode.ON) for match in _SLASH.finditer(text)]
    return max(said)[1] if said else None
