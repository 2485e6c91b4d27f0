"""What a chat template does to prompt and completion, proved instead of trusted.

Given the template's rendering of the prompt and of the whole conversation, `prove` says what the completion is:

- Usual: the whole begins with the prompt, and what follows up to the end of turn holds the output's thinking and answer.
- R1-style: the prompt opens the think block and the whole drops the thinking. The opening tag belongs to the prompt, the completion
  is the output after it; proved when the whole is the prompt without the tag, then the output or its answer, then the end of turn.
- Thinking off where the prompt opens the block or holds an empty one: the closed block is the prompt's, the output the completion.

Anything else is refused with both renderings. White space around tags and at the ends may differ, since templates trim it.
Pure functions of text; knows no tokens and no template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from bethink.chat.parse import Parsed, Status, count_blocks, parse
from bethink.chat.toggle import Mode, ThinkFormat
from bethink.chat.tokenizer import EndOfTurn
from bethink.core.errors import TemplateError

_TAIL_CHARS = 400


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt's text. bare: without the think tags at its end; prefill: those tags; opened: they leave the block open."""

    bare: str
    prefill: str
    opened: bool

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.bare + self.prefill


def split_prompt(text: str, think: ThinkFormat) -> PromptText:
    """Part a rendered prompt from the think tags that end it."""
    found = _prefill_pattern(think).search(text, max(0, len(text) - _TAIL_CHARS))
    prefill = found[0] if found else ""
    return PromptText(text.removesuffix(prefill), prefill, bool(prefill) and think.close not in prefill)


def settle(prompt: PromptText, mode: Mode | None, think: ThinkFormat, *, name: str) -> PromptText:
    """The prompt as `mode` needs it: with thinking off an opened block is closed, with thinking on one is opened where `think` asks.

    Raises TemplateError when the template closes the block although thinking is on. name: what the error calls the template.
    """
    prefill = prompt.prefill
    if mode is Mode.OFF and prompt.opened:
        line_end = "" if "\n" in prefill else "\n"
        return PromptText(prompt.bare, f"{prefill}{line_end}\n{think.close}\n\n", opened=False)
    if mode is Mode.ON and prefill and not prompt.opened:
        raise TemplateError(
            f"the chat template closes the think block although thinking is on: …{prompt.text[-60:]!r}",
            where=name,
            fix="this template must be told another way; use one that knows `enable_thinking`",
        )
    if mode is Mode.ON and think.prefilled and not prefill:
        return PromptText(prompt.bare, f"{think.open}\n", opened=True)
    return prompt


def prove(
    prompt: PromptText, full: str, output: str, end: EndOfTurn, think: ThinkFormat, *, name: str
) -> str:
    """The completion's text, end of turn included.

    full: the template's rendering of the messages with `output` as the assistant's answer. Raises TemplateError when thinking or
    answer do not survive it, or when `output` is one that the prompt cannot be followed by.
    """
    reason = "the thinking or the answer does not survive the chat template"
    if end.token in output:
        reason = f"the output holds the end-of-turn token {end.token}"
    elif prompt.opened and count_blocks(_inside(output, think), think) != (0, 1):
        reason = "the prompt opens the think block, and the output does not close it exactly once"
    else:
        for start in (prompt.text, prompt.bare):
            body, ended, _ = full[len(start) :].partition(end.token)
            if not ended or not full.startswith(start):
                continue
            body = body.removesuffix(end.text.removesuffix(end.token))
            completion = _completion(prompt, body, output, think, complete=start == prompt.text)
            if completion is not None:
                return completion + end.text
    shown_full, shown_ours = _around_difference(full, prompt.text + output + end.text)
    raise TemplateError(
        f"prompt and completion cannot be proved: {reason}\n"
        f"  the template renders:  {shown_full}\n"
        f"  prompt and completion: {shown_ours}",
        where=name,
        fix="mend the output, or put a chat_template.jinja that keeps the assistant's text beside tokenizer.json",
    )


def _completion(
    prompt: PromptText, body: str, output: str, think: ThinkFormat, *, complete: bool
) -> str | None:
    """The completion, if `body` proves it: the template's rendering of `output`.

    complete: it stands after the whole prompt; otherwise after the prompt without its tags, which the template does not repeat.
    """
    if complete and not prompt.opened:
        return body if _same(body, output, think) else None
    if complete:
        meant = parse(_inside(output, think), think=think, opened=True)
        return body if _equal(parse(body, think=think, opened=True), meant) else None
    # A lone closing tag is how some templates write a turn without thinking.
    left = parse(body, think=think, opened=body.lstrip().startswith(think.close))
    if not prompt.opened:
        return output if not left.thinking and left.answer.strip() == output.strip() else None
    meant = parse(_inside(output, think), think=think, opened=True)
    survives = left.answer.strip() == meant.answer.strip() and left.thinking in (None, "", meant.thinking)
    return _inside(output, think).lstrip() if survives and meant.status is Status.CLOSED else None


def _inside(output: str, think: ThinkFormat) -> str:
    """An output as the continuation of an opened block: without its own opening tag."""
    return output.lstrip().removeprefix(think.open)


def _same(body: str, output: str, think: ThinkFormat) -> bool:
    """Whether two texts hold the same thinking, answer and tags."""
    if body == output:
        return True
    tags = count_blocks(body, think) == count_blocks(output, think)
    return tags and _equal(parse(body, think=think), parse(output, think=think))


def _equal(one: Parsed, other: Parsed) -> bool:
    return (one.thinking, one.answer.strip(), one.status) == (
        other.thinking,
        other.answer.strip(),
        other.status,
    )


@lru_cache
def _prefill_pattern(think: ThinkFormat) -> re.Pattern[str]:
    opening, closing = re.escape(think.open), re.escape(think.close)
    return re.compile(rf"{opening}\s*\Z|(?:{opening}\s*)?{closing}\s*\Z")


def _around_difference(one: str, other: str, before: int = 60, after: int = 90) -> tuple[str, str]:
    """Both texts, shortened to what stands around the first character in which they differ."""
    pairs = enumerate(zip(one, other, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = max(0, same - before)
    lead = "…" if start else ""
    return lead + repr(one[start : same + after]), lead + repr(other[start : same + after])
