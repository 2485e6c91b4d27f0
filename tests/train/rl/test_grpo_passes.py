"""What a step costs: every completion goes through the model once to be learned from, and again only where something is asked that is not known.

Counted is what the tiny model itself is given, by a hook on its decoder: the completions of packed rows, as tokens.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from transformers import LlamaModel

from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.files import read_jsonl
from bethink.models.branches import Branches
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.run import run_grpo
from bethink.verify.rewards.attempt import Attempt

Make = Callable[..., GRPOConfig]
Seen = Counter[tuple[tuple[int, ...], tuple[int, ...]]]
"""How often each completion was, by the tokens of its prompt and its own."""


def spread(attempt: Attempt) -> float:
    """Another reward for every text, so that groups have signal; those of one problem have none."""
    return 0.0 if attempt.problem.id == "row-1" else zlib.crc32(attempt.text.encode()) / 2**32


@dataclass
class Passes:
    """The completions of each pass over packed groups: of those that learn, and of those that only ask."""

    learning: list[Seen] = field(default_factory=list)
    asking: list[Seen] = field(default_factory=list)


def together(passes: list[Seen]) -> Seen:
    return sum(passes, Seen())


@contextmanager
def counted_passes() -> Iterator[Passes]:
    passes = Passes()

    def note(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        segments = kwargs.get("segments") or ()
        if not isinstance(module, LlamaModel) or not any(isinstance(one, Branches) for one in segments):
            return  # a layer of it, the sampler, or a check of the model before the first step
        ids, start, found = kwargs["input_ids"][0].tolist(), 0, Seen()
        for segment in segments:
            if isinstance(segment, Branches):
                prompt, *completions = (
                    tuple(ids[start + first : start + end]) for first, end in segment.spans
                )
                found.update((prompt, completion) for completion in completions)
            start += segment.tokens if isinstance(segment, Branches) else segment
        (passes.learning if torch.is_grad_enabled() else passes.asking).append(found)

    hook = register_module_forward_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


def passes_of(make_grpo: Make, **changes: Any) -> Passes:
    """The passes of a run in which an update is one packed row; learned from is what rollouts.jsonl says, each once."""
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")
    settings = {
        "tokens_per_microbatch": 4096,
        "modes": "both",
        "rewards": "train.rl.test_grpo_passes:spread=1",
    }
    config = make_grpo(
        **settings, steps=5, seed=seed, **changes
    )  # five steps draw each of the twenty problems
    with counted_passes() as passes:
        run_grpo(config)
    assert len(passes.learning) == config.steps * config.updates_per_step
    decode = ChatTokenizer.load(config.located().directory).decode
    questions = {row["question"] for row in read_jsonl(config.output / "train-problems.jsonl")}
    learned = Counter(
        (next(question for question in questions if question in decode(prompt)), len(completion))
        for prompt, completion in together(passes.learning).elements()
    )
    rows = list(read_jsonl(config.output / "rollouts.jsonl"))
    assert learned == Counter((row["question"], row["tokens"]) for row in rows if row["trained"])
    return passes


def test_one_update_without_a_kl_term_asks_nothing(make_grpo: Make) -> None:
    assert passes_of(make_grpo, algorithm="dapo").asking == []


def test_of_two_updates_only_the_second_ones_old_probabilities_are_asked(make_grpo: Make) -> None:
    passes = passes_of(make_grpo, algorithm="dapo", updates_per_step=2)
    assert together(passes.asking) == together(passes.learning[1::2])


@pytest.mark.parametrize("changes", [{"kl": 0.1, "full": True}, {"kl": 0.1, "reference_every": 2}])
def test_a_kl_term_in_the_loss_asks_the_reference_once(make_grpo: Make, changes: dict[str, Any]) -> None:
    passes = passes_of(make_grpo, **changes)
    assert together(passes.asking) == together(passes.learning)


def test_a_kl_term_in_the_reward_asks_it_before_the_updates_once(make_grpo: Make) -> None:
    passes = passes_of(make_grpo, kl=0.1, kl_place="reward")
    assert together(passes.asking) == together(passes.learning)


def test_two_updates_with_a_kl_term_ask_both(make_grpo: Make) -> None:
    passes = passes_of(make_grpo, kl=0.1, updates_per_step=2)
    assert together(passes.asking) == together(passes.learning) + together(passes.learning[1::2])
