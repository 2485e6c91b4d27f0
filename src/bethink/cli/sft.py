"""`bethink sft`: fine-tune the thinking toggle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bethink.cli.options import (
    ALLOW,
    KEPT,
    MACHINE,
    RUN,
    TRAINED,
    Alpha,
    CheckpointEvery,
    Clip,
    Full,
    Keep,
    Lr,
    MinLrRatio,
    ModelSpec,
    Rank,
    Resume,
    Rows,
    Seed,
    Targets,
    TokensPerMicrobatch,
    TrainDevice,
    TrainDtype,
    TrainOutput,
    Warmup,
    WeightDecay,
    given,
)


def sft(
    model: ModelSpec,
    data: Rows,
    output: TrainOutput,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps; wins over --epochs.", rich_help_panel=RUN)
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.", rich_help_panel=RUN)] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Samples an optimizer step.", rich_help_panel=RUN)] = 256,
    lr: Lr = 1e-4,
    warmup: Warmup = 0.05,
    min_lr_ratio: MinLrRatio = 0.0,
    weight_decay: WeightDecay = 0.001,
    clip: Clip = 1.0,
    seed: Seed = 0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Drop rows longer than this (default: the model's positions).", rich_help_panel=RUN
        ),
    ] = None,
    resume: Resume = False,
    full: Full = False,
    rank: Rank = 64,
    alpha: Alpha = None,
    dropout: Annotated[float, typer.Option(help="LoRA dropout.", rich_help_panel=TRAINED)] = 0.0,
    targets: Targets = "all-linear",
    dtype: TrainDtype = None,
    device: TrainDevice = None,
    tokens_per_microbatch: TokensPerMicrobatch = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            help="Compute in the backward pass again what memory cannot hold (default: when it is short).",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    checkpoint_every: CheckpointEvery = 50,
    keep: Keep = 2,
    eval_data: Annotated[
        Path | None, typer.Option(help="Rows for the held-out loss, like --data.", rich_help_panel=KEPT)
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(help="Share of --data held out when there is no --eval-data.", rich_help_panel=KEPT),
    ] = 0.01,
    max_held_out: Annotated[
        int, typer.Option(help="About how many rows are held out at most.", rich_help_panel=KEPT)
    ] = 64,
    eval_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between held-out losses and samples; 0: never (default: a quarter of the run).",
            rich_help_panel=KEPT,
        ),
    ] = None,
    sample_question: Annotated[
        str | None,
        typer.Option(
            help="Question asked on and off at each evaluation (default: a held-out one).",
            rich_help_panel=KEPT,
        ),
    ] = None,
    sample_tokens: Annotated[
        int, typer.Option(help="Longest sampled answer; 0: none.", rich_help_panel=KEPT)
    ] = 256,
    allow_dropped: Annotated[
        float, typer.Option(help="Share of rows that may be too long.", rich_help_panel=ALLOW)
    ] = 0.05,
    allow_empty: Annotated[
        float, typer.Option(help="Share of rows that may have an empty completion.", rich_help_panel=ALLOW)
    ] = 0.0,
    allow_template_failures: Annotated[
        float,
        typer.Option(
            help="Share of the first 100 rows that may not fit the tokenizer.", rich_help_panel=ALLOW
        ),
    ] = 0.0,
    allow_memory: Annotated[
        bool, typer.Option("--allow-memory", help="Go on when memory looks short.", rich_help_panel=ALLOW)
    ] = False,
) -> None:
    """Fine-tune the thinking toggle on curated rows (LoRA, or all weights with --full).

    Writes OUTPUT/adapter/ (or OUTPUT/model/), metrics.jsonl, loss.svg, preflight.json, samples.md and checkpoints/.
    """
    options = given(locals())
    from bethink.core.config import validate
    from bethink.core.console import out
    from bethink.train.sft.config import SFTConfig

    config = validate(SFTConfig, options, name="bethink sft", flags=True)
    config.inputs()  # what is not there is said before torch is imported, which takes seconds

    from bethink.train.sft.run import run_sft

    result = run_sft(config)
    loss = result.last["loss"]
    out.print(f"{result.path}  {result.steps:,} steps, last loss {loss:.4f}", highlight=False, soft_wrap=True)
