"""What the GPU benchmarks share: models of real shapes with random weights, the device, and what a measured rate means for the weekend recipe.

Speed does not depend on what the weights are, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
import harness
from bethink.core.console import duration
from bethink.core.errors import ConfigError
from bethink.models import attention
from bethink.models.machine import best_dtype, resolve_device
from bethink.recipe.plan import estimate
from bethink.recipe.schema import load_recipe
from bethink.recipe.stages import prepare

RECIPE = "weekend-8b"
PEAK_FLOPS, PEAK_BYTES = 990e12, 3.35e12
"""Of an H100 SXM, by its data sheet: dense bfloat16 operations and bytes of memory read a second."""

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "llama-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


def arguments(description: str | None, shapes: list[str], name: str) -> argparse.ArgumentParser:
    """The options that both benchmarks have; name: of the result."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=shapes)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models of a few thousand weights: does it run?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help=f"where the result goes (default: results/{name}.json)")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with a device that is there. Ends with a clear message where it is not, or where real shapes are meant for a CPU."""
    options = parser.parse_args()
    try:
        resolve_device(options.device)
    except ConfigError as error:
        sys.exit(f"{error.what}: this benchmark needs a GPU\n  try: --tiny --device cpu")
    if options.device == "cpu" and not options.tiny:
        sys.exit("real shapes take a CPU days: this benchmark needs a GPU\n  try: --tiny --device cpu")
    return options


def config_of(name: str, *, tiny: bool, positions: int) -> dict[str, Any]:
    """The keys of a shape's config.json; tiny: of a very small model of the same family."""
    shape = SHAPES[name] | (_TINY if tiny else {})
    if tiny and "head_dim" in shape:
        shape["head_dim"] = 16
    return shape | {"max_position_embeddings": positions, "bos_token_id": None, "eos_token_id": None}


def model_of(config: dict[str, Any], device: str, seed: int) -> Any:
    """A model with random weights, made on the device in its best number format, with our attention."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config),
            dtype=best_dtype(device),
            attn_implementation=attention.register(),
        )
    model.config.use_cache = False
    return model.eval()


def synchronize(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def device_facts(device: str) -> dict[str, Any]:
    """The machine and its GPU."""
    facts = harness.machine("bethink", "torch", "transformers")
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return facts


def weekend_hours(**assumed: float) -> str:
    """What the weekend recipe takes when its plan assumes this, in words."""
    loaded = load_recipe(RECIPE, [f"assume.{name}={value:.6g}" for name, value in assumed.items()])
    with tempfile.TemporaryDirectory() as directory:
        lines = estimate(loaded.recipe, prepare(loaded, Path(directory)))
    known = [line for line in lines if line.hours]
    told = ", ".join(f"{line.stage} {duration(3600 * (line.hours or 0))}" for line in known)
    return f"{RECIPE}: {told}; together {duration(3600 * sum(line.hours or 0 for line in known))}"


def assumed(name: str) -> Any:
    """What the weekend recipe assumes of the device or the work."""
    return getattr(load_recipe(RECIPE).recipe.assume, name)


def keep(name: str, output: Path | None, result: dict[str, Any], *, tiny: bool) -> None:
    """Write the result where it was asked for, or among the others; a tiny run says nothing about speed and is kept only if asked for."""
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    elif not tiny:
        harness.write(name, result)
