"""Whether training fits into the device's memory, and how much of a step is computed again so that it does (`models.recompute`)."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from bethink.core.console import note, warn
from bethink.core.errors import PreflightError
from bethink.models.checkpointing import enable
from bethink.models.machine import free_memory
from bethink.models.recompute import Recompute, choose
from bethink.train.config import RunConfig
from bethink.train.memory import training_memory


def fit(config: RunConfig, model: PreTrainedModel, row_tokens: int, *, beside: int = 0) -> Recompute:
    """Make the model's layers recompute what memory cannot hold, or what the options ask for; returns what they do.

    row_tokens: tokens of the longest micro-batch; beside: bytes that stay taken during training. Raises PreflightError where even that is
    too much and `allow_memory` is not set.
    """
    free = memory_free(model.device, model) - beside

    def needed(level: Recompute) -> int:
        return memory_needed(model, row_tokens, recompute=level)

    recompute = choose(config.gradient_checkpointing, needed, free)
    if needed(recompute) > free:
        error = too_large(needed(recompute) + beside, free + beside)
        if not config.allow_memory:
            raise error
        warn(error.what)
    recompute = enable(model, recompute)
    if recompute is not Recompute.NOTHING:
        note(f"the backward pass recomputes: {recompute}")
    return recompute


def too_large(needed: float, free: float) -> PreflightError:
    """What is said when so many bytes are needed and so many free."""
    return PreflightError(
        f"training needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
        fix="lower --tokens-per-microbatch or the longest row's tokens, use LoRA instead of all weights, or try all the same with --allow-memory --resume",
    )


def memory_needed(
    model: PreTrainedModel, row_tokens: int, *, recompute: Recompute, device: torch.device | None = None
) -> int:
    """An estimate of the bytes training this model takes at its peak, with micro-batches of `row_tokens` tokens.

    device: where it will train; None: where it is.
    """
    config: Any = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return training_memory(
        weights=sum(p.numel() * p.element_size() for p in model.parameters()),
        trained=sum(
            p.numel() * (12 if p.dtype == torch.float32 else 16)
            for p in model.parameters()
            if p.requires_grad
        ),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        feed_forward=getattr(config, "intermediate_size", 4 * config.hidden_size),
        queries=heads * size,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
        vocabulary=config.vocab_size,
        number_bytes=model.get_output_embeddings().weight.element_size(),
        row_tokens=row_tokens,
        recompute=recompute,
        device=(device or model.device).type,
    )


def memory_free(device: torch.device, model: PreTrainedModel) -> int:
    """Bytes training may use on the device: what is free now plus what the model already takes there, nothing if it is only laid out."""
    weights: int = sum(p.numel() * p.element_size() for p in model.parameters() if not p.is_meta)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + weights
    return free_memory() + weights
