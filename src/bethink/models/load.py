"""From located files to a model in memory that our attention function serves.

Refuses, before the weights are read, what could not work: too little memory, an architecture that is no plain decoder, features our
attention does not compute. After loading, `prove_attention` compares the model with transformers' own eager attention on a few
tokens, so that an architecture nobody thought of is caught too. Code that comes with a model is never run, pickles are never read.
"""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from bethink.core.errors import ModelError
from bethink.models import attention
from bethink.models.fused.layers import fuse_
from bethink.models.lora import load_adapter, merge_
from bethink.models.machine import best_device, best_dtype, free_memory, keep_freed_memory
from bethink.models.weights import tensor_sizes

if TYPE_CHECKING:
    from bethink.models.locate import ModelFiles

__all__ = ["best_device", "best_dtype", "fits", "free_on", "lay_out", "load_model", "prove_attention"]

# Of a loaded model's bytes: room for buffers, activations of a few tokens and the allocator's rounding.
_HEADROOM = 1.1
# Root mean square of our logits' distance from eager attention's, in the logits' own standard deviations. Rounding in bf16 makes
# about 0.03, a wrong attention 0.2 and more.
_TOLERANCE = 0.15
_LAYER_KINDS = {"full_attention", "sliding_attention"}
_UNSERVED = {
    "attn_logit_softcapping": "soft-capped attention scores",
    "final_logit_softcapping": "soft-capped output logits",
    "attention_chunk_size": "chunked attention",
    "alibi": "ALiBi position biases",
}


def load_model(
    files: ModelFiles,
    *,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    merge: bool = False,
    check_memory: bool = True,
) -> PreTrainedModel:
    """The model in evaluation mode, its adapter (if any) applied, trainable and unmerged unless `merge`.

    dtype, device: None takes what this machine is best at (`best_dtype`, `best_device`). Raises ModelError when the model cannot
    be served, its files are damaged, its config describes no model, or it does not fit into free memory (`check_memory=False` tries
    anyway).
    """
    device = device or best_device()
    dtype = dtype or best_dtype(device)
    config = _read_config(files)
    refuse_unserved(config, files.name)
    if check_memory:
        _check_memory(files, dtype, device)
    keep_freed_memory()
    model = _read_weights(files, config, dtype)
    try:
        model.to(device)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the GPU has too little memory for {files.name}", fix="free it or use --device cpu"
        ) from error
    model.eval()
    model.config.use_cache = False
    prove_attention(model, files.name)
    fuse_(model)
    if files.adapter is not None:
        load_adapter(model, files.adapter)
        if merge:
            merge_(model)
    return model


def lay_out(files: ModelFiles, dtype: torch.dtype) -> PreTrainedModel:
    """The model in every size and without weights (on the meta device), as it is without an adapter.

    Raises ModelError for one that cannot be served or a config that describes no model.
    """
    config = _read_config(files)
    refuse_unserved(config, files.name)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention.register()
            )
    except Exception as error:  # a config can be wrong in as many ways as there are layers built from it
        raise ModelError(
            f"cannot lay out {files.name}: {_in_short(error)}", where=str(files.directory / "config.json")
        ) from error
    return model


def _read_config(files: ModelFiles) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(files.directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises what comes, by the key that is wrong
        raise ModelError(
            f"transformers cannot build this model: {_in_short(error)}",
            where=str(files.directory / "config.json"),
            fix="a newer transformers may know it; code that ships with a model is never run",
        ) from error


def refuse_unserved(config: PretrainedConfig, name: str) -> None:
    """Raise ModelError for a configuration that our attention and training cannot compute."""
    if reason := _unserved(config):
        raise _unserved_error(config, name, reason)


def _unserved_error(config: PretrainedConfig, name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name} ({config.model_type}) cannot be used here: {reason}",
        fix="choose a decoder-only model with plain (full or sliding-window) attention, such as Llama, Qwen or Mistral; "
        "or serve it elsewhere and pass --endpoint",
    )


def _unserved(config: PretrainedConfig) -> str | None:
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    if getattr(config, "quantization_config", None):
        return "its weights are quantized; pass the original or a GGUF file, which is unpacked"
    if config.model_type == "gpt_oss":
        return "it has attention sinks"
    text = config.get_text_config(decoder=True)
    for key, feature in _UNSERVED.items():
        if getattr(text, key, None):
            return f"it has {feature} (`{key}`)"
    kinds = set(getattr(text, "layer_types", None) or ()) - _LAYER_KINDS
    if kinds:
        return f"it has layers that are not attention ({', '.join(sorted(kinds))})"
    for key in ("logits_scaling", "logit_scale", "lm_head_multiplier"):
        if getattr(text, key, None) not in (None, 1, 1.0):
            return f"it rescales its output logits (`{key}`)"
    return None


