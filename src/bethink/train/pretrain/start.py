"""The model a run begins with: a config, random weights and a tokenizer, as a directory like any other model's."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from bethink.chat.new_tokenizer import new_tokenizer
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.config import did_you_mean, nearest
from bethink.core.console import note
from bethink.core.errors import ConfigError
from bethink.core.files import read_object
from bethink.core.seeds import derive_seed
from bethink.models.load import refuse_unserved, silence_transformers
from bethink.models.locate import ModelFiles, locate
from bethink.models.save import copy_tokenizer
from bethink.train.checkpoint import replaced_directory
from bethink.train.pretrain.config import PretrainConfig

_TEXTS_FOR_TOKENIZER = 100_000


def begin(config: PretrainConfig, directory: Path, words: Iterable[str]) -> ModelFiles:
    """Write the model into `directory`, whole or not at all, unless it is there; words: what a new tokenizer learns from.

    Raises ConfigError for a config that describes no model, ModelError for one that cannot be trained here.
    """
    if not directory.exists():
        keys = _keys(config)
        with replaced_directory(directory) as part:
            if config.tokenizer is not None:
                copy_tokenizer(locate(config.tokenizer, weights=False).directory, part)
            else:
                assert config.vocabulary is not None  # the config asks for one of the two
                new_tokenizer(islice(words, _TEXTS_FOR_TOKENIZER), config.vocabulary, part)
            tokenizer = ChatTokenizer.load(part)
            ends = {"eos_token_id": tokenizer.stop_ids[-1], "bos_token_id": None}
            built = _built({"vocab_size": tokenizer.vocab_size} | keys | ends)
            refuse_unserved(built, config.model)
            silence_transformers()
            torch.manual_seed(derive_seed(config.seed, "initial weights"))
            model = AutoModelForCausalLM.from_config(built, dtype=torch.float32)
            model.save_pretrained(part)
            note(
                f"{config.model}: {sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab_size:,} tokens"
            )
    return locate(str(directory))


def _without(keys: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key != name}


def _keys(config: PretrainConfig) -> dict[str, Any]:
    """The keys of the config.json that is meant."""
    path = Path(config.model)
    path = path / "config.json" if path.is_dir() else path
    keys = read_object(path) if path.is_file() else {"model_type": config.model}
    return {**_without(keys, "architectures"), "max_position_embeddings": config.context, **config.shape}


def _built(keys: dict[str, Any]) -> PretrainedConfig:
    name = str(keys.get("model_type"))
    try:
        known = AutoConfig.for_model(name).to_dict()
        built = AutoConfig.for_model(name, **_without(keys, "model_type"))
    except Exception as error:  # a config can be wrong in as many ways as transformers has architectures
        guess = nearest(name, ["llama", "qwen2", "qwen3", "mistral", "smollm3", "phi3", "gemma"])
        raise ConfigError(
            f"no model is described by this config: {' '.join(str(error).split())[:160]}",
            fix=f"did you mean `{guess}`?"
            if guess and guess != name
            else "give --model an architecture such as llama, or a config.json",
        ) from error
    if unknown := next((key for key in keys if key not in known and key != "model_type"), None):
        raise ConfigError(
            f"`{name}` has no setting `{unknown}`",
            fix=did_you_mean(unknown, known, f"its settings: {', '.join(sorted(known))}"),
        )
    return built
