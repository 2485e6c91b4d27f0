"""A reward model's opinion as a reward of `bethink grpo`: `preference=0.5:model=DIR`.

verify/ stands on a lower floor and knows no models; whoever trains gives this builder to `Rewards.of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from bethink.core.errors import BethinkError, ConfigError
from bethink.models.load import best_dtype
from bethink.models.locate import locate
from bethink.models.weights import tensor_sizes
from bethink.train.frame import default_capacity
from bethink.train.prefer.saved import load_reward_model
from bethink.train.prefer.scores import ValueScorer, scores_of
from bethink.train.prefer.settings import SETTINGS, base_of, read_settings
from bethink.train.token_store import Sample
from bethink.verify.rewards.attempt import Attempt, Part, Reward


def preference_on(device: str, tokenizer: str) -> Callable[..., Reward]:
    """What builds the reward from its options. device: where the reward model computes; tokenizer: the hash of the policy's own."""

    def preference(*, model: str) -> Reward:
        return Preference(Path(model).expanduser(), device, tokenizer)

    return preference


class Preference:
    """A `Reward`: how far a completion's value is above the mean of the reward model's training pairs, in their standard deviations.

    The model reads the tokens that the policy was given and drew. It is loaded when the first completions come. Raises ModelError for a
    directory without a reward model, ConfigError where it was trained with another tokenizer or template than the policy's.
    """

    def __init__(self, directory: Path, device: str, tokenizer: str) -> None:
        self.directory, self.device, self.settings = directory, torch.device(device), read_settings(directory)
        if self.settings.tokenizer != tokenizer:
            raise ConfigError(
                "the reward model was trained with another tokenizer or chat template than the policy's",
                where=str(directory),
                fix="train it on pairs of the policy's own base model (bethink prefer --reward-model)",
            )

    def __call__(self, group: Sequence[Attempt]) -> list[Part]:
        """The value of each attempt of a group; None for one without a token."""
        said = [attempt for attempt in group if attempt.token_ids]
        if any(not attempt.prompt_ids for attempt in said):
            raise BethinkError("a preference model needs the attempts' token ids")
        samples = [
            Sample(np.asarray(a.prompt_ids, np.int32), np.asarray(a.token_ids, np.int32), a.mode)
            for a in said
        ]
        values: list[float] = []
        if samples:
            (found_S,) = scores_of(self._scorer, [samples], default_capacity(self.device), self.device)
            values = ((found_S - self.settings.mean) / self.settings.std).tolist()
        given = iter(values)
        return [Part(next(given) if attempt.token_ids else None) for attempt in group]

    @property
    def files(self) -> tuple[Path, ...]:
        """What tells this reward model from another: its settings hold what its values are in training."""
        return (self.directory / SETTINGS,)

    @property
    def weight_bytes(self) -> int:
        """Memory that the reward model takes once it is loaded, its adapter merged."""
        sizes = tensor_sizes(locate(base_of(self.directory)).directory)
        return sum(count for count, _ in sizes.values()) * best_dtype(str(self.device)).itemsize

    @cached_property
    def _scorer(self) -> ValueScorer:
        return ValueScorer(load_reward_model(self.directory, device=str(self.device)))