def _check_memory(files: ModelFiles, dtype: torch.dtype, device: str) -> None:
    on_gpu = device.startswith("cuda")
    needed, free = _needed(files, dtype), free_on(device)
    if needed > free:
        smaller = "" if dtype.itemsize == 2 else ", --dtype bfloat16"
        raise ModelError(
            f"{files.name} needs about {needed / 1e9:.1f} GB of {'GPU ' if on_gpu else ''}memory as {str(dtype)[6:]}; "
            f"{free / 1e9:.1f} GB are free",
            where=device,
            fix=f"free some memory, or choose a smaller model{smaller}{', --device cpu' if on_gpu else ''}",
        )


def fits(files: ModelFiles, dtype: torch.dtype, device: str) -> bool:
    """Whether `load_model` would find memory enough."""
    return _needed(files, dtype) <= free_on(device)


def _needed(files: ModelFiles, dtype: torch.dtype) -> int:
    parameters = sum(count for count, _ in tensor_sizes(files.directory).values())
    return int(parameters * dtype.itemsize * _HEADROOM)


def free_on(device: str) -> int:
    """Bytes that are free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_memory()


def _read_weights(files: ModelFiles, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    silence_transformers()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            files.directory,
            config=config,
            dtype=dtype,
            attn_implementation=attention.register(),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # a config can be wrong in as many ways as there are layers built from it
        if isinstance(error, KeyError) and error.args == (attention.NAME,):
            raise _unserved_error(config, files.name, "its attention cannot be replaced") from error
        raise ModelError(
            f"cannot load {files.name}: {_in_short(error)}",
            where=str(files.directory),
            fix="check that the weights belong to this config.json and are complete",
        ) from error
    missing = sorted(report["missing_keys"]) + [str(key) for key in sorted(report["mismatched_keys"])]
    if missing:
        raise ModelError(
            f"the weights lack {len(missing)} of the model's tensors, the first is `{missing[0]}`",
            where=str(files.directory),
            fix="check that the weights belong to this config.json and are complete",
        )
    return model


def _in_short(error: Exception) -> str:
    said = textwrap.shorten(str(error), 200, placeholder=" ...")
    return said if " " in said else f"{type(error).__name__} {said}".rstrip()


def silence_transformers() -> None:
    """Keep transformers' bars and advice off the terminal unless the user asked for them."""
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


class _Witness:
    """A cache that keeps nothing: attends as without one, and remembers which layers asked."""

    def __init__(self) -> None:
        self.layers: list[int] = []

    def attend(
        self,
        layer: int,
        query_BKTH: Tensor,
        key_BKTH: Tensor,
        value_BKTH: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        self.layers.append(layer)
        return attention.causal(query_BKTH, key_BKTH, value_BKTH, scale, window).transpose(1, 2)


@torch.no_grad()
def prove_attention(model: PreTrainedModel, name: str) -> None:
    """Raise ModelError unless every layer attends through our function, and as transformers' own eager attention does.

    Three forward passes of a few tokens: two samples packed in one row must give what the first gives alone through a cache handle
    and the second alone through eager attention. This catches what no name in the config tells: attention sinks, position biases,
    states that leak from one sample into the next, layers with an attention of their own.
    """
    text = model.config.get_text_config(decoder=True)
    lengths = (7, 5)
    ids_BT = (torch.arange(sum(lengths), device=model.device) * 37 + 11).remainder(text.vocab_size)[None]
    positions_BT = torch.cat([torch.arange(n, device=model.device) for n in lengths])[None]
    first, second = ids_BT.split(lengths, dim=1)
    witness = _Witness()
    try:
        packed = model(ids_BT, position_ids=positions_BT, segments=lengths, use_cache=False).logits.float()
        cached = model(
            first, position_ids=positions_BT[:, : lengths[0]], kv_cache=witness, use_cache=False
        ).logits.float()
        model.set_attn_implementation("eager")
        eager = model(second, use_cache=False).logits.float()
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError) as error:
        raise _unserved_error(
            model.config, name, f"it does not accept our attention function ({error})"
        ) from error
    finally:
        model.set_attn_implementation(attention.NAME)
    if sorted(witness.layers) != list(range(text.num_hidden_layers)):
        raise _unserved_error(model.config, name, "some of its layers have an attention of their own")
    alone = torch.cat([cached, eager], dim=1)
    difference = ((packed - alone).square().mean().sqrt() / alone.std()).item()
    if not difference <= _TOLERANCE:
        reason = f"our attention changes its logits by {difference:.0%} of their spread"
        raise _unserved_error(model.config, name, reason)
