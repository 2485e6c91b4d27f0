"""How fast and how large a planned stage is: from the recipe's `assume` where it names another machine, else from this machine's speed.

Of this machine the floor is known (models/known_speed.py), and the usual share of it is expected. Neither torch nor transformers is
imported for a model whose sizes stand in its config and a speed that was measured before; without these it takes some seconds more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bethink.core.errors import ConfigError
from bethink.core.files import read_json
from bethink.models.cost import Shape, decode_step, prefill, sft_step
from bethink.models.known_speed import recall, speed_of
from bethink.models.lora_config import ALL_LINEAR
from bethink.models.recompute import Recompute, choose
from bethink.models.shape import parameters, shape_from, shape_of
from bethink.models.speed import USUAL_SHARE, Speed
from bethink.train.memory import training_memory

if TYPE_CHECKING:
    from bethink.recipe.schema import Assume

Sizes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rate:
    """tokens_per_second, and what it rests on in words."""

    tokens_per_second: float
    words: str


def training_rate(config: Any, assume: Assume) -> Rate | None:
    """How fast an sft stage trains; None where nothing tells."""
    if assume.tflops and assume.parameters:
        flops = (6 if config.full else 4) * assume.parameters
        words = f"{assume.parameters / 1e9:.3g} billion parameters, {100 * assume.mfu:.0f} % of {assume.tflops:,.4g} TFLOP/s"
        return Rate(assume.tflops * 1e12 * assume.mfu / flops, words)
    if not assume.tokens_per_sample:
        return None
    shape, speed = _shape(config.model, assume), _speed(config, assume)
    if shape is None or speed is None:
        return None
    tokens = round(assume.tokens_per_sample)
    lengths = [tokens] * min(config.batch_size, 256)
    rank = None if config.full else config.rank
    step = sft_step(
        shape, lengths, sum(lengths) - _prompt(assume) * len(lengths), rank=rank, weight_bytes=speed.width
    )
    return _usual("sft", sum(lengths) / speed.floor(step, sum(lengths)))


def sampling_rate(config: Any, assume: Assume, rows: int) -> Rate | None:
    """How fast an eval stage samples `rows` completions; None where nothing tells."""
    if assume.sampled_tokens_per_second:
        return Rate(
            assume.sampled_tokens_per_second, f"{assume.sampled_tokens_per_second:,.0f} tokens a second"
        )
    if not assume.tokens_per_completion or config.model is None:
        return None
    shape, speed = _shape(config.model, assume), _speed(config, assume)
    if shape is None or speed is None:
        return None
    together, prompt, count = min(rows, config.slots), _prompt(assume), assume.tokens_per_completion
    step = decode_step(shape, together, prompt + count / 2, weight_bytes=speed.width)
    seconds = count * speed.floor(step, together)
    if prompt:
        begun = prefill(shape, [prompt] * together, weight_bytes=speed.width)
        seconds += speed.floor(begun, prompt * together)
    return _usual("eval", together * count / seconds)


def _prompt(assume: Assume) -> int:
    """Tokens of a prompt: how much of a sample it is, is not known here; half is a guess that changes little."""
    return round(assume.tokens_per_sample / 2) if assume.tokens_per_sample else 0


def _usual(work: str, most: float) -> Rate:
    share = USUAL_SHARE[work]
    return Rate(share * most, f"{100 * share:.0f} % of the floor, which is {most:,.0f} tokens/s")


def _speed(config: Any, assume: Assume) -> Speed | None:
    """This machine's, measured if need be; None where the recipe is planned for another, or for a device that is not here."""
    if not assume.here:
        return None
    if (known := recall(config.device, config.dtype)) is not None:
        return known
    from bethink.models.machine import resolve_device, torch_dtype

    try:
        device = resolve_device(config.device)
    except ConfigError:
        return None
    return speed_of(device, torch_dtype(config.dtype, device))


def memory(config: Any, assume: Assume) -> int | None:
    """Peak bytes of the training, from the model's shape; None when the shape is not known. Raises ConfigError for a shape of nothing."""
    where, sizes = _sizes(config.model, assume)
    if sizes is None:
        return None

    def needed(level: Recompute) -> int:
        return _memory(config, assume, sizes, where, level)

    free = assume.memory_gib * 2**30 if assume.memory_gib else math.inf
    return needed(choose(config.gradient_checkpointing, needed, free))


def _memory(config: Any, assume: Assume, sizes: Sizes, where: str, recompute: Recompute) -> int:
    row_tokens = config.tokens_per_microbatch or assume.tokens_per_microbatch
    shape = shape_from(sizes)
    if shape is None or (config.targets != ALL_LINEAR and not config.full):
        return _memory_laid_out(config, sizes, where, row_tokens, recompute)
    count = parameters(shape, sizes)
    adapter = config.rank * sum(size_in + size_out for layer in shape.layers for size_in, size_out in layer)
    return training_memory(
        weights=2 * count + (0 if config.full else 4 * adapter),
        trained=16 * count if config.full else 12 * adapter,
        layers=len(shape.layers),
        hidden=shape.hidden,
        feed_forward=sizes["intermediate_size"],
        queries=shape.heads * shape.head_size,
        keys=shape.kv_heads * shape.head_size,
        vocabulary=shape.vocabulary,
        number_bytes=2,
        row_tokens=row_tokens,
        recompute=recompute,
        device="cuda",
    )


def _memory_laid_out(config: Any, sizes: Sizes, where: str, row_tokens: int, recompute: Recompute) -> int:
    """The sft stage's own estimate, for a model that holds no weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from bethink.models.lora import add_lora
    from bethink.train.sft.preflight import memory_needed

    with torch.device("meta"):
        with _explained(where):
            model = AutoModelForCausalLM.from_config(_transformers_config(sizes), dtype=torch.bfloat16)
        if not config.full:
            model.requires_grad_(False)
            add_lora(model, config.lora, seed=0)
    return memory_needed(model, row_tokens, recompute=recompute)


def _shape(model: str, assume: Assume) -> Shape | None:
    where, sizes = _sizes(model, assume)
    if sizes is None:
        return None
    if (shape := shape_from(sizes)) is not None:
        return shape
    with _explained(where):
        return shape_of(_transformers_config(sizes))


def _transformers_config(sizes: Sizes) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(**sizes)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a shape can be wrong in as many ways as transformers has architectures
        raise ConfigError(
            f"no model has this shape: {' '.join(str(error).split())[:200]}",
            where=where,
            fix="give `model_type` and the sizes as the model's config.json has them",
        ) from error


def _sizes(model: str, assume: Assume) -> tuple[str, Sizes | None]:
    """The keys of the model's config.json and where they stand: in the recipe, or on this machine; nothing is fetched to make a plan."""
    from bethink.models.builtin import BUILTIN, cached, pull

    if assume.shape is not None:
        return "assume.shape", assume.shape
    if "+" in model and not os.path.exists(model):
        model = model.rpartition("+")[0]
    directory = str(pull(model)) if model in BUILTIN and cached(model) else model
    path = os.path.join(directory, "config.json")
    if not os.path.isfile(path):
        return path, None
    sizes = read_json(Path(path))
    if not isinstance(sizes, dict):
        raise ConfigError("a model's config.json is a mapping", where=path)
    return path, {key: value for key, value in sizes.items() if key != "quantization_config"}
