"""The compiled operations on torch tensors. Ask `usable` first: everything here assumes its answer was yes.

They take strided views where they say so; the last axis is always contiguous. None of them is differentiable: autograd.py makes them so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bethink.models.fused.build import library
from bethink.models.fused.segments import SegmentRows

_WIDE = 16
"""Numbers worked on together: rows and heads are multiples of it."""
_COLUMNS = 32
"""Of a tile: widths of matrices that are multiplied are multiples of it."""
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class _Heads(ctypes.Structure):
    _fields_ = (
        ("heads", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("window", ctypes.c_int64),
    )


def usable(tensor: Tensor, *sizes: int) -> bool:
    """Whether tensors like this one, with last axes or heads of these sizes, can be worked on."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in _TYPES
        and not any(size % _WIDE for size in sizes)
        and library() is not None
    )


def usable_heads(tensor: Tensor, size: int) -> bool:
    """Whether attention over heads of this size, and their rotation, can be: halves are worked on apart."""
    return size % 2 == 0 and usable(tensor, size // 2)


def usable_products(x: Tensor, *sizes: int) -> bool:
    """Whether products of weights with inputs and outputs of these sizes can be: only in bfloat16, on processors made for it (pairs.h)."""
    return (
        x.dtype == torch.bfloat16
        and not any(size % _COLUMNS for size in sizes)
        and usable(x)
        and _has_products()
    )


@cache
def _has_products() -> bool:
    return hasattr(library(), "product_bfloat16")


@cache
def _function(name: str, dtype: torch.dtype) -> Any:
    kinds = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "f": ctypes.c_float, "i": ctypes.c_int}
    loaded = library()
    assert loaded is not None, "ask `usable` first"
    address = ctypes.c_void_p.in_dll(loaded, f"{name}_{_TYPES[dtype]}").value
    assert address is not None
    return ctypes.CFUNCTYPE(None, *(kinds[kind] for kind in _SIGNATURES[name]))(address)


_SIGNATURES = {
    "rms_norm": "pnpppnnfi",
    "rms_norm_backward": "ppnpppnni",
    "swiglu": "ppnni",
    "swiglu_backward": "pppnni",
    "rotate": "pnppnnnfi",
    "attend": "pnnppnnpnnppnpi",
    "attend_backward": "pppnpppppnpnpi",
    "attend_next": "pnppnppnnppnpi",
    "tiles": "pnnpi",
    "product": "pnnnpppni",
    "decode": "ppppppni",
    "adapt": "pnnnpnpnpni",
    "adapt_backward": "pnppnnnpnnpni",
    "draw": "pnppppppppnni",
    "log_softmax": "pppppnni",
    "log_softmax_backward": "ppppnni",
}


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    _function(name, dtype)(*arguments, torch.get_num_threads())


