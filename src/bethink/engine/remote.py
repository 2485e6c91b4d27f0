"""Questions to any OpenAI-compatible endpoint.

Sends messages with the toggle in them to /chat/completions, many at a time, and reads thinking wherever the server puts it: in
`reasoning_content`, in `reasoning`, or between tags in the content. Every reply that finished is yielded before an error is
raised, so that a caller who keeps them has to ask only for the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from bethink.chat.parse import Parsed, Piece, Status, StreamParser, parse
from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat, ToggleStyle, apply_toggle, template_kwargs
from bethink.core.console import Progress
from bethink.core.errors import ConfigError, EndpointError
from bethink.engine.api import FinishReason
from bethink.engine.dialogue import OnText, Question, Reply
from bethink.engine.endpoint import Endpoint, Json

_REASONING = ("reasoning_content", "reasoning")


class RemoteDialogue:
    """Answers from an endpoint.

    url, api_key_env, timeout, retries, back_off: see `Endpoint`. model: the name the endpoint knows it by; None takes the only one
    it serves. concurrency: requests under way at a time. chat_template_kwargs: also send the mode as template kwargs, which
    vLLM and SGLang understand and strict servers refuse.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        timeout: float = 600.0,
        retries: int = 6,
        back_off: float = 1.0,
        think: ThinkFormat = DEFAULT_FORMAT,
        style: ToggleStyle = ToggleStyle.SYSTEM,
        chat_template_kwargs: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, not {concurrency}")
        self._endpoint = Endpoint(
            url,
            api_key_env=api_key_env,
            timeout=timeout,
            retries=retries,
            back_off=back_off,
            connections=concurrency,
        )
        self._concurrency = concurrency
        self._think = think
        self._style = style
        self._send_kwargs = chat_template_kwargs
        self._progress = progress
        self._cancelled: set[str] = set()
        self.name = model or self._only_model()

    def answer(self, questions: Sequence[Question], *, on_text: OnText | None = None) -> Iterator[Reply]:
        """Yield each reply as it is complete. Raises EndpointError once all that had begun is yielded; ConfigError before any work."""
        if len({question.id for question in questions}) < len(questions):
            raise ConfigError("two questions have the same id")
        if any(question.sampling.max_thinking_tokens is not None for question in questions):
            raise ConfigError(
                "an endpoint offers no thinking budget", fix="leave max_thinking_tokens out, or use --model"
            )
        return self._collect(list(questions), on_text)

    def cancel(self, question_id: str) -> None:
        """End a reply early: at once when it has not begun or is streamed; otherwise it still comes to its own end."""
        self._cancelled.add(question_id)

    def _collect(self, questions: list[Question], on_text: OnText | None) -> Iterator[Reply]:
        self._cancelled -= {question.id for question in questions}
        todo: SimpleQueue[Question] = SimpleQueue()
        for question in questions:
            todo.put(question)
        done: SimpleQueue[Reply | BaseException | None] = SimpleQueue()
        given_up = threading.Event()

        def work() -> None:
            try:
                while not given_up.is_set():
                    done.put(self._ask(todo.get_nowait(), on_text, given_up))
            except Empty:
                pass
            except BaseException as error:  # noqa: BLE001 - raised where the caller waits
                given_up.set()
                done.put(error)
            finally:
                done.put(None)

        # Daemons, not a pool: an interrupted program must not wait for an answer that may be minutes away.
        workers = [threading.Thread(target=work, daemon=True) for _ in questions[: self._concurrency]]
        for worker in workers:
            worker.start()
        working = len(workers)
        failure: BaseException | None = None
        try:
            while working:
                result = done.get()
                if result is None:
                    working -= 1
                elif isinstance(result, BaseException):
                    failure = failure or result
                else:
                    if self._progress is not None:
                        self._progress.advance(result.thinking_tokens + result.answer_tokens)
                    yield result
            if failure is not None:
                raise failure
        finally:
            given_up.set()

    def _ask(self, question: Question, on_text: OnText | None, given_up: threading.Event) -> Reply:
        if question.id in self._cancelled:
            return _reply(question.id, _Answer(finish="cancelled"), self._think)
        body = self._body(question)
        if on_text is not None:
            return _reply(question.id, self._streamed(question.id, body, on_text, given_up), self._think)
        return _reply(
            question.id, _whole(self._endpoint.post("chat/completions", body, given_up)), self._think
        )

    def _streamed(self, question_id: str, body: Json, on_text: OnText, given_up: threading.Event) -> _Answer:
        answer = _Answer()
        parser = StreamParser(self._think)
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        for event in self._endpoint.stream("chat/completions", body, given_up):
            thinking, content = answer.add(event)
            pieces = [Piece("thinking", thinking)] if thinking else []
            for piece in [*pieces, *parser.feed(content)]:
                on_text(question_id, piece)
            if given_up.is_set():
                raise EndpointError("the request was given up", where=self._endpoint.url)
            if question_id in self._cancelled:
                answer.finish = "cancelled"
                break
        for piece in parser.finish():
            on_text(question_id, piece)
        return answer

    def _body(self, question: Question) -> Json:
        sampling, mode = question.sampling, question.mode
        messages = (
            apply_toggle(question.messages, mode, self._style, self._think)
            if mode
            else list(question.messages)
        )
        body: Json = {
            "model": self.name,
            "messages": messages,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed % 2**31,
        }
        # Only what is wanted is sent: top_k and min_p are extensions, and strict servers refuse what they do not know.
        optional = {
            "top_p": (sampling.top_p, 1.0),
            "top_k": (sampling.top_k, 0),
            "min_p": (sampling.min_p, 0.0),
            "stop": (list(sampling.stop), []),
        }
        body |= {name: value for name, (value, off) in optional.items() if value != off}
        if self._send_kwargs and mode is not None:
            body["chat_template_kwargs"] = template_kwargs(mode)
        return body

    def _only_model(self) -> str:
        served = [str(entry.get("id")) for entry in self._endpoint.get("models").get("data", [])]
        if len(served) != 1:
            raise EndpointError(
                f"the endpoint serves {len(served)} models: {', '.join(served[:10])}",
                where=self._endpoint.url,
                fix="name one with --model",
            )
        return served[0]


