"""A GGUF file becomes the model it was made from: same logits, same tokens, and no half-made directory."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from bethink.core.errors import BethinkError, ModelError
from bethink.core.files import cache_dir
from bethink.models import conversion
from bethink.models.gguf_file import rename
from bethink.models.load import load_model
from bethink.models.locate import locate

TEXTS = [
    "a  1\n\n1. It's 3.14 and 12345<|im_end|>\n",
    " thinking   step by step\t\n \n x",
    "été naïve 北京 🙂",
]
IDS = torch.arange(24).reshape(1, 24) + 3
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "dtype": "float32",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path / "cache"))


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows as llama.cpp stores them: pair i of a head is rows 2i and 2i + 1, not rows i and i + half."""
    rows = weight.shape[0] // heads
    order = [
        head * rows + half * rows // 2 + pair
        for head in range(heads)
        for pair in range(rows // 2)
        for half in (0, 1)
    ]
    return weight[order]


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer_dir: Path,
    *,
    pre: str = "smollm",
    quantized: tuple[gguf.GGMLQuantizationType, ...] = (),
    change: Callable[[gguf.GGUFWriter], None] = lambda _: None,
) -> Path:
    """`model` and the tokenizer as a GGUF file, by the gguf package's own writer and names."""
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.norm_epsilon)
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.token_to_id("<|im_start|>"))
    writer.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_chat_template((tokenizer_dir / "chat_template.jinja").read_text())
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if config.model_type == "llama" and "q_proj" in name:
            tensor = interleaved(tensor, config.num_attention_heads)
        if config.model_type == "llama" and "k_proj" in name:
            tensor = interleaved(tensor, config.num_key_value_heads)
        values = tensor.detach().float().numpy()
        kind = quantized[0] if quantized and values.ndim == 2 else None
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if kind is None:
            writer.add_tensor(target, values)
        else:
            writer.add_tensor(target, gguf.quants.quantize(values, kind), raw_dtype=kind)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_model(config_class: type, tokenizer_dir: Path, **settings: Any) -> PreTrainedModel:
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    torch.manual_seed(0)
    config = config_class(**(SMALL | {"vocab_size": tokenizer.get_vocab_size()} | settings))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(IDS, use_cache=False).logits  # type: ignore[no-any-return]


FAMILIES = {
    "llama": (
        LlamaConfig,
        {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}},
    ),
    "llama, tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "llama, biases": (LlamaConfig, {"attention_bias": True}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16, "tie_word_embeddings": True}),
    "starcoder2": (Starcoder2Config, {"tie_word_embeddings": True}),
}


@pytest.mark.parametrize(("config_class", "settings"), FAMILIES.values(), ids=FAMILIES)
def test_a_gguf_file_has_the_logits_of_the_model_it_was_made_from(
    tiny_tokenizer_dir: Path, tmp_path: Path, config_class: type, settings: dict[str, Any]
) -> None:
    model = make_model(config_class, tiny_tokenizer_dir, **settings)
    path = write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer_dir)
    files = locate(str(path))
    loaded = load_model(files, dtype=torch.float32, device="cpu")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(files.directory).eval()
    assert plain.dtype == torch.float32
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=1e-4)


def test_quantized_weights_are_unpacked_to_what_the_format_means(
    tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    model = make_model(LlamaConfig, tiny_tokenizer_dir)
    loaded = load_model(
        locate(str(write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer_dir, quantized=(kind,)))),
        dtype=torch.float32,
    )
    original = model.model.layers[1].mlp.up_proj.weight.detach().numpy()
    meant = gguf.quants.dequantize(gguf.quants.quantize(original, kind), kind)
    found = loaded.model.layers[1].mlp.up_proj.weight.detach().cpu()
    assert torch.equal(found, torch.from_numpy(meant).bfloat16().float())


def test_the_tokenizer_cuts_text_as_the_original_does(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    model = make_model(LlamaConfig, tiny_tokenizer_dir)
    directory = locate(str(write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer_dir))).directory
    original = Tokenizer.from_file(str(tiny_tokenizer_dir / "tokenizer.json"))
    rebuilt = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in TEXTS:
        assert rebuilt.encode(text).ids == original.encode(text).ids
        assert rebuilt.decode(rebuilt.encode(text).ids, skip_special_tokens=False) == text
    assert (directory / "chat_template.jinja").read_text() == (
        tiny_tokenizer_dir / "chat_template.jinja"
    ).read_text()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")


