"""Shapes for `cost`: computed from a model's config where every size stands in it, else read off a model laid out without memory.

The first needs neither torch nor transformers and serves the families named here. The second counts every linear layer; fused experts
are none, so that the cost of a mixture of experts comes out too low.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bethink.models.cost import Shape

if TYPE_CHECKING:
    from torch import nn

_FAMILIES = {"llama": True, "mistral": True, "qwen2": True, "qwen3": False}
"""Model types with gated feed-forward layers and separate projections, and whether the heads share the hidden size unless told."""
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_READ_THE_INPUT = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn", "W_pack"})


def shape_of(config: Any) -> Shape:
    """The shape of the causal language model that a transformers config describes."""
    text = config.get_text_config(decoder=True)
    return shape_from(text.to_dict()) or _laid_out(config, text)


def shape_from(config: Mapping[str, Any]) -> Shape | None:
    """The shape of the model with this config.json; None for a family that is not known here, or sizes that no model has."""
    family = config.get("model_type")
    if family not in _FAMILIES:
        return None
    hidden, inner, count, heads, vocabulary = (_positive(config.get(name)) for name in _SIZES)
    kv_heads = _positive(config.get("num_key_value_heads") or (heads if family == "llama" else 0))
    if not (hidden and inner and count and heads and vocabulary and kv_heads):
        return None
    head_size = _positive(config.get("head_dim") or (hidden // heads if _FAMILIES[family] else 0))
    if not head_size or heads % kv_heads or hidden % heads:
        return None
    queries, keys = heads * head_size, kv_heads * head_size
    inputs = ((hidden, queries), (hidden, keys), (hidden, keys))
    layer = (*inputs, (queries, hidden), (hidden, inner), (hidden, inner), (inner, hidden))
    return Shape((layer,) * count, inputs, hidden, vocabulary, heads, kv_heads, head_size)


def _positive(value: object) -> int:
    """A whole number above zero; zero for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def parameters(shape: Shape, config: Mapping[str, Any]) -> int:
    """Weights of a model that `shape_from` knows, to a thousandth: its matrices, without norms and biases."""
    return shape.linear + shape.head * (1 if config.get("tie_word_embeddings") else 2)


def _laid_out(config: Any, text: Any) -> Shape:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    head = model.get_output_embeddings()
    layers: dict[str, list[tuple[int, int]]] = {}
    reading: dict[str, list[tuple[int, int]]] = {}
    for name, module in model.named_modules():
        size = _size(module)
        if size is not None and module is not head:
            layers.setdefault(layer_of(name), []).append(size)
            if name.rpartition(".")[2] in _READ_THE_INPUT:
                reading.setdefault(layer_of(name), []).append(size)
    heads = text.num_attention_heads
    return Shape(
        layers=tuple(tuple(sizes) for sizes in layers.values()),
        first_inputs=tuple(next(iter(reading.values()), ())),
        hidden=head.in_features,
        vocabulary=head.out_features,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
    )


def _size(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear layer; None for anything else."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # what GPT-2 calls a linear layer

    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return (module.nx, module.nf) if isinstance(module, Conv1D) else None


def layer_of(name: str) -> str:
    """The number of the layer that a module's full name places it in; "" outside of all layers."""
    return next((part for part in name.split(".") if part.isdecimal()), "")
