"""The OpenAI Chat Completions protocol: what comes in, what goes out, what an error looks like.

Source: the OpenAI API reference for /v1/chat/completions, with the fields reasoning servers add (`reasoning` and
`reasoning_content` beside `content`; `chat_template_kwargs`, `top_k`, `min_p` and a thinking budget in the request). Knows nothing of
engines; `service.py` turns a request into questions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bethink.engine.api import FinishReason
from bethink.engine.dialogue import Reply
from bethink.tasks.problem import Message

IGNORED = frozenset(
    {
        "user",
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "verbosity",
    }
)
"""Fields that say nothing about the completion's tokens: taken and not used."""

_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}
"""Fields this server cannot honour, with the values that ask for nothing."""


class TextPart(BaseModel):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message. An assistant's earlier reasoning is taken and not shown to the model again; its calls of tools are refused."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    @model_validator(mode="before")
    @classmethod
    def _calls_nothing(cls, message: Any) -> Any:
        for name in ("tool_calls", "function_call"):
            if isinstance(message, Mapping) and message.get(name):
                raise ValueError(f"`{name}` is not supported by this server")
        return message

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a {self.role} message needs content")
        return self

    def plain(self) -> Message:
        """The message as the rest of the package has it."""
        role = "system" if self.role == "developer" else self.role
        content = self.content or ""
        return {
            "role": role,
            "content": content if isinstance(content, str) else "".join(p.text for p in content),
        }


class StreamOptions(BaseModel):
    """include_usage: a last chunk tells the token counts."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatRequest(BaseModel):
    """A request. None means not said."""

    model_config = ConfigDict(extra="forbid")

    messages: list[ChatMessage] = Field(min_length=1)
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    max_thinking_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _set_aside(cls, body: Any) -> Any:
        if not isinstance(body, Mapping):
            return body
        for name, empty in _UNSUPPORTED.items():
            if name in body and body[name] not in empty:
                raise ValueError(f"`{name}` is not supported by this server")
        return {key: value for key, value in body.items() if key not in IGNORED and key not in _UNSUPPORTED}

    @field_validator("stop")
    @classmethod
    def _stops_say_something(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if "" in ([stop] if isinstance(stop, str) else stop or []):
            raise ValueError("a stop string is empty")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def limit(self) -> int | None:
        """Most tokens of a completion; the newer name wins."""
        return self.max_completion_tokens or self.max_tokens


class ApiError(Exception):
    """An error as a client sees it. kind: OpenAI's `type`; param: the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def read_request(body: bytes) -> ChatRequest:
    """A request's body. Raises ApiError 400 for what is no JSON or no text, and for the first fault of a field, naming it."""
    try:
        return ChatRequest.model_validate(_parsed(body))
    except ValidationError as error:
        faults = error.errors()
        # Of a union's complaints the deepest is about what was meant.
        fault = max(faults, key=lambda one: len(one["loc"]))
        place = [
            part
            for part in fault["loc"]
            if not (isinstance(part, str) and ("[" in part or part in ("str", "TextPart")))
        ]
        param = ".".join(str(part) for part in place) or None
        if fault["type"] == "extra_forbidden" and len(place) == 1:
            raise ApiError(400, f"Unrecognized request argument supplied: {param}", param=param) from None
        if fault["type"] == "missing":
            raise ApiError(400, f"Missing required parameter: '{param}'.", param=param) from None
        message = fault["msg"].removeprefix("Value error, ")
        raise ApiError(400, f"'{param}': {message}" if param else message, param=param) from None


def _parsed(body: bytes) -> Any:
    try:
        value = json.loads(body)
        # JSON can spell half a character, which is no text.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"We could not parse the JSON body of your request: {error}") from error
    return value


_FINISH = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.CANCELLED: "length"}


def finish_word(reply: Reply) -> str:
    """The reply's end in the protocol's words: one that was cut, by its limit or by the server's end, has the reason `length`."""
    return _FINISH[reply.finish_reason]


def usage(replies: Sequence[Reply]) -> dict[str, Any]:
    """Token counts over all choices of a request; the prompt counts once."""
    prompt = max((reply.prompt_tokens for reply in replies), default=0)
    completion = sum(len(reply.token_ids) or reply.thinking_tokens + reply.answer_tokens for reply in replies)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": sum(reply.thinking_tokens for reply in replies)},
    }


def completion(identity: str, created: int, model: str, replies: Sequence[Reply]) -> dict[str, Any]:
    """The whole answer to a request that does not stream; replies in the order of their choices."""
    return {
        "id": identity,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": reply.parsed.answer,
                    "refusal": None,
                    **reasoning(reply.parsed.thinking),
                },
                "logprobs": None,
                "finish_reason": finish_word(reply),
            }
            for index, reply in enumerate(replies)
        ],
        "usage": usage(replies),
    }


def reasoning(text: str | None) -> dict[str, str | None]:
    """Thinking under both names servers use for it."""
    return {"reasoning": text, "reasoning_content": text}
