"""The tokenizer inside a GGUF file, written as tokenizer.json, tokenizer_config.json and chat_template.jinja.

A byte-level BPE vocabulary is rebuilt here, with the pre-tokenizer its name calls for: merges learned on other splits would cut text
otherwise than the model was trained on ("  1" as two single spaces instead of one double), and nothing would complain. An unknown
name is therefore refused. SentencePiece vocabularies go through transformers' own reader.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bethink.core.errors import ModelError
from bethink.core.files import write_json, write_text

_CONTROL, _USER_DEFINED = 3, 4
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "eot": "eot", "eom": "eom"}

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_CONTRACTION}|{_WORDS}|\p{{N}}|{_REST}"
_LLAMA3 = rf"{_CONTRACTION}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"

_PLAIN = {"gpt-2", "mpt", "olmo", "phi-2", "jina-v2-code"}
_DIGITS_FIRST = {"smollm", "starcoder", "refact", "codeshell", "command-r", "minerva-7b"}
_SPLITS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
}


def special_ids(metadata: dict[str, Any]) -> dict[str, int]:
    """Token ids of bos, eos, unk, pad, end of turn (eot) and end of message (eom), those the file names."""
    found = {short: metadata.get(f"tokenizer.ggml.{name}_token_id") for short, name in _SPECIAL.items()}
    return {short: int(token) for short, token in found.items() if token is not None}


def write_tokenizer(path: Path, metadata: dict[str, Any], directory: Path) -> None:
    """Write the tokenizer of the GGUF file `path` (with this metadata) into `directory`. Raises ModelError when it cannot be rebuilt."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        _write_byte_level(path, metadata, directory)
    elif kind == "llama":
        _write_with_transformers(path, directory)
    else:
        raise ModelError(
            f"a tokenizer of type `{kind}` cannot be rebuilt from a GGUF file",
            where=str(path),
            fix="pass the model's original Hugging Face directory",
        )
    if template := metadata.get("tokenizer.chat_template"):
        write_text(directory / "chat_template.jinja", template)


def _write_byte_level(path: Path, metadata: dict[str, Any], directory: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    name = metadata.get("tokenizer.ggml.pre", "gpt-2")
    make = _pre_tokenizer(name)
    if make is None:
        raise ModelError(
            f"the file's pre-tokenizer, `{name}`, is not known here, and a wrong one would cut text unlike in training",
            where=str(path),
            fix="pass the model's original Hugging Face directory",
        )
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges") or ()]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    whole_words_first = _SPLITS.get(name) == _LLAMA3
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_words_first))
    tokenizer.pre_tokenizer = make()
    tokenizer.decoder = decoders.ByteLevel()
    if _SPLITS.get(name) == _QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    typed = list(zip(tokens, kinds, strict=True))
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in typed if k == _CONTROL]
    )
    tokenizer.add_tokens(
        [AddedToken(t, special=False, normalized=False) for t, k in typed if k == _USER_DEFINED]
    )
    ids = special_ids(metadata)
    if metadata.get("tokenizer.ggml.add_bos_token") and "bos" in ids:
        _put_bos_first(tokenizer, tokens[ids["bos"]], ids["bos"])
    tokenizer.save(str(directory / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    config |= {f"{short}_token": tokens[ids[short]] for short in ("bos", "eos", "unk", "pad") if short in ids}
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    write_json(directory / "tokenizer_config.json", config | ({"model_max_length": length} if length else {}))


def _pre_tokenizer(name: str) -> Callable[[], Any] | None:
    from tokenizers import Regex, pre_tokenizers

    if name in _PLAIN:
        return lambda: pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _DIGITS_FIRST:
        return lambda: pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if name in _SPLITS:
        return lambda: pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return None


def _put_bos_first(tokenizer: Any, bos: str, bos_id: int) -> None:
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
    )


def _write_with_transformers(path: Path, directory: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(
            f"the tokenizer cannot be rebuilt from the GGUF file: {next(iter(str(error).splitlines()), type(error).__name__)}",
            where=str(path),
            fix="pass the model's original Hugging Face directory",
        ) from error
    tokenizer.save_pretrained(directory)
