"""Text ↔ token ids, and where a turn ends.

Reads a model directory's tokenizer.json with the `tokenizers` library and its chat template with `template.py`; never imports
transformers, so that a worker process starts in a tenth of a second. Adds no special tokens of its own: a template prints
every token its model wants, the first one included. Knows nothing of modes or think tags.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bethink.chat.template import ChatTemplate
from bethink.core.errors import ModelError, TemplateError
from bethink.core.files import read_object, sha256_file
from bethink.tasks.problem import Message

_SENTINEL = "Sentinel answer"


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """How a template ends an assistant's turn.

    text: what stands after the answer, up to and including the special token; ids: its token ids; token: the special token's text.
    """

    text: str
    ids: tuple[int, ...]
    token: str


class ChatTokenizer:
    """A tokenizer with its chat template. Made by `load`."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, directory: Path) -> None:
        self._tokenizer = tokenizer
        self.template = template
        self.directory = directory

    @classmethod
    def load(cls, directory: Path) -> ChatTokenizer:
        """The tokenizer of the model in `directory`.

        Raises ModelError when there is no readable tokenizer.json, TemplateError when there is no usable chat template.
        """
        directory = Path(directory)
        file = directory / "tokenizer.json"
        if not file.is_file():
            raise ModelError(
                "no tokenizer.json here",
                where=str(directory),
                fix="give a model directory in Hugging Face format with a fast tokenizer",
            )
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:
            raise ModelError(f"tokenizer.json cannot be read: {error}", where=str(file)) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, ChatTemplate.load(directory), directory)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become themselves, none is added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_before(self, text: str, following: str) -> list[int] | None:
        """Token ids of `text` as they are in front of `following`; None when a token spans both.

        They may differ from `encode(text)`: GPT-2's rules write two line ends as one token at the end of a text and as two in
        front of a word.
        """
        encoding = self._tokenizer.encode(text + following, add_special_tokens=False)
        count = sum(1 for start, _ in encoding.offsets if start < len(text))
        spans = count > 0 and encoding.offsets[count - 1][1] > len(text)
        ids: list[int] = encoding.ids[:count]
        return None if spans else ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once: about 15 % less work each, on as many threads as TOKENIZERS_PARALLELISM allows."""
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def decode_text(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool, **kwargs: Any) -> str:
        """The conversation as the template writes it. Raises TemplateError when the template refuses the messages."""
        return self.template.render(messages, add_generation_prompt=add_generation_prompt, **kwargs)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included (a model's embedding may have more rows)."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of the tokens that are control, not text."""
        return frozenset(
            i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special
        )

    @cached_property
    def border_tokens(self) -> tuple[str, ...]:
        """The special tokens before which a text can be cut without changing its tokens: those that take no white space before them."""
        added = self._tokenizer.get_added_tokens_decoder()
        return tuple(added[i].content for i in sorted(self.special_ids) if not added[i].lstrip)

    @cached_property
    def end_of_turn(self) -> EndOfTurn:
        """How the template ends an assistant's turn: found by rendering one and looking for the first special token after it.

        What the template writes after that token (ChatML's newline) is the next turn's context and no part of this.
        Raises TemplateError when there is no such token.
        """
        asked = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": _SENTINEL}]
        rendered = self.render(asked, add_generation_prompt=False)
        _, found, tail = rendered.rpartition(_SENTINEL)
        added = self._tokenizer.get_added_tokens_decoder()
        tokens = {i: token.content for i, token in added.items() if found and token.content in tail}
        candidates = [i for i in tokens if i in self.special_ids] or [i for i in tokens if tokens[i].strip()]
        if not candidates:
            raise TemplateError(
                "the chat template does not end an assistant's turn with a special token, so a model trained on it would not stop",
                where=f"{self.template.name}: {rendered[-120:]!r}",
                fix="use a chat template that closes each turn with a token of its own",
            )
        first = min(candidates, key=lambda i: (tail.find(tokens[i]), -len(tokens[i])))
        text = tail[: tail.find(tokens[first]) + len(tokens[first])]
        return EndOfTurn(text, tuple(self.encode(text)), tokens[first])

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a completion: the template's end of turn first, then every end of text the model's files name.

        Raises TemplateError as `end_of_turn` does, DataError or ModelError for a file that cannot be read.
        """
        ids = [self.end_of_turn.ids[-1]]
        for name in ("generation_config.json", "config.json"):
            file = self.directory / name
            eos = read_object(file).get("eos_token_id") if file.exists() else None
            named = eos if isinstance(eos, list) else [] if eos is None else [eos]
            if not all(isinstance(token, int) for token in named):
                raise ModelError(
                    f"`eos_token_id` is {eos!r}, not a token id or a list of them",
                    where=str(file),
                    fix="download the model again",
                )
            ids += named
        eos_token = self.template.special_tokens.get("eos_token")
        eos_id = self._tokenizer.token_to_id(eos_token) if eos_token else None
        return tuple(dict.fromkeys(ids + ([eos_id] if eos_id is not None else [])))

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 over tokenizer.json, the template and the special tokens that it may print.

        Two tokenizers with one hash render (on one day) and tokenize alike.
        """
        file = sha256_file(self.directory / "tokenizer.json")
        parts = json.dumps([file, self.template.source, self.template.special_tokens], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()