@dataclass(slots=True)
class _Answer:
    """What an endpoint has said so far."""

    content: str = ""
    thinking: str = ""
    finish: str | None = None
    usage: Json = field(default_factory=dict)

    def add(self, event: Json) -> tuple[str, str]:
        """Take one event of a stream; return its new thinking and content."""
        self.usage = event.get("usage") or self.usage
        choice: Json = next(iter(event.get("choices") or []), {})
        delta = choice.get("delta") or {}
        thinking, content = _reasoning(delta), delta.get("content") or ""
        self.thinking += thinking
        self.content += content
        self.finish = choice.get("finish_reason") or self.finish
        return thinking, content


def _whole(document: Json) -> _Answer:
    """The answer in one document. Raises EndpointError when there is none in it."""
    try:
        choice = document["choices"][0]
        message = choice["message"]
        content = message.get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError):
        raise EndpointError(
            f"the endpoint's answer holds no message: {str(document)[:200]}",
            fix="check that the URL is that of an OpenAI-compatible chat endpoint",
        ) from None
    return _Answer(content, _reasoning(message), choice.get("finish_reason"), document.get("usage") or {})


def _reasoning(message: Json) -> str:
    return next((str(message[name]) for name in _REASONING if message.get(name)), "")


def _reply(question_id: str, answer: _Answer, think: ThinkFormat) -> Reply:
    if answer.finish == "cancelled":
        reason = FinishReason.CANCELLED
    else:
        reason = FinishReason.LENGTH if answer.finish == "length" else FinishReason.STOP
    text, opened = answer.content, False
    if answer.thinking:
        closed = bool(answer.content) or reason is FinishReason.STOP
        text = f"{think.open}\n{answer.thinking}" + (f"\n{think.close}\n\n{answer.content}" if closed else "")
    elif think.close in text and think.open not in text:
        opened = True
    parsed = parse(text, think=think, opened=opened)
    thinking_tokens, answer_tokens = _tokens(answer, parsed)
    return Reply(
        id=question_id,
        text=text,
        parsed=parsed,
        thinking_tokens=thinking_tokens,
        answer_tokens=answer_tokens,
        finish_reason=reason,
        opened=opened,
        prompt_tokens=int(answer.usage.get("prompt_tokens") or 0),
    )


def _tokens(answer: _Answer, parsed: Parsed) -> tuple[int, int]:
    """Thinking and answer tokens as the endpoint counts them. Where it gives only their sum, that is shared out by characters."""
    total = int(answer.usage.get("completion_tokens") or 0)
    if parsed.status is Status.ABSENT:
        return 0, total
    details: Any = answer.usage.get("completion_tokens_details") or {}
    thought = int(details.get("reasoning_tokens") or 0)
    if not thought:
        characters = len(parsed.thinking or ""), len(parsed.answer)
        thought = round(total * characters[0] / max(sum(characters), 1))
    return min(thought, total), max(total - thought, 0)
