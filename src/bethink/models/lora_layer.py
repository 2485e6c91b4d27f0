"""A linear layer with a low-rank adapter: the forward pass, the merge, and the ways to switch the adapter off for a while.

Source: Hu et al. 2021 (arXiv 2106.09685). Knows modules and tensors; which layers are adapted and how adapters are stored is lora.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bethink.core.errors import ModelError
from bethink.models.lora_product import FrozenWeights, adapted_product


class LoRALinear(nn.Module):
    """A linear layer whose weight is frozen, plus `scale * B(A(x))`.

    base: the frozen layer, in its own dtype. lora_A [rank, in] and lora_B [out, rank] are fp32 master parameters, cast to the
    input's dtype in each forward pass.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.dropout = dropout
        self.active = True
        self.folded = False
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=device))
        for parameter in base.parameters():
            parameter.requires_grad_(False)

    @property
    def weight(self) -> Tensor:
        """The base layer's weight [out, in]: some model code asks a layer for its dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias [out]."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if self.direct:
            return adapted_linears(x, (self,))
        y: Tensor = self.base(x)
        if not self.active:
            return y
        inner = F.linear(F.dropout(x, self.dropout), self.lora_A.to(x.dtype)) * self.scale
        return y + F.linear(inner, self.lora_B.to(x.dtype))

    @property
    def direct(self) -> bool:
        """Whether the adapter acts on the input as it is: it is switched on, and no dropout comes before it."""
        return self.active and not (self.dropout and self.training)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Base weight plus the scaled product [out, in], summed in fp32 and rounded once to the base's dtype."""
        if self.folded:
            return self.base.weight.clone()
        total = torch.addmm(self.base.weight.float(), self.lora_B, self.lora_A, alpha=self.scale)
        return total.to(self.base.weight.dtype)

    def extra_repr(self) -> str:
        return f"rank={self.lora_A.shape[0]}, scale={self.scale:g}, dropout={self.dropout:g}"


def adapted_linears(x: Tensor, layers: Sequence[LoRALinear]) -> Tensor:
    """The outputs of `direct` layers that read one input x [..., in], side by side [..., sum of out]; a new tensor."""
    adapters = [(layer.lora_A, layer.lora_B) for layer in layers]
    return adapted_product(x, frozen_weights(layers), adapters, [layer.scale for layer in layers])


def frozen_weights(layers: Sequence[LoRALinear | nn.Linear]) -> FrozenWeights:
    """The weights of layers that read one input, as one; remembered until one of them changes."""
    plain = [layer.base if isinstance(layer, LoRALinear) else layer for layer in layers]
    weights = [layer.weight for layer in plain]
    frozen = _FROZEN.get(layers[0])
    if frozen is None or not frozen.of(weights):
        frozen = _FROZEN[layers[0]] = FrozenWeights(weights, [layer.bias for layer in plain])
    return frozen


_FROZEN: WeakKeyDictionary[nn.Module, FrozenWeights] = WeakKeyDictionary()
"""By the first of the layers."""


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by the name their plain layer had, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of everything that is trained, in the model's own fixed order."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def wrap(model: nn.Module, name: str, rank: int, scale: float, dropout: float) -> LoRALinear:
    """Replace the linear layer called `name` by a `LoRALinear` with A and B zero. Raises ModelError for anything else."""
    parent = model.get_submodule(name.rpartition(".")[0])
    base = getattr(parent, name.rpartition(".")[2])
    if not isinstance(base, nn.Linear):
        raise ModelError(
            f"`{name}` is a {type(base).__name__}, not a linear layer; it cannot carry an adapter"
        )
    holders = [
        n for n, m in model.named_modules() if getattr(m, "weight", None) is base.weight and m is not base
    ]
    if holders:
        raise ModelError(
            f"`{name}` shares its weight with `{holders[0]}`, so an adapter on it could not be merged",
            fix="leave it out of the targets",
        )
    layer = LoRALinear(base, rank, scale, dropout)
    layer.train(base.training)
    setattr(parent, name.rpartition(".")[2], layer)
    return layer


def merge_(model: nn.Module) -> None:
    """Fold every adapter into its layer for good and put the plain layer back."""
    for name, layer in lora_layers(model).items():
        layer.base.weight.data = layer.merged_weight()
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer.base)


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """Within the block the adapters are part of the base weights, so that sampling pays nothing for them.

    The layers' original weights are set aside and put back bit for bit; while the block lasts the adapted matrices take twice
    their memory. In bf16 the folded weight is rounded once more than base and adapter apart, so logits differ by that rounding.
    Train outside the block: inside it the adapters' parameters get no gradient.
    """
    layers = [layer for layer in lora_layers(model).values() if layer.active]
    originals = [layer.base.weight.data for layer in layers]
    try:
        for layer in layers:
            layer.base.weight.data = layer.merged_weight()
            layer.active, layer.folded = False, True
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.base.weight.data = original
            layer.active, layer.folded = True, False


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as if it had no adapter (the reference of a KL term, the untrained baseline).

    Raises RuntimeError inside `folded`, where the adapter cannot be told from the weights.
    """
    if any(layer.folded for layer in lora_layers(model).values()):
        raise RuntimeError("the adapter is folded into the weights; leave `folded` first")
    layers = [layer for layer in lora_layers(model).values() if layer.active]
    try:
        for layer in layers:
            layer.active = False
        yield
    finally:
        for layer in layers:
            layer.active = True
