"""What is asked for, and what it costs: every question once, at an endpoint's prices."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bethink.core import console
from bethink.core.files import read_jsonl
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.runner import run_eval
from bethink.sample.config import SampleConfig
from bethink.sample.run import run_sample
from serve.tiny_server import tiny_server


@pytest.fixture(scope="module")
def endpoint(tiny_model_dir: Path) -> Iterator[str]:
    with tiny_server(tiny_model_dir) as server:
        yield f"{server.url}/v1"


def task(path: Path, questions: list[str]) -> str:
    path.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in questions))
    return f"{path}:question=question,answer=answer,grader=exact"


def options(output: Path, *tasks: str, **more: Any) -> dict[str, Any]:
    return {"output": output, "tasks": tasks, "modes": "off", "samples": 2, "max_tokens": 6,
            "seed": random.randrange(2**31), "workers": 1, **more}  # fmt: skip


def asked(output: Path) -> list[str]:
    return [row["question"] for row in read_jsonl(output / "samples.jsonl")]


def test_a_question_is_asked_once_however_often_it_stands_in_the_tasks(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = task(tmp_path / "a.jsonl", ["What is one?", "what is  ONE?", "What is two?", "What is one?"])
    second = task(tmp_path / "b.jsonl", ["What is three?", "What is two?"])
    third = task(tmp_path / "c.jsonl", ["What is two?"])
    given = options(tmp_path / "out", first, second, third, model=str(tiny_model_dir), device="cpu")
    assert run_sample(SampleConfig(**given))["answers"] == 6
    assert asked(tmp_path / "out/answers") == [q for q in ("What is one?", "What is two?", "What is three?") for _ in range(2)]  # fmt: skip
    said = capsys.readouterr().err
    assert [said.count(f"left out {count} duplicate") for count in (1, 2)] == [2, 1]
    assert "sampling: 6/6" in said
    # An evaluation asks what its benchmark holds.
    measured = options(tmp_path / "eval", first, model=str(tiny_model_dir), device="cpu")
    run_eval(EvalConfig(**measured))
    assert len(asked(tmp_path / "eval")) == 4


def test_as_many_questions_as_wanted_are_asked_where_some_stand_twice(tiny_model_dir: Path, tmp_path: Path) -> None:  # fmt: skip
    spec = task(tmp_path / "a.jsonl", [f"What is {number // 3}?" for number in range(30)])
    given = options(tmp_path / "out", spec, model=str(tiny_model_dir), device="cpu", size=8, samples=1)
    assert run_sample(SampleConfig(**given))["answers"] == 8
    assert len(set(asked(tmp_path / "out/answers"))) == 8


def test_the_cost_is_shown_while_it_runs_and_told_at_the_end(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_LOG_EVERY_SECONDS", 0.0)
    spec = task(tmp_path / "a.jsonl", [f"What is {number}?" for number in range(4)])
    prices = {"price_in": 1e6, "price_out": 3e6}
    given = options(tmp_path / "out", spec, endpoint=endpoint, endpoint_model="tiny", **prices)
    summary = run_sample(SampleConfig(**given))
    rows = list(read_jsonl(tmp_path / "out/answers/samples.jsonl"))
    answered = sum(row["thinking_tokens"] + row["answer_tokens"] for row in rows)
    prompts = sum(row["prompt_tokens"] for row in rows)
    assert prompts > 0 < answered <= 6 * 8
    assert summary["cost"] == pytest.approx(prompts + 3 * answered)
    lines = [line for line in capsys.readouterr().err.splitlines() if "sampling: " in line]
    shown = [float(line.partition("  cost ")[2].partition("  ")[0].replace(",", "")) for line in lines if "  cost " in line]  # fmt: skip
    assert len(shown) > 1
    assert shown == sorted(shown)
    assert shown[-1] == pytest.approx(summary["cost"], abs=0.01)

    # What an interrupted run has paid for is in the cost of the one that goes on.
    answers = tmp_path / "out/answers/samples.jsonl"
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:5]))
    again = run_sample(SampleConfig(**given, resume=True))
    assert again["cost"] == summary["cost"]
    last = capsys.readouterr().err.rpartition("  cost ")[2]
    assert float(last.split()[0].replace(",", "")) == pytest.approx(summary["cost"], abs=0.01)
