"""A model in memory to a Hugging Face directory that any tool loads: adapters merged, safetensors, tokenizer beside it.

The directory appears whole: it is written beside its place and renamed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.errors import OutputError
from bethink.core.files import explain_os_errors
from bethink.models.lora_layer import lora_layers
from bethink.models.weights import make_readable

# What makes a directory's tokenizer: copied as it is, so that training and serving split text alike.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


def export(
    model: PreTrainedModel, tokenizer_dir: Path, out_dir: Path, *, dtype: torch.dtype | None = None
) -> Path:
    """Write `model` with its adapters merged, and the tokenizer of `tokenizer_dir`, into the new directory `out_dir`.

    dtype: the format of the weights; None keeps the model's. The model itself is left as it is. Raises OutputError when `out_dir`
    holds something already or cannot be written.
    """
    if out_dir.is_file() or (out_dir.is_dir() and any(out_dir.iterdir())):
        raise OutputError("the output exists already", where=str(out_dir), fix="choose another --output")
    dtype = dtype or next(model.parameters()).dtype
    with explain_os_errors(out_dir):
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=out_dir.parent) as scratch:
            built = Path(scratch) / "model"
            _save(model, dtype, built)
            copy_tokenizer(tokenizer_dir, built)
            make_readable(built)
            if out_dir.is_dir():
                out_dir.rmdir()
            os.rename(built, out_dir)
    return out_dir


def merged_state(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's tensors under the names they would have had without adapters, adapters merged, floats in `dtype`."""
    layers = lora_layers(model)
    state: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}  # by the address of the model's own tensor: tied weights stay one and are stored once
    for name, tensor in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if owner in layers:
            continue
        plain = owner.removesuffix(".base")
        adapted = plain in layers and plain != owner
        if tensor.is_floating_point():
            merged = layers[plain].merged_weight() if adapted and leaf == "weight" else tensor
            tensor = made.setdefault(tensor.data_ptr(), merged.to(dtype))
        state[f"{plain}.{leaf}" if adapted else name] = tensor
    return state


def _save(model: PreTrainedModel, dtype: torch.dtype, directory: Path) -> None:
    before = model.config.dtype, model.config.use_cache
    model.config.dtype, model.config.use_cache = dtype, True
    try:
        model.save_pretrained(directory, state_dict=merged_state(model, dtype))
    finally:
        model.config.dtype, model.config.use_cache = before


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy the tokenizer's files, byte for byte."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
