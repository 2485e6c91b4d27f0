"""The teacher: a model that only says how likely it finds every next token, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.errors import ModelError
from bethink.models.cost import prompts
from bethink.models.load import load_model
from bethink.models.locate import ModelFiles
from bethink.models.prepacked import prepack_
from bethink.models.shape import shape_of
from bethink.models.speed import Speed
from bethink.train.batch import PackedBatch
from bethink.train.distill.target import Target, TargetOf, tempered
from bethink.train.forward import hidden_states, prove_head


class Told(Protocol):
    """Whatever knows what a teacher says: the teacher itself, or what it said when it was asked once (store.py)."""

    def targets(self, batch: PackedBatch, place_N: Tensor) -> TargetOf:
        """What it says of a micro-batch's learned tokens. place_N: where each stands among all learned tokens of the rows."""
        ...


class Asked(Protocol):
    """A teacher that is asked about many rows, one batch after the other. tokens_at_once: how many tokens it is best asked about together."""

    device: torch.device
    tokens_at_once: int

    def hidden_states(
        self, batches: Sequence[PackedBatch], interrupted: Callable[[], bool]
    ) -> Iterator[Tensor]:
        """For each batch its last hidden states at the positions that predict the learned tokens [N, D]. Raises StoppedError."""
        ...

    def logprobs(self, hidden_CD: Tensor) -> Tensor:
        """The log-probability of every shared token [C, V], float32, while the states are handed out."""
        ...


class StoppedError(Exception):
    """What was asked is not answered: the user interrupted."""


class Teacher:
    """A loaded teacher. vocabulary: the tokens it shares with the student; temperature: what its logits are divided by."""

    tokens_at_once = 0

    def __init__(self, model: PreTrainedModel, vocabulary: int, temperature: float) -> None:
        self.model, self.vocabulary, self.temperature = model, vocabulary, temperature
        self.device: torch.device = model.device

    @classmethod
    def load(
        cls,
        files: ModelFiles,
        vocabulary: int,
        temperature: float,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Teacher:
        """Its adapter, if any, folded in. Raises ModelError for a model that cannot be used or has fewer rows than the vocabulary."""
        model = load_model(files, dtype=dtype, device=str(device), merge=True)
        model.requires_grad_(False)
        require_rows(model, vocabulary, files)
        prove_head(model)
        prepack_(model)
        return cls(model, vocabulary, temperature)

    def targets(self, batch: PackedBatch, place_N: Tensor) -> TargetOf:
        """Its log-probabilities at the batch's learned positions, those of a chunk computed when they are asked for."""
        hidden_ND = self.hidden(batch)
        return lambda part: Target(self.logprobs(hidden_ND[part]))

    def hidden_states(
        self, batches: Sequence[PackedBatch], interrupted: Callable[[], bool]
    ) -> Iterator[Tensor]:
        """See `Asked`; one batch at a time, so that nobody waits long."""
        for batch in batches:
            yield self.hidden(batch.to(self.device))

    @torch.no_grad()
    def hidden(self, batch: PackedBatch) -> Tensor:
        """Its last hidden states at the positions that predict the learned tokens [N, D]."""
        return hidden_states(self.model, batch).index_select(0, batch.predictor_index_N)

    @torch.no_grad()
    def logprobs(self, hidden_CD: Tensor) -> Tensor:
        """The log-probability of every shared token [C, V], float32."""
        head: Any = self.model.get_output_embeddings()
        return tempered(head(hidden_CD)[:, : self.vocabulary], self.temperature)

    def floor_seconds(self, speed: Speed, lengths: list[int], learned: int) -> float:
        """Least time for a pass over samples of these lengths, so many tokens of which are learned."""
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        least = prompts(shape_of(self.model.config), learned, sum(lengths), pairs, weight_bytes=speed.width)
        return speed.floor(least, sum(lengths))


def require_rows(model: PreTrainedModel, vocabulary: int, files: ModelFiles) -> None:
    """Raise ModelError for a model whose head does not reach all tokens of its tokenizer."""
    rows = model.get_output_embeddings().weight.shape[0]
    if rows < vocabulary:
        raise ModelError(
            f"{files.name} has {rows:,} rows of logits for {vocabulary:,} tokens",
            where=str(Path(files.directory) / "config.json"),
            fix="check that the tokenizer belongs to the model",
        )
