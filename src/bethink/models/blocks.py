"""Weights laid out as a CPU multiplies by them, not as they are kept.

oneDNN multiplies by blocks. Given a plain weight [out, in] it rearranges it in every call, which for the few rows of a decoding step
costs as much as the product itself, or twice as much. Weights rearranged once are used in the same way; in bfloat16 the products are
those of the plain ones to the last bit, and in float32 a row no longer depends on how many others it is computed with. oneDNN's operators
are private to torch, so that they are tried first; where they do not work, everything stays as it is.

Where the processor multiplies pairs of bfloat16 in vector registers, our own product of tiles (fused/product.cpp) is a tenth faster still.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bethink.models.fused import operations

_ROWS = 64
"""How many rows the blocks are laid out for; other numbers of rows are as fast."""


def rearranged(weight_OI: Tensor) -> Tensor:
    """A copy of a weight in blocks, for `product`; it has no other use."""
    weight_OI = weight_OI.detach().contiguous()
    if operations.usable_products(weight_OI, *weight_OI.shape):
        return operations.tiles(weight_OI)
    blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI, _ROWS)
    return blocks


def product(x: Tensor, blocks: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x [..., in] times the transpose of a rearranged weight [out, in], plus a contiguous bias; no gradient."""
    y: Tensor
    if blocks.is_mkldnn:
        y = torch.ops.mkldnn._linear_pointwise(x, blocks, bias_O, "none", [], "")
    else:
        y = operations.product_seen(x, blocks, bias_O)
    return y


def joint_bias(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor | None:
    """The biases of layers whose weights are rearranged as one, zeros where a layer has none; None where none has."""
    if all(bias is None for bias in biases):
        return None
    pairs = zip(weights, biases, strict=True)
    return torch.cat([w.new_zeros(len(w)) if bias is None else bias.detach() for w, bias in pairs])


def possible(weight: Tensor) -> bool:
    """Whether weights like this one can be rearranged."""
    return weight.device.type == "cpu" and _works(weight.dtype)


@cache
def _works(dtype: torch.dtype) -> bool:
    """Whether this torch on this machine computes the same with rearranged weights."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(shape, generator=generator).to(dtype) for shape in ((48, 32), (4, 2, 32)))
    bias = weight[:, 0].contiguous()
    try:
        found = product(x, rearranged(weight), bias)
    except (AttributeError, RuntimeError, TypeError):
        return False
    tolerance = 1e-5 if dtype == torch.float32 else 2**-6
    return torch.allclose(found.float(), F.linear(x, weight, bias).float(), rtol=tolerance, atol=tolerance)
