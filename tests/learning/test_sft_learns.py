"""A tiny random model, trained by `run_sft`, learns when to think: the toggle is in the prompt, the behaviour in the weights.

The task: repeat a short word of digits. Thinking on: a think block with the digits one a line, then the answer; off: the answer alone. On
held-out rows the trained model must choose 95 % of completion tokens right, think tags included, and answer whole rows greedily.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bethink.chat.parse import compliant, compose
from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.train.sft.config import SFTConfig
from bethink.train.sft.run import run_sft


def _rows(renderer: Renderer, count: int, seed: int) -> Iterator[dict[str, str]]:
    rng = random.Random(seed)
    for index in range(count):
        digits = "".join(rng.choice("0123456789") for _ in range(2))
        mode = Mode.ON if index % 2 else Mode.OFF
        output = compose("\n".join(digits), digits) if mode is Mode.ON else digits
        prompt, completion = renderer.texts([{"role": "user", "content": digits}], output, mode)
        yield {"input": prompt, "output": completion, "mode": mode.value}


@torch.inference_mode()
def _greedy(model: Any, prompt_ids: list[int], stop: int, limit: int = 40) -> list[int]:
    ids = list(prompt_ids)
    while len(ids) - len(prompt_ids) < limit:
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == stop:
            break
    return ids[len(prompt_ids) :]


def test_a_tiny_model_learns_the_toggle(tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.load(tiny_model_dir)
    renderer = Renderer(tokenizer)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in _rows(renderer, 960, seed=1)), encoding="utf-8")
    config = SFTConfig(
        model=str(tiny_model_dir),
        data=data,
        output=tmp_path / "run",
        full=True,
        epochs=12,
        batch_size=16,
        lr=2e-3,
        dtype="fp32",
        held_out=0.0,
        eval_every=0,
        checkpoint_every=0,
    )
    result = run_sft(config)

    model = load_model(locate(str(result.path)), dtype=torch.float32, device="cpu")
    right = total = whole = 0
    held_out = list(_rows(renderer, 40, seed=2))
    for row in held_out:
        prompt_ids, completion_ids = tokenizer.encode(row["input"]), tokenizer.encode(row["output"])
        with torch.inference_mode():
            logits_TV = model(input_ids=torch.tensor([prompt_ids + completion_ids]), use_cache=False).logits[
                0
            ]
        chosen = logits_TV[len(prompt_ids) - 1 : -1].argmax(-1).tolist()
        right += sum(a == b for a, b in zip(chosen, completion_ids, strict=True))
        total += len(completion_ids)
        written = _greedy(model, prompt_ids, completion_ids[-1])
        whole += written == completion_ids
        assert compliant(tokenizer.decode(written[:-1]), Mode(row["mode"]))
    assert right / total >= 0.95
    assert whole / len(held_out) >= 0.9
