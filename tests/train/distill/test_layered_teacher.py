"""A teacher read layer by layer says what the whole one says, holds one layer at a time, and stores the same bytes however it is interrupted."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import Progress
from bethink.core.errors import ModelError
from bethink.models.locate import ModelFiles
from bethink.models.lora import LoRAConfig, add_lora, save_adapter
from bethink.models.machine import total_memory
from bethink.train.batch import packed_batches
from bethink.train.distill.config import DistillConfig
from bethink.train.distill.layered import FAMILIES, LayeredTeacher
from bethink.train.distill.run import run_distill
from bethink.train.distill.store import Part, fill, read_stamp
from bethink.train.distill.teacher import Teacher
from bethink.train.token_store import TokenStore, build_stores
from train.conftest import sum_rows, write_rows

Make = Callable[..., DistillConfig]
CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "llama3": {
        "model_type": "llama",
        "tie_word_embeddings": False,
        "attention_bias": True,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    },
    "mistral": {"sliding_window": 16, "tie_word_embeddings": False},
    "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2, "tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False},
}  # fmt: skip


def saved(kind: str, directory: Path) -> ModelFiles:
    """A random model in several files, every one of its parameters random."""
    settings = {"model_type": kind, **SIZES, **KINDS[kind]}
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.data.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(directory, max_shard_size="100KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    return ModelFiles(directory, None, str(directory))


@pytest.fixture
def rows(tiny_model_dir: Path, tmp_path: Path) -> TokenStore:
    """150 rows: several blocks."""
    file = write_rows(tmp_path / "many.jsonl", sum_rows(tiny_model_dir, 150))
    return build_stores([file], ChatTokenizer.load(tiny_model_dir), tmp_path / "tokens", max_tokens=500)[0]


def never() -> bool:
    return False


def said(teacher: Any, rows: TokenStore) -> torch.Tensor:
    batches = packed_batches([rows[i] for i in range(24)], 300)
    assert len(batches) > 1
    return torch.cat([teacher.logprobs(hidden) for hidden in teacher.hidden_states(batches, never)])


def assert_alike(files: ModelFiles, rows: TokenStore, dtype: torch.dtype) -> None:
    options: dict[str, Any] = {"dtype": dtype, "device": CPU}
    whole = said(Teacher.load(files, 550, 1.3, **options), rows)
    layered = said(LayeredTeacher(files, 550, 1.3, **options), rows)
    assert whole.shape == layered.shape
    if dtype == torch.float32:
        torch.testing.assert_close(layered, whole, rtol=1e-5, atol=1e-5)
        return
    # Of bfloat16's rounding (2^-8 of logits of some units), which comes in another order.
    distance = (layered - whole).square().mean().sqrt()
    print(f"rms {distance:.5f}, largest {(layered - whole).abs().max():.5f}, spread {whole.std():.3f}")
    assert distance < 0.02 * whole.std()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_the_whole_model_says(
    tmp_path: Path, rows: TokenStore, kind: str, dtype: torch.dtype
) -> None:
    assert_alike(saved(kind, tmp_path / "model"), rows, dtype)


def test_every_family_is_tried() -> None:
    assert {settings.get("model_type", kind) for kind, settings in KINDS.items()} == FAMILIES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_merged_into_each_layer(tmp_path: Path, rows: TokenStore, dtype: torch.dtype) -> None:
    files = saved("llama3", tmp_path / "model")
    plain = said(LayeredTeacher(files, 550, 1.3, dtype=dtype, device=CPU), rows)
    model = AutoModelForCausalLM.from_pretrained(files.directory)
    lora = LoRAConfig(rank=4, alpha=8, dropout=0.0, targets="all-linear")
    for parameter in add_lora(model, lora, random.randrange(2**31)):
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    save_adapter(model, lora, tmp_path / "adapter", "base")
    adapted = ModelFiles(files.directory, tmp_path / "adapter", "adapted")
    assert_alike(adapted, rows, dtype)
    changed = said(LayeredTeacher(adapted, 550, 1.3, dtype=dtype, device=CPU), rows)
    assert (changed - plain).square().mean().sqrt() > 0.1 * plain.std()


def test_one_layer_is_in_memory_at_a_time(tmp_path: Path, rows: TokenStore) -> None:
    teacher = LayeredTeacher(saved("qwen3", tmp_path / "model"), 550, 1.0, dtype=torch.float32, device=CPU)
    layers = list(teacher.model.get_decoder().layers)
    seen: list[list[int]] = []

    def look(*_: Any) -> None:
        seen.append([i for i, layer in enumerate(layers) if not any(p.is_meta for p in layer.parameters())])
        assert all(p.is_meta for p in teacher.model.get_input_embeddings().parameters())
        assert all(p.is_meta for p in teacher.model.get_output_embeddings().parameters())

    for layer in layers:
        layer.register_forward_pre_hook(look)
    said(teacher, rows)
    assert [seen[i] for i in range(0, len(seen), len(seen) // 4)] == [[0], [1], [2], [3]]
    assert all(len(one) == 1 for one in seen)
    assert all(p.is_meta for p in teacher.model.parameters())


def test_the_bytes_do_not_depend_on_how_much_is_asked_at_once_nor_on_interruptions(
    tmp_path: Path, rows: TokenStore
) -> None:
    files = saved("qwen2", tmp_path / "model")
    parts = {}
    for tokens in (0, 10**9):
        teacher = LayeredTeacher(files, 550, 1.0, dtype=torch.float32, device=CPU, tokens_at_once=tokens)
        part = parts[tokens] = Part(tmp_path / f"at{tokens}", rows)
        with Progress("teacher", part.tokens) as progress:
            fill(part, teacher, 5, capacity=300, progress=progress, interrupted=never)
    stopped = Part(tmp_path / "stopped", rows)
    teacher = LayeredTeacher(files, 550, 1.0, dtype=torch.float32, device=CPU, tokens_at_once=0)
    tries = 0
    while not stopped.whole:
        left = iter([False] * random.randrange(4, 14))
        with Progress("teacher", stopped.tokens) as progress:
            fill(
                stopped,
                teacher,
                5,
                capacity=300,
                progress=progress,
                interrupted=lambda left=left: next(left, True),
            )
        tries += 1
    assert tries > 1
    for name in ("token_ids.i32", "logprobs.f16"):
        (first, *others) = [(p.directory / name).read_bytes() for p in (*parts.values(), stopped)]
        assert all(other == first for other in others), name


def _padded(directory: Path) -> None:
    """Make the weights larger than any memory by a tensor nobody reads, of a file that takes no room on disk."""
    file = directory / "model.safetensors"
    weights = load_file(file)
    save_file(weights, file, {"format": "pt"})
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    end, elements = len(content) - 8 - length, total_memory()
    header["padding"] = {"dtype": "F32", "shape": [elements], "data_offsets": [end, end + 4 * elements]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text + content[8 + length :])
        handle.truncate(8 + len(text) + end + 4 * elements)


def test_a_teacher_that_does_not_fit_is_read_layer_by_layer_unless_told_otherwise(
    make_distill: Make, teacher_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "large"
    shutil.copytree(teacher_dir, large)
    _padded(large)
    small = make_distill(output=tmp_path / "small", store_teacher=5, held_out=0.2, eval_every=2)
    whole = run_distill(small)
    assert "layer by layer" not in capsys.readouterr().err
    config = small.model_copy(update={"output": tmp_path / "run", "teacher": str(large)})
    found = run_distill(config)
    assert "layer by layer" in capsys.readouterr().err
    assert read_stamp(config.store)["by_layer"] is True
    for name in ("loss", "divergence", "eval_divergence"):
        assert found.last[name] == pytest.approx(whole.last[name], rel=1e-3)
    for told in ({"layer_by_layer": False}, {"store_teacher": None}):
        with pytest.raises(ModelError, match="GB are free"):
            run_distill(config.model_copy(update={"output": tmp_path / "told", **told}))


def test_an_unknown_family_and_missing_tensors_are_refused(tmp_path: Path) -> None:
    files = saved("llama", tmp_path / "model")
    shard = sorted(files.directory.glob("*.safetensors"))[-1]
    index = files.directory / "model.safetensors.index.json"
    weights = load_file(shard)
    dropped = sorted(weights)[-1]
    save_file({name: weight for name, weight in weights.items() if name != dropped}, shard)
    assert index.exists()
    with pytest.raises(ModelError, match=f"lack 1 of the model's tensors, the first is `{dropped}`"):
        LayeredTeacher(files, 550, 1.0, dtype=torch.float32, device=CPU)
    save_file({**weights, dropped: weights[dropped][:-1].clone()}, shard)
    with pytest.raises(ModelError, match=f"lack 1 of the model's tensors, the first is `{dropped}`"):
        LayeredTeacher(files, 550, 1.0, dtype=torch.float32, device=CPU)
    save_file(weights, shard)
    config = json.loads((files.directory / "config.json").read_text())
    (files.directory / "config.json").write_text(
        json.dumps({**config, "model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"]})
    )
    with pytest.raises(ModelError, match="olmo2.* cannot be read layer by layer"):
        LayeredTeacher(files, 550, 1.0, dtype=torch.float32, device=CPU)
