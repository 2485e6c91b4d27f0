"""Several linear maps of one input computed as one: queries, keys and values; gate and up.

One wide product keeps a machine busier than three narrow ones, and the thin products of their adapters are too thin apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bethink.models.lora_layer import LoRALinear, adapted_linears
from bethink.models.prepacked import PrepackedLinear


def together(x: Tensor, layers: Sequence[Any]) -> Tensor:
    """x [..., in] -> the layers' outputs side by side [..., sum of out]; a new tensor, contiguous."""
    first = layers[0]
    if isinstance(first, PrepackedLinear) and first.whole:
        whole: Tensor = first(x)
        return whole
    if all(isinstance(layer, LoRALinear) and layer.direct for layer in layers):
        return adapted_linears(x, layers)
    return torch.cat([layer(x) for layer in layers], dim=-1)
