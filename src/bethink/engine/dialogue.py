"""Questions in, replies out, whoever answers: the model on this machine or an endpoint.

The one door for whatever asks models things (evaluation, chat, serving). Puts together chat's rendering and parsing with an engine;
knows no tag and no template itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bethink.chat.parse import Parsed, Piece, Status, StreamParser, parse
from bethink.chat.render import Prompt, Renderer
from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat, ToggleStyle
from bethink.core.errors import ConfigError
from bethink.engine.api import (
    THINKING_TEMPERATURE,
    THINKING_TOP_P,
    Completion,
    Engine,
    FinishReason,
    Request,
    SamplingParams,
    ThinkingBudget,
)
from bethink.engine.stream import TextStream, cut
from bethink.tasks.problem import Message

if TYPE_CHECKING:
    from bethink.core.console import Progress


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn, as a client says it: no token ids. temperature 0 is greedy; top_p 1, top_k 0 and min_p 0 are off.

    max_thinking_tokens: the think block is closed after so many, and room is left for the answer; None sets no budget.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    max_thinking_tokens: int | None = None


def default_sampling(
    mode: Mode | None, *, max_tokens: int, seed: int = 0, max_thinking_tokens: int | None = None
) -> Sampling:
    """The usual temperature and top-p with thinking on, else greedy."""
    sampling = Sampling(max_tokens, seed=seed, max_thinking_tokens=max_thinking_tokens)
    if mode is not Mode.ON:
        return sampling
    return replace(sampling, temperature=THINKING_TEMPERATURE, top_p=THINKING_TOP_P)


@dataclass(frozen=True, slots=True)
class Question:
    """One reply wanted. mode None adds no toggle: the bare base model."""

    id: str
    messages: tuple[Message, ...]
    mode: Mode | None
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion taken apart.

    text: all of it, without the end of turn; thinking_tokens counts through the closing tag, answer_tokens the rest (the
    end of turn in neither). token_ids, logprobs: as the engine drew them, empty for an endpoint. opened: the prompt opened the
    think block. prompt, prompt_ids, prompt_tokens: what the model was given ("", none, and 0 where an endpoint does not say).
    """

    id: str
    text: str
    parsed: Parsed
    thinking_tokens: int
    answer_tokens: int
    finish_reason: FinishReason
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    opened: bool = False
    prompt: str = ""
    prompt_ids: tuple[int, ...] = ()
    prompt_tokens: int = 0


OnText = Callable[[str, Piece], None]
"""Called with (question id, a stretch of thinking or answer) as text becomes certain; from whichever thread runs the engine."""


FloorSeconds = Callable[[], float | None]
"""Least seconds the device can take for all that was drawn so far; None where that is not known."""


class Dialogue(Protocol):
    """Whoever answers."""

    @property
    def name(self) -> str:
        """The model's name, as the user gave it."""
        ...

    def answer(self, questions: Sequence[Question], *, on_text: OnText | None = None) -> Iterator[Reply]:
        """Yield each reply as it is complete (not in the order of the questions)."""
        ...

    def cancel(self, question_id: str) -> None:
        """End a reply early; it is yielded with finish reason `cancelled` and what it had so far."""
        ...


class LocalDialogue:
    """An engine behind a chat template. floor_seconds: the engine's, where it counts its work."""

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        *,
        name: str = "model",
        floor_seconds: FloorSeconds = lambda: None,
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.name = name
        self.floor_seconds = floor_seconds

    def answer(
        self,
        questions: Sequence[Question],
        *,
        on_text: OnText | None = None,
        prompts: Sequence[Prompt] | None = None,
    ) -> Iterator[Reply]:
        """Yield each reply as it is complete. Raises TemplateError for messages that cannot be rendered, and what the engine raises.

        prompts: of the questions, where `prompts` has made them already.
        """
        prompts = self.prompts(questions) if prompts is None else prompts
        asked = {question.id: question for question in questions}
        given = {question.id: prompt for question, prompt in zip(questions, prompts, strict=True)}
        requests = [self._request(question, given[question.id]) for question in questions]
        listeners: dict[str, _Listener] = {}
        if on_text is not None:
            listeners = {q.id: _Listener(self, q, given[q.id].opened, on_text) for q in questions}

        def hear(id_: str, token: int) -> None:
            listeners[id_].hear(token)

        for completion in self.engine.generate(requests, on_token=hear if listeners else None):
            if listeners:
                listeners[completion.id].finish()
            yield self.reply(completion, given[completion.id], stops=asked[completion.id].sampling.stop)

    def cancel(self, question_id: str) -> None:
        """End a reply early."""
        self.engine.cancel(question_id)

    def reply(self, completion: Completion, prompt: Prompt, *, stops: Sequence[str] = ()) -> Reply:
        """A completion of `prompt` taken apart; the text ends before the first of the stop strings."""
        tokenizer, think = self.renderer.tokenizer, self.renderer.think
        ids = completion.token_ids
        said = ids[:-1] if ids and ids[-1] in tokenizer.stop_ids else ids
        text = cut(tokenizer.decode(said), stops)
        parsed = parse(text, think=think, opened=prompt.opened)
        thinking_tokens = 0 if parsed.status is Status.ABSENT else len(said)
        if parsed.status is Status.CLOSED:
            thinking_tokens = _tokens_through(tokenizer.decode, said, think.close)
        return Reply(
            id=completion.id,
            text=text,
            parsed=parsed,
            thinking_tokens=thinking_tokens,
            answer_tokens=len(said) - thinking_tokens,
            finish_reason=completion.finish_reason,
            token_ids=ids,
            logprobs=completion.logprobs,
            opened=prompt.opened,
            prompt=prompt.text,
            prompt_ids=tuple(prompt.ids),
            prompt_tokens=len(prompt.ids),
        )

    def prompts(self, questions: Sequence[Question]) -> list[Prompt]:
        """The rendered prompts; samples of one question are rendered once. Raises TemplateError as `answer`."""
        rendered: dict[Any, Prompt] = {}
        prompts = []
        for question in questions:
            key = (question.mode, *(tuple(sorted(message.items())) for message in question.messages))
            if key not in rendered:
                rendered[key] = self.renderer.prompt(question.messages, question.mode)
            prompts.append(rendered[key])
        return prompts

    def _request(self, question: Question, prompt: Prompt) -> Request:
        sampling = question.sampling
        budget = None
        if sampling.max_thinking_tokens is not None and question.mode is not Mode.OFF:
            think = self.renderer.think
            budget = ThinkingBudget(
                max_tokens=sampling.max_thinking_tokens,
                close_ids=self.renderer.close_ids,
                close_text=think.close,
                open_text=None if prompt.opened else think.open,
            )
        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            stop_ids=self.renderer.tokenizer.stop_ids,
            stop=sampling.stop,
            seed=sampling.seed,
            thinking=budget,
        )
        return Request(question.id, tuple(prompt.ids), params)


