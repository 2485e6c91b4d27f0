"""Preference pairs as they stand in files, and as a model reads them.

Two kinds of row, in JSON Lines or Parquet. Templated: `input` (the prompt's text, as `bethink curate` writes it), `chosen`, `rejected` (the
completions, end of turn included) and `mode`; with `prompt_ids`, `chosen_ids` and `rejected_ids` beside them nothing is tokenized again.
Plain, as most published preference data is: `prompt` (a question or a list of messages), `chosen`, `rejected` (an answer, or a list of
messages that ends with it) and `mode`; these are rendered with the model's own template, which adds the toggle. Every complaint names
file and row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bethink.chat.parse import retagged
from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode, read_toggle
from bethink.core.errors import DataError, TemplateError
from bethink.core.rows import Unreadable, read_rows
from bethink.tasks.problem import Message

Ids = Sequence[int]

_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
_KINDS = "rows need `chosen` and `rejected`, and `prompt` (a text or a list of messages) or `input` (a templated prompt)"
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class PairRow:
    """One pair as it stands in its file. prompt: templated text, or messages. ids: of prompt, chosen and rejected, where the row has them."""

    prompt: str | list[Message]
    chosen: str
    rejected: str
    mode: Mode
    where: str
    ids: tuple[Ids, Ids, Ids] | None = None


@dataclass(frozen=True, slots=True)
class PairIds:
    """A pair as a model reads it."""

    prompt_ids: Ids
    chosen_ids: Ids
    rejected_ids: Ids

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)

    def fault(self, max_tokens: int) -> str | None:
        """Why the pair cannot be learned from; None where it can. max_tokens: of a completion with its prompt."""
        completions = (self.chosen_ids, self.rejected_ids)
        if not (len(self.prompt_ids) and all(map(len, completions))):
            return "empty"
        if list(self.chosen_ids) == list(self.rejected_ids):
            return "same"
        return "too_long" if len(self.prompt_ids) + max(map(len, completions)) > max_tokens else None


def read_pairs(files: Sequence[Path], default_mode: Mode | None) -> Iterator[PairRow]:
    """The pairs in file order; `default_mode` is that of rows which name none. Raises DataError for a row that is no pair."""
    for path in files:
        for where, row in read_rows(path):
            if isinstance(row, Unreadable):
                raise DataError(str(row), where=where)
            if not isinstance(row, dict):
                raise DataError(f"expected an object, found {type(row).__name__}", where=where)
            yield _pair(row, where, default_mode)


def _pair(row: dict[str, Any], where: str, default_mode: Mode | None) -> PairRow:
    if missing := [name for name in ("chosen", "rejected") if row.get(name) is None]:
        raise DataError(f"the row has no `{missing[0]}` (it has: {', '.join(row)})", where=where, fix=_KINDS)
    mode = _mode(row.get("mode"), where, default_mode)
    if row.get("input") is not None:
        prompt, chosen, rejected = (_text(row, name, where) for name in ("input", "chosen", "rejected"))
        return PairRow(prompt, chosen, rejected, mode, where, _ids(row, where))
    before, chosen = _answer(row["chosen"], "chosen", where)
    same, rejected = _answer(row["rejected"], "rejected", where)
    if before != same:
        raise DataError("`chosen` and `rejected` answer different conversations", where=where)
    messages = before or _messages(row.get("prompt"), where)
    return PairRow(messages, chosen, rejected, mode, where)


def _mode(value: Any, where: str, default: Mode | None) -> Mode:
    if value is None and default is not None:
        return default
    if value is None:
        raise DataError(
            "the row does not say whether thinking is on or off",
            where=where,
            fix="add `mode`, or say --mode on|off",
        )
    if value not in list(Mode):
        raise DataError(f"`mode` must be on or off, found {value!r}", where=where)
    return Mode(value)


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"`{name}` must be text, found {type(value).__name__}", where=where, fix=_KINDS)
    if not value:
        raise DataError(f"`{name}` is empty", where=where)
    return value


def _ids(row: dict[str, Any], where: str) -> tuple[Ids, Ids, Ids] | None:
    if any(row.get(name) is None for name in _IDS):
        return None
    for name in _IDS:
        ids = row[name]
        whole = isinstance(ids, list) and all(isinstance(one, int) and one >= 0 for one in ids)
        if not (whole and ids):
            raise DataError(f"`{name}` must be a list of token ids", where=where)
    return row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]


def _answer(value: Any, name: str, where: str) -> tuple[list[Message], str]:
    """The messages before an answer, if it came with any, and its text."""
    if isinstance(value, list):
        *before, last = _messages(value, where, name)
        if last["role"] != "assistant":
            raise DataError(f"`{name}` does not end with an assistant's message", where=where)
        return before, last["content"]
    if not isinstance(value, str):
        raise DataError(
            f"`{name}` must be text or messages, found {type(value).__name__}", where=where, fix=_KINDS
        )
    return [], value


def _messages(value: Any, where: str, name: str = "prompt") -> list[Message]:
    if isinstance(value, str) and value:
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise DataError(f"the row has no `{name}`, a text or a list of messages", where=where, fix=_KINDS)
    for message in value:
        known = isinstance(message, dict) and message.get("role") in _ROLES
        if not known or not isinstance(message.get("content"), str):
            raise DataError(f"`{name}` holds {message!r:.60}, which is no message", where=where)
    return [{"role": message["role"], "content": message["content"]} for message in value]


class PairRenderer:
    """Pairs → texts → token ids, for one tokenizer, think format and toggle style."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer

    def texts(self, row: PairRow) -> tuple[str, str, str]:
        """Prompt, chosen and rejected as the model reads them.

        Raises TemplateError for an answer that does not survive the template, DataError for a prompt templated for another model.
        """
        if isinstance(row.prompt, str):
            self._check_template(row)
            return row.prompt, row.chosen, row.rejected
        _, messages = read_toggle(row.prompt)
        think = self.renderer.think
        prompt, chosen = self.renderer.texts(messages, retagged(row.chosen, think), row.mode)
        return prompt, chosen, self.renderer.texts(messages, retagged(row.rejected, think), row.mode)[1]

    def ids(self, row: PairRow) -> PairIds | None:
        """The pair's token ids; None where its answers do not survive the template, or a token spans prompt and completion."""
        if row.ids is not None:
            return PairIds(*row.ids)
        try:
            prompt, *completions = self.texts(row)
            chosen, rejected = (self.renderer.encode(prompt, completion) for completion in completions)
        except TemplateError:
            return None
        return PairIds(chosen.prompt_ids, chosen.completion_ids, rejected.completion_ids)

    def _check_template(self, row: PairRow) -> None:
        assert isinstance(row.prompt, str)
        if self._borders and not any(token in row.prompt for token in self._borders):
            raise DataError(
                f"the prompt holds none of {', '.join(self._borders)}: it was templated for another model",
                where=row.where,
                fix="give rows with `prompt` in place of `input`, which are rendered with this model's template",
            )

    @cached_property
    def _borders(self) -> tuple[str, ...]:
        """The special tokens of a prompt of this model's."""
        prompt = self.renderer.prompt([{"role": "user", "content": "Question"}], Mode.OFF).text
        return tuple(token for token in self.renderer.tokenizer.border_tokens if token in prompt)
