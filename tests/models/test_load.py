"""Models come up right, and what cannot be served is refused before it does harm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bethink.core.errors import ModelError
from bethink.models import attention, machine
from bethink.models.load import best_dtype, load_model, prove_attention, refuse_unserved
from bethink.models.locate import ModelFiles, locate
from bethink.models.lora import LoRAConfig, add_lora, lora_layers, save_adapter, trainable

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}


def small(kind: str, **settings: Any) -> PreTrainedModel:
    """A random model of some family with our attention."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SMALL | settings))
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention.register()).eval()


def load(directory: Path, **options: Any) -> PreTrainedModel:
    return load_model(ModelFiles(directory, None, "tiny"), device="cpu", **options)


def test_a_model_loads_as_transformers_would_load_it(tiny_model_dir: Path) -> None:
    model = load(tiny_model_dir, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.arange(24).reshape(1, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, reference(ids).logits, atol=1e-5, rtol=1e-5)
    assert not model.training
    assert not model.config.use_cache


def test_the_dtype_asked_for_is_the_dtype_of_every_weight(tiny_model_dir: Path) -> None:
    assert {p.dtype for p in load(tiny_model_dir, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load(tiny_model_dir).parameters()} == {best_dtype("cpu")}


def test_an_adapter_is_applied_and_trainable_or_merged(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = load(tiny_model_dir, dtype=torch.float32)
    settings = LoRAConfig(rank=2)
    add_lora(model, settings, seed=0)
    save_adapter(model, settings, tmp_path, "tiny")
    files = locate(f"{tiny_model_dir}+{tmp_path}")
    adapted = load_model(files, dtype=torch.float32, device="cpu")
    assert len(lora_layers(adapted)) == 14
    assert len(trainable(adapted)) == 28
    assert not lora_layers(load_model(files, dtype=torch.float32, device="cpu", merge=True))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("mistral", {"sliding_window": 3}),
        ("gemma3_text", {"sliding_window": 3}),
        ("phi3", {"sliding_window": 3}),
        ("smollm3", {}),
        ("olmo2", {}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    ],
)
def test_common_decoders_are_served(kind: str, settings: dict[str, Any]) -> None:
    model = small(kind, **settings)
    refuse_unserved(model.config, kind)
    prove_attention(model, kind)
    assert model.config._attn_implementation == attention.NAME


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("gemma2", {}, "soft-capped attention"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "soft-capped output"),
        ("gpt_oss", {}, "attention sinks"),
        ("llama4_text", {}, "chunked attention"),
        ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}, "conv"),
        ("granite", {"logits_scaling": 8.0}, "rescales its output"),
        ("t5", {}, "encoder-decoder"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantized"),
    ],
)
def test_what_the_config_tells_is_refused_before_loading(
    kind: str, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        refuse_unserved(AutoConfig.for_model(kind, **(SMALL | settings)), kind)


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}, "of their spread"),
        ("bloom", {"n_layer": 2, "n_head": 4}, "attention of their own"),
        ("mamba", {}, "attention of their own"),
        ("bert", {"is_decoder": False}, "of their spread"),
    ],
)
def test_what_only_running_it_tells_is_refused_after_loading(
    kind: str, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        prove_attention(small(kind, **settings), kind)


def test_a_family_whose_attention_cannot_be_replaced_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "gptj", vocab_size=64, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be replaced"):
        load(tmp_path)


def test_too_little_memory_is_said_with_both_figures(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bethink.models.load.free_memory", lambda: 100_000)
    with pytest.raises(ModelError, match=r"needs about .* GB .*0\.0 GB are free") as caught:
        load(tiny_model_dir, dtype=torch.float32)
    assert "bfloat16" in str(caught.value)
    assert load(tiny_model_dir, check_memory=False).training is False


def test_weights_that_do_not_fit_the_config_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_model_dir, tmp_path / "m"))
    path = directory / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lack .* tensors, the first is `model\.layers\.2"):
        load(directory)
    path.write_text(json.dumps(whole | {"intermediate_size": 96}))
    with pytest.raises(ModelError, match="weights"):
        load(directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "abc"},
        {"hidden_size": 0},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"vocab_size": -1},
        {"dtype": "float99"},
        {"rms_norm_eps": None},
        {"model_type": 5},
        {"hidden_act": "nonesuch"},
        {"rope_parameters": {"rope_type": "zz"}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": "x"}},
        {"num_hidden_layers": 1.5},
    ],
    ids=str,
)
def test_a_config_that_describes_no_model_is_an_error_of_ours(
    tiny_model_dir: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    directory = Path(shutil.copytree(tiny_model_dir, tmp_path / "m"))
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match="cannot build this model|cannot load") as caught:
        load(directory)
    assert str(directory) in str(caught.value.where)


def test_code_that_comes_with_a_model_is_not_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_model_dir, tmp_path / "m"))
    (directory / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\nclass M: pass\n"
    )
    path = directory / "config.json"
    strange = {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | strange))
    with pytest.raises(ModelError, match="cannot build this model"):
        load(directory)
    assert not (tmp_path / "ran").exists()


def test_free_memory_is_within_the_machines() -> None:
    assert 0 < machine.free_memory() <= machine.total_memory()
    assert machine.cores() >= 1


@pytest.mark.gpu
def test_a_model_loads_on_the_gpu(tiny_model_dir: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = load_model(ModelFiles(tiny_model_dir, None, "tiny"))
    assert model.device.type == "cuda"
    assert model.dtype == best_dtype("cuda")
