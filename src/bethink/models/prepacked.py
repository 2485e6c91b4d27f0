"""Linear layers whose weights lie in the matrix library's blocks (blocks.py): for sampling, and beside the plain ones for training adapters.

Layers that read one input (a module names them as its TOGETHER) are laid out as one. A decoding step takes half the time at 4 rows and
two thirds at 64.

Beside plain weights that stay, blocks are further copies, which free memory must allow. Products of blocks may round otherwise, so for a model
in training that is decided once (`Decisions`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bethink.core.console import note, warn
from bethink.models import blocks
from bethink.models.lora_layer import LoRALinear, folded, frozen_weights
from bethink.models.machine import free_memory

_MEMORY_SHARE = 0.5
"""Of the free memory, how much further copies of the weights may take."""

Linear = nn.Linear | LoRALinear
Group = dict[str, Linear]
"""Layers of one input by their names."""


class PrepackedLinear(nn.Module):
    """Frozen linear layers of one input for sampling, of the weights [out, in] and biases [out] given; their outputs stand side by side.

    whole: it stands for a group of layers, in the place of the first; or it is the one layer in its place. It has no gradient and
    cannot be saved.
    """

    def __init__(
        self, weights: Sequence[Tensor], given: Sequence[Tensor | None], *, whole: bool = False
    ) -> None:
        super().__init__()
        self.whole = whole
        joint = weights[0].detach() if len(weights) == 1 else torch.cat([w.detach() for w in weights])
        self.out_features, self.in_features = joint.shape
        # Model code asks a layer's weight for its dtype and device; the blocks answer.
        self.weight = blocks.rearranged(joint)
        self.bias = blocks.joint_bias(weights, given)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return blocks.product(x, self.weight, self.bias)


class Absorbed(nn.Module):
    """In the place of a layer that is computed by the first of its group."""

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features


def prepack_(model: nn.Module) -> None:
    """Rearrange every linear layer of a model that is only sampled from. The plain weights are freed; adapters must be merged.

    A model on another device, one with adapters, and any model where torch cannot do it, stays as it is.
    """
    groups = _groups(model)
    layers = _flat(groups).values()
    if all(isinstance(layer, nn.Linear) for layer in layers) and _possible(groups):
        for group in groups:
            _pack(model, group, [layer.weight for layer in group.values()])
        _let_go_of_files(model)


def _let_go_of_files(model: nn.Module) -> None:
    """Copy the few tensors that were not rearranged: those of a file are one mapping of it, in memory for as long as one is used."""
    for tensor in model.parameters():
        tensor.data = tensor.data.clone()


class Decisions:
    """Which further copies of its weights a model in training has: `frozen` ones for learning, all of them for `sampling`.

    Each is decided by the memory that is free when it is first asked for, and stays so. made: what an earlier process decided; keep: called
    with all decisions when there is a new one.
    """

    def __init__(
        self, made: Mapping[str, bool] | None = None, keep: Callable[[Mapping[str, bool]], None] | None = None
    ) -> None:
        self._made, self._keep = dict(made or {}), keep
        self._asked: set[str] = set()

    def decide(self, name: str, groups: Sequence[Group], copies: int) -> bool:
        """Whether to make a copy, where there must be room for so many. A copy that was made before is made again, with a warning where
        there is no longer room."""
        if name not in self._asked:
            self._asked.add(name)
            room = _room_for(groups, copies)
            if name not in self._made:
                self._made[name] = room
                if self._keep is not None:
                    self._keep(self._made)
                if not room:
                    note(
                        f"memory is too short for a rearranged copy of the {name} weights; it goes on without, which is slower"
                    )
            elif self._made[name] and not room:
                warn(
                    f"memory is short for the {name} weights' rearranged copy that this run began with; it is made all the same, since other "
                    "kernels would not repeat the run to the bit: free some memory if it gets slow or is killed"
                )
        return self._made[name]


_DECISIONS: WeakKeyDictionary[nn.Module, Decisions] = WeakKeyDictionary()


def decide_by(model: nn.Module, decisions: Decisions) -> None:
    """What decides for this model from now on; otherwise it is decided in each process anew."""
    _DECISIONS[model] = decisions


def _decided(model: nn.Module, name: str, groups: Sequence[Group], copies: int) -> bool:
    return _possible(groups) and _DECISIONS.setdefault(model, Decisions()).decide(name, groups, copies)


@contextmanager
def sampling_weights(model: nn.Module) -> Iterator[None]:
    """Within the block a model in training is fast to sample from: adapters are folded in and weights rearranged.

    Afterwards everything is as before, bit for bit; while the block lasts the linear layers take twice their memory. Where weights
    cannot be rearranged, or were not the first time, the adapters are folded alone.
    """
    groups = _groups(model)
    if not _decided(model, "sampling", groups, 1):
        with folded(model):
            yield
        return
    try:
        for group in groups:
            _pack(model, group, [_sampled(layer) for layer in group.values()])
        yield
    finally:
        for name, layer in _flat(groups).items():
            _put(model, name, layer)


def rearrange_frozen(model: PreTrainedModel) -> bool:
    """Keep the frozen weights below a model's adapters, and its frozen head, in blocks too where memory allows; whether it was done."""
    groups = _groups(model)
    if not _decided(model, "frozen", groups, 2):
        return False
    for group in groups:
        adapted = [layer for layer in group.values() if isinstance(layer, LoRALinear)]
        # A group is computed as one only where all of it is adapted.
        for layers in [adapted] if len(adapted) == len(group) else [[layer] for layer in adapted]:
            frozen_weights(layers).rearrange()
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and not head.weight.requires_grad:
        frozen_weights([head]).rearrange()
    return True


def _sampled(layer: Linear) -> Tensor:
    return layer.merged_weight() if isinstance(layer, LoRALinear) and layer.active else layer.weight


def _pack(model: nn.Module, group: Group, weights: Sequence[Tensor]) -> None:
    (first, *rest), biases = group, [layer.bias for layer in group.values()]
    _put(model, first, PrepackedLinear(weights, biases, whole=len(group) > 1))
    for name in rest:
        _put(model, name, Absorbed(group[name]))


def _groups(model: nn.Module) -> list[Group]:
    """The linear layers, those of one input together; an adapted one counts as one."""
    groups: dict[str, Group] = {}
    for name, module in model.named_modules():
        parent_name, _, own = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        if isinstance(module, LoRALinear) or (
            type(module) is nn.Linear and not isinstance(parent, LoRALinear)
        ):
            one_input = own in getattr(parent, "TOGETHER", ())
            groups.setdefault(f"{parent_name} together" if one_input else name, {})[name] = module
    return [_in_order(model, group) for group in groups.values()]


def _in_order(model: nn.Module, group: Group) -> Group:
    first = next(iter(group))
    order: Any = getattr(model.get_submodule(first.rpartition(".")[0]), "TOGETHER", ())
    return (
        dict(sorted(group.items(), key=lambda item: order.index(item[0].rpartition(".")[2])))
        if len(group) > 1
        else group
    )


def _flat(groups: Sequence[Group]) -> Group:
    return {name: layer for group in groups for name, layer in group.items()}


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    layer.train(model.training)
    setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer)


def _possible(groups: Sequence[Group]) -> bool:
    return bool(groups) and all(blocks.possible(layer.weight) for layer in _flat(groups).values())


def _room_for(groups: Sequence[Group], copies: int) -> bool:
    size = sum(layer.weight.nbytes for layer in _flat(groups).values())
    return copies * size <= _MEMORY_SHARE * free_memory()
