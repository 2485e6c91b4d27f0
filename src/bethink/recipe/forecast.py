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
from bethink.core.files import read_json, read_object
from bethink.models.cost import Shape, cache_values, decode_step, policy_step, prefill, sft_step
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


def training_rate(
    config: Any, assume: Assume, *, further: int = 0, teacher: str | None = None
) -> Rate | None:
    """How fast a stage learns from rows of prompt and completion; None where nothing tells.

    further: passes without a backward one, as a reference's. teacher: a model that reads the same rows.
    """
    taught = _shaped(*_found(teacher)) if teacher else None
    if teacher and taught is None:
        return None
    if assume.tflops and assume.parameters:
        flops = ((6 if config.full else 4) + 2 * further) * assume.parameters
        flops += 2 * (taught.linear + taught.head) if taught else 0
        return _of_peak(assume, flops)
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
    for reader in [shape] * further + ([taught] if taught else []):
        step += prefill(reader, lengths, weight_bytes=speed.width)
    return _usual("sft", sum(lengths) / speed.floor(step, sum(lengths)))


def policy_rate(config: Any, assume: Assume, *, further: int) -> Rate | None:
    """How fast a grpo stage learns from completions, in tokens of those; None where nothing tells. Each group's prompt is computed once.

    further: passes without a backward one.
    """
    count = assume.tokens_per_completion
    if assume.tflops or not count:
        return training_rate(config, assume, further=further)
    shape, speed = _shape(config.model, assume), _speed(config, assume)
    if shape is None or speed is None:
        return None
    prompt, length = _prompt(assume), round(count)
    groups = [(prompt, [length] * config.group_size)] * config.problems_per_step
    rank = None if config.full else config.rank
    step = policy_step(shape, groups, rank=rank, further=further, weight_bytes=speed.width)
    learned = length * config.group_size * len(groups)
    return _usual("sft", learned / speed.floor(step, learned + prompt * len(groups)))


