"""Answers become rows only when they are right, in form, fit to learn from and not too many; curate reads what is written."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bethink.chat.parse import compose
from bethink.chat.toggle import Mode
from bethink.core.errors import ConfigError, OutputError
from bethink.core.files import read_jsonl
from bethink.curate.config import CurateConfig
from bethink.curate.pipeline import curate
from bethink.evaluate.samples import SAMPLES, rewrite
from bethink.sample.config import SampleConfig
from bethink.sample.filters import Sieve, pass_rates
from bethink.sample.run import run_sample
from bethink.tasks.problem import Problem

PROBLEM = Problem(
    "p1", "sums", ({"role": "user", "content": "What is two plus three, and why is it so?"},), "5", "exact"
)
ANSWER = "The final answer is \\boxed{5}."
GOOD = compose("First I count two apples, then I count three more apples beside them.", ANSWER)


def answer(output: str = GOOD, mode: str = "on", verdict: str = "correct", **changes: Any) -> dict[str, Any]:
    row = {"task": "sums", "id": "p1", "mode": mode, "sample": 0, "question": PROBLEM.question, "output": output, "opened": False,
           "verdict": verdict, "compliant": True, "finish_reason": "stop", "thinking_tokens": 9, "answer_tokens": 9}  # fmt: skip
    return {**row, **changes}


@dataclass
class Sifted:
    """kept: the rows; counts: of the others, by reason."""

    kept: list[dict[str, Any]]
    counts: dict[str, int]


def sieve(*answers: dict[str, Any], **options: Any) -> Sifted:
    config = SampleConfig(output=Path("out"), tasks=("sums.jsonl:gsm8k",), model="m", **options)
    found = Sieve(config)
    found.sift((PROBLEM, row) for row in answers)
    kept = [row for row, reason in zip(answers, found.reasons, strict=True) if reason is None]
    assert len(kept) + sum(found.counts.values()) == len(answers)
    return Sifted(kept, found.counts)


@pytest.mark.parametrize(
    ("reason", "row", "allowed_by"),
    [
        ("wrong", answer(verdict="wrong"), {"any_verdict": True}),
        ("no_answer", answer(verdict="no_answer"), {"any_verdict": True}),
        ("not_judged", answer(verdict="not_judged"), {"any_verdict": True}),
        ("ungraded", answer(verdict="grader_error"), None),
        ("truncated", answer(finish_reason="length"), None),
        ("form", answer(compliant=False), None),
        ("paragraph", answer(compose("Two and three are five. " * 200, ANSWER)), {"paragraph": 0, "repetition": 1.0}),
        ("code_blocks", answer(compose("I compute it:\n```\n2 + 3\n```\nwhich is five.", ANSWER)), {"code_blocks": True}),
        ("repetition", answer(compose("So it is five and so it is five and " * 20, ANSWER)), {"repetition": 1.0}),
        ("language", answer(compose("Zuerst zähle ich zwei Äpfel, dann zähle ich noch drei weitere Äpfel dazu.", "Das sind zusammen fünf Äpfel, wie man leicht sieht.")), {"language": 0.0}),
    ],
)  # fmt: skip
def test_an_unfit_answer_is_left_out_for_its_reason(
    reason: str, row: dict[str, Any], allowed_by: dict[str, Any] | None
) -> None:
    assert sieve(row).counts == {reason: 1}
    assert not sieve(row).kept
    if allowed_by is not None:
        assert len(sieve(row, **allowed_by).kept) == 1


def test_a_good_answer_is_kept_once_and_no_more_than_wanted() -> None:
    short, long = answer(answer_tokens=3), answer(GOOD.replace("apples", "pears"), answer_tokens=30)
    doubled = sieve(long, answer(long["output"].replace("First", "First ")), short, keep=0)
    assert doubled.kept == [long, short]
    assert doubled.counts == {"duplicate": 1}
    assert sieve(long, short).kept == [long]
    assert sieve(long, short, prefer="shortest").kept == [short]
    assert sieve(long, short).counts == {"surplus": 1}


def test_pairs_are_whole_or_left_out() -> None:
    on, off = answer(), answer(ANSWER, mode="off")
    assert len(sieve(on, off, paired=True).kept) == 2
    assert sieve(on, paired=True).counts == {"unpaired": 1}
    assert sieve(on, answer(ANSWER, mode="off", verdict="wrong"), paired=True).counts == {
        "wrong": 1,
        "unpaired": 1,
    }


def test_long_answers_are_sifted_without_being_held() -> None:
    """A hundred of them take less memory than twenty."""
    size = 50_000

    def answers() -> Iterator[tuple[Problem, dict[str, Any]]]:
        for number in range(100):
            yield PROBLEM, answer("5" * size + str(number), mode="off", id=f"p{number}")

    options: dict[str, Any] = {"keep": 0, "language": 0, "paragraph": 0, "repetition": 1}
    found = Sieve(SampleConfig(output=Path("out"), tasks=("sums.jsonl:gsm8k",), model="m", **options))
    tracemalloc.start()
    found.sift(answers())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.counts == {}
    assert most < 20 * size


def test_pass_rates_count_what_could_be_graded() -> None:
    rows = [answer(), answer(verdict="wrong"), answer(verdict="truncated"), answer(verdict="grader_error")]
    rows += [
        answer(mode="off"),
        answer(id="p2", verdict="grader_error"),
        answer(id="p3", verdict="not_judged"),
    ]
    (rate,) = pass_rates(rows)
    assert rate["pass_rate"] == 0.5
    assert rate["pass_rate_on"] == pytest.approx(1 / 3, abs=1e-6)
    assert rate["pass_rate_off"] == 1.0
    assert rate["samples"] == 4


def test_an_answer_whose_block_the_prompt_opened_is_written_whole() -> None:
    from bethink.sample.run import _row

    config = SampleConfig(output=Path("out"), tasks=("sums.jsonl:gsm8k",), model="m")
    opened = answer(GOOD.partition("\n")[2], opened=True)
    row = _row(PROBLEM, opened, {"pass_rate": 1.0}, config)
    assert row["output"] == GOOD
    assert row["reasoning"] == Mode.ON
    assert row["system_prompt"] == "detailed thinking on"


@pytest.fixture
def config(tiny_model_dir: Path, tmp_path: Path) -> SampleConfig:
    sums = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(6)]
    sums.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SampleConfig(
        model=str(tiny_model_dir),
        tasks=(f"{sums}:question=question,answer=answer,grader=exact",),
        output=tmp_path / "out",
        samples=3,
        max_tokens=6,
        seed=random.randrange(2**31),
        dtype="float32",
        device="cpu",
        modes=("off",),
    )


def test_a_run_accounts_for_every_answer_and_can_be_gone_on_with(
    config: SampleConfig, tmp_path: Path
) -> None:
    summary = run_sample(config)
    assert summary["answers"] == 18
    assert sum(summary["left_out"].values()) + sum(summary["rows"].values()) == 18
    rates = [json.loads(line) for line in (config.output / "pass_rates.jsonl").read_text().splitlines()]
    assert len(rates) == 6
    before = {path.name: path.read_bytes() for path in config.output.glob("*.json*")}
    with pytest.raises(OutputError):
        run_sample(config)
    answers = config.output / "answers" / "samples.jsonl"
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:7]))
    run_sample(config.model_copy(update={"resume": True}))
    assert {path.name: path.read_bytes() for path in config.output.glob("*.json*")} == before


def test_a_run_does_not_hold_the_answers(config: SampleConfig) -> None:
    """Eighteen answers of 200 kB each: filtered, voted on and written in less memory than half of them."""
    run_sample(config)
    path = config.output / "answers" / SAMPLES
    rows = [{**row, "output": "5" * 200_000} for row in read_jsonl(path)]
    rewrite(path, rows)
    size = len(rows) * 200_000
    del rows
    tracemalloc.start()
    run_sample(config.model_copy(update={"resume": True, "keep": 0, "majority": 0.5}))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (config.output / "rejects.jsonl").stat().st_size >= size
    assert most < size / 2


def test_curate_reads_the_rows(tiny_model_dir: Path, tmp_path: Path) -> None:
    from bethink.sample.run import ROWS, _row

    config = SampleConfig(output=tmp_path, tasks=("sums.jsonl:gsm8k",), model="m")
    rows = [_row(PROBLEM, one, {"pass_rate": 0.5}, config) for one in (answer(), answer(ANSWER, mode="off"))]
    rewrite(tmp_path / ROWS, rows)
    report = curate(
        CurateConfig(input=(tmp_path / ROWS,), output=tmp_path / "curated", tokenizer=str(tiny_model_dir))
    )
    kept = [
        json.loads(line) for line in (tmp_path / "curated" / "train-00000.jsonl").read_text().splitlines()
    ]
    assert {row["mode"] for row in kept} == {"on", "off"}, report


def test_prices_and_bad_options_are_checked() -> None:
    with pytest.raises((ConfigError, ValueError), match="prefer"):
        SampleConfig(output=Path("o"), tasks=("a.jsonl:gsm8k",), model="m", prefer="longest")  # type: ignore[arg-type]


def test_answers_to_what_has_no_grader_are_rows_where_any_verdict_will_do(
    config: SampleConfig, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"What rhymes with {n}?"}) + "\n" for n in range(2)))
    asked = config.model_copy(update={"tasks": (f"{prompts}:question=prompt,grader=none",), "language": 0.0})
    assert set(run_sample(asked)["left_out"]) <= {"not_judged", "truncated"}

    # As a model would have answered that ends its answers.
    samples = asked.output / "answers" / "samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    ended = {"output": "With many words.", "finish_reason": "stop", "compliant": True}
    samples.write_text("".join(json.dumps({**row, **ended}) + "\n" for row in rows))
    again = asked.model_copy(update={"resume": True})
    assert run_sample(again)["left_out"] == {"not_judged": len(rows)}
    summary = run_sample(again.model_copy(update={"any_verdict": True}))
    assert summary["rows"] == {"off": 2}
    written = [json.loads(line) for line in (asked.output / "rows.jsonl").read_text().splitlines()]
    assert [row["pass_rate"] for row in written] == [None, None]
    assert (asked.output / "pass_rates.jsonl").read_text() == ""
