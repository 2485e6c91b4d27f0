"""A decoding step of a whole model as one compiled call.

A step of a small model is hundreds of short operations, and asking for them one by one from the model's own code takes longer than doing
them. Models of Llama's build (norm, rotary attention, norm, gated MLP, with or without biases and norms of queries and keys) whose
weights lie in tiles are gone through by decoder.cpp. Whether a model is of that build is not read off its name: it is tried beside the
model's own forward on the first step, and stays unused where the two differ.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bethink.models.fused import operations
from bethink.models.fused.layers import FusedAttention, FusedMLP, FusedNorm

TOLERANCE = 0.1
"""Of the logits' spread. Where sums are formed in another order bfloat16 is off by a few hundredths after many layers; another formula by
about as much as the logits themselves."""

Blocks = Callable[[int], tuple[Tensor, Tensor]]
"""Layer → its cached keys and values [slots, key heads, capacity, head size]."""


class _Norm(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("eps", ctypes.c_float))


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("in_", ctypes.c_int64),
        ("out", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        ("before_attention", _Norm),
        ("of_queries", _Norm),
        ("of_keys", _Norm),
        ("before_mlp", _Norm),
        ("joint", _Linear),
        ("output", _Linear),
        ("gate_up", _Linear),
        ("down", _Linear),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("window", ctypes.c_int64),
    )


class _Decoder(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("head_size", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("slot_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("norm", _Norm),
        ("head", _Linear),
    )


class Decoder:
    """The steps of a model that is only sampled from, for as long as its weights stay where they are.

    Raises ValueError, AttributeError or TypeError for a model of another build.
    """

    def __init__(self, model: Any) -> None:
        decoder = model.get_decoder()
        self._embedding, self._rotary = model.get_input_embeddings(), decoder.rotary_emb
        layers = list(decoder.layers)
        attention = layers[0].self_attn
        self._vocabulary = model.get_output_embeddings().out_features
        self._layers = (_Layer * len(layers))(*(_layer(layer) for layer in layers))
        size = attention.head_dim
        heads = layers[0].self_attn.o_proj.in_features // size
        groups = (attention.q_proj.out_features // size - heads) // 2
        hidden = attention.q_proj.in_features
        self._decoder = _Decoder(
            ctypes.addressof(self._layers),
            len(layers),
            heads,
            groups,
            size,
            hidden,
            0,
            0,
            _norm(decoder.norm),
            _linear(model.get_output_embeddings()),
        )
        for layer in self._layers:
            same = (layer.joint.out, layer.joint.in_, layer.output.in_, layer.output.out, layer.down.out)
            if same != ((heads + 2 * groups) * size, hidden, heads * size, hidden, hidden):
                raise ValueError("layers of different sizes")
            if (layer.gate_up.in_, layer.gate_up.out) != (hidden, 2 * layer.down.in_):
                raise ValueError("a gated MLP of other sizes")

    def lay(self, blocks: Blocks) -> None:
        """Tell where the cache's blocks lie now; they are all of one layout, bfloat16 and contiguous but for the slots and heads."""
        for index, layer in enumerate(self._layers):
            keys, values = blocks(index)
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
            self._decoder.slot_stride, self._decoder.head_stride = keys.stride(0), keys.stride(1)

    def step(self, token_B: Tensor, position_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token in each of the first B slots, which stands at `position_B`."""
        x_BD: Tensor = self._embedding(token_B)
        cos_B1H, sin_B1H = self._rotary(x_BD[:, None], position_B[:, None])
        # The call writes over x: an embedding may be a view of something kept.
        x_BD = x_BD.clone(memory_format=torch.contiguous_format)
        logits_BV: Tensor = x_BD.new_empty(len(token_B), self._vocabulary)
        operations.decode(
            ctypes.addressof(self._decoder), x_BD, (cos_B1H[:, 0], sin_B1H[:, 0]), position_B, logits_BV
        )
        return logits_BV


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two results for the same step are the same but for rounding."""
    spread = expected.float().std()
    return bool((found.float() - expected.float()).square().mean().sqrt() <= TOLERANCE * spread)


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    if not (_is(attention, FusedAttention) and _is(mlp, FusedMLP)):
        raise TypeError("a layer whose attention or MLP is not known")
    if not (attention.q_proj.whole and mlp.gate_proj.whole):
        raise ValueError("a layer whose products are not joined")
    if attention.q_proj.weight.dtype != torch.bfloat16:
        raise TypeError("weights of another number format")
    scale, window = attention.asked
    return _Layer(
        _norm(layer.input_layernorm),
        _norm(getattr(attention, "q_norm", None)),
        _norm(getattr(attention, "k_norm", None)),
        _norm(layer.post_attention_layernorm),
        _linear(attention.q_proj),
        _linear(attention.o_proj),
        _linear(mlp.gate_proj),
        _linear(mlp.down_proj),
        None,
        None,
        scale,
        window or 0,
    )


def _norm(norm: Any) -> _Norm:
    if norm is None:
        return _Norm(None, 0.0)
    if not _is(norm, FusedNorm) or norm.weight.dtype != torch.bfloat16:
        raise TypeError("a norm that is not known")
    return _Norm(norm.weight.data_ptr(), norm.variance_epsilon)


def _linear(layer: Any) -> _Linear:
    """A layer whose weight lies in tiles."""
    if layer.weight.is_mkldnn or layer.weight.dim() != 3:
        raise TypeError("a weight that does not lie in tiles")
    bias = None if layer.bias is None else layer.bias.data_ptr()
    return _Linear(layer.weight.data_ptr(), bias, layer.in_features, layer.out_features)


def _is(module: Any, kind: type) -> bool:
    return isinstance(module, kind)
