"""The student's own completions: what it learns from when it learns on-policy.

Sampled from the weights in training, adapters folded in, at temperature 1; the teacher then says what it would have said at each of their
tokens. The token ids are the engine's own: nothing is tokenized again. Without the mistakes that a student makes itself it never learns
what to do after them (GKD, Agarwal et al. 2024, arXiv 2306.13649, section 3).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from bethink.chat.toggle import Mode
from bethink.core.seeds import derive_seed
from bethink.engine.api import FinishReason, Request, SamplingParams
from bethink.engine.native import NativeEngine
from bethink.models.prepacked import sampling_weights
from bethink.train.token_store import Sample


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt the student completes, as token ids."""

    prompt_ids: tuple[int, ...]
    mode: Mode


@dataclass(frozen=True, slots=True)
class Completed:
    """The completions of a step's prompts, those without a token left out; truncated: how many were cut at the limit."""

    samples: list[Sample]
    truncated: int


class Student:
    """Samples from the model in training. longest: tokens of a completion; vocabulary: ids from this on end a completion unseen."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        stop_ids: tuple[int, ...],
        longest: int,
        vocabulary: int,
        slots: int,
        seed: int,
    ) -> None:
        self._model, self._engine = model, NativeEngine(model, slots=slots)
        self._stop_ids, self._longest, self._vocabulary, self._seed = stop_ids, longest, vocabulary, seed

    def complete(self, step: int, asked: Sequence[Asked]) -> Completed:
        """One completion of each prompt. Each has a random stream of its own, so that a step can be repeated."""
        requests = [
            Request(
                str(place),
                one.prompt_ids,
                SamplingParams(
                    self._longest,
                    temperature=1.0,
                    stop_ids=self._stop_ids,
                    seed=derive_seed(self._seed, "own", step, place),
                ),
            )
            for place, one in enumerate(asked)
        ]
        self._model.eval()
        with sampling_weights(self._model):
            done = {int(completion.id): completion for completion in self._engine.generate(requests)}
        samples = []
        for place, one in enumerate(asked):
            # Padding of the vocabulary can be drawn from a model that was never trained; the teacher has no such token.
            known = list(itertools.takewhile(lambda i: i < self._vocabulary, done[place].token_ids))
            if known:
                samples.append(
                    Sample(np.asarray(one.prompt_ids, np.int32), np.asarray(known, np.int32), one.mode)
                )
        cut = sum(completion.finish_reason is FinishReason.LENGTH for completion in done.values())
        return Completed(samples, cut)

    def floor_seconds(self) -> float:
        """Least time the device can take for all that was sampled so far; 0 where its speed is not known."""
        return self._engine.floor_seconds() or 0.0
