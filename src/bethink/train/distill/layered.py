"""A teacher larger than memory: its weights are read from the files one decoder layer after the other, and each layer takes all rows before the next.

What is in memory at a time is one layer (or the embedding, or the head) and the hidden states of the rows asked about together, on the
CPU. The weights are read once for all of these, so that the more rows, the less reading. The layers are transformers' own, called as its
decoders of these families call them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bethink.core.errors import ModelError
from bethink.models.load import free_on, lay_out
from bethink.models.locate import ModelFiles
from bethink.models.lora import read_fitting
from bethink.models.machine import free_memory
from bethink.models.weights import Stored, stored_tensors, weight_files
from bethink.train.batch import PackedBatch
from bethink.train.distill.target import tempered
from bethink.train.distill.teacher import StoppedError, require_rows

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_SHARE = 0.25
"""Of the free memory: what the hidden states of the rows asked about together may take."""
_HEADROOM = 1.3
"""Of the largest part's bytes: room for its activations."""


class LayeredTeacher:
    """An `Asked`. vocabulary, temperature: as for `Teacher`; tokens_at_once None: as many as a quarter of the free memory holds.

    An adapter is merged into each layer as it is read. Raises ModelError for a family whose layers we do not know how to call, for weights that
    do not belong to the config, and where even one layer does not fit.
    """

    def __init__(
        self,
        files: ModelFiles,
        vocabulary: int,
        temperature: float,
        *,
        dtype: torch.dtype,
        device: torch.device,
        tokens_at_once: int | None = None,
    ) -> None:
        self.vocabulary, self.temperature, self.dtype, self.device = vocabulary, temperature, dtype, device
        self.model = lay_out(files, dtype).eval().requires_grad_(False)
        self._config: Any = self.model.config
        if self._config.model_type not in FAMILIES:
            raise ModelError(
                f"{files.name} ({self._config.model_type}) cannot be read layer by layer",
                fix=f"that can be done with {', '.join(sorted(FAMILIES))}; ask it where its weights fit into memory",
            )
        require_rows(self.model, vocabulary, files)
        self._decoder: Any = self.model.get_decoder()
        self._head: Any = self.model.get_output_embeddings()
        self._names = {module: name for name, module in self.model.named_modules()}
        self._stored: dict[str, Stored] = {}
        for path in weight_files(files.directory):
            self._stored |= stored_tensors(path)
        self._adapter: dict[str, tuple[Tensor, Tensor, float]] = {}
        if files.adapter is not None:
            settings, pairs = read_fitting(self.model, files.adapter)
            self._adapter = {name: (a, b, settings.scale(name, a.shape[0])) for name, (a, b) in pairs.items()}
        self._rotary: nn.Module = type(self._decoder.rotary_emb)(config=self._config).to(device)
        self._check(files)
        room = _SHARE * free_memory() / (self._config.hidden_size * dtype.itemsize)
        self.tokens_at_once = int(room) if tokens_at_once is None else tokens_at_once

    def _check(self, files: ModelFiles) -> None:
        parts = [self._decoder.embed_tokens, *self._decoder.layers, self._decoder.norm, self._head]
        shapes = {
            f"{self._names[part]}.{name}": tensor.shape
            for part in parts
            for name, tensor in part.state_dict().items()
        }
        stored = {name: self._stored.get(self._place(name)) for name in shapes}
        if missing := [name for name, one in stored.items() if one is None or one.shape != shapes[name]]:
            raise ModelError(
                f"the weights lack {len(missing)} of the model's tensors, the first is `{missing[0]}`",
                where=str(files.directory),
                fix="check that the weights belong to this config.json and are complete",
            )
        largest = max(sum(p.nbytes for p in part.parameters()) for part in parts)
        needed, free = int(_HEADROOM * largest), free_on(str(self.device))
        if needed > free:
            raise ModelError(
                f"a single part of {files.name} needs about {needed / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free",
                where=str(self.device),
                fix="free some memory",
            )

    @torch.no_grad()
    def hidden_states(
        self, batches: Sequence[PackedBatch], interrupted: Callable[[], bool]
    ) -> Iterator[Tensor]:
        """See `Asked`. The head is in memory while the states are handed out."""
        with self._read(self._decoder.embed_tokens) as embed:
            states_TD = [embed(batch.token_ids_T.to(self.device)).cpu() for batch in batches]
        for part in self._decoder.layers:
            if interrupted():
                raise StoppedError
            with self._read(part) as layer:
                for batch, state_TD in zip(batches, states_TD, strict=True):
                    state_TD.copy_(self._through(layer, batch, state_TD.to(self.device)))
        with self._read(self._decoder.norm) as norm, self._read(self._head):
            for batch in batches:
                state_TD = states_TD.pop(0).to(self.device)
                yield norm(state_TD.index_select(0, batch.predictor_index_N.to(self.device)))

    def _through(self, layer: nn.Module, batch: PackedBatch, state_TD: Tensor) -> Tensor:
        positions_1T = batch.position_ids_T.to(self.device)[None]
        states_1TD: Tensor = layer(
            state_TD[None],
            attention_mask=None,
            position_ids=positions_1T,
            position_embeddings=self._rotary(state_TD[None], positions_1T),
            segments=batch.segments,
            use_cache=False,
        )
        return states_1TD[0]

    @torch.no_grad()
    def logprobs(self, hidden_CD: Tensor) -> Tensor:
        """See `Asked`."""
        return tempered(self._head(hidden_CD)[:, : self.vocabulary], self.temperature)

    @contextmanager
    def _read(self, part: nn.Module) -> Iterator[nn.Module]:
        """The part with its weights, which are let go of afterwards."""
        tensors = {name: self._tensor(f"{self._names[part]}.{name}") for name in part.state_dict()}
        try:
            part.load_state_dict(tensors, assign=True)
            del tensors
            yield part
        finally:
            part.to("meta")

    def _place(self, name: str) -> str:
        """The name a tensor has in the files: a tied head's is the embedding's."""
        tied = self._config.tie_word_embeddings and name == f"{self._names[self._head]}.weight"
        return f"{self._names[self._decoder.embed_tokens]}.weight" if tied else name

    def _tensor(self, name: str) -> Tensor:
        weight = _read_tensor(self._stored[self._place(name)]).to(self.device, self.dtype)
        if adapter := self._adapter.get(name.removesuffix(".weight")):
            a, b, scale = adapter
            total = torch.addmm(weight.float(), b.to(self.device), a.to(self.device), alpha=scale)
            weight = total.to(self.dtype)
        return weight


_FORMATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def _read_tensor(one: Stored) -> Tensor:
    """A tensor of a safetensors file, and no more of the file than that: a map of a file larger than memory may be refused."""
    if one.dtype not in _FORMATS:
        raise ModelError(
            f"the weights are stored as {one.dtype}, which is not read layer by layer", where=str(one.path)
        )
    content = torch.from_numpy(np.fromfile(one.path, np.uint8, one.size, offset=one.start))
    return content.view(_FORMATS[one.dtype]).view(one.shape)
