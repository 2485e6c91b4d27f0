"""A conversation in the terminal: reads lines, streams replies, keeps the history.

Answers go to stdout, everything else (thinking, figures, hints) to stderr, so that a piped conversation leaves the answers alone. Knows
commands and what is shown; leaves the toggle to `chat` and generation to a `Dialogue`. Thinking is not kept in the history: that is
how thinking models are trained to see earlier turns.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import TextIOWrapper
from typing import Any, TextIO

from bethink.chat.parse import Piece
from bethink.chat.toggle import Mode, read_toggle
from bethink.core.config import nearest
from bethink.core.errors import BethinkError
from bethink.core.seeds import derive_seed
from bethink.engine.api import FinishReason
from bethink.engine.dialogue import Dialogue, Question, Reply, Sampling, default_sampling
from bethink.tasks.problem import Message

COMMANDS = {
    "/think": "think before answering, from now on (in a message: for that message)",
    "/no_think": "answer at once, from now on (in a message: for that message)",
    "/system": "TEXT sets the system prompt and starts anew; alone it shows it",
    "/clear": "forget the conversation",
    "/help": "this list",
    "/exit": "leave (also Ctrl-D)",
}
_COMMAND = re.compile(r"/[a-z_]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """mode: whether the model thinks at first; temperature and top_p None: the mode's own default; seed None: another every time."""

    mode: Mode = Mode.ON
    system: str = ""
    max_tokens: int = 2048
    max_thinking_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def sampling(self, mode: Mode, turn: int) -> Sampling:
        """How the reply of a turn is drawn."""
        start = self.seed if self.seed is not None else int.from_bytes(os.urandom(6), "big")
        sampling = default_sampling(
            mode,
            max_tokens=self.max_tokens,
            seed=derive_seed(start, "chat", turn),
            max_thinking_tokens=self.max_thinking_tokens,
        )
        chosen: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p}
        return replace(sampling, **{name: value for name, value in chosen.items() if value is not None})


class Chat:
    """One conversation. `failures` counts turns that ended in an error."""

    def __init__(
        self,
        dialogue: Dialogue,
        options: ChatOptions,
        *,
        stdin: TextIO = sys.stdin,
        stdout: TextIO = sys.stdout,
        stderr: TextIO = sys.stderr,
    ) -> None:
        self.dialogue = dialogue
        self.options = options
        self.mode = options.mode
        self.system = options.system
        self.turns: list[Message] = []
        self.failures = 0
        self._in, self._out, self._err = stdin, stdout, stderr
        self._count = 0

    def run(self) -> None:
        """Talk until /exit or the end of the input."""
        if self._in.isatty():
            self._say(
                f"{self.dialogue.name}, thinking {self.mode}. /help lists the commands, Ctrl-C stops an answer."
            )
        for line in self._lines():
            if not _is_text(line):
                self.failures += 1
                self._say("error: the line is not UTF-8, and was not sent")
            elif line.strip() and not self.handle(line.strip()):
                break

    def handle(self, line: str) -> bool:
        """Take one line: a command or a message. False ends the conversation."""
        word, _, rest = line.partition(" ")
        if word in ("/think", "/no_think") and not rest.strip():
            self.mode = Mode.ON if word == "/think" else Mode.OFF
            self._say(f"thinking {self.mode}")
        elif word in COMMANDS and word not in ("/think", "/no_think"):
            return self._command(word, rest.strip())
        elif _COMMAND.fullmatch(word) and word not in COMMANDS:
            guess = nearest(word, list(COMMANDS))
            self._say(f"no command {word}" + (f"; did you mean {guess}?" if guess else "; /help lists them"))
        else:
            self._turn(line)
        return True

    def _command(self, word: str, rest: str) -> bool:
        if word == "/exit":
            return False
        if word == "/help":
            for name, meaning in COMMANDS.items():
                self._say(f"{name:10} {meaning}")
        elif word == "/clear":
            self.turns.clear()
            self._say("conversation forgotten")
        elif rest:
            self.system = rest
            self.turns.clear()
            self._say("system prompt set; conversation forgotten")
        else:
            self._say(self.system or "no system prompt")
        return True

    def _turn(self, text: str) -> None:
        said, (message,) = read_toggle([{"role": "user", "content": text}])
        mode = said or self.mode
        history: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        history += [*self.turns, message]
        self._count += 1
        question = Question(
            f"turn-{self._count}", tuple(history), mode, self.options.sampling(mode, self._count)
        )
        started = time.monotonic()
        try:
            reply = self._answer(question)
        except BethinkError as error:
            self.failures += 1
            self._say(f"error: {error}")
            return
        self._say(figures(reply, time.monotonic() - started))
        if reply.parsed.answer:
            self.turns += [message, {"role": "assistant", "content": reply.parsed.answer}]

    def _answer(self, question: Question) -> Reply:
        printer = _Printer(self._out, self._err)
        try:
            with _interrupt_calls(lambda: self.dialogue.cancel(question.id)):
                (reply,) = self.dialogue.answer([question], on_text=lambda _, piece: printer.show(piece))
        finally:
            printer.end()
        return reply

    def _lines(self) -> Iterator[str]:
        if isinstance(self._in, TextIOWrapper):
            # Bytes that are no text come as surrogates, whatever the locale, and cost their own line only.
            self._in.reconfigure(encoding="utf-8", errors="surrogateescape")
        if not self._in.isatty():
            yield from self._in
            return
        if self._in is sys.stdin:
            import readline  # noqa: F401 - importing it gives input() editing and history
        while True:
            try:
                yield input(f"{_BOLD}>{_PLAIN} ")
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                self._say("\n(/exit or Ctrl-D to leave)")

    def _say(self, text: str) -> None:
        dim, plain = (_DIM, _PLAIN) if self._err.isatty() else ("", "")
        print(f"{dim}{text}{plain}", file=self._err, flush=True)