def pretraining_rate(config: Any, assume: Assume) -> Rate | None:
    """How fast a pretrain stage learns from texts; None where nothing tells."""
    shape, sizes = _planned(config)
    count = parameters(shape, sizes) if shape else assume.parameters
    if assume.tflops and count:
        return _of_peak(assume, 6 * count, count)
    speed = _speed(config, assume)
    if shape is None or speed is None:
        return None
    lengths = [config.context] * max(1, config.tokens_per_step // config.context)
    step = sft_step(shape, lengths, sum(lengths), rank=None, trains_head=True, weight_bytes=speed.width)
    return _usual("sft", sum(lengths) / speed.floor(step, sum(lengths)))


def pretraining_memory(config: Any, assume: Assume) -> int | None:
    """Peak bytes of a pretrain stage; None when its model's shape is not known."""
    shape, sizes = _planned(config)
    if shape is None:
        return None
    row_tokens = max(config.tokens_per_microbatch or assume.tokens_per_microbatch, config.context)
    count = parameters(shape, sizes)

    def needed(level: Recompute) -> int:
        return _of_training(
            shape, sizes, weights=2 * count, trained=16 * count, row_tokens=row_tokens, recompute=level
        )

    return needed(choose(config.gradient_checkpointing, needed, _free(assume)))


def _free(assume: Assume) -> float:
    """Bytes of the device that the recipe is planned for."""
    return assume.memory_gib * 2**30 if assume.memory_gib else math.inf


def _planned(config: Any) -> tuple[Shape | None, Sizes]:
    """The shape of a model that is made anew, where its keys tell it all."""
    family = config.model
    sizes: Sizes = {"model_type": family} if "/" not in family and "." not in family else {}
    path = Path(family) / "config.json" if os.path.isdir(family) else Path(family)
    if os.path.isfile(path):
        sizes = read_object(path)
    elif config.tokenizer is not None:
        sizes["vocab_size"] = (_found(config.tokenizer)[1] or {}).get("vocab_size")
    if config.vocabulary is not None:
        sizes["vocab_size"] = config.vocabulary
    sizes = {**sizes, **config.shape}
    return shape_from(sizes), sizes


def _of_peak(assume: Assume, flops: float, count: float | None = None) -> Rate:
    """flops: for each token; count: parameters, where not those of the recipe's `assume`."""
    assert assume.tflops is not None
    size = count or assume.parameters or 0.0
    words = f"{size / 1e9:.3g} billion parameters, {100 * assume.mfu:.0f} % of {assume.tflops:,.4g} TFLOP/s"
    return Rate(assume.tflops * 1e12 * assume.mfu / flops, words)


def sampling_rate(config: Any, assume: Assume, rows: int, group: int = 1) -> Rate | None:
    """How fast a stage samples `rows` completions, so many of each prompt, which is read once for them; None where nothing tells, as
    of an endpoint, whose speed is its own."""
    if config.model is None:
        return None
    if assume.sampled_tokens_per_second:
        return Rate(
            assume.sampled_tokens_per_second, f"{assume.sampled_tokens_per_second:,.0f} tokens a second"
        )
    if not assume.tokens_per_completion:
        return None
    shape, speed = _shape(config.model, assume), _speed(config, assume)
    if shape is None or speed is None:
        return None
    together, prompt, count = min(rows, config.slots), _prompt(assume), assume.tokens_per_completion
    step = decode_step(shape, together, prompt + count / 2, weight_bytes=speed.width)
    seconds = count * speed.floor(step, together)
    if prompt:
        prompts = math.ceil(together / group)
        begun = prefill(shape, [prompt] * prompts, weight_bytes=speed.width)
        seconds += speed.floor(begun, prompt * prompts)
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


def memory(config: Any, assume: Assume, *, longest: int = 0, beside: int = 0) -> int | None:
    """Peak bytes of the training, from the model's shape; None when the shape is not known. Raises ConfigError for a shape of nothing.

    longest: tokens of a sample that may be longer than what goes through at once; beside: bytes that something else takes.
    """
    where, sizes = _sizes(config.model, assume)
    if sizes is None:
        return None
    row_tokens = max(config.tokens_per_microbatch or assume.tokens_per_microbatch, longest)

    def needed(level: Recompute) -> int:
        return beside + _memory(config, row_tokens, sizes, where, level)

    return needed(choose(config.gradient_checkpointing, needed, _free(assume)))


def sampling_memory(config: Any, assume: Assume) -> int | None:
    """Bytes that sampling one completion of full length needs beside the weights, and a KL term's reference; None for an unknown shape."""
    where, sizes = _sizes(config.model, assume)
    shape = None if sizes is None else _shaped(where, sizes)
    if sizes is None or shape is None:
        return None
    reference = 0
    if config.objective.kl and not config.reference_is_base:
        reference = 2 * parameters(shape, sizes) if config.full else 4 * _adapter(shape, config.rank)
    return round(2 * cache_values(shape, config.max_tokens)) + reference


def weight_bytes(model: str, assume: Assume | None = None) -> int | None:
    """Bytes of a model's weights in a format of two bytes; None when its shape is not known here.

    assume: of a recipe, whose shape goes before the model's own.
    """
    where, sizes = _found(model) if assume is None else _sizes(model, assume)
    shape = None if sizes is None else _shaped(where, sizes)
    return 2 * parameters(shape, sizes) if shape and sizes else None


def _memory(config: Any, row_tokens: int, sizes: Sizes, where: str, recompute: Recompute) -> int:
    shape = shape_from(sizes)
    if shape is None or (config.targets != ALL_LINEAR and not config.full):
        return _memory_laid_out(config, sizes, where, row_tokens, recompute)
    count, adapter = parameters(shape, sizes), _adapter(shape, config.rank)
    return _of_training(
        shape,
        sizes,
        weights=2 * count + (0 if config.full else 4 * adapter),
        trained=16 * count if config.full else 12 * adapter,
        row_tokens=row_tokens,
        recompute=recompute,
    )


def _adapter(shape: Shape, rank: int) -> int:
    """Parameters of an adapter on all linear layers."""
    return rank * sum(size_in + size_out for layer in shape.layers for size_in, size_out in layer)


def _of_training(
    shape: Shape, sizes: Sizes, *, weights: int, trained: int, row_tokens: int, recompute: Recompute
) -> int:
    return training_memory(
        weights=weights,
        trained=trained,
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
    from bethink.train.fit import memory_needed

    with torch.device("meta"):
        with _explained(where):
            model = AutoModelForCausalLM.from_config(_transformers_config(sizes), dtype=torch.bfloat16)
        if not config.full:
            model.requires_grad_(False)
            add_lora(model, config.lora, seed=0)
    return memory_needed(model, row_tokens, recompute=recompute)


def _shape(model: str, assume: Assume) -> Shape | None:
    return _shaped(*_sizes(model, assume))


def _shaped(where: str, sizes: Sizes | None) -> Shape | None:
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
    return ("assume.shape", assume.shape) if assume.shape is not None else _found(model)


def _found(model: str) -> tuple[str, Sizes | None]:
    """The keys of a config.json on this machine, and where they stand."""
    from bethink.models.builtin import BUILTIN, cached, pull

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
