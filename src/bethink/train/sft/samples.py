"""The pair of outputs that shows what training does to the toggle: one question answered with thinking on and off, greedily, by the model
in training itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode, ToggleStyle
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import note
from bethink.models.prepacked import sampling_weights


class SamplePair:
    """One question, asked on and off; `write` appends both outputs to `directory/samples.md` and shows their first lines."""

    def __init__(
        self, tokenizer: ChatTokenizer, question: str, style: ToggleStyle, directory: Path, max_tokens: int
    ) -> None:
        self.tokenizer, self.question, self.style, self.max_tokens = tokenizer, question, style, max_tokens
        self.path = directory / "samples.md"

    def write(self, model: Any, step: int) -> None:
        """Sample from `model` as it is after `step` steps."""
        from bethink.engine.dialogue import LocalDialogue, Question, Sampling
        from bethink.engine.native import NativeEngine

        engine = NativeEngine(model, decode=self.tokenizer.decode, slots=2)
        dialogue = LocalDialogue(engine, Renderer(self.tokenizer, style=self.style))
        message = {"role": "user", "content": self.question}
        sampling = Sampling(max_tokens=self.max_tokens, temperature=0.0)
        questions = [Question(mode.value, (message,), mode, sampling) for mode in Mode]
        with sampling_weights(model):
            texts = {reply.id: reply.text for reply in dialogue.answer(questions)}
        quoted = "\n".join(f"> {line}" for line in self.question.splitlines())
        section = [f"## step {step}\n\n{quoted}\n"]
        for mode in Mode:
            section.append(f"**thinking {mode.value}**\n\n```text\n{texts[mode.value]}\n```\n")
            note(f"step {step}, thinking {mode.value}: {_one_line(texts[mode.value])}")
        self._append(step, "\n".join(section) + "\n")

    def _append(self, step: int, section: str) -> None:
        """Add the section; one of a later or the same step, left by a run that was killed, is cut first."""
        before = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        kept = []
        for part in before.split("## step ")[1:]:
            if int(part.split(None, 1)[0]) >= step:
                break
            kept.append(f"## step {part}")
        self.path.write_text("".join(kept) + section, encoding="utf-8")


def _one_line(text: str, limit: int = 160) -> str:
    line = " ⏎ ".join(part for part in text.splitlines() if part)
    return line if len(line) <= limit else f"{line[: limit // 2]} … {line[-limit // 2 :]}"
