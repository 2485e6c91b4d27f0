"""Tiny real tokenizers and a tiny real model, built once a test session; nothing is downloaded.

tiny_tokenizer_dir: a byte-level BPE tokenizer with a ChatML template, as a directory both `transformers` and our own loader read.
make_tokenizer_dir: the same for any template and special tokens.
tiny_model_dir:     a random two-layer Llama saved beside that tokenizer.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from chat.templates import CHATML, Family

# Processes that test beside each other share the cores: threads that wait for each other's cores make every one of them slow.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))

# A background job may inherit an ignored Ctrl-C and hand it on to the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

MakeTokenizerDir = Callable[..., Path]

_CORPUS = [
    "What is 17 plus 25? Let me think about it step by step.",
    "First I add 17 and 20, which gives 37. Then I add 5 and get 42.",
    "The final answer is \\boxed{42}.",
    "detailed thinking on\ndetailed thinking off",
    "system user assistant <think>\n\n</think>\n\n",
    "You are a helpful assistant. Answer in one short sentence.",
    "A train leaves at 9 and arrives at 12, so it travels for three hours.",
    "State the final answer to the following arithmetic problem: 3 + 4 - 5 =",
    "Solve for x. Wait, that is wrong; let me check the result again.",
]


def _train_tokenizer(special_tokens: Sequence[str], plain_tokens: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480 + len(special_tokens),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain_tokens])
    return tokenizer


@pytest.fixture(scope="session")
def make_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> MakeTokenizerDir:
    """A factory: make_tokenizer_dir(template, special_tokens, *, eos, bos=None, plain_tokens=()) -> directory.

    template None leaves the chat template out. eos defaults to the last special token; bos to none.
    """

    def make(
        template: str | None,
        special_tokens: Sequence[str] = CHATML.special_tokens,
        *,
        eos: str | None = None,
        bos: str | None = None,
        plain_tokens: Sequence[str] = (),
    ) -> Path:
        directory = tmp_path_factory.mktemp("tokenizer")
        _train_tokenizer(special_tokens, plain_tokens).save(str(directory / "tokenizer.json"))
        eos = eos or special_tokens[-1]
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": eos,
            "pad_token": eos,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
        }
        (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        if template is not None:
            (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
        return directory

    return make


@pytest.fixture(scope="session")
def make_family_dir(make_tokenizer_dir: MakeTokenizerDir) -> Callable[[Family], Path]:
    """A tokenizer directory for one of `chat.templates`' families, built once for each."""
    built: dict[str, Path] = {}

    def make(family: Family) -> Path:
        if family.name not in built:
            built[family.name] = make_tokenizer_dir(
                family.template,
                family.special_tokens,
                eos=family.eos,
                bos=family.bos,
                plain_tokens=family.plain_tokens,
            )
        return built[family.name]

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(make_family_dir: Callable[[Family], Path]) -> Path:
    """A ChatML tokenizer directory of about 480 tokens. Read only: copy it before changing anything."""
    return make_family_dir(CHATML)


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp32 Llama (hidden 64, 2 layers, 4 heads, 2 KV heads, tied embeddings) with the ChatML tokenizer. Read only."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer.from_file(str(tiny_tokenizer_dir / "tokenizer.json"))
    end_id = tokenizer.token_to_id("<|im_end|>")
    directory = tmp_path_factory.mktemp("tiny_model")
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id("<|im_start|>"),
        eos_token_id=end_id,
        pad_token_id=end_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    for file in tiny_tokenizer_dir.iterdir():
        shutil.copy(file, directory / file.name)
    return directory
