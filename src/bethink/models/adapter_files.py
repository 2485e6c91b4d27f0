"""Adapters on disk in PEFT's file format, so that PEFT, vLLM and llama.cpp's converter read ours and we read theirs.

A directory with `adapter_config.json` and `adapter_model.safetensors`; the tensors of module M are called
`base_model.model.M.lora_A.weight` [rank, in] and `base_model.model.M.lora_B.weight` [out, rank]. What we cannot compute (DoRA, extra
saved modules, biases, embeddings, pickled weights) is refused by name rather than half loaded. Knows names and tensors, no modules;
imports torch only where tensors are read or written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bethink.core.errors import DataError, ModelError
from bethink.core.files import atomic_path, read_json, write_json
from bethink.models.weights import as_os_error, make_readable

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

# Settings of PEFT's that change what an adapter computes and that we do not: anything but these values is refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "bias": ("none",),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None, []),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "kasa_config": (None,),
    "arrow_config": (None,),
}


def write_adapter(
    directory: Path, settings: Mapping[str, Any], pairs: Mapping[str, tuple[Tensor, Tensor]]
) -> None:
    """Write an adapter; each of its two files is whole or absent, the settings last.

    pairs: module name -> (A [rank, in], B [out, rank]).
    """
    from safetensors.torch import save_file

    tensors = {
        f"{_PREFIX}{name}.lora_{side}.weight": tensor.detach().cpu().contiguous()
        for name, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    with atomic_path(directory / WEIGHTS) as temporary, as_os_error():
        save_file(tensors, temporary, metadata={"format": "pt"})
        make_readable(temporary)
    write_json(directory / CONFIG, settings)


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """`adapter_config.json` of an adapter that we can compute. Raises ModelError for any other."""
    path = directory / CONFIG
    if not path.is_file():
        raise ModelError(
            f"not an adapter: there is no {CONFIG}", where=str(directory), fix=_nearby(directory)
        )
    try:
        settings = read_json(path)
    except DataError as error:
        raise ModelError(error.what, where=str(path), fix="save the adapter again") from error
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else None
        raise ModelError(f"the adapter is of type {kind}; only LORA is supported", where=str(path))
    for key, allowed in _NEUTRAL.items():
        value = settings.get(key, allowed[0])
        if value not in allowed:
            raise ModelError(
                f"the adapter uses `{key}` = {json.dumps(value)}, which is not supported",
                where=str(path),
                fix="merge it into its base model with PEFT (`merge_and_unload`, `save_pretrained`) and pass the merged directory",
            )
    return settings


def _nearby(directory: Path) -> str:
    for name in ("adapter", "final"):
        if (directory / name / CONFIG).is_file():
            return f"pass {directory / name}"
    return "pass the directory that `bethink sft` or PEFT's save_pretrained wrote"


def read_pairs(directory: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A [rank, in], B [out, rank]) in fp32, in the file's order."""
    path = directory / WEIGHTS
    if not path.is_file():
        if (directory / "adapter_model.bin").exists():
            raise ModelError(
                "the adapter is stored as a pickle (adapter_model.bin), which can run code when opened and is never read",
                where=str(directory),
                fix="if you trust it, load it with PEFT and save it again: `save_pretrained(..., safe_serialization=True)`",
            )
        raise ModelError(f"the adapter has no {WEIGHTS}", where=str(directory))
    import torch
    from safetensors import SafetensorError, safe_open

    sides: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (not a dict)
                match = _TENSOR.fullmatch(key)
                if not match:
                    raise ModelError(f"the adapter holds a tensor we cannot place: `{key}`", where=str(path))
                sides.setdefault(match["module"], {})[match["side"]] = tensors.get_tensor(key).to(
                    torch.float32
                )
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the adapter: {error}", where=str(path)) from error
    for module, found in sides.items():
        if len(found) != 2:
            raise ModelError(f"the adapter of `{module}` lacks one of its two matrices", where=str(path))
    if not sides:
        raise ModelError("the adapter is empty", where=str(path))
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def by_pattern(patterns: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """The value of the first pattern that matches the end of `name` at a dot, as PEFT resolves rank_pattern and alpha_pattern."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return otherwise
