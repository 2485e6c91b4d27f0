"""`bethink curate`: raw post-training rows in, a clean curriculum out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bethink.cli.options import ThinkClose, ThinkOpen

if TYPE_CHECKING:
    from bethink.curate.report import Report


def curate(
    input: Annotated[
        list[str],  # not Path: an empty text would become the directory one is in
        typer.Option(help="JSONL or Parquet files (plain, .gz or .zst) or directories of them; repeatable."),
    ],
    output: Annotated[Path, typer.Option(help="A new directory for the result.")],
    tokenizer: Annotated[
        str, typer.Option(help="The model to train: its tokenizer and chat template are used.")
    ],
    more_input: Annotated[list[str] | None, typer.Argument(help="More inputs, as with --input.")] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Take only files whose name contains this; repeatable.")
    ] = None,
    trained_by: Annotated[
        list[str] | None,
        typer.Option(help="A tag `used_in_training` must have; repeatable, any turns it off (default Nano)."),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(help="Language code to keep; repeatable, any turns it off (default en)."),
    ] = None,
    boxed: Annotated[
        str, typer.Option(help="Ask for a filled \\boxed{} in the answers of: math | any.")
    ] = "math",
    max_tokens: Annotated[str, typer.Option(help="Most tokens of prompt and completion, or any.")] = "16384",
    max_completion_tokens: Annotated[
        str, typer.Option(help="Most tokens of the completion, or any.")
    ] = "8192",
    category: Annotated[list[str] | None, typer.Option(help="Keep only this category; repeatable.")] = None,
    license: Annotated[list[str] | None, typer.Option(help="Keep only this license; repeatable.")] = None,
    generator: Annotated[list[str] | None, typer.Option(help="Keep only this generator; repeatable.")] = None,
    version: Annotated[list[str] | None, typer.Option(help="Keep only this version; repeatable.")] = None,
    dedup: Annotated[bool, typer.Option(help="Drop exact repeats of prompt and output.")] = True,
    mix: Annotated[
        str | None,
        typer.Option(help="Shares by source: 1=3,2=1 by input, math=3,any=1 by category; up to 3 fills up."),
    ] = None,
    on_off_ratio: Annotated[
        str, typer.Option(help="Thinking-on to thinking-off rows, such as 1:1; any keeps what there is.")
    ] = "any",
    max_samples: Annotated[
        int | None, typer.Option(help="Keep this many rows, spread over the curriculum.")
    ] = None,
    difficulty: Annotated[
        str, typer.Option(help="completion_tokens | thinking_tokens | field:NAME (a number in the row).")
    ] = "completion_tokens",
    order: Annotated[str, typer.Option(help="curriculum | random.")] = "curriculum",
    seed: Annotated[int, typer.Option(help="Decides the random order.")] = 0,
    toggle_style: Annotated[
        str, typer.Option(help="How the prompt says the mode: system | words | kwargs | slash.")
    ] = "system",
    think_open: ThinkOpen = None,
    think_close: ThinkClose = None,
    format: Annotated[
        str, typer.Option(help="jsonl | parquet (which carries the token ids as well).")
    ] = "jsonl",
    shard_rows: Annotated[int, typer.Option(help="Rows in an output file.")] = 100_000,
    limit: Annotated[int | None, typer.Option(help="Read only the first rows of the input.")] = None,
    max_bad_share: Annotated[
        float, typer.Option(help="Fail (after writing) when more of the rows cannot be read.")
    ] = 0.1,
    workers: Annotated[
        int | None, typer.Option(help="Processes; one for each processor if not given.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Count and write nothing; with --limit, on the first rows.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Continue a run that was stopped.")] = False,
) -> None:
    """Raw post-training rows in, a clean curriculum out.

    Filters, templates, tokenizes and orders rows in the Llama-Nemotron format; the defaults are NVIDIA's published recipe.
    Every row that is not kept is in rejects.jsonl with the reason.
    """
    from bethink.core.config import validate
    from bethink.curate.config import CurateConfig
    from bethink.curate.pipeline import check, run

    options: dict[str, Any] = {
        "input": [*input, *(more_input or [])],
        "output": output,
        "tokenizer": tokenizer,
        "include": include or [],
        "category": category or [],
        "license": license or [],
        "generator": generator or [],
        "version": version or [],
        "boxed": boxed,
        "max_tokens": max_tokens,
        "max_completion_tokens": max_completion_tokens,
        "dedup": dedup,
        "mix": mix,
        "on_off_ratio": on_off_ratio,
        "max_samples": max_samples,
        "difficulty": difficulty,
        "order": order,
        "seed": seed,
        "toggle_style": toggle_style,
        "format": format,
        "shard_rows": shard_rows,
        "limit": limit,
        "max_bad_share": max_bad_share,
        "workers": workers,
        "dry_run": dry_run,
        "resume": resume,
    }
    given = {
        "trained_by": trained_by,
        "language": language,
        "think_open": think_open,
        "think_close": think_close,
    }
    options |= {name: value for name, value in given.items() if value}
    config = validate(CurateConfig, options, name="bethink curate", flags=True)
    report = run(config)
    _show(report)
    check(report, config)


def _show(report: Report) -> None:
    from rich.table import Table

    from bethink.core.console import out
    from bethink.curate.report import MEANING

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, side in (
        ("filter", "left"),
        ("dropped", "right"),
        ("left", "right"),
        ("what it drops", "left"),
    ):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    left = report.rows.read
    table.add_row("read", "", f"{left:,}", "")
    for name, dropped in report.rows.dropped.items():
        if dropped:
            left -= dropped
            table.add_row(name, f"{dropped:,}", f"{left:,}", MEANING.get(name, "rows that cannot be read"))
    modes = f"{report.modes['on']:,} thinking on, {report.modes['off']:,} thinking off"
    table.add_row("kept", "", f"{report.rows.kept:,}", modes, style="bold")
    out.print(table)
    for source in report.sources:
        name, share = source["source"] or "rows of no source", source["share"]
        out.print(
            f"mix: {name}{f' (share {share})' if share else ''}: {source['kept']:,} of {source['good']:,} good rows kept",
            highlight=False,
        )
    for name, rows in report.skipped.items():
        out.print(
            f"{name}: skipped for {rows:,} of {report.rows.read:,} rows, for want of the field it asks about",
            highlight=False,
        )
