"""Next-token training: what is learned from which text, the loss, the base model that comes out, and going on after a kill."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bethink.chat.new_tokenizer import END
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import BethinkError, ConfigError, DataError
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.train.checkpoint import latest
from bethink.train.metrics import read_metrics
from bethink.train.pretrain.config import PretrainConfig
from bethink.train.pretrain.method import Order
from bethink.train.pretrain.run import run_pretrain
from bethink.train.pretrain.texts import build_text_stores, text_files
from train.runs import undisturbed_and_killed, untimed

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.1,
}
Make = Callable[..., PretrainConfig]


def _counting(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(str((start + i) % 10) for i in range(12))
        for start in (rng.randrange(10) for _ in range(count))
    ]


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows: list[dict[str, Any]] = [{"text": text} for text in _counting(120, seed=random.randrange(2**31))]
    rows[5] = {"messages": [{"role": "user", "content": "count"}, {"role": "assistant", "content": "1 2 3"}]}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def make(texts_file: Path, tmp_path: Path) -> Make:
    def build(**changes: Any) -> PretrainConfig:
        settings: dict[str, Any] = {
            "data": texts_file,
            "output": tmp_path / "base",
            "shape": SHAPE,
            "vocabulary": 280,
            "context": 32,
            "tokens_per_step": 256,
            "tokens_per_microbatch": 128,
            "steps": 6,
            "lr": 3e-3,
            "dtype": "float32",
            "device": "cpu",
            "eval_every": 0,
        }
        return PretrainConfig(**{**settings, **changes})

    return build


def test_the_loss_is_the_mean_over_every_token_but_each_texts_first(make: Make, tmp_path: Path) -> None:
    config = make(steps=1, lr=1e-12, held_out=0.0)
    run_pretrain(config)
    first = read_metrics(config.output / "metrics.jsonl")[0]
    model = load_model(locate(str(config.product)), dtype=torch.float32, device="cpu")
    tokenizer = ChatTokenizer.load(config.product)
    store, _ = build_text_stores(
        text_files(config.data),
        tokenizer,
        tmp_path / "store",
        field="text",
        context=32,
        held_out=0.0,
        max_held_out=0,
    )
    nll, count = 0.0, 0
    for index in Order(store.lengths, 256, config.seed).of(0):
        ids = torch.tensor([*store[index].prompt_ids, *store[index].completion_ids])[None]
        with torch.no_grad():
            logprob_TV = model(input_ids=ids.long(), use_cache=False).logits[0, :-1].log_softmax(-1)
        nll -= float(logprob_TV.gather(1, ids[0, 1:, None].long()).sum())
        count += ids.shape[1] - 1
    assert first["loss"] == pytest.approx(nll / count, abs=1e-4)


def test_a_base_model_learns_to_count(make: Make) -> None:
    result = run_pretrain(make(steps=300, seed=random.randrange(2**31), eval_every=150, held_out=0.1))
    rows = read_metrics(result.path.parent / "metrics.jsonl")
    assert rows[0]["loss"] > 4  # of 280 tokens, all alike
    assert rows[-1]["loss"] < 0.15
    assert rows[-1]["eval_loss"] < rows[0]["loss"]  # of beginnings it has never seen
    tokenizer = ChatTokenizer.load(result.path)
    model = load_model(locate(str(result.path)), dtype=torch.float32, device="cpu")
    ids = tokenizer.encode("4 5 6")
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert tokenizer.decode(ids).startswith("4 5 6 7 8")
    assert (result.path.parent / "loss.svg").exists()


def test_recomputing_layers_changes_nothing_but_memory(make: Make, tmp_path: Path) -> None:
    left = [
        run_pretrain(make(gradient_checkpointing=asked, output=tmp_path / str(asked))).path
        for asked in (False, True)
    ]
    assert len({(path / "model.safetensors").read_bytes() for path in left}) == 1


def test_the_product_is_a_model_like_any_other(make: Make) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = run_pretrain(make(steps=2))
    tokenizer = AutoTokenizer.from_pretrained(result.path)
    model = AutoModelForCausalLM.from_pretrained(result.path)
    assert model.config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids(END)
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert shown == ChatTokenizer.load(result.path).render(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True
    )
    assert not list(result.path.parent.glob(".initial*"))
    assert not list(result.path.parent.glob(".tokens*"))


def test_a_known_tokenizer_can_be_taken(make: Make, tiny_model_dir: Path) -> None:
    result = run_pretrain(make(steps=1, vocabulary=None, tokenizer=str(tiny_model_dir)))
    assert ChatTokenizer.load(result.path).hash == ChatTokenizer.load(tiny_model_dir).hash


def test_every_pass_takes_every_text_once_in_an_order_of_its_own() -> None:
    rng = np.random.default_rng()
    lengths = rng.integers(2, 40, size=97)
    order = Order(lengths, 100, seed=3)
    steps = -(-2 * order.pass_tokens // 100)
    taken = [index for step in range(steps + 1) for index in order.of(step)]
    assert Counter(taken[:97]) == Counter(range(97)) == Counter(taken[97:194])
    assert taken[:97] != taken[97:194]
    assert order.of(4) == Order(lengths, 100, seed=3).of(4)


def test_a_long_text_is_cut_so_that_every_token_is_learned_once(tmp_path: Path, tiny_model_dir: Path) -> None:
    text = " ".join(map(str, range(60)))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    tokenizer = ChatTokenizer.load(tiny_model_dir)
    store, _ = build_text_stores(
        [tmp_path / "long.txt"],
        tokenizer,
        tmp_path / "s",
        field="text",
        context=16,
        held_out=0.0,
        max_held_out=0,
    )
    assert max(store.lengths) <= 16
    learned = [token for i in range(len(store)) for token in store[i].completion_ids.tolist()]
    assert learned == [*tokenizer.encode(text), tokenizer.stop_ids[-1]][1:]


def test_killed_and_resumed_leaves_the_same_bytes(make: Make, tmp_path: Path) -> None:
    settings = {
        "steps": 8,
        "checkpoint_every": 3,
        "eval_every": 4,
        "held_out": 0.1,
        "seed": random.randrange(2**31),
    }
    whole = make(output=tmp_path / "whole", **settings)
    killed = make(output=tmp_path / "killed", **settings)
    undisturbed_and_killed(run_pretrain, whole, killed, after=random.randint(1, 5))
    name = "model.safetensors"
    assert (killed.product / name).read_bytes() == (whole.product / name).read_bytes()
    assert untimed(killed) == untimed(whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "lama"}, "did you mean `llama`"),
        ({"shape": {**SHAPE, "hiden_size": 3}}, "did you mean `hidden_size`"),
        ({"vocabulary": 20}, "too small"),
        ({"field": "body"}, r"texts.jsonl:1.*--field"),
        ({"shape": {**SHAPE, "num_attention_heads": 3}}, "no model is described|heads"),
    ],
)
def test_what_cannot_be_is_said_and_the_output_left_free(
    make: Make, changes: dict[str, Any], said: str
) -> None:
    config = make(**changes)
    with pytest.raises(BethinkError, match=f"(?s){said}"):
        run_pretrain(config)
    assert not config.output.exists()


def test_missing_texts_and_two_tokenizers_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        run_pretrain(make(data=tmp_path / "none.txt"))
    with pytest.raises(ValidationError, match="not both or none"):
        make(tokenizer="smollm2-135m")
    with pytest.raises(ConfigError):
        run_pretrain(make(vocabulary=1))


def test_the_second_moment_forgets_sooner_than_in_fine_tuning(make: Make) -> None:
    config = make(steps=1, clip=0.0)
    run_pretrain(config)
    found = latest(config.output / "checkpoints")
    assert found is not None
    name = "model.embed_tokens.weight"
    first, second = found.tensors[f"exp_avg.{name}"], found.tensors[f"exp_avg_sq.{name}"]
    torch.testing.assert_close(second, (1 - 0.95) * (first / 0.1).square())