def _tokens_through(decode: Callable[[Sequence[int]], str], ids: Sequence[int], tag: str) -> int:
    """How many of `ids` it takes until their text holds `tag`, which the whole text does."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if tag in decode(ids[:middle]) else (middle + 1, high)
    return low


class _Listener:
    """Passes one reply's text on while it grows."""

    def __init__(self, dialogue: LocalDialogue, question: Question, opened: bool, on_text: OnText) -> None:
        tokenizer, think = dialogue.renderer.tokenizer, dialogue.renderer.think
        self._id = question.id
        self._on_text = on_text
        self._stream = TextStream(tokenizer.decode, tokenizer.stop_ids, question.sampling.stop)
        self._parser = StreamParser(think, opened)

    def hear(self, token: int) -> None:
        self._pass_on(self._parser.feed(self._stream.push(token)))

    def finish(self) -> None:
        self._pass_on(self._parser.feed(self._stream.finish()) + self._parser.finish())

    def _pass_on(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._on_text(self._id, piece)


def open_dialogue(
    model: str | None,
    endpoint: str | None = None,
    *,
    slots: int = 64,
    dtype: str | None = None,
    device: str | None = None,
    think: ThinkFormat = DEFAULT_FORMAT,
    style: ToggleStyle = ToggleStyle.SYSTEM,
    progress: Progress | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    concurrency: int = 16,
    chat_template_kwargs: bool = False,
) -> Dialogue:
    """Whoever answers: the model on this machine that `model` means, or the endpoint.

    model: as `models.locate` reads it (directory, hub id, GGUF file, built-in, MODEL+ADAPTER_DIR); an adapter is folded into the
    weights. With `endpoint`: the name the endpoint knows the model by, or None where it serves one only.
    slots, dtype ("bfloat16", "float32"), device: of the model on this machine. api_key_env, concurrency, chat_template_kwargs: of the
    endpoint (see `RemoteDialogue`). Raises ConfigError when neither is given or the device is not there, ModelError, TemplateError or
    EndpointError.
    """
    if endpoint is not None:
        from bethink.engine.remote import RemoteDialogue

        return RemoteDialogue(
            endpoint,
            model,
            api_key_env=api_key_env,
            concurrency=concurrency,
            think=think,
            style=style,
            chat_template_kwargs=chat_template_kwargs,
            progress=progress,
        )
    if model is None:
        raise ConfigError("neither a model nor an endpoint is given", fix="pass --model or --endpoint")
    from bethink.chat.tokenizer import ChatTokenizer
    from bethink.core.console import note
    from bethink.models.locate import locate
    from bethink.models.machine import resolve_device, torch_dtype

    files = locate(model)
    device = resolve_device(device)
    renderer = Renderer(ChatTokenizer.load(Path(files.directory)), think=think, style=style)
    # Whether a turn can end is seen before gigabytes are read.
    _ = renderer.tokenizer.stop_ids

    from bethink.engine.native import NativeEngine
    from bethink.models.load import load_model
    from bethink.models.prepacked import prepack_

    note(f"loading {model}")
    loaded = load_model(files, dtype=torch_dtype(dtype, device), device=device, merge=True)
    prepack_(loaded)
    engine = NativeEngine(loaded, decode=renderer.tokenizer.decode, slots=slots, progress=progress)
    return LocalDialogue(engine, renderer, name=model, floor_seconds=engine.floor_seconds)
