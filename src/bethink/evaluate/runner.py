"""`bethink eval`: ask, grade, count; killed anywhere and resumed to the same bytes.

Rows are appended to samples.jsonl as they are finished (`draw.py`); at the end the file is put in canonical order and results.json is
written. Leaves who answers to `engine.dialogue` and what is right to `verify.grade`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bethink import __version__
from bethink.chat.toggle import ToggleStyle
from bethink.core.console import Progress, note
from bethink.core.errors import BethinkError
from bethink.core.files import CLAIM, claim_output, read_jsonl, sha256_file, write_json
from bethink.engine.dialogue import Dialogue, open_dialogue
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.contamination import training_files
from bethink.evaluate.draw import TIMING, TokenMeter, draw, paces
from bethink.evaluate.plan import Plan, make_plan
from bethink.evaluate.results import summarize
from bethink.evaluate.samples import SAMPLES, arrange, places
from bethink.models.adapter_files import WEIGHTS as ADAPTER_WEIGHTS
from bethink.models.locate import locate
from bethink.models.machine import resolve_device
from bethink.tasks.problem import Problem
from bethink.verify.code.pool import require_sandbox
from bethink.verify.grade import KNOWN_GRADERS

FREE = {
    "output", "resume", "slots", "workers", "concurrency", "name", "api_key_env", "unsafe_code", "price_in", "price_out",
}  # fmt: skip
"""Options that change neither a completion nor its verdict."""


@dataclass(frozen=True)
class EvalResult:
    """rows: the results, one a task and mode; samples, results: the files written; problems: what was asked."""

    rows: list[dict[str, Any]]
    samples: Path
    results: Path
    problems: list[Problem]


def run_eval(config: EvalConfig, *, doing: str = "evaluating", once: bool = False) -> EvalResult:
    """Evaluate and write `samples.jsonl` and `results.json` in `config.output`. doing: what the progress calls it; once: a question that
    stands in the tasks several times is asked as if it stood there once.

    Raises OutputError for an output that is in use, ConfigError or DataError for tasks, PreflightError for coding problems without a sandbox, ModelError, TemplateError or EndpointError for
    whoever answers. What was finished by then, or at Ctrl-C, stays in samples.jsonl for `resume`.
    """
    if config.model_spec is not None:
        locate(config.model_spec)  # a model that is not there is said before the problems are made
        resolve_device(config.device)
    plan = make_plan(config, sorted(KNOWN_GRADERS), once=once)
    if any(item.problem.grader == "code" for item in plan.items):
        require_sandbox(config)
    claim_output(config.output, resume=config.resume, fingerprint=_fingerprint(config))
    for task, dropped in plan.dropped.items():
        if counts := {reason: count for reason, count in dropped.items() if count}:
            note(f"{task}: left out " + ", ".join(f"{count:,} {reason}" for reason, count in counts.items()))
    samples = config.output / SAMPLES
    done = places(samples, plan.items) if config.resume else {}
    missing = [item for item in plan.items if item.key not in done]
    name = config.name or config.endpoint_model or config.model_spec or config.endpoint or ""
    if missing:
        meter = TokenMeter()
        try:
            dialogue = _open(config, meter)
            name = config.name or dialogue.name
            if samples.exists():
                arrange(samples, done.values())
            draw(config, dialogue, missing, samples, meter, doing=doing, already=len(done))
        except BethinkError:
            _free_if_empty(config.output)
            raise
        done = places(samples, plan.items)
    arrange(samples, [done[item.key] for item in plan.items])
    results = config.output / "results.json"
    rows = summarize(read_jsonl(samples), model=name, speed=paces(config.output))
    write_json(results, _document(config, plan, name, rows))
    problems = {(item.problem.task, item.problem.id): item.problem for item in plan.items}
    return EvalResult(rows, samples, results, list(problems.values()))


def _fingerprint(config: EvalConfig) -> dict[str, Any]:
    """Everything that decides a completion or its verdict, as far as small files and options say it."""
    options = config.model_dump(mode="json", exclude=FREE)
    excluded = {str(file): sha256_file(file) for path in config.exclude for file in training_files(path)}
    weights = Path((config.model_spec or "").rpartition("+")[2]) / ADAPTER_WEIGHTS
    return {
        **options,
        "exclude_sha256": excluded,
        "adapter_sha256": sha256_file(weights) if weights.is_file() else None,
    }


def _open(config: EvalConfig, meter: Progress) -> Dialogue:
    """Whoever answers."""
    return open_dialogue(
        config.endpoint_model if config.endpoint else config.model_spec,
        config.endpoint,
        slots=config.slots,
        api_key_env=config.api_key_env,
        concurrency=config.concurrency,
        think=config.think,
        style=config.toggle,
        chat_template_kwargs=config.toggle is ToggleStyle.KWARGS,
        dtype=config.dtype,
        device=config.device,
        progress=meter,
    )


def _free_if_empty(output: Path) -> None:
    """Where nobody answered at all (no such model, a wrong URL or key), nothing has been done in the output: it is free again."""
    traces = {output / name for name in (CLAIM, SAMPLES, TIMING)}
    samples = output / SAMPLES
    if set(output.iterdir()) <= traces and not (samples.exists() and samples.stat().st_size):
        for trace in traces:
            trace.unlink(missing_ok=True)


def _document(config: EvalConfig, plan: Plan, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    options = config.model_dump(mode="json", exclude={"resume"})
    return {"model": name, "bethink": __version__, "config": options, "dropped": plan.dropped, "rows": rows}
