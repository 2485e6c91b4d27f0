"""`bethink models`: what is built in, and adapters merged into plain directories."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from bethink.cli.models import models
from bethink.core.errors import BethinkError, OutputError
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.models.lora import LoRAConfig, add_lora, lora_layers, save_adapter


def test_the_list_names_every_built_in_and_its_state(tmp_path: Path) -> None:
    result = CliRunner().invoke(models, ["list"], env={"BETHINK_CACHE": str(tmp_path)})
    assert result.exit_code == 0
    assert "smollm2-135m" in result.output
    assert "not fetched" in result.output


def test_an_adapter_is_merged_and_exported(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = load_model(locate(str(tiny_model_dir)), dtype=torch.float32, device="cpu")
    settings = LoRAConfig(rank=2)
    add_lora(model, settings, seed=0)
    for layer in lora_layers(model).values():
        layer.lora_B.data.fill_(0.05)
    save_adapter(model, settings, tmp_path / "adapter", "tiny")
    out = tmp_path / "merged"
    spec = f"{tiny_model_dir}+{tmp_path / 'adapter'}"
    result = CliRunner().invoke(models, ["export", spec, "--output", str(out), "--dtype", "float32"])
    assert result.exit_code == 0, result.exception
    ids = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        exported = AutoModelForCausalLM.from_pretrained(out).eval()(ids).logits
        torch.testing.assert_close(exported, model(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["pull", "smollm"], BethinkError),
        (["export", "/nowhere", "--output", "x"], BethinkError),
        (["export", "/nowhere", "--output", "/"], OutputError),
    ],
)
def test_mistakes_are_told_as_errors_of_ours(arguments: list[str], error: type[Exception]) -> None:
    assert isinstance(CliRunner().invoke(models, arguments).exception, error)
