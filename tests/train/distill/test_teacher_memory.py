"""A teacher that is asked once and its student are never in memory together, and what the teacher said outlives a student that fails."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from bethink.core.errors import ModelError, PreflightError
from bethink.models.machine import give_back_freed_memory
from bethink.train.distill.config import DistillConfig
from bethink.train.distill.run import run_distill

Make = Callable[..., DistillConfig]


def _alive(before: set[int]) -> tuple[int, int]:
    """Models with weights and bytes of tensors that have come into memory since; nothing is collected first."""
    found = [one for one in gc.get_objects() if id(one) not in before]
    models = [
        one
        for one in found
        if isinstance(one, PreTrainedModel) and any(not p.is_meta for p in one.parameters())
    ]
    places = {
        one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
        for one in found
        if type(one) in (torch.Tensor, torch.nn.Parameter) and not one.is_meta and not one.is_mkldnn
    }
    return len([one for one in models if isinstance(one, LlamaForCausalLM)]), sum(places.values())


@pytest.mark.parametrize("full", [False, True])
def test_teacher_and_student_are_never_in_memory_together(
    make_distill: Make, teacher_dir: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    give_back_freed_memory()
    before = {id(one) for one in gc.get_objects()}
    seen: list[tuple[str, int, int]] = []
    read = AutoModelForCausalLM.from_pretrained

    def watched(directory: Any, **options: Any) -> Any:
        seen.append((Path(directory).name, *_alive(before)))
        return read(directory, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    config = make_distill(store_teacher=4, full=full, held_out=0.2)
    run_distill(config)
    (first, *at_first), (second, *at_second) = seen
    assert (first, second) == (teacher_dir.name, Path(config.model).name)
    assert at_first[0] == 0
    assert at_second[0] == 0
    weights = (teacher_dir / "model.safetensors").stat().st_size
    assert at_second[1] < at_first[1] + weights / 10


def test_a_live_teacher_stands_beside_the_student(
    make_distill: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the test above can fail."""
    give_back_freed_memory()
    before = {id(one) for one in gc.get_objects()}
    seen: list[tuple[int, int]] = []
    read = AutoModelForCausalLM.from_pretrained

    def watched(directory: Any, **options: Any) -> Any:
        seen.append(_alive(before))
        return read(directory, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    run_distill(make_distill())
    assert [models for models, _ in seen] == [0, 1]


def test_rows_that_stop_the_run_do_so_before_the_teacher_is_asked(
    make_distill: Make, data_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads(data_file.read_text().splitlines()[0])
    with data_file.open("a") as handle:
        for _ in range(64):
            handle.write(json.dumps({**row, "output": ""}) + "\n")
    config = make_distill(store_teacher=4, steps=None)
    with pytest.raises(PreflightError, match="empty completion"):
        run_distill(config)
    assert "asking the teacher" not in capsys.readouterr().err
    assert not config.store.exists()


def test_a_student_that_cannot_be_read_does_not_cost_what_the_teacher_said(
    make_distill: Make, tiny_model_dir: Path, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(tiny_model_dir, student)
    weights = load_file(student / "model.safetensors")
    dropped = next(name for name in weights if name.endswith("up_proj.weight"))
    save_file(
        {n: w for n, w in weights.items() if n != dropped}, student / "model.safetensors", {"format": "pt"}
    )
    config = make_distill(model=str(student), store_teacher=4)
    with pytest.raises(ModelError, match="lack 1 of the model's tensors"):
        run_distill(config)
    assert config.store_whole
