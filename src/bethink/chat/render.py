"""Messages and output → prompt and completion: the only way text becomes what a model reads or learns.

The prompt is what the model is given, the completion what it learns to write: the output and the end of turn, nothing after it.
Earlier turns are context. The loss covers the completion's positions, whatever ids stand there (a pad token may be the end of turn).
Leaves the proof that a template does what it should to `proof.py`, tokens and template to `tokenizer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from bethink.chat.parse import compose
from bethink.chat.proof import PromptText, prove, settle, split_prompt
from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat, ToggleStyle, apply_toggle, template_kwargs
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import TemplateError
from bethink.tasks.problem import Message

_TAIL_CHARS = 400
_MAX_TAILS = 64
_ANY_WORD = "Answer"
_ASKED = [{"role": "user", "content": "Question"}]


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training sample: the only form in which text enters a model. The loss covers the completion's positions."""

    prompt_text: str
    completion_text: str
    prompt_ids: list[int]
    completion_ids: list[int]

    @property
    def token_ids(self) -> list[int]:
        """Prompt and completion: the ids of the joint text."""
        return self.prompt_ids + self.completion_ids

    @property
    def loss_mask(self) -> list[bool]:
        """For each of `token_ids`, whether the model is trained to predict it."""
        return [False] * len(self.prompt_ids) + [True] * len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is given to complete. opened: it ends inside a think block, so the completion begins there."""

    text: str
    ids: list[int]
    opened: bool


class Renderer:
    """Renders and proves conversations for one tokenizer, think format and toggle style."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        think: ThinkFormat = DEFAULT_FORMAT,
        style: ToggleStyle = ToggleStyle.SYSTEM,
    ) -> None:
        self.tokenizer = tokenizer
        self.think = think
        self.style = style
        self._tails: dict[str, list[int]] = {}

    def prompt(self, messages: Sequence[Message], mode: Mode | None) -> Prompt:
        """The prompt for these messages. mode None adds no toggle: the bare base model.

        Raises TemplateError when the template refuses the messages, or closes the block although thinking is on.
        """
        prompt = self._prompt_text(self._toggled(messages, mode), mode)
        cut = self._cut(prompt.text)
        ids = self.tokenizer.encode(prompt.text[:cut]) + self._tail_ids(prompt.text[cut:])
        return Prompt(prompt.text, ids, prompt.opened)

    def render(self, messages: Sequence[Message], output: str, mode: Mode | None) -> Rendered:
        """The training sample for `output` as the answer to `messages`. Raises TemplateError when the proof fails."""
        return self.encode(*self.texts(messages, output, mode))

    def texts(self, messages: Sequence[Message], output: str, mode: Mode | None) -> tuple[str, str]:
        """The texts of prompt and completion; `render` without tokenizing. Raises TemplateError when the proof fails."""
        messages = self._toggled(messages, mode)
        prompt = self._prompt_text(messages, mode)
        answered = [*messages, {"role": "assistant", "content": output}]
        full = self._template(answered, mode, add_generation_prompt=False)
        name = self.tokenizer.template.name
        return prompt.text, prove(prompt, full, output, self.tokenizer.end_of_turn, self.think, name=name)

    def encode(self, prompt_text: str, completion_text: str) -> Rendered:
        """Token ids of prompt and completion, equal to those of the joint text, each tokenized once.

        The prompt is cut at its last special token, which no tokenizer merges across, and what follows that is tokenized with the
        completion; there it must come out as in `prompt`, which does not know the completion. Raises TemplateError when it does not.
        """
        cut = self._cut(prompt_text)
        tail = self._tail_ids(prompt_text[cut:])
        joint = self.tokenizer.encode(prompt_text[cut:] + completion_text)
        if joint[: len(tail)] != tail:
            raise TemplateError(
                "the tokenizer merges the end of the prompt with the beginning of the completion",
                where=f"{prompt_text[-30:]!r} + {completion_text[:30]!r}",
                fix="remove the white space at the beginning of the output, or at the end of the template's generation prompt",
            )
        prompt_ids = self.tokenizer.encode(prompt_text[:cut]) + tail
        return Rendered(prompt_text, completion_text, prompt_ids, joint[len(tail) :])

    @property
    def end_of_turn(self) -> str:
        """The text that ends a completion."""
        return self.tokenizer.end_of_turn.text

    @property
    def end_of_turn_ids(self) -> tuple[int, ...]:
        """The token ids that end a completion."""
        return self.tokenizer.end_of_turn.ids

    @cached_property
    def close_ids(self) -> tuple[int, ...]:
        """The token ids that close a think block as the template writes it: line end, closing tag, blank line."""
        thinking, answer = "Sentinel thought", "Sentinel answer"
        written = compose(thinking, answer, self.think)
        with suppress(TemplateError):  # a template that loses the thinking can still be sampled from
            _, written = self.texts(_ASKED, written, Mode.ON)
        closing = written.partition(thinking)[2].partition(answer)[0]
        before = self.tokenizer.encode(thinking)
        ids = self.tokenizer.encode_before(thinking + closing, answer)
        if ids is None or ids[: len(before)] != before:
            return tuple(self.tokenizer.encode(closing))
        return tuple(ids[len(before) :])

    def _toggled(self, messages: Sequence[Message], mode: Mode | None) -> list[Message]:
        return apply_toggle(messages, mode, self.style, self.think) if mode else list(messages)

    def _template(
        self, messages: Sequence[Message], mode: Mode | None, *, add_generation_prompt: bool
    ) -> str:
        kwargs = template_kwargs(mode) if mode else {}
        return self.tokenizer.render(messages, add_generation_prompt=add_generation_prompt, **kwargs)

    def _prompt_text(self, messages: Sequence[Message], mode: Mode | None) -> PromptText:
        written = split_prompt(self._template(messages, mode, add_generation_prompt=True), self.think)
        return settle(written, mode, self.think, name=self.tokenizer.template.name)

    def _tail_ids(self, tail: str) -> list[int]:
        """Token ids of the end of a prompt, in front of the word or tag that a completion begins with."""
        if (known := self._tails.get(tail)) is not None:  # nearly every prompt ends in the same few words
            return known
        if len(self._tails) >= _MAX_TAILS:
            self._tails.clear()
        before = self.tokenizer.encode_before(tail, _ANY_WORD)
        ids = self._tails[tail] = self.tokenizer.encode(tail) if before is None else before
        return ids

    def _cut(self, prompt_text: str) -> int:
        """Where the last special token in the prompt's end begins; 0 when there is none."""
        start = max(0, len(prompt_text) - _TAIL_CHARS)
        found = max((prompt_text.rfind(token, start) for token in self._border_tokens), default=0)
        return max(found, 0)

    @cached_property
    def _border_tokens(self) -> tuple[str, ...]:
        """The special tokens that stand in generation prompts (a tokenizer may reserve hundreds it never uses)."""
        prompts = [self._template(_ASKED, mode, add_generation_prompt=True) for mode in Mode]
        return tuple(
            token for token in self.tokenizer.border_tokens if any(token in prompt for prompt in prompts)
        )
