"""A model in memory to a Hugging Face directory that any tool loads: adapters merged, safetensors, tokenizer beside it.

The directory appears whole: it is written beside its place and renamed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.files import explain_os_errors, read_json, write_json
from bethink.models.lora_layer import lora_layers
from bethink.models.weights import as_os_error, make_readable, require_new, scratch_beside

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
    require_new(out_dir)
    dtype = dtype or next(model.parameters()).dtype
    with explain_os_errors(out_dir):
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(out_dir) as scratch:
            built = scratch / "model"
            _save(model, dtype, built)
            copy_tokenizer(tokenizer_dir, built)
            make_readable(*built.iterdir())
            if out_dir.is_dir():
                out_dir.rmdir()
            os.rename(built, out_dir)
    return out_dir


def merged_state(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's tensors under the names they would have had without adapters, adapters merged, floats in `dtype`."""
    layers = lora_layers(model)
    state: dict[str, Tensor] = {}
    # By the address of the model's own tensor: tied weights stay one tensor and are stored once.
    made: dict[int, Tensor] = {}
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
    before = model.config.dtype  # which save_pretrained turns into a string
    with as_os_error():
        model.save_pretrained(directory, state_dict=merged_state(model, dtype))
    model.config.dtype = before
    path = (
        directory / "config.json"
    )  # in which save_pretrained describes the model in memory, not the tensors it was given
    write_json(path, read_json(path) | {"dtype": str(dtype).removeprefix("torch."), "use_cache": True})


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy the tokenizer's files, byte for byte."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
