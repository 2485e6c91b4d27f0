"""Adapters on disk in PEFT's file format, so that PEFT, vLLM and llama.cpp's converter read ours and we read theirs.

A directory with `adapter_config.json` and `adapter_model.safetensors`; the tensors of module M are called
`base_model.model.M.lora_A.weight` [rank, in] and `base_model.model.M.lora_B.weight` [out, rank]. What we cannot compute (DoRA, extra
saved modules, biases, embeddings, pickled weights, an initialisation that changes the base weights) is refused by name rather than
half loaded. Knows names and tensors, no modules; imports torch only where tensors are read or written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, field_validator

from bethink.core.config import StrictModel, validate
from bethink.core.errors import ConfigError, DataError, ModelError
from bethink.core.files import atomic_path, read_object, write_json
from bethink.models.lora_config import LoRAConfig, expression, scale_of
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
# Where an adapter may have begun. PEFT's other initialisations take part of the base weights into the adapter and subtract it from
# them, so that the adapter is right on those changed weights only.
_NEUTRAL_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")

_Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# A pattern is matched with the end of a module's name at a dot.
_Pattern = Annotated[str, AfterValidator(lambda text: expression(rf"(.*\.)?({text})$"))]


class AdapterSettings(StrictModel):
    """What of adapter_config.json decides what an adapter computes, with PEFT's names and defaults; its other keys are passed over."""

    model_config = ConfigDict(extra="ignore")

    base_model_name_or_path: str | None = None
    r: int = Field(8, ge=1)
    lora_alpha: _Alpha = 8.0
    alpha_pattern: dict[_Pattern, _Alpha] | None = None
    lora_dropout: float | None = Field(None, ge=0, lt=1)
    target_modules: str | tuple[str, ...] | None = None
    use_rslora: bool | None = None

    @field_validator("target_modules")
    @classmethod
    def _usable(cls, targets: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        return expression(targets) if isinstance(targets, str) else targets

    @property
    def dropout(self) -> float:
        """Share of the adapter's input zeroed while training."""
        return self.lora_dropout or 0.0

    def scale(self, module: str, rank: int) -> float:
        """The factor that the product on `module`, of this rank, is multiplied by; the first pattern that matches counts."""
        patterns = (self.alpha_pattern or {}).items()
        alpha = next((alpha for text, alpha in patterns if re.match(text, module)), self.lora_alpha)
        return scale_of(alpha, rank, rslora=bool(self.use_rslora))

    def lora(self, modules: Iterable[str]) -> LoRAConfig:
        """The settings in our own words. modules: those the adapter is on, for a file that does not name its targets."""
        targets = self.target_modules
        return LoRAConfig(
            rank=self.r,
            alpha=self.lora_alpha,
            dropout=self.dropout,
            targets=targets or tuple(modules),
            rslora=bool(self.use_rslora),
        )


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


def read_adapter_config(directory: Path) -> AdapterSettings:
    """The settings of an adapter that we can compute. Raises ModelError for any other, naming the key."""
    path = directory / CONFIG
    if not path.is_file():
        raise ModelError(
            f"not an adapter: there is no {CONFIG}", where=str(directory), fix=_nearby(directory)
        )
    try:
        settings = read_object(path)
    except DataError as error:
        raise ModelError(error.what, where=str(path), fix="save the adapter again") from error
    if settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type")
        raise ModelError(f"the adapter is of type {kind}; only LORA is supported", where=str(path))
    for key, allowed in _NEUTRAL.items():
        value = settings.get(key, allowed[0])
        if value not in allowed:
            raise ModelError(
                f"the adapter uses `{key}` = {json.dumps(value)}, which is not supported",
                where=str(path),
                fix=_MERGE,
            )
    start = settings.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in _NEUTRAL_STARTS:
        raise ModelError(
            f"the adapter uses `init_lora_weights` = {json.dumps(start)}, which changes the base weights",
            where=str(path),
            fix="save it from PEFT as a plain one (`save_pretrained(DIR, path_initial_model_for_weight_conversion=...)`), "
            f"or {_MERGE}",
        )
    try:
        return validate(AdapterSettings, settings, name=str(path))
    except ConfigError as error:
        raise ModelError(error.what, where=error.where, fix="mend it, or save the adapter again") from error


_MERGE = "merge it into its base model with PEFT (`merge_and_unload`, `save_pretrained`) and pass the merged directory"


def _nearby(directory: Path) -> str:
    for name in ("adapter", "final"):
        if (directory / name / CONFIG).is_file():
            return f"pass {directory / name}"
    return "pass the directory that `bethink sft` or PEFT's save_pretrained wrote"


def read_pairs(directory: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A [rank, in], B [out, rank]) in fp32, in the file's order. Raises ModelError for files that hold anything else."""
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
        if any(side.ndim != 2 or not side.numel() for side in found.values()):
            raise ModelError(f"the adapter of `{module}` is no pair of matrices", where=str(path))
    if not sides:
        raise ModelError("the adapter is empty", where=str(path))
    return {module: (found["A"], found["B"]) for module, found in sides.items()}
