"""What a user may call a model, and what is said when it is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bethink.core.errors import BethinkError, ModelError
from bethink.models.locate import ModelFiles, locate


@pytest.fixture
def model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


@pytest.fixture
def adapter_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run" / "adapter"
    directory.mkdir(parents=True)
    settings = {"peft_type": "LORA", "base_model_name_or_path": "smollm2-135m"}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def change_config(directory: Path, **changes: object) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def test_locating_imports_neither_torch_nor_transformers(tiny_model_dir: Path) -> None:
    code = (
        "import sys; from bethink.models.locate import locate; locate(sys.argv[1]);"
        "print([m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model_dir)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_directory_is_a_model(tiny_model_dir: Path) -> None:
    assert locate(str(tiny_model_dir)) == ModelFiles(tiny_model_dir, None, str(tiny_model_dir))


def test_a_plus_adds_an_adapter(tiny_model_dir: Path, adapter_dir: Path) -> None:
    files = locate(f"{tiny_model_dir}+{adapter_dir}")
    assert (files.directory, files.adapter) == (tiny_model_dir, adapter_dir)


def test_a_plus_in_a_directorys_own_name_is_no_adapter(model_dir: Path, adapter_dir: Path) -> None:
    odd = model_dir.rename(model_dir.parent / "a+b")
    assert locate(str(odd)).directory == odd
    assert locate(f"{odd}+{adapter_dir}").adapter == adapter_dir


def test_the_tokenizer_alone_is_enough_where_no_weights_are_asked_for(tiny_tokenizer_dir: Path) -> None:
    assert locate(str(tiny_tokenizer_dir), weights=False).directory == tiny_tokenizer_dir
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate(str(tiny_tokenizer_dir))


@pytest.mark.parametrize(
    ("spec", "what", "fix"),
    [
        ("smolm2-135m", "no model `smolm2-135m`", "did you mean `smollm2-135m`"),
        ("no/such/dir", "no model `no/such/dir`", "smollm2-135m"),
        ("./nowhere", "no model", "directory"),
        ("nowhere.gguf", "no model", "GGUF"),
        ("", "no model", "directory"),
        ("+x", "not a model", "MODEL"),
        ("smollm2-135m+/no/such/adapter", "adapter directory does not exist", "after `+`"),
        ("~no-such-user-here/x", "home of a user who is not known", "directory"),
        ("smollm2-135m+~no-such-user-here/x", "home of a user who is not known", "directory"),
        ("foo/bar..baz", "no model `foo/bar..baz`", "owner/name"),
        ("foo/bar--baz", "no model `foo/bar--baz`", "owner/name"),
        ("a" * 300, "too long", "smollm2-135m"),
        (f"smollm2-135m+{'a' * 300}", "too long", "smollm2-135m"),
    ],
)
def test_a_spec_that_means_nothing_is_answered_with_what_would(spec: str, what: str, fix: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        locate(spec)
    assert fix in str(caught.value)


def test_an_adapter_without_a_config_is_refused(tiny_model_dir: Path, adapter_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter_config\.json") as caught:
        locate(f"{tiny_model_dir}+{adapter_dir.parent}")
    assert f"pass {adapter_dir}" in str(caught.value)


def test_an_adapter_passed_alone_is_answered_with_the_full_spec(adapter_dir: Path) -> None:
    for directory in (adapter_dir, adapter_dir.parent):
        with pytest.raises(ModelError) as caught:
            locate(str(directory))
        assert f"pass smollm2-135m+{adapter_dir}" in str(caught.value)


def test_a_directory_that_holds_the_model_deeper_says_where(model_dir: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate(str(model_dir.parent))
    assert f"pass {model_dir}" in str(caught.value)


def test_a_directory_of_gguf_files_asks_for_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError) as caught:
        locate(str(tmp_path))
    assert str(tmp_path / "m.gguf") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "an encoder"),
        ({"model_type": "roberta", "architectures": None}, "an encoder"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, "writes text"),
    ],
)
def test_a_model_that_writes_no_text_is_refused(
    model_dir: Path, changes: dict[str, object], what: str
) -> None:
    with pytest.raises(ModelError, match=what):
        locate(str(change_config(model_dir, **changes)))


def test_pickled_weights_are_never_read_and_the_way_out_is_shown(model_dir: Path) -> None:
    (model_dir / "model.safetensors").rename(model_dir / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle") as caught:
        locate(str(model_dir))
    assert "save_pretrained" in str(caught.value)


def test_missing_parts_are_named(model_dir: Path) -> None:
    (model_dir / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        locate(str(model_dir))
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        locate(str(model_dir))


def test_damaged_weights_are_found_before_loading(model_dir: Path) -> None:
    weights = model_dir / "model.safetensors"
    whole = weights.read_bytes()
    for spoiled, what in (
        (whole[:-1], "cut short"),
        (whole[:1000], "damaged"),
        (whole[:4], "damaged"),
        (b"", "damaged"),
        (b"<!DOCTYPE html><html>not found", "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    ):
        weights.write_bytes(spoiled)
        with pytest.raises(ModelError, match=what):
            locate(str(model_dir))


def test_a_missing_shard_is_named(model_dir: Path) -> None:
    tensors = load_file(model_dir / "model.safetensors")
    (model_dir / "model.safetensors").unlink()
    save_file(tensors, model_dir / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            **dict.fromkeys(tensors, "model-00001-of-00002.safetensors"),
            "x": "model-00002-of-00002.safetensors",
        }
    }
    (model_dir / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors"):
        locate(str(model_dir))
    save_file({"x": torch.zeros(1)}, model_dir / "model-00002-of-00002.safetensors")
    assert locate(str(model_dir)).directory == model_dir


def test_a_config_that_is_not_json_is_refused(model_dir: Path) -> None:
    (model_dir / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        locate(str(model_dir))


def test_a_config_nested_without_end_is_refused(model_dir: Path) -> None:
    for text in ("[" * 100_000, '{"vocab_size": ' + "1" * 5000 + "}"):
        (model_dir / "config.json").write_text(text)
        with pytest.raises(ModelError, match="not valid JSON"):
            locate(str(model_dir))


def test_architectures_of_any_shape_are_no_crash(model_dir: Path) -> None:
    for value in ({}, {"a": 1}, [5], 5, "LlamaForCausalLM"):
        change_config(model_dir, architectures=value)
        with suppress(ModelError):
            locate(str(model_dir))


def test_an_adapters_settings_that_are_no_object_are_refused(adapter_dir: Path) -> None:
    (adapter_dir / "adapter_config.json").write_text("[]")
    with pytest.raises(BethinkError, match="expected an object"):
        locate(str(adapter_dir))
    with pytest.raises(ModelError, match="expected an object"):
        locate(f"smollm2-135m+{adapter_dir}")


def test_a_hub_models_weights_are_fetched_after_its_config_was_looked_at(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, fetched = tmp_path / "snapshot", []
    snapshot.mkdir()

    def snapshot_download(_: str, allow_patterns: list[str]) -> str:
        names = {path.name for pattern in allow_patterns for path in model_dir.glob(pattern)}
        fetched.extend(sorted(names - {path.name for path in snapshot.iterdir()}))
        for name in names:
            shutil.copyfile(model_dir / name, snapshot / name)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    whole = (model_dir / "config.json").read_text()
    change_config(model_dir, model_type="bert", architectures=["BertForMaskedLM"])
    with pytest.raises(ModelError, match="an encoder"):
        locate("some-owner/some-model")
    assert "config.json" in fetched
    assert "model.safetensors" not in fetched

    (model_dir / "config.json").write_text(whole)
    assert locate("some-owner/some-model", weights=False).directory == snapshot
    assert "model.safetensors" not in fetched
    assert locate("some-owner/some-model").directory == snapshot
    assert fetched[-1] == "model.safetensors"


def test_a_file_inside_a_model_directory_points_to_the_directory(model_dir: Path) -> None:
    with pytest.raises(ModelError, match="not a GGUF file") as caught:
        locate(str(model_dir / "model.safetensors"))
    assert str(model_dir) in str(caught.value)


def test_an_unreachable_hub_says_what_works_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        locate("some-owner/some-model-nobody-has")
    assert "smollm2-135m" in str(caught.value)
    assert "directory" in str(caught.value)