def test_a_sentencepiece_vocabulary_is_rebuilt(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefgh",
        "ab",
        "▁ab",
        "cd",
        "▁abcd",
    ]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(index) for index in range(len(pieces))])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (len(pieces) - 259)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((len(pieces), 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer = Tokenizer.from_file(str(locate(str(tmp_path / "m.gguf")).directory / "tokenizer.json"))
    assert tokenizer.encode("abcd cd", add_special_tokens=False).tokens == ["▁abcd", "▁", "cd"]
    assert tokenizer.decode(tokenizer.encode("abcd hé").ids) == "abcd hé"


def test_end_of_turn_and_end_of_message_stop_generation_too(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    model = make_model(LlamaConfig, tiny_tokenizer_dir)
    path = write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer_dir, change=lambda w: w.add_eot_token_id(7))
    generation = json.loads((locate(str(path)).directory / "generation_config.json").read_text())
    end = Tokenizer.from_file(str(tiny_tokenizer_dir / "tokenizer.json")).token_to_id("<|im_end|>")
    assert generation["eos_token_id"] == [end, 7]


def test_llama_3s_stretched_rope_is_recognised_from_its_factors(
    tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = make_model(LlamaConfig, tiny_tokenizer_dir, rope_parameters=rope, max_position_embeddings=131072)
    plain = 1.0 / 500000.0 ** (np.arange(0, 16, 2) / 16)
    factors = (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert factors.max() == pytest.approx(8.0)

    path = write_gguf(
        tmp_path / "m.gguf",
        model,
        tiny_tokenizer_dir,
        change=lambda w: w.add_tensor("rope_freqs.weight", factors),
    )
    loaded = load_model(locate(str(path)), dtype=torch.float32, device="cpu")
    assert loaded.config.rope_parameters == rope
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)

    odd = write_gguf(
        tmp_path / "odd.gguf",
        model,
        tiny_tokenizer_dir,
        change=lambda w: w.add_tensor("rope_freqs.weight", factors[::-1].copy()),
    )
    with pytest.raises(ModelError, match="not Llama 3's"):
        locate(str(odd))


def test_a_conversion_is_done_once_and_found_by_content(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model(LlamaConfig, tiny_tokenizer_dir), tiny_tokenizer_dir)
    first = locate(str(path)).directory
    written = (first / "model.safetensors").stat().st_mtime_ns
    moved = path.rename(tmp_path / "elsewhere.gguf")
    assert locate(str(moved)).directory == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    assert json.loads((first / "manifest.json").read_text())["file"] == str(path)


def test_two_conversions_at_once_do_each_other_no_harm(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model(LlamaConfig, tiny_tokenizer_dir), tiny_tokenizer_dir)
    code = "import sys; from bethink.models.locate import locate; print(locate(sys.argv[1]).directory)"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = {process.communicate()[0].strip() for process in running}
    assert len(found) == 1
    assert [process.returncode for process in running] == [0, 0]
    assert [p.name for p in (cache_dir() / "models").iterdir()] == [Path(found.pop()).name]


def test_a_half_made_directory_is_never_used(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model(LlamaConfig, tiny_tokenizer_dir), tiny_tokenizer_dir)
    directory = locate(str(path)).directory
    (directory / "manifest.json").unlink()
    (directory / "model.safetensors").write_bytes(b"half")
    load_model(locate(str(path)), dtype=torch.float32, device="cpu")


def test_a_model_damaged_in_the_cache_says_which_directory_to_remove(
    tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model(LlamaConfig, tiny_tokenizer_dir), tiny_tokenizer_dir)
    directory = locate(str(path)).directory
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="cut short") as caught:
        locate(str(path))
    assert str(caught.value.fix).startswith(f"remove {directory}")
    shutil.rmtree(directory)
    load_model(locate(str(path)), dtype=torch.float32, device="cpu")


def test_what_an_older_converter_made_is_made_again(
    tiny_tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model(LlamaConfig, tiny_tokenizer_dir), tiny_tokenizer_dir)
    manifest = locate(str(path)).directory / "manifest.json"
    made = manifest.stat().st_mtime_ns
    monkeypatch.setattr(conversion, "FORMAT", conversion.FORMAT + 1)
    locate(str(path))
    assert manifest.stat().st_mtime_ns > made
    assert json.loads(manifest.read_text())["format"] == conversion.FORMAT


def _without_tokens(writer: gguf.GGUFWriter) -> None:
    writer.kv_data[0].pop("tokenizer.ggml.tokens")


def _set(name: str, value: object) -> Callable[[gguf.GGUFWriter], None]:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0][name].value = value

    return change


DAMAGE = {
    "no tokens": _without_tokens,
    "tokens that are numbers": lambda w: (_without_tokens(w), w.add_array("tokenizer.ggml.tokens", [1, 2])),
    "merges of unknown tokens": _set("tokenizer.ggml.merges", ["no such", "tokens here"]),
    "merges without a space": _set("tokenizer.ggml.merges", ["nospace"]),
    "fewer types than tokens": _set("tokenizer.ggml.token_type", [1, 1]),
    "a bos beyond the tokens": _set("tokenizer.ggml.bos_token_id", 4_000_000),
    "heads that do not divide": _set("llama.attention.head_count", 7),
    "no heads": _set("llama.attention.head_count", 0),
    "parts that are a word": lambda w: w.add_string("split.count", "some"),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_contents_that_make_no_model_are_named_with_the_file(
    tiny_tokenizer_dir: Path, tmp_path: Path, change: Callable[[gguf.GGUFWriter], None]
) -> None:
    model = make_model(LlamaConfig, tiny_tokenizer_dir)
    path = write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer_dir, change=change)
    with pytest.raises(ModelError) as caught:
        locate(str(path))
    assert caught.value.where == str(path)


def test_any_damage_is_an_error_of_ours_or_none(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    model = make_model(LlamaConfig, tiny_tokenizer_dir)
    whole = write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer_dir).read_bytes()
    seed = random.randrange(1 << 30)
    draw = random.Random(seed)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 2, 4])):
            damaged[draw.randrange(4, draw.choice([2500, 20_000]))] = draw.choice(
                [0, 1, 255, draw.randrange(256)]
            )
        (tmp_path / "m.gguf").write_bytes(damaged)
        try:
            locate(str(tmp_path / "m.gguf"))
        except BethinkError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