def _is_text(line: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in line)


def figures(reply: Reply, seconds: float) -> str:
    """What a reply took, in one line."""
    tokens = reply.thinking_tokens + reply.answer_tokens
    parts = [f"{reply.answer_tokens} tokens"]
    if reply.thinking_tokens:
        parts = [f"{reply.thinking_tokens} thinking + {reply.answer_tokens} answer tokens"]
    parts += [f"{seconds:.1f} s", f"{tokens / max(seconds, 1e-9):.0f} tokens/s"]
    ended = {FinishReason.LENGTH: "cut off at the token limit", FinishReason.CANCELLED: "stopped"}
    if reply.finish_reason in ended:
        parts.append(ended[reply.finish_reason])
    return f"[{', '.join(parts)}]"


class _Printer:
    """Streams one reply: the answer to stdout, thinking dimmed to stderr, each on lines of its own."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out, self._err = out, err
        self._dim = err.isatty()
        self._kind: str | None = None
        self._at_line_start = True

    def show(self, piece: Piece) -> None:
        text = _CONTROL.sub("\ufffd", piece.text)
        if piece.kind != self._kind:
            text = text.lstrip("\n")
            if not text:
                return
            self._switch(piece.kind)
        stream = self._err if piece.kind == "thinking" else self._out
        stream.write(text)
        stream.flush()
        self._at_line_start = text.endswith("\n")

    def end(self) -> None:
        """The reply is over; the cursor stands on a fresh line."""
        self._switch(None)

    def _switch(self, kind: str | None) -> None:
        if self._kind is not None:
            stream = self._err if self._kind == "thinking" else self._out
            end = "" if self._at_line_start else "\n"
            stream.write(end + (_PLAIN if self._kind == "thinking" and self._dim else ""))
            stream.flush()
        if kind == "thinking" and self._dim:
            self._err.write(_DIM)
        self._kind, self._at_line_start = kind, True


@contextmanager
def _interrupt_calls(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, the first Ctrl-C calls `stop`; the second interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    presses = itertools.count()

    def pressed(number: int, frame: Any) -> None:
        if next(presses):
            raise KeyboardInterrupt
        stop()

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
