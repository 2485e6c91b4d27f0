"""`bethink sample`: ask, grade, vote where there is no answer to grade by, filter, write.

The answers are an evaluation in OUTPUT/answers, with its own resumption; what follows is made of them anew each time. Written are
rows.jsonl (in the schema of the Llama-Nemotron Post-Training Dataset, for `bethink curate`), pass_rates.jsonl (one row a problem, for a
curriculum), rejects.jsonl (what was left out, and why), summary.json and after a vote voted.jsonl (the answers as it judges them, for
`bethink prefer`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bethink.chat.parse import canonical, parse
from bethink.chat.toggle import Mode, apply_toggle
from bethink.core.files import atomic_path, dump_line, write_json
from bethink.evaluate.runner import run_eval
from bethink.evaluate.samples import Row
from bethink.sample.config import VOTED, SampleConfig
from bethink.sample.filters import Sieve, pass_rates
from bethink.sample.vote import Key, Vote, elect, needs_vote
from bethink.tasks.problem import Problem

ROWS, PASS_RATES, REJECTS, SUMMARY = "rows.jsonl", "pass_rates.jsonl", "rejects.jsonl", "summary.json"


def run_sample(config: SampleConfig) -> dict[str, Any]:
    """Sample and write everything into `config.output`; returns the summary. Raises what `run_eval` raises."""
    answered = run_eval(config.asked, doing="sampling", once=True)
    problems = {(problem.task, problem.id): problem for problem in answered.problems}
    answers, votes = answered.answers, dict[Key, Vote]()
    if config.majority:
        election = elect(problems, answers, config.majority, think=config.think, workers=config.workers)
        problems, answers, votes = election.problems, election.answers, election.votes
    if votes:
        _write(config.output / VOTED, answers)
    else:
        (config.output / VOTED).unlink(missing_ok=True)  # of an earlier run with other options
    sieve = Sieve(config)
    sieve.sift((problems[row["task"], row["id"]], row) for row in answers)
    rates = {
        (rate["task"], rate["id"]): rate
        for rate in pass_rates(row for row in answers if not needs_vote(problems[row["task"], row["id"]]))
    }
    rows = []
    for problem, row in sieve.kept:
        key = problem.task, problem.id
        rows.append({**_row(problem, row, rates[key]["pass_rate"], config), **_share(votes.get(key))})
    _write(config.output / ROWS, rows)
    _write(
        config.output / PASS_RATES,
        ({**rate, **_reference(problems[key], votes.get(key))} for key, rate in rates.items()),
    )
    _write(config.output / REJECTS, ({**row, "reason": reason} for row, reason in sieve.left_out))
    summary = _summary(config, sieve, answers, problems, votes)
    write_json(config.output / SUMMARY, summary)
    return summary


def _row(problem: Problem, row: Row, rate: Any, config: SampleConfig) -> dict[str, Any]:
    mode = Mode(row["mode"])
    parsed = parse(row["output"], think=config.think, opened=row["opened"])
    return {
        "input": list(problem.messages),
        "output": canonical(parsed),
        "category": config.category,
        "license": config.license,
        "reasoning": str(mode),
        "generator": config.name or config.endpoint_model or config.model_spec or config.endpoint,
        "used_in_training": ["Nano"],  # what curate's default keeps
        "version": "1",
        "system_prompt": apply_toggle([], mode)[0]["content"],
        "problem": problem.id,
        "task": problem.task,
        "answer": problem.answer,
        "pass_rate": rate,
    }


def _share(vote: Vote | None) -> dict[str, Any]:
    return {} if vote is None else {"vote_share": round(vote.share, 6)}


def _reference(problem: Problem, vote: Vote | None) -> dict[str, Any]:
    """What makes a row of pass rates a problem in the layout `plain`, where the vote gave it an answer."""
    if vote is None:
        return {}
    return {"answer": problem.answer, "grader": problem.grader, **_share(vote)}


def _summary(
    config: SampleConfig,
    sieve: Sieve,
    answers: list[Row],
    problems: dict[Key, Problem],
    votes: dict[Key, Vote],
) -> dict[str, Any]:
    tokens = sum(row["thinking_tokens"] + row["answer_tokens"] for row in answers)
    prompts = sum(row["prompt_tokens"] for row in answers)
    kept = [row for _, row in sieve.kept]
    return {
        "problems": len(problems),
        "problems_with_rows": len({(row["task"], row["id"]) for row in kept}),
        **({"voted": len(votes)} if config.majority else {}),
        "answers": len(answers),
        "rows": {str(mode): sum(row["mode"] == mode for row in kept) for mode in config.modes},
        "left_out": sieve.counts,
        "prompt_tokens": prompts,
        "answer_tokens": tokens,
        "cost": round(config.cost(prompts, tokens), 4),
    }


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.writelines(dump_line(row) for row in rows)
