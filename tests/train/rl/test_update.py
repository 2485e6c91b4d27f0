"""Process credits: they reach the tokens of the step, and stay of the size of other advantages."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers

from bethink.chat.parse import parse
from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.tasks.problem import Problem
from bethink.train.rl.choices import ALGORITHMS, Advantage
from bethink.train.rl.rollouts import Group, Rollout
from bethink.train.rl.update import token_advantages, token_credits, tokens_of
from bethink.verify.rewards.attempt import Attempt, Credit
from bethink.verify.rewards.compose import Rewards, Scored
from bethink.verify.verdict import Outcome, Verdict

PROBLEM = Problem("sum", "sums", ({"role": "user", "content": "12 + 7 = ?"},), "19", "exact")


def rollout_of(tokenizer: ChatTokenizer, text: str, rewards: Rewards) -> Rollout:
    verdict = Verdict(Outcome.CORRECT, "19", "the same text", score=1.0)
    ids = (*tokenizer.encode(text), *tokenizer.end_of_turn.ids[:1])
    attempt = Attempt(PROBLEM, Mode.ON, text, parse(text), verdict, tokens=len(ids), truncated=False)
    (scored,) = rewards.score([attempt])
    assert scored.total is not None
    return Rollout((1,), ids, (-0.5,) * len(ids), attempt, scored, counts=True, reward=scored.total)


def group_of(rewards: Sequence[float], credits: Sequence[tuple[Credit, ...]]) -> Group:
    """Completions of ten tokens of one character each."""
    attempt = Attempt(
        PROBLEM, Mode.ON, "x" * 10, parse("x" * 10), Verdict(Outcome.CORRECT, "19", "", 1.0), 10, False
    )
    ids = tuple(range(10))
    return Group(
        0,
        PROBLEM,
        Mode.ON,
        [
            Rollout((1,), ids, (-0.5,) * 10, attempt, Scored(reward, {}, credit), True, reward)
            for reward, credit in zip(rewards, credits, strict=True)
        ],
    )


def letters(ids: Sequence[int]) -> str:
    return "x" * len(ids)


@pytest.fixture
def byte_fallback() -> Tokenizer:
    """Tokens of one character, and of one byte for characters it does not know, as in Llama 2's tokenizer."""
    known = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefghijklmnopqrstuvwxyz0123456789+-=,.",
    ]
    tokenizer = Tokenizer(
        models.BPE({token: id_ for id_, token in enumerate(known)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
def test_a_stretch_of_text_is_the_tokens_that_hold_a_character_of_it(
    tiny_tokenizer_dir: Path, byte_fallback: Tokenizer, kind: str
) -> None:
    file = str(tiny_tokenizer_dir / "tokenizer.json")
    tokenizer = byte_fallback if kind == "byte fallback" else Tokenizer.from_file(file)
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")
    drawn = random.Random(seed)
    for _ in range(60):
        text = "".join(
            drawn.choice(["the ", "answer is ", "12", " + 7", " = ", "19", "½", "−", "€", "🙂", "é", ", "])
            for _ in range(drawn.randint(1, 30))
        )
        encoding = tokenizer.encode(text, add_special_tokens=False)
        start = drawn.randrange(len(text))
        end = drawn.randint(start + 1, len(text))
        held = [place for place, (first, last) in enumerate(encoding.offsets) if first < end and last > start]
        assert tokens_of(tokenizer.decode, encoding.ids, start, end) == (held[0], held[-1] + 1), (
            text,
            start,
            end,
        )


def test_the_credit_of_a_wrong_step_reaches_the_tokens_of_what_it_claims(tiny_tokenizer_dir: Path) -> None:
    tokenizer = ChatTokenizer.load(tiny_tokenizer_dir)
    rewards = Rewards.of("accuracy=1,steps=0.25:process=true")
    rollout = rollout_of(
        tokenizer, "<think>½ of it: 5 + 5 = 10, then 12 + 7 = 18 🙂</think>\\boxed{19}", rewards
    )
    credit_T = token_credits(rollout, tokenizer.decode)
    held = [token for token, credit in zip(rollout.token_ids, credit_T.tolist(), strict=True) if credit]
    assert tokenizer.decode(held).strip() == "18"
    assert {credit for credit in credit_T.tolist() if credit} == {-0.25}


def test_a_credit_beside_a_small_difference_in_the_rewards_is_no_larger_than_an_advantage() -> None:
    blamed = (Credit(2, 4, -0.2),)
    group = group_of([1.0] * 7 + [0.996], [blamed] + [()] * 7)
    each = torch.stack(token_advantages(group, ALGORITHMS["grpo"], letters))
    assert group.rollouts[-1].advantage == pytest.approx(-7 / math.sqrt(8), rel=1e-2)
    plain = group.rollouts[0].advantage
    assert each[0].tolist() == pytest.approx(
        [plain + (-math.sqrt(7) if place in (2, 3) else 0) for place in range(10)], rel=1e-2
    )


@pytest.mark.parametrize("kind", list(Advantage))
def test_no_credit_outweighs_the_largest_advantage_of_its_group_by_much(kind: Advantage) -> None:
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")
    drawn = random.Random(seed)
    objective = replace(ALGORITHMS["grpo"], advantage=kind)
    for _ in range(200):
        count = drawn.randint(2, 16)
        spread = 10 ** drawn.uniform(-8, 0)
        rewards = [1.0 + spread * drawn.random() for _ in range(count)]
        credits = [
            tuple(
                Credit(n, n + drawn.randint(1, 3), -0.2) for n in drawn.sample(range(8), drawn.randint(0, 4))
            )
            for _ in range(count)
        ]
        group = group_of(rewards, credits)
        each = token_advantages(group, objective, letters)
        added = max(
            float((advantage_T - rollout.advantage).abs().max())
            for advantage_T, rollout in zip(each, group.rollouts, strict=True)
        )
        most = math.sqrt(count - 1) if kind is Advantage.GROUP else 0.2 * 4
        assert added <= most + 1e-4


def test_where_rewards_differ_much_a_credit_weighs_as_it_would_in_the_reward() -> None:
    group = group_of([0.0, 100.0, 0.0, 100.0], [(Credit(0, 1, -0.2),), (), (), ()])
    each = token_advantages(group, ALGORITHMS["grpo"], letters)
    deviation = float(torch.tensor([0.0, 100.0, 0.0, 100.0]).std())
    assert float(each[0][0] - each[0][1]) == pytest.approx(-0.2 / deviation, rel=1e-3)
