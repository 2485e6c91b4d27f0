"""GGUF files (llama.cpp's format) unpacked into a plain Hugging Face directory.

The Llama, Qwen2 and Qwen3 families are converted here: tensors dequantized by the `gguf` package, renamed, and, for Llama, with the
rows of the query and key projections put back into the order transformers expects (llama.cpp stores the rotary pairs interleaved).
Other families go through transformers' own reader. Tensor and metadata names are those of the GGUF specification; the tokenizer is
gguf_tokenizer.py's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bethink.core.errors import BethinkError, ModelError
from bethink.core.files import write_json
from bethink.models.gguf_tokenizer import special_ids, write_tokenizer
from bethink.models.weights import INDEX, SINGLE, as_os_error

_ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"
_SHARD_BYTES = 4 << 30
# What llama.cpp's converter assumes of Llama 3's rotary scaling and does not write into the file.
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class GGUF:
    """A GGUF file's metadata, and its tensors (name -> the `gguf` package's tensor, mapped from disk)."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Any]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def dtype(self) -> torch.dtype:
        """The format to keep: what the file holds if it is not quantized, else bf16."""
        types = {tensor.tensor_type.name for tensor in self.tensors.values()}
        if types == {"F32"}:
            return torch.float32
        return torch.float16 if types <= {"F32", "F16"} else torch.bfloat16

    @property
    def unpacked_bytes(self) -> int:
        """Size of the weights once unpacked."""
        return sum(int(tensor.n_elements) for tensor in self.tensors.values()) * self.dtype.itemsize

    def own(self, key: str, default: Any = None) -> Any:
        """A metadata value of the file's architecture. Raises ModelError when it is missing and there is no default."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise ModelError(f"the GGUF file lacks `{self.architecture}.{key}`", where=str(self.path))
        return (
            float(np.format_float_scientific(np.float32(value), trim="-"))
            if isinstance(value, float)
            else value
        )


def read_gguf(path: Path) -> GGUF:
    """Open a GGUF file. Raises ModelError when it is damaged, or one part of a split model."""
    from gguf import GGUFReader

    with _damage_named(path):
        reader = GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        parts = int(metadata.get("split.count") or 1)
    if parts > 1:
        raise ModelError(
            "one part of a split GGUF model",
            where=str(path),
            fix="join the parts: llama-gguf-split --merge FIRST_PART JOINED.gguf",
        )
    if not tensors:
        raise ModelError("the GGUF file holds no weights", where=str(path))
    return GGUF(path, metadata, tensors)


def convert(gguf: GGUF, directory: Path) -> None:
    """Write config, weights and tokenizer of `gguf` into `directory`.

    Raises ModelError for a file whose contents make no model, and for what cannot be converted faithfully.
    """
    with _damage_named(gguf.path):
        if gguf.architecture in _ARCHITECTURES:
            _convert(gguf, directory)
        else:
            _convert_with_transformers(gguf, directory)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """A damaged file has anything in any place, and the libraries it goes through raise as much: whatever it is, name the file.

    Errors of our own, of the disk and of memory keep their names.
    """
    try:
        yield
    except (BethinkError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"the GGUF file is damaged or cut short: {_said(error)}",
            where=str(path),
            fix="download it again",
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {next(iter(str(error).splitlines()), '')}".rstrip()


def _convert(gguf: GGUF, directory: Path) -> None:
    write_json(directory / "config.json", config_of(gguf))
    ids = special_ids(gguf.metadata)
    stops = list(dict.fromkeys(ids[k] for k in ("eos", "eot", "eom") if k in ids))
    generation = {"eos_token_id": stops if len(stops) > 1 else stops[0] if stops else None}
    generation |= {f"{k}_token_id": ids[k] for k in ("bos", "pad") if k in ids}
    write_json(directory / "generation_config.json", generation)
    write_tokenizer(gguf.path, gguf.metadata, directory)
    _write_weights(gguf, directory)


def config_of(gguf: GGUF) -> dict[str, Any]:
    """transformers' config.json for a file of a family converted here."""
    kind, class_name = _ARCHITECTURES[gguf.architecture]
    heads, width = gguf.own("attention.head_count"), gguf.own("embedding_length")
    ids = special_ids(gguf.metadata)
    config = {
        "architectures": [class_name],
        "model_type": kind,
        "vocab_size": int(gguf.tensors["token_embd.weight"].shape[1]),
        "hidden_size": width,
        "intermediate_size": gguf.own("feed_forward_length"),
        "num_hidden_layers": gguf.own("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.own("attention.head_count_kv", heads),
        "head_dim": gguf.own("attention.key_length", gguf.own("rope.dimension_count", width // heads)),
        "max_position_embeddings": gguf.own("context_length"),
        "rms_norm_eps": gguf.own("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "rope_parameters": _rope(gguf),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "dtype": str(gguf.dtype)[6:],
        **{f"{k}_token_id": ids[k] for k in ("bos", "eos", "pad") if k in ids},
    }
    if kind != "qwen2":  # whose projections always have a bias
        config["attention_bias"] = "blk.0.attn_q.bias" in gguf.tensors
    return config


def _rope(gguf: GGUF) -> dict[str, Any]:
    theta = gguf.own("rope.freq_base", 10000.0)
    kind = gguf.own("rope.scaling.type", "none")
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": gguf.own("rope.scaling.factor")}
    if kind != "none":
        raise ModelError(
            f"rotary scaling of type `{kind}` is not converted",
            where=str(gguf.path),
            fix="pass the model's original Hugging Face directory",
        )
    if _ROPE_FACTORS not in gguf.tensors:
        return {"rope_type": "default", "rope_theta": theta}
    stored = np.asarray(gguf.tensors[_ROPE_FACTORS].data, dtype=np.float32)
    factor = float(stored.max())
    if not np.allclose(stored, _llama3_factors(theta, 2 * stored.size, factor), rtol=1e-3):
        raise ModelError(
            "the file stretches its rotary frequencies in a way that is not Llama 3's",
            where=str(gguf.path),
            fix="pass the model's original Hugging Face directory",
        )
    return {"rope_type": "llama3", "rope_theta": theta, "factor": factor, **_LLAMA3_ROPE}


def _llama3_factors(theta: float, width: int, factor: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """By how much Llama 3 divides each of the width / 2 rotary frequencies: long waves by `factor`, short ones not, smooth between."""
    low, high = _LLAMA3_ROPE["low_freq_factor"], _LLAMA3_ROPE["high_freq_factor"]
    frequency = theta ** (-np.arange(0, width, 2) / width)
    turns = _LLAMA3_ROPE["original_max_position_embeddings"] * frequency / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - share) / factor + share))


def _write_weights(gguf: GGUF, directory: Path) -> None:
    """The tensors as safetensors, in files of about 4 GB so that a large model never stands whole in memory."""
    from safetensors.torch import save_file

    shards: list[dict[str, Tensor]] = [{}]
    places: dict[str, int] = {}
    used = 0

    def flush() -> None:
        with as_os_error():
            save_file(shards[-1], directory / f"shard-{len(shards)}", metadata={"format": "pt"})

    for name, tensor in _tensors(gguf):
        size = tensor.nbytes
        if used and used + size > _SHARD_BYTES:
            flush()
            shards[-1] = {}
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        places[name] = len(shards)
        used += size
    flush()
    count = len(shards)
    if count == 1:
        (directory / "shard-1").rename(directory / SINGLE)
        return
    names = {n: f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)}
    for number, name in names.items():
        (directory / f"shard-{number}").rename(directory / name)
    total = gguf.unpacked_bytes
    write_json(
        directory / INDEX,
        {"metadata": {"total_size": total}, "weight_map": {k: names[n] for k, n in places.items()}},
    )


def _tensors(gguf: GGUF) -> Iterator[tuple[str, Tensor]]:
    """(transformers' name, tensor) of every weight."""
    from gguf.quants import dequantize

    heads = gguf.own("attention.head_count")
    rows_of = {"attn_q": heads, "attn_k": gguf.own("attention.head_count_kv", heads)}
    for name, packed in gguf.tensors.items():
        if name == _ROPE_FACTORS:
            continue
        target = rename(name)
        if target is None:
            raise ModelError(
                f"the GGUF file holds a tensor this family should not have: `{name}`",
                where=str(gguf.path),
                fix="pass the model's original Hugging Face directory",
            )
        try:
            values = dequantize(packed.data, packed.tensor_type)
        except NotImplementedError as error:
            raise ModelError(
                f"weights of type {packed.tensor_type.name} cannot be unpacked", where=str(gguf.path)
            ) from error
        part = name.split(".")[-2]
        if gguf.architecture == "llama" and part in rows_of:
            values = _halves(values, rows_of[part])
        yield target, torch.from_numpy(np.array(values)).to(gguf.dtype)


def rename(name: str) -> str | None:
    """transformers' name of a GGUF tensor; None when there is none."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)", name)
    if not match:
        return None
    layer, part, kind = match.groups()
    if layer is None:
        return f"{_OUTER[part]}.{kind}" if part in _OUTER else None
    return f"model.layers.{layer}.{_INNER[part]}.{kind}" if part in _INNER else None


def _halves(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a query or key projection from interleaved rotary pairs to the two halves of each head."""
    split = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return split.swapaxes(1, 2).reshape(values.shape)


def _convert_with_transformers(gguf: GGUF, directory: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: dict[str, Any] = {"gguf_file": gguf.path.name, "local_files_only": True}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            gguf.path.parent,
            dtype=gguf.dtype,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            **place,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.path.parent, **place)
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        raise ModelError(
            f"a GGUF file of the family `{gguf.architecture}` cannot be converted: {_said(error)}",
            where=str(gguf.path),
            fix="pass the model's original Hugging Face directory",
        ) from error
    if missing := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise ModelError(
            f"the GGUF file lacks {len(missing)} of the model's tensors, the first is `{missing[0]}`",
            where=str(gguf.path),
            fix="download it again, or pass the model's original Hugging Face directory",
        )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with as_os_error():
        model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
