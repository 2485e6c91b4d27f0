"""`bethink sft`: fine-tune the thinking toggle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

_RUN, _TRAIN, _MACHINE, _WATCH, _ALLOW = (
    "The run",
    "What is trained",
    "The machine",
    "On the way",
    "Preflight",
)


def sft(
    model: Annotated[
        str, typer.Option(help="Directory, hub id, GGUF file, built-in name, or MODEL+ADAPTER_DIR.")
    ],
    data: Annotated[
        Path, typer.Option(help="Output directory of `bethink curate`, or one .jsonl or .parquet file.")
    ],
    output: Annotated[Path, typer.Option(help="Directory for the adapter, metrics and checkpoints.")],
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps; wins over --epochs.", rich_help_panel=_RUN)
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.", rich_help_panel=_RUN)] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Samples an optimizer step.", rich_help_panel=_RUN)] = 256,
    lr: Annotated[float, typer.Option(help="Peak learning rate.", rich_help_panel=_RUN)] = 1e-4,
    warmup: Annotated[
        float, typer.Option(help="Share of the steps spent warming up.", rich_help_panel=_RUN)
    ] = 0.05,
    min_lr_ratio: Annotated[
        float, typer.Option(help="Where the cosine ends, as a share of --lr.", rich_help_panel=_RUN)
    ] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.", rich_help_panel=_RUN)] = 0.001,
    clip: Annotated[float, typer.Option(help="Largest gradient norm; 0 is off.", rich_help_panel=_RUN)] = 1.0,
    seed: Annotated[
        int, typer.Option(help="Decides initial adapter weights and dropout.", rich_help_panel=_RUN)
    ] = 0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Drop rows longer than this (default: the model's positions).", rich_help_panel=_RUN
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint in --output.", rich_help_panel=_RUN),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Train all weights instead of an adapter.", rich_help_panel=_TRAIN)
    ] = False,
    rank: Annotated[int, typer.Option(help="LoRA rank.", rich_help_panel=_TRAIN)] = 64,
    alpha: Annotated[
        float | None, typer.Option(help="LoRA alpha (default: twice the rank).", rich_help_panel=_TRAIN)
    ] = None,
    dropout: Annotated[float, typer.Option(help="LoRA dropout.", rich_help_panel=_TRAIN)] = 0.0,
    targets: Annotated[
        str,
        typer.Option(
            help="all-linear, layer names separated by commas, or a regular expression.",
            rich_help_panel=_TRAIN,
        ),
    ] = "all-linear",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="bfloat16 or float32: what the model computes in (default: what suits the machine).",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1 (default: the best there is).", rich_help_panel=_MACHINE),
    ] = None,
    tokens_per_microbatch: Annotated[
        int | None,
        typer.Option(help="Tokens computed at once (default: by device).", rich_help_panel=_MACHINE),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            help="Compute in the backward pass again what memory cannot hold (default: when it is short).",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between checkpoints; 0: only at the end.", rich_help_panel=_WATCH)
    ] = 50,
    keep: Annotated[int, typer.Option(help="Checkpoints kept.", rich_help_panel=_WATCH)] = 2,
    eval_data: Annotated[
        Path | None, typer.Option(help="Rows for the held-out loss, like --data.", rich_help_panel=_WATCH)
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(help="Share of --data held out when there is no --eval-data.", rich_help_panel=_WATCH),
    ] = 0.01,
    max_held_out: Annotated[
        int, typer.Option(help="About how many rows are held out at most.", rich_help_panel=_WATCH)
    ] = 64,
    eval_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between held-out losses and samples; 0: never (default: a quarter of the run).",
            rich_help_panel=_WATCH,
        ),
    ] = None,
    sample_question: Annotated[
        str | None,
        typer.Option(
            help="Question asked on and off at each evaluation (default: a held-out one).",
            rich_help_panel=_WATCH,
        ),
    ] = None,
    sample_tokens: Annotated[
        int, typer.Option(help="Longest sampled answer; 0: none.", rich_help_panel=_WATCH)
    ] = 256,
    allow_dropped: Annotated[
        float, typer.Option(help="Share of rows that may be too long.", rich_help_panel=_ALLOW)
    ] = 0.05,
    allow_empty: Annotated[
        float, typer.Option(help="Share of rows that may have an empty completion.", rich_help_panel=_ALLOW)
    ] = 0.0,
    allow_template_failures: Annotated[
        float,
        typer.Option(
            help="Share of the first 100 rows that may not fit the tokenizer.", rich_help_panel=_ALLOW
        ),
    ] = 0.0,
    allow_memory: Annotated[
        bool, typer.Option("--allow-memory", help="Go on when memory looks short.", rich_help_panel=_ALLOW)
    ] = False,
) -> None:
    """Fine-tune the thinking toggle on curated rows (LoRA, or all weights with --full).

    Writes OUTPUT/adapter/ (or OUTPUT/model/), metrics.jsonl, loss.svg, preflight.json, samples.md and checkpoints/.
    """
    options = dict(locals())
    from bethink.core.config import validate
    from bethink.core.console import out
    from bethink.train.sft.config import SFTConfig

    if targets != "all-linear" and re.fullmatch(r"[\w.]+(,[\w.]+)*", targets):
        options["targets"] = tuple(targets.split(","))
    config = validate(SFTConfig, options, name="bethink sft", flags=True)
    config.inputs()  # what is not there is said before torch is imported, which takes seconds

    from bethink.train.sft.run import run_sft

    result = run_sft(config)
    loss = result.last["loss"]
    out.print(f"{result.path}  {result.steps:,} steps, last loss {loss:.4f}", highlight=False, soft_wrap=True)
