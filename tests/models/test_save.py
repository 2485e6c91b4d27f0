"""What is exported loads anywhere and computes the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bethink.core.errors import OutputError
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.models.lora import LoRAConfig, add_lora, lora_layers
from bethink.models.save import export
from bethink.models.weights import as_os_error, scratch_beside

IDS = torch.arange(20).reshape(1, 20) + 3


@pytest.fixture
def adapted(tiny_model_dir: Path) -> PreTrainedModel:
    model = load_model(locate(str(tiny_model_dir)), dtype=torch.float32, device="cpu")
    add_lora(model, LoRAConfig(rank=4, alpha=8), seed=1)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.1, generator=torch.Generator().manual_seed(2))
    return model


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(IDS, use_cache=False).logits  # type: ignore[no-any-return]


def test_an_exported_model_gives_plain_transformers_the_same_logits(
    adapted: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    before = logits(adapted)
    out = export(adapted, tiny_model_dir, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert torch.equal(logits(adapted), before)
    assert len(lora_layers(adapted)) == 14


def test_an_exported_model_is_a_model_we_locate_and_load(
    adapted: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    export(adapted, tiny_model_dir, tmp_path / "out")
    model = load_model(locate(str(tmp_path / "out")), dtype=torch.float32, device="cpu")
    torch.testing.assert_close(logits(model), logits(adapted), atol=1e-5, rtol=1e-5)


def test_a_change_of_dtype_reaches_every_weight_and_keeps_ties_tied(
    adapted: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = export(adapted, tiny_model_dir, tmp_path / "out", dtype=torch.bfloat16)
    with safe_open(out / "model.safetensors", framework="pt") as tensors:
        names = list(tensors.keys())
        assert {tensors.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    assert ("lm_head.weight" in names) + ("model.embed_tokens.weight" in names) == 1
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    assert adapted.config.dtype == torch.float32


def test_the_tokenizer_is_copied_byte_for_byte(
    adapted: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = export(adapted, tiny_model_dir, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (tiny_model_dir / name).read_bytes()


def test_an_export_overwrites_nothing_and_leaves_nothing_half_written(
    adapted: PreTrainedModel, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="exists already"):
        export(adapted, tiny_model_dir, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    export(adapted, tiny_model_dir, tmp_path / "empty")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", no_space)
    with pytest.raises(OutputError, match="disk is full"):
        export(adapted, tiny_model_dir, tmp_path / "broken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_a_refusal_of_the_disk_reaches_the_user_as_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), as_os_error():
        save_file({"x": torch.zeros(2)}, tmp_path / "missing" / "x.safetensors")


def test_scratch_is_removed_even_when_an_earlier_run_was_killed(tmp_path: Path) -> None:
    abandoned, recent = tmp_path / ".out.1.making", tmp_path / ".out.2.making"
    abandoned.mkdir()
    recent.mkdir()
    os.utime(abandoned, (0, 0))
    with scratch_beside(tmp_path / "out") as scratch:
        (scratch / "x").write_text("x")
    assert list(tmp_path.iterdir()) == [recent]
