"""Less memory in training: what the backward pass needs is computed again instead of kept, as little of it as memory asks for.

A layer can be gone through again whole (Chen et al. 2016, arXiv 1604.06174), which makes an adapter's training half as expensive again,
since forward and backward cost the same there. Cheaper is to keep what is dear to compute and to repeat the rest (Korthikanti et al.
2022, arXiv 2205.05198): what matrix products gave is kept, norms, rotary positions and gated activations are repeated. An 8B model's
activations then take little more than half the memory, and no product is computed twice. How much of it a run needs is recompute.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from bethink.core.console import note
from bethink.core.errors import ModelError
from bethink.models.recompute import Recompute

_PRODUCTS = frozenset(
    {
        "aten::mm",
        "aten::addmm",
        "aten::linear",
        "aten::_grouped_mm",
        "aten::_scaled_mm",
        "mkldnn::_linear_pointwise",
        "bethink::product",
    }
)
_ATTENTION = frozenset(
    {
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "aten::_flash_attention_forward",
        "torch_attn::_varlen_attn",
        "flash_attn::_flash_attn_varlen_forward",
    }
)
_KEPT = {Recompute.CHEAP: _PRODUCTS | _ATTENTION, Recompute.ATTENTION: _PRODUCTS}
_TOLERANCE = 0.02
"""Of the gradient's norm: attention on a GPU adds up in no fixed order. A wrong gradient is off by its own size."""


def enable(model: PreTrainedModel, recompute: Recompute) -> Recompute:
    """Make the model's layers recompute in training; returns what they do.

    Keeping products is tried on a few tokens first: where gradients are not those without it (a layer that changes a product where
    torch does not see it), whole layers are recomputed. Raises ModelError for a model whose layers cannot be recomputed.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers and recompute is not Recompute.NOTHING:
        raise ModelError(
            f"the layers of a {type(model).__name__} cannot be recomputed",
            fix="lower --tokens-per-microbatch or --max-tokens instead, and pass --no-gradient-checkpointing",
        )
    _set(layers, Recompute.NOTHING)
    if recompute in _KEPT:
        with _training(model):
            expected = _gradients(model, layers)
            _set(layers, recompute)
            if not _same(expected, model, layers):
                note("products cannot be kept in this model: whole layers are recomputed")
                recompute = Recompute.LAYERS
    _set(layers, recompute)
    return recompute


def _set(layers: list[GradientCheckpointingLayer], recompute: Recompute) -> None:
    again = partial(checkpoint, use_reentrant=False)
    if recompute in _KEPT:
        again = partial(again, context_fn=partial(_contexts, _KEPT[recompute]))
    for layer in layers:
        layer.gradient_checkpointing = recompute is not Recompute.NOTHING
        layer._gradient_checkpointing_func = again


def _contexts(kept: frozenset[str]) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """What one layer's forward pass, and its repetition, run in."""
    contexts: tuple[AbstractContextManager[Any], AbstractContextManager[Any]] = (
        create_selective_checkpoint_contexts(_Keep(kept), allow_cache_entry_mutation=True)
    )
    return contexts


class _Keep:
    """Which results of one layer's forward pass are kept: those of the operators named, with all that is added to them in place.

    A kept result is kept as it is in the end. So an operator that writes into one must not be repeated, and no other may have read what
    it held before; the latter raises RuntimeError.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._kept: set[int] = set()
        self._read: set[int] = set()

    def __call__(self, context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        """Asked once for each operator, after it has run."""
        written = {_place(tensor) for tensor in _written(operator, args, kwargs)}
        made = {_place(tensor) for tensor in _tensors(context.op_output)}
        if written & self._kept & self._read:
            raise RuntimeError(f"{operator} changes a result that has been read")
        # A view reads nothing: what it gives lies where its input does.
        self._read |= {_place(tensor) for tensor in _tensors((args, kwargs))} & self._kept - made - written
        if written & self._kept:
            return CheckpointPolicy.MUST_SAVE
        if written or operator._schema.name not in self._names:
            return CheckpointPolicy.PREFER_RECOMPUTE
        self._kept |= made
        return CheckpointPolicy.MUST_SAVE


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))


def _written(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The arguments an operator changes."""
    for place, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(args[place] if place < len(args) else kwargs.get(argument.name))


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Layers recompute in training mode only."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _gradients(model: PreTrainedModel, layers: list[GradientCheckpointingLayer]) -> list[Tensor]:
    """The gradient of the first trained layer's parameters, to which all later layers contribute, for two short samples."""
    found = ([p for p in layer.parameters() if p.requires_grad] for layer in layers)
    parameters = next(filter(None, found), [])
    lengths, device = (7, 5), model.device
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    ids_T = (torch.arange(sum(lengths), device=device) * 37 + 11) % vocabulary
    positions_T = torch.cat([torch.arange(length, device=device) for length in lengths])
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(0)
        hidden_1TD = model.get_decoder()(
            input_ids=ids_T[None], position_ids=positions_T[None], segments=lengths, use_cache=False
        ).last_hidden_state
        loss = (hidden_1TD.float() * torch.randn(hidden_1TD.shape, device=device)).sum()
        if not parameters:
            return []
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [gradient.float() for gradient in gradients if gradient is not None]


def _same(expected: list[Tensor], model: PreTrainedModel, layers: list[GradientCheckpointingLayer]) -> bool:
    try:
        found = _gradients(model, layers)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    if not expected:
        return len(found) == 0
    size = torch.stack([gradient.norm() for gradient in expected]).norm()
    off = torch.stack([(a - b).norm() for a, b in zip(expected, found, strict=True)]).norm()
    return bool(off <= _TOLERANCE * size)
