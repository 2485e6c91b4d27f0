"""Runs the model: prompts in packed rows, then one token a slot a step. Gives logits only where a token is to be drawn.

Works on any transformers decoder-only model that was loaded with our attention (`models.attention`): the cache reaches it as a keyword
argument, so no model is patched, and the model's own forward scales or caps its logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bethink.core.errors import ModelError
from bethink.engine.compiled import CompiledSteps
from bethink.engine.cuda_graphs import Capture, CudaCapture, DecodeGraphs
from bethink.engine.kv_cache import DecodeView, Piece, PrefillView, SlotCache, round_up
from bethink.models import attention
from bethink.models.fused import operations

PREFILL_TOKENS = 2048
"""Enough to fill any device; longer prompts are fed in pieces of this."""


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt to prefill into `slot` from token `start` on (what is before is cached already)."""

    prompt_ids: tuple[int, ...]
    slot: int
    start: int = 0


class Runner:
    """A model and its cache.

    prefill_tokens: most prompt tokens in one forward. new_capture: makes what records decoding steps (`cuda_graphs`); by default they are
    recorded on CUDA devices only.
    """

    def __init__(
        self,
        model: Any,
        *,
        prefill_tokens: int = PREFILL_TOKENS,
        new_capture: Callable[[], Capture] | None = None,
    ) -> None:
        config = model.config.get_text_config()
        if model.config._attn_implementation != attention.NAME:
            raise ModelError(
                "the model was not loaded with this package's attention",
                where=type(model).__name__,
                fix="load it with bethink.models.load.load_model",
            )
        if "logits_to_keep" not in inspect.signature(model.forward).parameters:
            raise ModelError(
                "the model's forward does not take `logits_to_keep`",
                where=type(model).__name__,
                fix="use a decoder-only causal language model",
            )
        self.model = model
        self.max_positions: int | None = getattr(config, "max_position_embeddings", None)
        self.vocabulary: int = config.vocab_size
        self._layers: int = config.num_hidden_layers
        self._prefill_tokens = prefill_tokens
        self.cache = SlotCache()
        self._records_anywhere = new_capture is not None
        new_capture = new_capture or (lambda: CudaCapture(self.device))
        self._graphs = DecodeGraphs(self._decode, self.cache, new_capture)
        self._compiled = CompiledSteps(model, self._decode, self.cache)

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        device: torch.device = self.model.get_output_embeddings().weight.device
        return device

    @property
    def cuts_freely(self) -> bool:
        """Whether a prompt gives the same however it is cut into pieces, or to rounding on a GPU, where nothing is the same twice."""
        head = self.model.get_output_embeddings().weight
        config = self.model.config.get_text_config()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return self.device.type == "cuda" or operations.usable_heads(head, size)

    def bytes_per_token(self) -> int:
        """Estimated bytes of cache one token takes, from the config."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * self._layers * heads * size * self.model.dtype.itemsize)

    def prefill(self, jobs: Sequence[Job]) -> Tensor:
        """Logits [prompts, V] after the last token of each prompt; its keys and values are then in its slot."""
        logits: list[Tensor] = []
        for pack in _packs(jobs, self._prefill_tokens):
            ends = [job for job, piece in pack if piece.stop == len(job.prompt_ids)]
            output = self._prefill_pack(pack)
            if ends:
                logits.append(output[: len(ends)])
        if self.cache.layers != self._layers:
            raise ModelError(
                f"only {self.cache.layers} of the model's {self._layers} layers use attention with keys and values",
                where=type(self.model).__name__,
                fix="use a model whose every layer is attention",
            )
        return torch.cat(logits)

    def _prefill_pack(self, pack: list[tuple[Job, Piece]]) -> Tensor:
        tokens = [token for job, piece in pack for token in job.prompt_ids[piece.start : piece.stop]]
        positions = [position for _, piece in pack for position in range(piece.start, piece.stop)]
        last, offset = [], 0
        for job, piece in pack:
            offset += len(piece)
            if piece.stop == len(job.prompt_ids):
                last.append(offset - 1)
        padding = _padded(len(tokens)) - len(tokens)
        # Rows of the head come in fours too, for the same reason as those of decoding.
        keep = last + [0] * (round_up(max(len(last), 1), 4) - len(last))
        return self._forward(
            torch.tensor([tokens + [0] * padding], device=self.device),
            torch.tensor([positions + [0] * padding], device=self.device),
            PrefillView(self.cache, [piece for _, piece in pack]),
            torch.tensor(keep, device=self.device),
        )[0]

    def decode(self, token_B: Tensor, position_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token in each of the first B slots, which stands at `position_B`; good until the next call."""
        if self._records_anywhere or token_B.device.type == "cuda":
            return self._graphs.decode(token_B, position_B)
        return self._compiled.decode(token_B, position_B)

    def _decode(self, token_B: Tensor, position_B: Tensor) -> Tensor:
        view = DecodeView(self.cache, position_B)
        return self._forward(token_B[:, None], position_B[:, None], view, 1)[:, -1]

    def _forward(
        self, token_BT: Tensor, position_BT: Tensor, view: PrefillView | DecodeView, keep: int | Tensor
    ) -> Tensor:
        if not self.cache.layers:  # the engine has rested, and the weights may be others
            self._graphs.forget()
            self._compiled.forget()
        output = self.model(
            input_ids=token_BT,
            position_ids=position_BT,
            use_cache=False,
            kv_cache=view,
            logits_to_keep=keep,
        )
        logits: Tensor = output.logits
        return logits


def _packs(jobs: Sequence[Job], limit: int) -> list[list[tuple[Job, Piece]]]:
    """The jobs cut into pieces and the pieces, in order, gathered into rows of at most `limit` tokens."""
    packs: list[list[tuple[Job, Piece]]] = [[]]
    space = limit
    for job in jobs:
        start = job.start
        while start < len(job.prompt_ids):
            if space == 0:
                packs.append([])
                space = limit
            stop = min(len(job.prompt_ids), start + space)
            packs[-1].append((job, Piece(job.slot, start, stop)))
            space -= stop - start
            start = stop
    return packs


def _padded(tokens: int) -> int:
    """The length a packed row is filled up to: few lengths, at most a quarter more."""
    step = 16
    while tokens > 4 * step:
        step *= 2
    return round_up(tokens, step)
