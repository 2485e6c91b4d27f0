"""Questions inside templated prompts.

A curated row holds the templated prompt, not the messages. `Unwrapper` finds the user's question in it by rendering a placeholder with the
same tokenizer and taking off what stands around it, so nothing here knows any template or toggle wording.
"""

from __future__ import annotations

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode, ToggleStyle
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import TemplateError

_PLACEHOLDER = "QUESTION-STANDS-HERE"


class Unwrapper:
    """Takes the user's question out of single-turn prompts rendered with this tokenizer's template, whatever the toggle's style."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._around: dict[Mode, list[tuple[ToggleStyle, str, str]]] = {mode: [] for mode in Mode}
        for style in ToggleStyle:
            renderer = Renderer(tokenizer, style=style)
            for mode in Mode:
                try:
                    text = renderer.prompt([{"role": "user", "content": _PLACEHOLDER}], mode).text
                except TemplateError:
                    continue  # a template we cannot render has no question to find
                before, found, after = text.partition(_PLACEHOLDER)
                if found and before:
                    self._around[mode].append((style, before, after))
        for (
            ways
        ) in self._around.values():  # the closest fit first: the bare template fits where a toggle does, too
            ways.sort(key=lambda way: -len(way[1]) - len(way[2]))

    def find(self, prompt: str, mode: Mode) -> tuple[str, ToggleStyle] | None:
        """The user's question and how the mode is said; None when the prompt was not made of one question and a toggle alone."""
        for style, before, after in self._around[mode]:
            if prompt.startswith(before) and prompt.endswith(after):
                return prompt[len(before) : len(prompt) - len(after)], style
        return None
