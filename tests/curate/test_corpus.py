"""Texts for pretraining: each kind says what it is, and what it says is so."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from bethink.chat.parse import parse
from bethink.core.errors import ConfigError
from bethink.core.files import read_jsonl
from bethink.curate.corpus import CorpusConfig, write_corpus
from bethink.tasks.arithmetic import false_equations

TASK = "chain_sum:min_terms=3,max_terms=5,min_digits=1,max_digits=1"


def test_every_kind_is_what_it_says(tmp_path: Path) -> None:
    seed = random.randrange(2**31)
    summary = write_corpus(CorpusConfig(output=tmp_path, task=TASK, texts=400, seed=seed))
    rows = list(read_jsonl(tmp_path / "texts.jsonl"))
    assert summary["texts"] == len(rows) == sum(summary["kinds"].values())
    short = 0
    for row in rows:
        if row["kind"] == "working":
            question, _, working = row["text"].partition("\n")
            assert question.endswith("=")
            assert working
            assert not false_equations(working)
            continue
        *_, question, answer = (message["content"] for message in row["messages"])
        terms = re.findall(r"\d+", question)
        signed = question.rpartition(":")[2].strip(" =").replace("- ", "-").replace("+ ", "")
        total = sum(int(term) for term in signed.split())
        parsed = parse(answer)
        said = int(re.findall(r"boxed\{(-?\d+)\}", parsed.answer)[0])
        if row["kind"] == "direct":
            assert parsed.thinking is None
            assert said == total
        else:
            assert parsed.thinking
            assert not false_equations(parsed.thinking)
            lines = parsed.thinking.strip().splitlines()
            if row["kind"] == "reasoned":
                assert len(lines) == len(terms) - 1
                assert said == total
            else:
                short += len(lines) < len(terms) - 1
                assert len(lines) < len(terms) - 1 or len(terms) == 2
    assert short == summary["kinds"]["careless"] > 0


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_corpus(CorpusConfig(output=tmp_path / name, task=TASK, texts=50, seed=11))
    assert (tmp_path / "a/texts.jsonl").read_bytes() == (tmp_path / "b/texts.jsonl").read_bytes()


def test_shares_and_tasks_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="did you mean `working`"):
        CorpusConfig(output=tmp_path, shares={"workings": 1.0})
    with pytest.raises(ValidationError, match="all shares are 0"):
        CorpusConfig(output=tmp_path, shares={"working": 0.0})
    with pytest.raises(ConfigError, match="no worked solutions"):
        write_corpus(CorpusConfig(output=tmp_path, task="sudoku", texts=2))