def test_weights_that_another_familys_file_lacks_are_not_made_up(
    tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    def drop(writer: gguf.GGUFWriter) -> None:
        writer.tensors[0].pop("blk.1.ffn_up.weight")

    model = make_model(Starcoder2Config, tiny_tokenizer_dir, tie_word_embeddings=True)
    path = write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer_dir, change=drop)
    with pytest.raises(ModelError, match=r"lacks 1 of the model's tensors.*layers\.1"):
        locate(str(path))


def test_a_large_model_is_written_in_shards(
    tiny_tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bethink.models.gguf_file._SHARD_BYTES", 100_000)
    model = make_model(LlamaConfig, tiny_tokenizer_dir)
    files = locate(str(write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer_dir)))
    assert len(list(files.directory.glob("model-*.safetensors"))) > 2
    loaded = load_model(files, dtype=torch.float32, device="cpu")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)


def test_files_that_cannot_be_converted_faithfully_are_refused(
    tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    model = make_model(LlamaConfig, tiny_tokenizer_dir)

    def refused(what: str, **options: Any) -> None:
        path = write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer_dir, **options)
        with pytest.raises(ModelError, match=what):
            locate(str(path))
        assert not any((cache_dir() / "models").iterdir())

    refused("pre-tokenizer, `viking`", pre="viking")
    refused("part of a split", change=lambda w: w.add_uint16("split.count", 3))
    refused(
        "rotary scaling of type `yarn`", change=lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    )
    refused(
        "should not have: `blk.0.ssm_a.weight`",
        change=lambda w: w.add_tensor("blk.0.ssm_a.weight", np.zeros(4, np.float32)),
    )


@pytest.mark.parametrize("keep", [4, 100, 5000, -1000])
def test_a_file_cut_short_is_said_to_be(tiny_tokenizer_dir: Path, tmp_path: Path, keep: int) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model(LlamaConfig, tiny_tokenizer_dir), tiny_tokenizer_dir)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="damaged or cut short"):
        locate(str(path))


def test_a_family_nobody_converts_is_refused(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "whisper")
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="family `whisper`"):
        locate(str(tmp_path / "m.gguf"))


def test_every_name_in_the_tables_is_the_gguf_packages_own() -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 2)
    for ours in (
        "token_embd.weight",
        "output_norm.weight",
        "output.weight",
        "blk.1.attn_q_norm.weight",
        "blk.0.ffn_gate.weight",
    ):
        theirs = rename(ours)
        assert theirs is not None
        assert names.get_name(theirs, try_suffixes=(".weight",)) == ours
    assert rename("v.blk.0.attn_q.weight") is None
