"""`bethink sample`: ask, grade, vote where there is no answer to grade by, filter, write.

The answers are an evaluation in OUTPUT/answers, with its own resumption; what follows is made of them anew each time, read row
by row from their file, since together they may be larger than memory. Written are
rows.jsonl (in the schema of the Llama-Nemotron Post-Training Dataset, for `bethink curate`), pass_rates.jsonl (one row a problem, for a
curriculum), rejects.jsonl (what was left out, and why), summary.json and after a vote voted.jsonl (the answers as it judges them, for
`bethink prefer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bethink.chat.parse import canonical, parse
from bethink.chat.toggle import Mode, apply_toggle
from bethink.core.files import read_jsonl, write_json
from bethink.evaluate.runner import run_eval
from bethink.evaluate.samples import VOTED, Row, rewrite
from bethink.sample.config import SampleConfig
from bethink.sample.filters import Sieve, pass_rates
from bethink.sample.vote import Election, elect, needs_vote
from bethink.tasks.problem import Problem

ROWS, PASS_RATES, REJECTS, SUMMARY = "rows.jsonl", "pass_rates.jsonl", "rejects.jsonl", "summary.json"

Answer = tuple[Problem, Row]


def run_sample(config: SampleConfig) -> dict[str, Any]:
    """Sample and write everything into `config.output`; returns the summary. Raises what `run_eval` raises."""
    answered = run_eval(config.asked, doing="sampling", once=True)
    election = Election({(problem.task, problem.id): problem for problem in answered.problems})
    if config.majority:
        rows = read_jsonl(answered.samples)
        election = elect(election.problems, rows, config.majority, think=config.think, workers=config.workers)

    def answers() -> Iterator[Answer]:
        for row in read_jsonl(answered.samples):
            yield election.problems[row["task"], row["id"]], election.judged(row)

    if election.votes:
        rewrite(config.output / VOTED, (row for _, row in answers()))
    else:
        (config.output / VOTED).unlink(missing_ok=True)  # of an earlier run with other options
    sieve = Sieve(config)
    sieve.sift(answers())
    judged = (row for problem, row in answers() if not needs_vote(problem))
    rates = {
        (rate["task"], rate["id"]): {**rate, **_reference(election, rate)} for rate in pass_rates(judged)
    }

    def sifted() -> Iterator[tuple[Answer, str | None]]:
        return zip(answers(), sieve.reasons, strict=True)

    kept = (answer for answer, reason in sifted() if reason is None)
    rewrite(
        config.output / ROWS,
        (_row(*answer, rates.get((answer[0].task, answer[0].id), {}), config) for answer in kept),
    )
    rewrite(config.output / PASS_RATES, rates.values())
    rewrite(config.output / REJECTS, ({**row, "reason": reason} for (_, row), reason in sifted() if reason))
    summary = _summary(config, election, sieve, sifted())
    write_json(config.output / SUMMARY, summary)
    return summary


def _row(problem: Problem, row: Row, rate: Mapping[str, Any], config: SampleConfig) -> dict[str, Any]:
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
        "pass_rate": rate.get("pass_rate"),
        **({"vote_share": rate["vote_share"]} if "vote_share" in rate else {}),
    }


def _reference(election: Election, rate: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a row of pass rates a problem in the layout `plain`, where the vote gave it an answer."""
    key = rate["task"], rate["id"]
    if (vote := election.votes.get(key)) is None:
        return {}
    problem = election.problems[key]
    return {"answer": problem.answer, "grader": problem.grader, "vote_share": round(vote.share, 6)}


def _summary(
    config: SampleConfig, election: Election, sieve: Sieve, sifted: Iterable[tuple[Answer, str | None]]
) -> dict[str, Any]:
    prompts = tokens = 0
    with_rows: set[tuple[str, str]] = set()
    rows = dict.fromkeys(map(str, config.modes), 0)
    for (problem, row), reason in sifted:
        prompts += row["prompt_tokens"]
        tokens += row["thinking_tokens"] + row["answer_tokens"]
        if reason is None:
            with_rows.add((problem.task, problem.id))
            rows[row["mode"]] += 1
    return {
        "problems": len(election.problems),
        "problems_with_rows": len(with_rows),
        **({"voted": len(election.votes)} if config.majority else {}),
        "answers": len(sieve.reasons),
        "rows": rows,
        "left_out": sieve.counts,
        "prompt_tokens": prompts,
        "answer_tokens": tokens,
        "cost": round(config.cost(prompts, tokens), 4),
    }
