"""The engine's contract: token ids in; token ids, sampling logprobs and a finish reason out.

An engine knows nothing of chat templates or modes. What it produced is what a trainer trains on: nothing is decoded and tokenized
again on the way. Text appears only where a caller asks for it: stop strings and the thinking budget's closing tag are found in
the decoded tail, since tags are several tokens in most tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

THINKING_TEMPERATURE, THINKING_TOP_P = 0.6, 0.95
"""How completions are drawn with thinking on where nothing else is said (Llama-Nemotron, arXiv 2505.00949); with it off, greedily."""


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"  # an end-of-turn token or a stop string
    LENGTH = "length"  # the token limit
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """Close the think block after `max_tokens` thinking tokens.

    close_ids: the token ids forced when the budget is spent (the closing tag as the template writes it).
    close_text: the tag looked for in the decoded completion, so that a block the model closed itself is left alone.
    open_text: the tag that must have appeared for the budget to apply; None when the prompt opened the block.
    """

    max_tokens: int
    close_ids: tuple[int, ...]
    close_text: str
    open_text: str | None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one completion is drawn. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off.

    stop_ids: tokens that end the completion (the end-of-turn ids); they are part of the completion.
    stop: strings that end it; the completion's ids end with the token in which the string was completed.
    seed: the request's own stream of randomness: the same seed gives the same completion whatever else is in the batch.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    seed: int = 0
    thinking: ThinkingBudget | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One completion wanted. Requests with equal `prompt_ids` share one prefill."""

    id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion.

    token_ids:  what was generated, stop token included; logprobs: log-probability of each under the model's own distribution
    (temperature 1, no filtering), same length; forced: indices of tokens that were forced (thinking budget), not sampled.
    """

    id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    forced: tuple[int, ...] = ()


OnToken = Callable[[str, int], None]
"""Called with (request id, token id) as each token is drawn."""


class Engine(Protocol):
    """Anything that completes prompts."""

    def generate(
        self, requests: Sequence[Request], *, on_token: OnToken | None = None
    ) -> Iterator[Completion]:
        """Yield each completion as it finishes (not in request order)."""
        ...

    def cancel(self, request_id: str) -> None:
        """End a request early; it is yielded with finish reason `cancelled` and what it had so far."""
        ...
