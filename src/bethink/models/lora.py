"""Low-rank adapters on a model: choosing the layers, adding, saving and loading.

Source: Hu et al. 2021 (arXiv 2106.09685), with its usual initialisation (A uniform as a linear layer's, B zero, so that a fresh
adapter changes nothing) and, for adapters that ask for it, rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732). The layer
itself is lora_layer.py's, the file format adapter_files.py's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bethink.core.errors import ConfigError, ModelError
from bethink.core.seeds import derive_seed
from bethink.models.adapter_files import AdapterSettings, read_adapter_config, read_pairs, write_adapter
from bethink.models.lora_config import ALL_LINEAR, LoRAConfig, scale_of
from bethink.models.lora_layer import (
    LoRALinear,
    folded,
    lora_layers,
    merge_,
    trainable,
    without_adapter,
    wrap,
)

__all__ = [
    "ALL_LINEAR",
    "LoRAConfig",
    "LoRALinear",
    "add_lora",
    "folded",
    "load_adapter",
    "lora_layers",
    "merge_",
    "save_adapter",
    "trainable",
    "without_adapter",
]


def add_lora(model: nn.Module, config: LoRAConfig, seed: int) -> list[nn.Parameter]:
    """Freeze `model` and put an adapter on every target layer; returns the adapters' parameters in the model's order.

    Each layer's A is drawn from a stream of its own, so that adding a target changes no other layer. Raises ModelError when
    nothing matches, and when the model has adapters already.
    """
    if lora_layers(model):
        raise ModelError(
            "the model has an adapter already", fix="merge it first (`merge_`), or load the model without it"
        )
    names = match_targets(model, config.targets)
    model.requires_grad_(False)
    for name in names:
        layer = wrap(model, name, config.rank, config.scale, config.dropout)
        generator = torch.Generator().manual_seed(derive_seed(seed, "lora", name))
        initial = torch.empty(layer.lora_A.shape)
        nn.init.kaiming_uniform_(initial, a=math.sqrt(5), generator=generator)
        layer.lora_A.data.copy_(initial)
    return [parameter for _, parameter in trainable(model)]


def match_targets(model: nn.Module, targets: str | tuple[str, ...]) -> list[str]:
    """Full names of the linear layers that `targets` means (see `LoRAConfig`), in the model's order.

    Raises ConfigError when a name or the expression matches none.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if targets == ALL_LINEAR:
        head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
        names = [name for name in linear if model.get_submodule(name) is not head]
        if not names:
            raise ModelError(
                "the model has no linear layers to adapt", fix="train all weights instead (--full)"
            )
        return names
    if isinstance(targets, str):
        names, unmatched = [name for name in linear if re.fullmatch(targets, name)], []
        if not names:
            unmatched = [targets]
    else:
        names = [name for name in linear if any(is_target(name, target) for target in targets)]
        unmatched = [target for target in targets if not any(is_target(name, target) for name in linear)]
    if unmatched:
        kinds = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise ConfigError(
            f"no linear layer is called `{unmatched[0]}`",
            where="LoRA targets",
            fix=f"this model has: {kinds}",
        )
    return names


def is_target(name: str, target: str) -> bool:
    """Whether a module's full name is `target` or ends in it at a dot."""
    return name == target or name.endswith("." + target)


def save_adapter(model: nn.Module, config: LoRAConfig, directory: Path, base_name: str) -> None:
    """Write the model's adapters; each of the two files is whole or absent, the config last.

    config: what the adapters were made with; base_name: the model they belong to, as a user would name it.
    """
    layers = lora_layers(model)
    if not layers:
        raise ModelError("the model has no adapter to save")
    pairs = {name: (layer.lora_A, layer.lora_B) for name, layer in layers.items()}
    write_adapter(directory, _peft_settings(model, config, layers, base_name), pairs)


def _peft_settings(
    model: nn.Module, config: LoRAConfig, layers: Mapping[str, LoRALinear], base_name: str
) -> dict[str, Any]:
    ranks = {name: layer.lora_A.shape[0] for name, layer in layers.items()}
    alphas = {
        name: layer.scale / scale_of(1.0, ranks[name], rslora=config.rslora) for name, layer in layers.items()
    }
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "revision": None,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": _target_modules(model, config.targets, list(layers)),
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != config.rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if not math.isclose(a, config.alpha)},
        "use_rslora": config.rslora,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "use_dora": False,
    }


def _target_modules(model: nn.Module, targets: str | tuple[str, ...], names: list[str]) -> str | list[str]:
    """The shortest list that PEFT's rule (full name, or its end at a dot) expands to exactly the adapted layers."""
    if isinstance(targets, str) and targets != ALL_LINEAR:
        return targets
    ends = sorted({name.rpartition(".")[2] for name in names}) if targets == ALL_LINEAR else sorted(targets)
    reached = {name for name, _ in model.named_modules() if any(is_target(name, end) for end in ends)}
    return ends if reached == set(names) else names


def load_adapter(model: nn.Module, directory: Path) -> LoRAConfig:
    """Put the adapter stored in `directory` on `model`, trainable and unmerged, and return its settings.

    The base weights are frozen. Which layers are adapted is read from the tensors themselves. Raises ModelError, naming the
    module or the setting, when the adapter was made for another model, is damaged, or uses a feature we do not compute.
    """
    if lora_layers(model):
        raise ModelError(
            "the model has an adapter already", where=str(directory), fix="load the model without it"
        )
    settings, pairs = read_fitting(model, directory)
    model.requires_grad_(False)
    for name, (a, b) in pairs.items():
        rank = a.shape[0]
        layer = wrap(model, name, rank, settings.scale(name, rank), settings.dropout)
        layer.lora_A.data.copy_(a)
        layer.lora_B.data.copy_(b)
    return settings.lora(pairs)


def read_fitting(
    model: nn.Module, directory: Path
) -> tuple[AdapterSettings, dict[str, tuple[Tensor, Tensor]]]:
    """An adapter's settings and its matrices by layer (see `read_pairs`). Raises ModelError when it was made for another model."""
    settings, pairs = read_adapter_config(directory), read_pairs(directory)
    modules = dict(model.named_modules())
    for name, (a, b) in pairs.items():
        _check_fit(modules.get(name), name, a, b, settings.base_model_name_or_path, directory)
    return settings, pairs


def _check_fit(
    module: nn.Module | None, name: str, a: Tensor, b: Tensor, made_for: str | None, directory: Path
) -> None:
    fix = (
        f"it was made for {made_for}: load it on that model"
        if made_for
        else "load it on the model it was made for"
    )
    if module is None:
        raise ModelError(
            f"the adapter is for another model: there is no module `{name}`", where=str(directory), fix=fix
        )
    if not isinstance(module, nn.Linear):
        raise ModelError(
            f"the adapter adapts `{name}`, a {type(module).__name__}; only linear layers are supported",
            where=str(directory),
        )
    if (a.shape[1], b.shape[0], a.shape[0]) != (module.in_features, module.out_features, b.shape[1]):
        raise ModelError(
            f"the adapter does not fit `{name}`: it expects {a.shape[1]} inputs and {b.shape[0]} outputs, "
            f"the model has {module.in_features} and {module.out_features}",
            where=str(directory),
            fix=fix,
        )
