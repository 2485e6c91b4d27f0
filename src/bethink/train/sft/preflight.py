"""Checks before compute is spent: every figure is shown, and one past its threshold stops the run with the flag that lets it through.

Knows rows, tokenizer and the model's shape; nothing of the training loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.table import Table
from transformers import PreTrainedModel

from bethink.chat.render import Renderer
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import duration, err, warn
from bethink.core.errors import PreflightError
from bethink.core.files import write_json
from bethink.models.recompute import Recompute, choose
from bethink.models.speed import USUAL_SHARE
from bethink.train.batch import padded_length
from bethink.train.fit import memory_free, memory_needed, too_large
from bethink.train.floor import StepFloor
from bethink.train.rows import Row, read_rows
from bethink.train.schedule import Schedule
from bethink.train.token_store import Census, TokenStore, encode_row

PROOF_ROWS = 100


@dataclass(slots=True)
class Preflight:
    """What was found; written to preflight.json. Shares are of the rows read, memory is in bytes.

    floor_tokens_per_second: more than that is not possible; None where the device's speed is not known. expected_hours: at the usual
    share of it, and after the first steps at the rate they had.
    """

    rows_total: int
    rows_read: int
    rows: int
    held_out_rows: int
    dropped: int
    dropped_share: float
    empty: int
    empty_share: float
    on_share: float
    tokens: int
    completion_tokens: int
    longest: int
    proof_rows: int
    proof_failures: list[str]
    steps: int
    samples: int
    planned_tokens: int
    trained_parameters: int
    memory_needed: int
    memory_free: int
    recompute: Recompute
    floor_tokens_per_second: float | None = None
    expected_hours: float | None = None
    overridden: list[str] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """Save as directory/preflight.json."""
        write_json(directory / "preflight.json", asdict(self))


def survey(
    files: Sequence[Path],
    tokenizer: ChatTokenizer,
    model: PreTrainedModel,
    store: TokenStore,
    held_out: TokenStore,
    schedule: Schedule,
    capacity: int,
    gradient_checkpointing: bool | None,
    floor: StepFloor | None = None,
    device: torch.device | None = None,
) -> Preflight:
    """Measure everything `check` judges.

    device: where the model will train, when it is only laid out (`models.load.lay_out`); None: where it is.
    gradient_checkpointing None: as much is recomputed as training needs to fit. capacity: tokens in a packed row. floor: what a step takes at
    least, where the device's speed is known.
    """
    device = device or next(model.parameters()).device
    row_tokens = max(padded_length(store.census.longest), capacity)
    free = memory_free(device, model)
    recompute = choose(
        gradient_checkpointing,
        lambda level: memory_needed(model, row_tokens, recompute=level, device=device),
        free,
    )
    census = store.census
    proof_rows, proof_failures = prove_rows(files, tokenizer)
    tokens = int(store.lengths.sum())
    planned = round(tokens / len(store) * schedule.samples)
    most = _most_tokens_per_second(store, floor) if floor else None
    return Preflight(
        rows_total=census.total,
        rows_read=census.read,
        rows=len(store),
        held_out_rows=len(held_out),
        dropped=census.too_long,
        dropped_share=census.too_long / max(census.read, 1),
        empty=census.empty,
        empty_share=census.empty / max(census.read, 1),
        on_share=float(store.modes.mean()),
        tokens=tokens,
        completion_tokens=tokens - int(store.prompt_lengths.sum()),
        longest=census.longest,
        proof_rows=proof_rows,
        proof_failures=proof_failures,
        steps=schedule.steps,
        samples=schedule.samples,
        planned_tokens=planned,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        memory_needed=memory_needed(model, row_tokens, recompute=recompute, device=device),
        memory_free=free,
        recompute=recompute,
        floor_tokens_per_second=most and round(most, 1),
        expected_hours=most and round(planned / (USUAL_SHARE["sft"] * most) / 3600, 3),
    )


def _most_tokens_per_second(store: TokenStore, floor: StepFloor) -> float:
    """What the device could train at the best on rows like these: some hundreds of them, taken evenly."""
    chosen = slice(None, None, max(1, len(store) // 256))
    lengths = store.lengths[chosen].tolist()
    learned = sum(lengths) - int(store.prompt_lengths[chosen].sum())
    return float(sum(lengths) / floor.seconds(lengths, learned))


def prove_rows(
    files: Sequence[Path], tokenizer: ChatTokenizer, limit: int = PROOF_ROWS
) -> tuple[int, list[str]]:
    """How many rows were tried, and what is wrong with those that do not fit this tokenizer ("file:line: reason").

    A completion must end with one of the tokenizer's end-of-turn tokens, and prompt and completion must survive encoding and decoding;
    token ids that came with the rows must decode to the rows' text.
    """
    renderer = Renderer(tokenizer)
    failures, count = [], 0
    for row in itertools.islice((row for row in read_rows(files) if row.output), limit):
        count += 1
        if reason := _fault(row, renderer):
            failures.append(f"{row.where}: {reason}")
    return count, failures


def _fault(row: Row, renderer: Renderer) -> str | None:
    tokenizer = renderer.tokenizer
    prompt_ids, completion_ids = encode_row(row, renderer)
    if completion_ids[-1] not in tokenizer.stop_ids:
        ends = ", ".join(repr(tokenizer.decode([token])) for token in tokenizer.stop_ids)
        return f"the completion ends with {row.output[-20:]!r}, not with an end-of-turn token ({ends})"
    if tokenizer.encode(row.input + row.output) != [*prompt_ids, *completion_ids]:
        return "its token ids are not those of prompt and completion as one text (a token may span the two)"
    if tokenizer.decode(prompt_ids) != row.input:
        return "the prompt does not survive encoding and decoding with this model's tokenizer"
    if tokenizer.decode(completion_ids) != row.output:
        return "the completion does not survive encoding and decoding with this model's tokenizer"
    return None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The largest share of rows that may be dropped, be empty, or fail the proof; whether memory may fall short."""

    dropped: float
    empty: float
    template: float
    memory: bool