def rms_norm(x: Tensor, weight_D: Tensor, eps: float, inverse: Tensor | None = None) -> Tensor:
    """x [..., D], contiguous -> the same; `inverse` (float32, one a row) gets 1 / root mean square."""
    y = torch.empty_like(x)
    size = x.shape[-1]
    _call("rms_norm", x.dtype, x.data_ptr(), size, weight_D.data_ptr(), y.data_ptr(), _pointer(inverse), x.numel() // size, size, eps)  # fmt: skip
    return y


def rms_norm_backward(grad: Tensor, x: Tensor, weight_D: Tensor, inverse: Tensor) -> Tensor:
    """The gradient with respect to x."""
    grad_x = torch.empty_like(x)
    size = x.shape[-1]
    _call("rms_norm_backward", x.dtype, grad.data_ptr(), x.data_ptr(), size, weight_D.data_ptr(), inverse.data_ptr(), grad_x.data_ptr(),
          x.numel() // size, size)  # fmt: skip
    return grad_x


def swiglu(both: Tensor) -> Tensor:
    """[..., gate | up], contiguous -> silu(gate) * up, half as wide."""
    size = both.shape[-1] // 2
    y = both.new_empty(*both.shape[:-1], size)
    _call("swiglu", both.dtype, both.data_ptr(), y.data_ptr(), y.numel() // size, size)
    return y


def swiglu_backward(grad: Tensor, both: Tensor) -> Tensor:
    """The gradient with respect to [gate | up]."""
    size = grad.shape[-1]
    grad_both = torch.empty_like(both)
    _call(
        "swiglu_backward",
        both.dtype,
        grad.data_ptr(),
        both.data_ptr(),
        grad_both.data_ptr(),
        grad.numel() // size,
        size,
    )
    return grad_both


def rotate_(x_NC: Tensor, heads: int, cos_NH: Tensor, sin_NH: Tensor, *, back: bool = False) -> None:
    """Turn the first `heads` heads of each row by its rotary position, in place; a row of x holds heads side by side."""
    rows, size = cos_NH.shape
    _call("rotate", x_NC.dtype, x_NC.data_ptr(), x_NC.stride(0), cos_NH.data_ptr(), sin_NH.data_ptr(), rows, heads, size,
          -1.0 if back else 1.0)  # fmt: skip


def attend(
    q_NHD: Tensor,
    key: Tensor,
    value: Tensor,
    strides: tuple[int, int],
    out_NHD: Tensor,
    segments: SegmentRows,
    groups: int,
    scale: float,
    window: int | None,
    log_total_NH: Tensor | None = None,
) -> None:
    """softmax(q k^T scale) v for the queries of each segment, written into `out`.

    q, out: strided views [query rows, heads, head size]. key, value: tensors of one layout; segments' offsets count from their first
    element; strides: from a token to the next, and from a key head to the next. log_total: gets each row's log of the sum of e^score.
    """
    shape = _Heads(q_NHD.shape[1], groups, q_NHD.shape[2], scale, window or 0)
    _call("attend", q_NHD.dtype, q_NHD.data_ptr(), q_NHD.stride(0), q_NHD.stride(1), key.data_ptr(), value.data_ptr(), *strides,
          out_NHD.data_ptr(), out_NHD.stride(0), out_NHD.stride(1), _pointer(log_total_NH), segments.ctypes.data, len(segments),
          ctypes.addressof(shape))  # fmt: skip


def attend_backward(
    qkv: tuple[Tensor, Tensor, Tensor],
    grad_NHD: Tensor,
    log_total_NH: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    segments: SegmentRows,
    scale: float,
    window: int | None,
) -> None:
    """The gradients of `attend` where queries and keys are the same packed tokens; written into `grads`.

    qkv and grads: views [tokens, heads or key heads, head size], the heads of a token side by side; the three of each share a token's
    stride. grad: contiguous [tokens, heads, head size].
    """
    q, k, v = qkv
    shape = _Heads(q.shape[1], k.shape[1], q.shape[2], scale, window or 0)
    _call("attend_backward", q.dtype, q.data_ptr(), k.data_ptr(), v.data_ptr(), q.stride(0), grad_NHD.data_ptr(),
          log_total_NH.data_ptr(), *(grad.data_ptr() for grad in grads), grads[0].stride(0), segments.ctypes.data, len(segments),
          ctypes.addressof(shape))  # fmt: skip


def attend_next(
    q_BHD: Tensor,
    k_BKD: Tensor,
    v_BKD: Tensor,
    keys: Tensor,
    values: Tensor,
    position_B: Tensor,
    scale: float,
    window: int | None,
) -> Tensor:
    """One new token in each of the first B slots of a cache [slots, K, capacity, D]: stored at `position` (int64), attended; [B, H, D].

    q, k and v: views of rows; k and v of one layout.
    """
    q_BHD, k_BKD, v_BKD = (
        new if new.stride(1) == new.shape[2] else new.contiguous() for new in (q_BHD, k_BKD, v_BKD)
    )
    out = torch.empty(q_BHD.shape, dtype=q_BHD.dtype)
    shape = _Heads(q_BHD.shape[1], k_BKD.shape[1], q_BHD.shape[2], scale, window or 0)
    _call("attend_next", q_BHD.dtype, q_BHD.data_ptr(), q_BHD.stride(0), k_BKD.data_ptr(), v_BKD.data_ptr(), k_BKD.stride(0), keys.data_ptr(),
          values.data_ptr(), keys.stride(0), keys.stride(1), position_B.data_ptr(), out.data_ptr(), len(q_BHD),
          ctypes.addressof(shape))  # fmt: skip
    return out


def tiles(weight_OI: Tensor) -> Tensor:
    """A bfloat16 weight, contiguous, as `product` reads it: [O / 32, I / 2, 64]."""
    out, size = weight_OI.shape
    made = weight_OI.new_empty(out // _COLUMNS, size // 2, 2 * _COLUMNS)
    _call("tiles", weight_OI.dtype, weight_OI.data_ptr(), out, size, made.data_ptr())
    return made


def product(x: Tensor, tiles: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x [..., I] W^T + bias [..., O], of a weight in tiles."""
    size, out = x.shape[-1], len(tiles) * _COLUMNS
    rows = x if x.dim() == 2 and x.stride(1) == 1 else x.reshape(-1, size).contiguous()
    y = x.new_empty(*x.shape[:-1], out)
    _call(
        "product",
        x.dtype,
        rows.data_ptr(),
        rows.stride(0),
        len(rows),
        size,
        tiles.data_ptr(),
        _pointer(bias_O),
        y.data_ptr(),
        out,
    )
    return y


class _Adapter(ctypes.Structure):
    _fields_ = (
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("grad_a", ctypes.c_void_p),
        ("grad_b", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("out", ctypes.c_int64),
        ("scale", ctypes.c_float),
    )


def adapt_(
    x_NI: Tensor, y_NO: Tensor, each_a: Sequence[Tensor], each_b: Sequence[Tensor], scales: Sequence[float]
) -> Tensor:
    """Add scale · (x A^T) B^T of each layer to its columns of y; returns the x A^T, for `adapt_backward`.

    x and y: bfloat16 rows; A [rank, in] and B [out, rank]: float32, contiguous; rounded to bfloat16 where they are multiplied.
    """
    inner_NR = x_NI.new_empty(len(x_NI), sum(-(-len(a) // _WIDE) * _WIDE for a in each_a))
    adapters = _adapters(each_a, each_b, scales, [None] * len(scales), [None] * len(scales))
    _call("adapt", x_NI.dtype, x_NI.data_ptr(), x_NI.stride(0), len(x_NI), x_NI.shape[1], ctypes.addressof(adapters), len(scales),
          inner_NR.data_ptr(), inner_NR.shape[1], y_NO.data_ptr(), y_NO.stride(0))  # fmt: skip
    return inner_NR


def adapt_backward(
    x_NI: Tensor,
    inner_NR: Tensor,
    grad_NO: Tensor,
    each_a: Sequence[Tensor],
    each_b: Sequence[Tensor],
    scales: Sequence[float],
    grad_x_NI: Tensor | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The float32 gradients of each A and B, given that of y; that of x, where there is one, gets the adapters' part added."""
    grads_a, grads_b = [torch.empty_like(a) for a in each_a], [torch.empty_like(b) for b in each_b]
    adapters = _adapters(each_a, each_b, scales, grads_a, grads_b)
    _call("adapt_backward", x_NI.dtype, x_NI.data_ptr(), x_NI.stride(0), inner_NR.data_ptr(), grad_NO.data_ptr(), grad_NO.stride(0),
          len(x_NI), x_NI.shape[1], ctypes.addressof(adapters), len(scales), inner_NR.shape[1], _pointer(grad_x_NI),
          0 if grad_x_NI is None else grad_x_NI.stride(0))  # fmt: skip
    return grads_a, grads_b


def _adapters(
    each_a: Sequence[Tensor],
    each_b: Sequence[Tensor],
    scales: Sequence[float],
    grads_a: Sequence[Tensor | None],
    grads_b: Sequence[Tensor | None],
) -> ctypes.Array[_Adapter]:
    return (_Adapter * len(scales))(
        *(
            _Adapter(a.data_ptr(), b.data_ptr(), _pointer(grad_a), _pointer(grad_b), len(a), len(b), scale)
            for a, b, grad_a, grad_b, scale in zip(each_a, each_b, grads_a, grads_b, scales, strict=True)
        )
    )


def decode(
    decoder: int, x_BD: Tensor, rotary_BH: tuple[Tensor, Tensor], position_B: Tensor, logits_BV: Tensor
) -> None:
    """One token in each of B slots through a whole model (decoder.py); the embeddings x are written over."""
    cos_BH, sin_BH = (table.expand(len(x_BD), -1).contiguous() for table in rotary_BH)
    if cos_BH.dtype != x_BD.dtype:
        raise TypeError("rotary positions of another number format")
    _call("decode", x_BD.dtype, decoder, x_BD.data_ptr(), cos_BH.data_ptr(), sin_BH.data_ptr(), position_B.contiguous().data_ptr(),
          logits_BV.data_ptr(), len(x_BD))  # fmt: skip


def draw(
    logits_BV: Tensor,
    temperature_B: Tensor,
    filters_B: tuple[Tensor, Tensor, Tensor],
    uniform_B: Tensor,
    forced_B: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """A token [B] (int64) of softmax(logits / temperature) for each row, by its uniform number; its log-probability [B] at temperature 1.

    temperature: float32, 0 is greedy; filters: top-k (int64, 0 is off), top-p (1 is off) and min-p (0 is off; both float32), applied in
    this order; uniform: float64 in [0, 1); forced: int64 tokens to take instead, or -1.
    """
    rows, vocabulary = logits_BV.shape
    token_B, logprob_B = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
    _call("draw", logits_BV.dtype, logits_BV.data_ptr(), logits_BV.stride(0), temperature_B.data_ptr(),
          *(each.data_ptr() for each in filters_B), uniform_B.data_ptr(), _pointer(forced_B), token_B.data_ptr(),
          logprob_B.data_ptr(), rows, vocabulary)  # fmt: skip
    return token_B, logprob_B


def log_softmax(
    logits_NV: Tensor, target_N: Tensor, *, entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """log softmax(logits) at the targets, the log of each row's sum of e^logit, and the entropies if asked for; float32 [N] each.

    logits: contiguous; target: int64.
    """
    rows, vocabulary = logits_NV.shape
    logprob_N, log_total_N = torch.empty(rows), torch.empty(rows)
    entropy_N = torch.empty(rows) if entropy else None
    _call("log_softmax", logits_NV.dtype, logits_NV.data_ptr(), target_N.data_ptr(), logprob_N.data_ptr(), log_total_N.data_ptr(),
          _pointer(entropy_N), rows, vocabulary)  # fmt: skip
    return logprob_N, log_total_N, entropy_N


def log_softmax_backward_(logits_NV: Tensor, target_N: Tensor, log_total_N: Tensor, grad_N: Tensor) -> None:
    """Turn logits into their own gradient, given that of the targets' log-probabilities (float32 [N])."""
    rows, vocabulary = logits_NV.shape
    _call("log_softmax_backward", logits_NV.dtype, logits_NV.data_ptr(), target_N.data_ptr(), log_total_N.data_ptr(), grad_N.data_ptr(),
          rows, vocabulary)  # fmt: skip


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


# Products, and what changes them in place, as operators of torch: recomputation must see them, since what it keeps of a product is what that
# has become. Declared by hand, because a product's adapters are a call of a millisecond and `torch.library.custom_op` would take a fifth of it.
_OPERATORS = torch.library.Library("bethink", "DEF")
for _schema, _function_of_it in (
    ("rotate_(Tensor(a!) x, int heads, Tensor cos, Tensor sin) -> ()", rotate_),
    ("product(Tensor x, Tensor tiles, Tensor? bias) -> Tensor", product),
    ("adapt_(Tensor x, Tensor(a!) y, Tensor[] a, Tensor[] b, float[] scales) -> Tensor", adapt_),
):
    _OPERATORS.define(_schema)
    _OPERATORS.impl(_schema.partition("(")[0], _function_of_it, "CPU")
rotate_seen_, product_seen, adapt_seen_ = (
    torch.ops.bethink.rotate_,
    torch.ops.bethink.product,
    torch.ops.bethink.adapt_,
)
