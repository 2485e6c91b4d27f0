"""A row is called too long only when it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.chat.tokenizer import ChatTokenizer
from bethink.curate.block import control_tokens
from bethink.curate.config import CurateConfig
from bethink.curate.limits import TokenLimits, words_per_token

_WORDS = st.lists(
    st.sampled_from(["a", "the", "three", "boxes", "37", "  ", "\n\n", "量", "x" * 50, "\\boxed{4}"]),
    max_size=60,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> ChatTokenizer:
    return ChatTokenizer.load(tiny_tokenizer_dir)


def limits(tokenizer: ChatTokenizer, total: int | str, completion: int | str) -> TokenLimits:
    config = CurateConfig(
        input=(Path("x"),),
        output=Path("y"),
        tokenizer="z",
        max_tokens=total,
        max_completion_tokens=completion,
    )
    return TokenLimits(config, tokenizer, words_per_token(tokenizer))


@settings(deadline=None, max_examples=150)
@given(
    prompt=_WORDS,
    completion=_WORDS,
    total=st.integers(1, 120),
    most=st.integers(1, 80),
    glue=st.sampled_from(["", " "]),
)
def test_what_is_foreseen_is_true(
    tokenizer: ChatTokenizer, prompt: list[str], completion: list[str], total: int, most: int, glue: str
) -> None:
    texts = glue.join(prompt), glue.join(completion)
    counts = [len(tokenizer.encode(text)) for text in texts]
    told = limits(tokenizer, total, most)
    if told.foreseen(*texts):
        assert told.exact(*counts)
    assert bool(told.exact(*counts)) == (sum(counts) > total or counts[1] > most)


def test_any_is_no_limit(tokenizer: ChatTokenizer) -> None:
    told = limits(tokenizer, "any", "any")
    assert told.foreseen("word " * 100_000, "word " * 100_000) is None
    assert told.exact(10**9, 10**9) is None


def test_the_tiny_tokenizer_has_no_token_of_two_words(tokenizer: ChatTokenizer) -> None:
    assert words_per_token(tokenizer) == 1


def test_control_tokens_are_those_the_template_writes(tokenizer: ChatTokenizer) -> None:
    pattern = control_tokens(tokenizer)
    assert pattern is not None
    assert pattern.search("a <|im_start|> b")
    assert pattern.search("a <|im_end|> b")
    assert not pattern.search("a <|endoftext|> b <think> c")
