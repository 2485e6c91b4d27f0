"""Linear layers whose weights lie as the CPU's matrix library wants them, for sampling.

oneDNN multiplies by blocks. Given a plain weight [out, in] it rearranges it in every call, which for the few rows of a decoding step
costs as much as the product itself, or twice as much. Rearranged once, a step takes half the time at 4 rows and two thirds at 64; the
products are those of the plain weight to the last bit in bfloat16, and in float32 a row no longer depends on how many others it is
computed with. The operators are private to torch, so that they are tried first, and without them everything stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bethink.models.lora_layer import LoRALinear, folded
from bethink.models.machine import free_memory

_ROWS = 64
"""How many rows the blocks are laid out for; other numbers of rows are as fast."""
_MEMORY_SHARE = 0.5
"""Of the free memory, how much a second copy of the weights may take."""


class PrepackedLinear(nn.Module):
    """A frozen linear layer for sampling, of the weight [out, in] and bias [out] given. It has no gradient and cannot be saved."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Model code asks a layer's weight for its dtype and device; the blocks answer.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        self.bias = (
            None if bias is None else bias.detach().contiguous()
        )  # the operator reads it as if it were

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


def prepack_(model: nn.Module) -> None:
    """Rearrange every linear layer of a model that is only sampled from. The plain weights are freed; adapters must be merged.

    A model on another device, one with adapters, and any model where torch cannot do it, stays as it is.
    """
    layers = _layers(model)
    if all(isinstance(layer, nn.Linear) for layer in layers.values()) and _possible(layers):
        for name, layer in layers.items():
            _put(model, name, PrepackedLinear(layer.weight, layer.bias))


@contextmanager
def sampling_weights(model: nn.Module) -> Iterator[None]:
    """Within the block a model in training is fast to sample from: adapters are folded in and weights rearranged.

    Afterwards everything is as before, bit for bit; while the block lasts the linear layers take twice their memory. Where weights
    cannot be rearranged the adapters are folded alone.
    """
    layers = _layers(model)
    size = sum(layer.weight.nbytes for layer in layers.values())
    if not _possible(layers) or size > _MEMORY_SHARE * free_memory():
        with folded(model):
            yield
        return
    try:
        for name, layer in layers.items():
            weight = layer.weight
            if isinstance(layer, LoRALinear) and layer.active:
                weight = layer.merged_weight()
            _put(model, name, PrepackedLinear(weight, layer.bias))
        yield
    finally:
        for name, layer in layers.items():
            _put(model, name, layer)


def _layers(model: nn.Module) -> dict[str, nn.Linear | LoRALinear]:
    """The linear layers by name; an adapted one counts as one."""
    found: dict[str, nn.Linear | LoRALinear] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear) or (
            type(module) is nn.Linear and not isinstance(_parent(model, name), LoRALinear)
        ):
            found[name] = module
    return found


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    layer.train(model.training)
    setattr(_parent(model, name), name.rpartition(".")[2], layer)


def _possible(layers: dict[str, nn.Linear | LoRALinear]) -> bool:
    kinds = {(layer.weight.device.type, layer.weight.dtype) for layer in layers.values()}
    return bool(kinds) and all(device == "cpu" and _works(dtype) for device, dtype in kinds)


@cache
def _works(dtype: torch.dtype) -> bool:
    """Whether this torch on this machine computes the same with rearranged weights."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(shape, generator=generator).to(dtype) for shape in ((48, 32), (4, 2, 32)))
    try:
        found = PrepackedLinear(weight, weight[:, 0])(x)
    except (AttributeError, RuntimeError, TypeError):
        return False
    tolerance = 1e-5 if dtype == torch.float32 else 2**-6
    return torch.allclose(
        found.float(), F.linear(x, weight, weight[:, 0]).float(), rtol=tolerance, atol=tolerance
    )