def check(found: Preflight, allowed: Thresholds, census: Census) -> None:
    """Show the table; raise PreflightError for the first figure past its threshold, naming the flag that overrides it."""
    err.print(_table(found))
    failure_share = len(found.proof_failures) / max(found.proof_rows, 1)
    if found.proof_failures and failure_share > allowed.template:
        raise PreflightError(
            f"{len(found.proof_failures)} of the first {found.proof_rows} rows do not fit this model's tokenizer and template",
            where=found.proof_failures[0],
            fix="curate with `--tokenizer` set to this model; --allow-template-failures SHARE with --resume lets them through",
        )
    if found.empty and found.empty_share > allowed.empty:
        raise PreflightError(
            f"{found.empty} rows have an empty completion",
            where=", ".join(census.empty_examples),
            fix="remove them; --allow-empty SHARE with --resume skips up to that share of rows",
        )
    if found.dropped and found.dropped_share > allowed.dropped:
        raise PreflightError(
            f"{found.dropped} of {found.rows_read} rows ({found.dropped_share:.1%}) are longer than the limit and would be dropped",
            where=", ".join(census.too_long_examples),
            fix="raise --max-tokens if the model allows; --allow-dropped SHARE with --resume accepts the loss",
        )
    if found.memory_needed > found.memory_free:
        if not allowed.memory:
            raise too_large(found.memory_needed, found.memory_free)
        found.overridden.append("memory")
    if found.on_share in (0.0, 1.0):
        warn(f"all rows are thinking-{'on' if found.on_share else 'off'}: the model will not learn a toggle")


def _table(found: Preflight) -> Table:
    table = Table(title="preflight", show_header=False, title_justify="left")
    rows = {
        "rows": f"{found.rows:,} to train on, {found.held_out_rows:,} held out, of {found.rows_read:,} read"
        + (f" (the data has {found.rows_total:,})" if found.rows_total > found.rows_read else ""),
        "too long, dropped": f"{found.dropped:,} ({found.dropped_share:.1%})",
        "empty completions": f"{found.empty:,}",
        "thinking on / off": f"{found.on_share:.1%} / {1 - found.on_share:.1%}",
        "tokens": f"{found.tokens:,}, of which {found.completion_tokens:,} learned; longest row {found.longest:,}",
        "template proof": f"{found.proof_rows - len(found.proof_failures)} of {found.proof_rows} rows pass",
        "plan": f"{found.steps:,} steps, {found.samples:,} samples, about {found.planned_tokens:,} tokens",
        "trained parameters": f"{found.trained_parameters:,}",
        "memory": f"about {found.memory_needed / 1e9:.1f} GB needed, {found.memory_free / 1e9:.1f} GB free"
        + ("" if found.recompute is Recompute.NOTHING else f" (backward pass recomputes: {found.recompute})"),
    }
    if found.expected_hours is not None and found.floor_tokens_per_second is not None:
        rows["time"] = (
            f"about {duration(3600 * found.expected_hours)} at the usual {100 * USUAL_SHARE['sft']:.0f} % of the floor, "
            f"which is {found.floor_tokens_per_second:,.0f} tokens/s here"
        )
    for name, value in rows.items():
        table.add_row(name, value)
    return table
