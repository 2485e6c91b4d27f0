"""Adapters: what they compute, and that they are PEFT's both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from bethink.core.errors import ConfigError, ModelError
from bethink.models.load import load_model
from bethink.models.locate import ModelFiles
from bethink.models.lora import (
    LoRAConfig,
    add_lora,
    folded,
    load_adapter,
    lora_layers,
    match_targets,
    merge_,
    save_adapter,
    trainable,
    without_adapter,
)
from bethink.models.save import export

IDS = torch.arange(40).remainder(29).reshape(2, 20) + 5
KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return load_model(ModelFiles(directory, None, "tiny"), dtype=dtype, device="cpu")


def adapted_model(directory: Path, config: LoRAConfig | None = None) -> PreTrainedModel:
    """A model whose adapter does something: B is random instead of zero."""
    model = base_model(directory)
    add_lora(model, config or LoRAConfig(rank=4, alpha=8), seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for layer in lora_layers(model).values():
            nn.init.normal_(layer.lora_B, std=0.1)
    return model


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(IDS, use_cache=False).logits  # type: ignore[no-any-return]


def plain(directory: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def test_a_fresh_adapter_changes_nothing(tiny_model_dir: Path) -> None:
    model = base_model(tiny_model_dir)
    before = logits(model)
    parameters = add_lora(model, LoRAConfig(rank=4, alpha=8), seed=0)
    assert torch.equal(logits(model), before)
    assert len(parameters) == 2 * 2 * len(KINDS)
    assert all(parameter.dtype == torch.float32 for parameter in parameters)


def test_all_linear_leaves_out_the_output_head_and_trains_only_the_adapters(tiny_model_dir: Path) -> None:
    model = base_model(tiny_model_dir)
    add_lora(model, LoRAConfig(rank=4), seed=0)
    assert {name.rpartition(".")[2] for name in lora_layers(model)} == set(KINDS)
    assert all(name.endswith(("lora_A", "lora_B")) for name, _ in trainable(model))


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(tiny_model_dir: Path) -> None:
    first, second, third = (base_model(tiny_model_dir) for _ in range(3))
    drawn = [
        add_lora(model, LoRAConfig(rank=4), seed=s) for model, s in ((first, 1), (second, 1), (third, 2))
    ]
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0][0], drawn[2][0])


def test_a_layers_first_weights_do_not_depend_on_the_other_targets(tiny_model_dir: Path) -> None:
    alone, together = base_model(tiny_model_dir), base_model(tiny_model_dir)
    add_lora(alone, LoRAConfig(rank=4, targets=("v_proj",)), seed=1)
    add_lora(together, LoRAConfig(rank=4), seed=1)
    for name, layer in lora_layers(alone).items():
        assert torch.equal(layer.lora_A, lora_layers(together)[name].lora_A)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("q_proj",), ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]),
        (("layers.1.self_attn.q_proj",), ["model.layers.1.self_attn.q_proj"]),
        (r".*layers\.0\.mlp\.(up|down)_proj", ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"]),
    ],
)
def test_targets_are_names_or_one_regular_expression(
    tiny_model_dir: Path, targets: str | tuple[str, ...], expected: list[str]
) -> None:
    assert match_targets(base_model(tiny_model_dir), targets) == expected


def test_a_target_that_matches_nothing_is_named_with_what_there_is(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="query_proj") as caught:
        add_lora(base_model(tiny_model_dir), LoRAConfig(targets=("q_proj", "query_proj")), seed=0)
    assert "down_proj" in str(caught.value)


def test_an_adapter_on_a_tied_output_head_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="shares its weight"):
        add_lora(base_model(tiny_model_dir), LoRAConfig(targets=("lm_head",)), seed=0)


def test_a_second_adapter_is_refused(tiny_model_dir: Path) -> None:
    model = adapted_model(tiny_model_dir)
    with pytest.raises(ModelError, match="already"):
        add_lora(model, LoRAConfig(), seed=0)


@pytest.mark.parametrize(
    "field", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()}, {"targets": "("}]
)
def test_settings_that_make_no_sense_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        LoRAConfig(**field)


def test_gradients_reach_the_adapters_and_nothing_else(tiny_model_dir: Path) -> None:
    model = adapted_model(tiny_model_dir)
    model(IDS, use_cache=False).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.endswith(("lora_A", "lora_B")), name
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for _, p in trainable(model))


def test_dropout_acts_in_training_only(tiny_model_dir: Path) -> None:
    model = adapted_model(tiny_model_dir, LoRAConfig(rank=4, alpha=8, dropout=0.5))
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_merged_equals_unmerged_and_leaves_plain_layers(tiny_model_dir: Path) -> None:
    model = adapted_model(tiny_model_dir)
    names = [name for name, _ in base_model(tiny_model_dir).named_parameters()]
    before = logits(model)
    merge_(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in model.named_parameters()] == names


def test_folding_equals_the_adapter_and_unfolding_restores_every_bit(tiny_model_dir: Path) -> None:
    model = adapted_model(tiny_model_dir)
    bits = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = logits(model)
    with folded(model):
        inside = logits(model)
        assert not any(layer.active for layer in lora_layers(model).values())
    torch.testing.assert_close(inside, before, atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(model), before)
    assert all(torch.equal(tensor, bits[name]) for name, tensor in model.state_dict().items())


def test_a_folded_model_merges_and_saves_like_an_unfolded_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    model, twin = adapted_model(tiny_model_dir), adapted_model(tiny_model_dir)
    with folded(model):
        export(model, tiny_model_dir, tmp_path / "out")
    merge_(twin)
    saved = plain(tmp_path / "out").state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in twin.state_dict().items())


def test_folding_is_undone_when_the_block_fails_and_may_be_nested(tiny_model_dir: Path) -> None:
    model = adapted_model(tiny_model_dir)
    before = logits(model)
    with pytest.raises(KeyError), folded(model), folded(model):
        raise KeyError("stop")
    assert torch.equal(logits(model), before)


def test_without_adapter_is_the_base_model(tiny_model_dir: Path) -> None:
    model = adapted_model(tiny_model_dir)
    with without_adapter(model):
        torch.testing.assert_close(logits(model), logits(base_model(tiny_model_dir)), atol=0, rtol=0)
    with folded(model), pytest.raises(RuntimeError, match="folded"), without_adapter(model):
        pass
    with without_adapter(model), folded(model):
        torch.testing.assert_close(logits(model), logits(base_model(tiny_model_dir)), atol=0, rtol=0)


def test_adapters_compute_in_the_models_dtype_and_stay_fp32(tiny_model_dir: Path) -> None:
    model = base_model(tiny_model_dir, torch.bfloat16)
    add_lora(model, LoRAConfig(rank=4), seed=0)
    assert logits(model).dtype == torch.bfloat16
    assert {p.dtype for _, p in trainable(model)} == {torch.float32}


SETTINGS = {
    "default": LoRAConfig(rank=4, alpha=8),
    "names": LoRAConfig(rank=3, alpha=5, dropout=0.1, targets=("q_proj", "layers.1.mlp.down_proj")),
    "regex": LoRAConfig(rank=4, alpha=8, targets=r".*\.(q|v)_proj"),
    "rslora": LoRAConfig(rank=4, alpha=8, rslora=True),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_peft_loads_our_adapter_and_computes_the_same(
    tiny_model_dir: Path, tmp_path: Path, settings: LoRAConfig
) -> None:
    from peft import PeftModel

    ours = adapted_model(tiny_model_dir, settings)
    save_adapter(ours, settings, tmp_path, str(tiny_model_dir))
    theirs = PeftModel.from_pretrained(plain(tiny_model_dir), tmp_path).eval()
    torch.testing.assert_close(logits(theirs), logits(ours), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_our_own_adapter_comes_back_the_same(
    tiny_model_dir: Path, tmp_path: Path, settings: LoRAConfig
) -> None:
    first = adapted_model(tiny_model_dir, settings)
    save_adapter(first, settings, tmp_path / "one", "base")
    second = base_model(tiny_model_dir)
    again = load_adapter(second, tmp_path / "one")
    assert torch.equal(logits(second), logits(first))
    save_adapter(second, again, tmp_path / "two", "base")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


THEIRS = {
    "all-linear": {"target_modules": "all-linear"},
    "names": {"target_modules": ["q_proj", "v_proj"], "r": 3, "lora_alpha": 7},
    "patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 3},
    },
    "rslora": {"target_modules": ["up_proj"], "use_rslora": True},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
}


def peft_adapter(base: Path, directory: Path, **settings: object) -> nn.Module:
    """An adapter of PEFT's that does something, saved in `directory`."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    settings = {"init_lora_weights": False, **settings}
    model = get_peft_model(plain(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(directory)
    return model.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("settings", THEIRS.values(), ids=THEIRS)
def test_we_load_pefts_adapter_and_compute_the_same(
    tiny_model_dir: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    theirs = peft_adapter(tiny_model_dir, tmp_path / "theirs", **settings)
    ours = base_model(tiny_model_dir)
    config = load_adapter(ours, tmp_path / "theirs")
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)
    save_adapter(ours, config, tmp_path / "ours", "base")
    again = base_model(tiny_model_dir)
    load_adapter(again, tmp_path / "ours")
    assert torch.equal(logits(again), logits(ours))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(
    tiny_model_dir: Path, tmp_path: Path, settings: dict[str, object], named: str
) -> None:
    peft_adapter(tiny_model_dir, tmp_path, target_modules=["q_proj"], **settings)
    with pytest.raises(ModelError, match=named):
        load_adapter(base_model(tiny_model_dir), tmp_path)


@pytest.mark.parametrize("start", [True, "gaussian", "orthogonal", "mica"])
def test_an_adapter_that_left_the_base_weights_alone_is_loaded_however_it_began(
    tiny_model_dir: Path, tmp_path: Path, start: bool | str
) -> None:
    theirs = peft_adapter(tiny_model_dir, tmp_path, target_modules="all-linear", r=4, init_lora_weights=start)
    ours = base_model(tiny_model_dir)
    load_adapter(ours, tmp_path)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_began_by_changing_the_base_weights_is_refused(
    tiny_model_dir: Path, tmp_path: Path, start: str
) -> None:
    theirs = peft_adapter(tiny_model_dir, tmp_path, target_modules="all-linear", r=4, init_lora_weights=start)
    with pytest.raises(ModelError, match=f'init_lora_weights` = "{start}", which changes the base') as caught:
        load_adapter(base_model(tiny_model_dir), tmp_path)
    assert "path_initial_model_for_weight_conversion" in str(caught.value.fix)
    # Merged by PEFT, as the error says, it can be used.
    theirs.merge_and_unload().save_pretrained(tmp_path / "merged")  # type: ignore[operator, union-attr]
    torch.testing.assert_close(logits(base_model(tmp_path / "merged")), logits(theirs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 0},
        {"lora_alpha": None},
        {"lora_alpha": -8},
        {"lora_alpha": float("inf")},
        {"r": None},
        {"r": 0},
        {"lora_dropout": 1.0},
        {"lora_dropout": "x"},
        {"alpha_pattern": {"q_proj(": 3}},
        {"alpha_pattern": {"q_proj": 0}},
        {"alpha_pattern": [1]},
        {"target_modules": "("},
        {"target_modules": 7},
        {"use_rslora": "perhaps"},
        {"init_lora_weights": ["loftq"]},
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_named(
    tiny_model_dir: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    path = saved(tiny_model_dir, tmp_path) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(ModelError, match=next(iter(settings))) as caught:
        load_adapter(base_model(tiny_model_dir), tmp_path)
    assert str(path) in str(caught.value.where)


def test_tensors_that_are_no_matrices_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = saved(tiny_model_dir, tmp_path) / "adapter_model.safetensors"
    weights = load_file(path)
    for spoil in (torch.zeros(4), torch.zeros(0, 64), torch.zeros(())):
        save_file({**weights, next(iter(weights)): spoil}, path)
        with pytest.raises(ModelError, match="no pair of matrices"):
            load_adapter(base_model(tiny_model_dir), tmp_path)


def saved(tiny_model_dir: Path, directory: Path) -> Path:
    settings = LoRAConfig(rank=4, alpha=8, targets=("q_proj",))
    save_adapter(adapted_model(tiny_model_dir, settings), settings, directory, "the-base")
    return directory


def test_an_adapter_for_another_model_is_refused_by_the_module_that_does_not_fit(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    saved(tiny_model_dir, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    wider = {k: torch.cat([v, v], dim=1) if "lora_A" in k else v for k, v in weights.items()}
    save_file(wider, tmp_path / "adapter_model.safetensors")
    model = base_model(tiny_model_dir)
    with pytest.raises(
        ModelError, match=r"layers\.0\.self_attn\.q_proj.*expects 128 inputs.*has 64"
    ) as caught:
        load_adapter(model, tmp_path)
    assert "the-base" in str(caught.value)
    assert not lora_layers(model)

    deeper = {k.replace("layers.1.", "layers.9."): v for k, v in weights.items()}
    save_file(deeper, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"no module `model\.layers\.9"):
        load_adapter(model, tmp_path)


def test_a_damaged_or_pickled_adapter_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = saved(tiny_model_dir, tmp_path) / "adapter_model.safetensors"
    weights = load_file(path)
    model = base_model(tiny_model_dir)

    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot read the adapter"):
        load_adapter(model, tmp_path)

    save_file(
        {k: v for k, v in weights.items() if not k.endswith("layers.1.self_attn.q_proj.lora_B.weight")}, path
    )
    with pytest.raises(ModelError, match="lacks one of its two matrices"):
        load_adapter(model, tmp_path)

    save_file({**weights, "base_model.model.lm_head.weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="cannot place"):
        load_adapter(model, tmp_path)

    path.unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="pickle"):
        load_adapter(model, tmp_path)


def test_a_config_that_is_no_lora_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = base_model(tiny_model_dir)
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        load_adapter(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ModelError, match="IA3"):
        load_adapter(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        load_adapter(model, tmp_path)
