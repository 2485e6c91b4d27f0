"""What a reward sees and what it says: an attempt at a problem, a part of its reward, the credit of a stretch of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bethink.chat.parse import Parsed
from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat
from bethink.tasks.problem import Problem
from bethink.verify.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Attempt:
    """One completion of a problem.

    mode:      whether it was asked to think.
    text:      the completion without its end-of-turn token; parsed: the same taken apart.
    verdict:   what the grader found.
    tokens:    its length in tokens, the end of the turn included; truncated: it was cut at the token limit.
    opened:    the prompt opened the think block; think: how thinking is marked.
    prompt_ids, token_ids: what the model was given and what it drew, where it was asked here.
    """

    problem: Problem
    mode: Mode
    text: str
    parsed: Parsed
    verdict: Verdict
    tokens: int
    truncated: bool
    opened: bool = False
    think: ThinkFormat = DEFAULT_FORMAT
    prompt_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Credit:
    """What a stretch of the completion earned by itself: a process reward. start, end: characters of Attempt.text."""

    start: int
    end: int
    value: float


@dataclass(frozen=True, slots=True)
class Part:
    """One reward's view of one attempt.

    value:   None where it cannot be judged, which is a failure of ours: the completion is masked, and never counts as 0.
    credits: what stretches of it earned, beside the value.
    note:    in a few words, for people ("answer right, step 3 wrong: …").
    """

    value: float | None
    credits: tuple[Credit, ...] = ()
    note: str = ""


Reward = Callable[[Sequence[Attempt]], Sequence[Part | None]]
"""The attempts of one group (one problem in one mode) → a part for each, in their order.

None: it has no part in the attempt's reward, as accuracy in one that is not judged; the attempt's other rewards count as ever.
"""


def each(judge: Callable[[Attempt], Part | None]) -> Reward:
    """The reward that looks at every attempt by itself."""
    return lambda group: [judge(attempt) for attempt in group]
