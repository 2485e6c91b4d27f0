"""Rearranged weights compute what plain ones do, and leave a model in training as they found it."""

from __future__ import annotations

import copy
import gc
import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.models.lora import LoRAConfig, add_lora, lora_layers, merge_
from bethink.models.prepacked import PrepackedLinear, prepack_, sampling_weights
from engine.tiny import tiny


def adapted(dtype: torch.dtype = torch.float32) -> Any:
    model = tiny("qwen2").to(dtype)  # its projections have biases
    add_lora(model, LoRAConfig(rank=4), seed=0)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.normal_(std=0.2)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(48).view(2, 24), use_cache=False).logits.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_for_sampling_only_computes_the_same(dtype: torch.dtype) -> None:
    model = adapted(dtype)
    merge_(model)
    expected = logits(model)
    prepack_(model)
    assert not any(type(module) is nn.Linear for module in model.modules())
    found = logits(model)
    if dtype == torch.bfloat16:
        assert torch.equal(found, expected)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_model_in_training_is_as_before_afterwards() -> None:
    model = adapted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected, modules = logits(model), list(model.modules())
    with pytest.raises(KeyError), sampling_weights(model):
        assert sum(isinstance(module, PrepackedLinear) for module in model.modules()) == 15
        assert torch.allclose(logits(model), expected, rtol=1e-3, atol=1e-3)
        raise KeyError
    assert [id(module) for module in model.modules()] == [id(module) for module in modules]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize(("at_first", "later"), [(10**12, 0), (0, 10**12)])
def test_how_a_model_in_training_is_sampled_from_is_decided_once(
    monkeypatch: pytest.MonkeyPatch, at_first: int, later: int
) -> None:
    model = adapted()

    def in_blocks(free: int) -> bool:
        monkeypatch.setattr("bethink.models.prepacked.free_memory", lambda: free)
        with sampling_weights(model):
            return any(isinstance(module, PrepackedLinear) for module in model.modules())

    assert [in_blocks(free) for free in (at_first, later, at_first)] == [at_first > 0] * 3


def test_the_plain_weights_are_freed() -> None:
    model = tiny()
    weights = [weakref.ref(weight) for weight in model.parameters() if weight.ndim == 2]
    prepack_(model)
    gc.collect()
    left = [weight() for weight in weights if weight() is not None]
    assert len(left) == 1
    assert left[0] is model.get_input_embeddings().weight


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has mapped is read from /proc")
def test_a_loaded_file_is_not_kept_beside_the_rearranged_weights(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")  # a file that no other test has loaded

    def mapped() -> bool:
        gc.collect()
        return str(directory / "model.safetensors") in Path("/proc/self/maps").read_text()

    # In the file's number format the weights are views of it.
    model = load_model(locate(str(directory)), dtype=torch.float32, device="cpu")
    if not mapped():
        pytest.skip("this transformers reads weights without mapping their file")
    before = logits(model)
    prepack_(model)
    assert not mapped()
    assert torch.allclose(logits(model), before, atol=1e-5)


def test_a_row_does_not_depend_on_how_many_others_there_are() -> None:
    layer = PrepackedLinear([torch.randn(96, 64)], [None])
    x = torch.randn(64, 64)
    for rows in (2, 3, 4, 5, 8, 24):
        assert torch.equal(layer(x[:rows]), layer(x)[:rows]), rows


def test_adapters_that_are_not_merged_stay() -> None:
    model = adapted()
    expected = logits(model)
    prepack_(model)
    assert lora_layers(model)
    assert torch.equal(logits(model), expected)


def test_without_the_operators_everything_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from bethink.models import blocks

    blocks._works.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    model = adapted()
    modules = list(copy.copy(list(model.modules())))
    with sampling_weights(model):
        assert [id(module) for module in model.modules()] == [id(module) for module in modules]
    monkeypatch.undo()
    blocks._works.cache_clear()
