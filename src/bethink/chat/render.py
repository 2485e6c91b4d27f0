"""Messages and output → prompt and completion, proved against the chat template's own rendering.

The prompt is what the model is given, the completion what it is trained to write: the output and the end of turn, nothing after it.
What a template does with thinking is not taken on trust. With `prompt` and `full` the template's renderings without and with
the assistant's message:

- usual: `full` begins with `prompt`, and what follows up to the end of turn holds the output's thinking and answer.
- R1-style: the generation prompt opens the think block and `full` drops the thinking. The opening tag belongs to the prompt, the
  completion is the output after it; proved when `full` is the prompt without the tag, the output (or its answer), the end of turn.
- With thinking off, a block that the prompt opens is closed there too: an empty block is the prompt's, never the completion's.

Anything else raises TemplateError with both renderings. Whitespace around tags and at the ends may differ: templates trim it. Only the
text before the last assistant message is context; the loss covers the completion's positions, whatever ids stand there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bethink.chat.parse import Parsed, Status, compose, count_blocks, parse
from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat, ToggleStyle, apply_toggle, template_kwargs
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import TemplateError
from bethink.tasks.problem import Message

_TAIL_CHARS = 400


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
        opening, closing = re.escape(think.open), re.escape(think.close)
        self._prefill = re.compile(rf"{opening}\s*\Z|(?:{opening}\s*)?{closing}\s*\Z")
        self._opened = re.compile(rf"{opening}\s*\Z")

    def prompt(self, messages: Sequence[Message], mode: Mode | None) -> Prompt:
        """The prompt for these messages. mode None adds no toggle: the bare base model.

        Raises TemplateError when the template refuses the messages, or closes the block although thinking is on.
        """
        text, _ = self._prompt_text(self._toggled(messages, mode), mode)
        return Prompt(text, self.tokenizer.encode(text), self.opens(text))

    def render(self, messages: Sequence[Message], output: str, mode: Mode | None) -> Rendered:
        """The training sample for `output` as the answer to `messages`. Raises TemplateError when the proof fails."""
        return self.encode(*self.texts(messages, output, mode))

    def texts(self, messages: Sequence[Message], output: str, mode: Mode | None) -> tuple[str, str]:
        """The texts of prompt and completion; like `render` without tokenizing. Raises TemplateError when the proof fails."""
        messages = self._toggled(messages, mode)
        prompt, prefill = self._prompt_text(messages, mode)
        kwargs = template_kwargs(mode) if mode else {}
        full = self.tokenizer.render(
            [*messages, {"role": "assistant", "content": output}], add_generation_prompt=False, **kwargs
        )
        end = self.tokenizer.end_of_turn
        if end.token in output:
            raise self._refusal(f"the output holds the end-of-turn token {end.token}", full, prompt + output)
        bare = prompt.removesuffix(prefill)
        for given in (prompt, bare):
            body, ended, _ = (
                full[len(given) :].partition(end.token) if full.startswith(given) else ("", "", "")
            )
            if not ended:
                continue
            body = body.removesuffix(end.text.removesuffix(end.token))
            completion = self._proved(body, output, prefill, stripped=given != prompt)
            if completion is not None:
                return prompt, completion + end.text
        raise self._refusal(
            "the thinking or the answer does not survive it", full, prompt + output + end.text
        )

    def encode(self, prompt_text: str, completion_text: str) -> Rendered:
        """Token ids of prompt and completion, equal to those of the joint text, each tokenized once.

        The prompt is cut at its last special token, which no tokenizer merges across, and what follows it is tokenized with the
        completion. Raises TemplateError when the tokenizer merges across the border of prompt and completion.
        """
        cut = self._cut(prompt_text)
        tail = self.tokenizer.encode(prompt_text[cut:])
        joint = self.tokenizer.encode(prompt_text[cut:] + completion_text)
        if joint[: len(tail)] != tail:
            raise TemplateError(
                "the tokenizer merges the end of the prompt with the beginning of the completion",
                where=f"{prompt_text[-30:]!r} + {completion_text[:30]!r}",
                fix="remove the white space at the beginning of the output",
            )
        return Rendered(
            prompt_text,
            completion_text,
            self.tokenizer.encode(prompt_text[:cut]) + tail,
            joint[len(tail) :],
        )

    def opens(self, prompt_text: str) -> bool:
        """Whether a prompt ends inside a think block it opened."""
        return self._opened.search(prompt_text[-_TAIL_CHARS:]) is not None

    def completion_text(self, ids: Sequence[int]) -> str:
        """The text of a sampled completion without the stop token that ended it: what `parse` takes.

        Other special tokens stay, since in some tokenizers the think tags are special tokens.
        """
        ids = list(ids)
        while ids and ids[-1] in self.tokenizer.stop_ids:
            ids.pop()
        return self.tokenizer.decode(ids)

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
        try:
            asked = [{"role": "user", "content": "Question"}]
            _, written = self.texts(asked, compose(thinking, answer, self.think), Mode.ON)
        except TemplateError:
            written = compose(thinking, answer, self.think)
        between = written.partition(thinking)[2].partition(answer)[0]
        # A tokenizer may write white space otherwise before a word than at the end of a text, so the ids are taken in their place.
        before, after = self.tokenizer.encode(thinking), self.tokenizer.encode(answer)
        joint = self.tokenizer.encode(thinking + between + answer)
        if joint[: len(before)] == before and joint[-len(after) :] == after:
            return tuple(joint[len(before) : -len(after)])
        return tuple(self.tokenizer.encode(between))

    def _toggled(self, messages: Sequence[Message], mode: Mode | None) -> list[Message]:
        return apply_toggle(messages, mode, self.style) if mode else list(messages)

    def _prompt_text(self, messages: list[Message], mode: Mode | None) -> tuple[str, str]:
        """The prompt, and the end of it that is think tags (or "")."""
        kwargs = template_kwargs(mode) if mode else {}
        text = self.tokenizer.render(messages, add_generation_prompt=True, **kwargs)
        found = self._prefill.search(text, max(0, len(text) - _TAIL_CHARS))
        prefill = found[0] if found else ""
        opened = bool(prefill) and self.think.close not in prefill
        if mode is Mode.ON and prefill and not opened:
            raise TemplateError(
                f"the chat template closes the think block although thinking is on: {text[-60:]!r}",
                where=self.tokenizer.template.name,
                fix="the template must be told another way; use one that knows enable_thinking",
            )
        added = ""
        if mode is Mode.OFF and opened:
            added = ("" if "\n" in prefill else "\n") + f"\n{self.think.close}\n\n"
        elif mode is Mode.ON and not opened and self.think.prefilled:
            added = f"{self.think.open}\n"
        return text + added, prefill + added

    def _proved(self, body: str, output: str, prefill: str, *, stripped: bool) -> str | None:
        """The completion when `body`, the template's rendering of `output`, proves it; None when it does not.

        stripped: `body` stands where the template writes no `prefill`, though the prompt has it.
        """
        opened = bool(prefill) and self.think.close not in prefill
        if not stripped and not opened:
            return body if self._same(body, output) else None
        if not opened:
            left = parse(body, think=self.think, opened=_begins_closed(body, self.think))
            return output if left.answer.strip() == output.strip() and not left.thinking else None
        return self._after_prefill(body, output, stripped=stripped)

    def _after_prefill(self, body: str, output: str, *, stripped: bool) -> str | None:
        """The completion for a prompt that opened the block: the output without its opening tag."""
        inside = output.lstrip().removeprefix(self.think.open)
        meant = parse(inside, think=self.think, opened=True)
        if meant.status is not Status.CLOSED or count_blocks(inside, self.think) != (0, 1):
            return None
        if not stripped:
            return body if _equal(parse(body, think=self.think, opened=True), meant) else None
        left = parse(body, think=self.think, opened=_begins_closed(body, self.think))
        survives = left.answer.strip() == meant.answer.strip() and left.thinking in (None, "", meant.thinking)
        return inside.lstrip() if survives else None

    def _same(self, body: str, output: str) -> bool:
        """Whether two texts hold the same thinking, answer and tags, whitespace around them aside."""
        if body == output:
            return True
        tags = count_blocks(body, self.think) == count_blocks(output, self.think)
        return tags and _equal(parse(body, think=self.think), parse(output, think=self.think))

    def _cut(self, prompt_text: str) -> int:
        """Where the last special token in the prompt's end begins; 0 when there is none."""
        start = max(0, len(prompt_text) - _TAIL_CHARS)
        found = max((prompt_text.rfind(token, start) for token in self._special_texts), default=-1)
        return max(found, 0)

    @cached_property
    def _special_texts(self) -> tuple[str, ...]:
        """The special tokens that stand in generation prompts (a tokenizer may reserve hundreds it never uses)."""
        asked = [{"role": "user", "content": "Question"}]
        texts = [self.tokenizer.decode([i]) for i in sorted(self.tokenizer.special_ids)]
        prompts = [
            self.tokenizer.render(asked, add_generation_prompt=True, **template_kwargs(m)) for m in Mode
        ]
        return tuple(text for text in texts if any(text in prompt for prompt in prompts))

    def _refusal(self, reason: str, full: str, expected: str) -> TemplateError:
        shown_full, shown_expected = _around_difference(full, expected)
        return TemplateError(
            f"the chat template cannot be trained on as it is: {reason}\n"
            f"  the template renders:  {shown_full}\n"
            f"  prompt and completion: {shown_expected}",
            where=self.tokenizer.template.name,
            fix="use a template that keeps the assistant's text, or put such a chat_template.jinja beside tokenizer.json",
        )


def _equal(one: Parsed, other: Parsed) -> bool:
    """Whether two completions say the same, outer whitespace aside."""
    return (one.thinking, one.answer.strip(), one.status) == (
        other.thinking,
        other.answer.strip(),
        other.status,
    )


def _begins_closed(body: str, think: ThinkFormat) -> bool:
    """Whether a rendering begins with a closing tag: how some templates write a turn without thinking."""
    return body.lstrip().startswith(think.close)


def _around_difference(one: str, other: str, before: int = 60, after: int = 90) -> tuple[str, str]:
    """Both texts, shortened to what stands around the first character in which they differ."""
    same = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    start = max(0, same - before)
    lead = "…" if start else ""
    return lead + repr(one[start : same + after]), lead + repr(other[start : same + after])
