"""`bethink distill`: teach a student a teacher's probabilities."""

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
    Rank,
    Resume,
    Seed,
    Slots,
    Targets,
    ThinkClose,
    ThinkOpen,
    Toggle,
    TokensPerMicrobatch,
    TrainDevice,
    TrainDtype,
    TrainOutput,
    Warmup,
    WeightDecay,
    given,
)

_LOSS, _OWN, _ONCE = "The loss", "What the student writes itself", "A teacher asked once"


def distill(
    model: Annotated[
        str,
        typer.Option(help="The student: directory, hub id, GGUF file, built-in name, or MODEL+ADAPTER_DIR."),
    ],
    teacher: Annotated[str, typer.Option(help="The teacher, named alike; it has the student's tokenizer.")],
    output: TrainOutput,
    data: Annotated[
        Path | None,
        typer.Option(help="Rows: output directory of `bethink curate`, or one .jsonl or .parquet file."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps; wins over --epochs.", rich_help_panel=RUN)
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.", rich_help_panel=RUN)] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Samples an optimizer step.", rich_help_panel=RUN)] = 64,
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
    divergence: Annotated[
        str,
        typer.Option(
            help="forward (KL from the teacher), reverse (from the student), jsd.", rich_help_panel=_LOSS
        ),
    ] = "forward",
    beta: Annotated[
        float, typer.Option(help="Of jsd: near 0 like forward, near 1 like reverse.", rich_help_panel=_LOSS)
    ] = 0.5,
    temperature: Annotated[
        float, typer.Option(help="Both models' logits are divided by it.", rich_help_panel=_LOSS)
    ] = 1.0,
    cross_entropy: Annotated[
        float,
        typer.Option(help="Share of plain cross-entropy in the loss of rows.", rich_help_panel=_LOSS),
    ] = 0.0,
    on_policy: Annotated[
        float | None,
        typer.Option(
            help="Share of samples whose completion the student writes (default: 0; 1 without --data).",
            rich_help_panel=_OWN,
        ),
    ] = None,
    completion_tokens: Annotated[
        int, typer.Option(help="Tokens of such a completion, at most.", rich_help_panel=_OWN)
    ] = 512,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Generators or files of problems it answers (default: the prompts of --data).",
            rich_help_panel=_OWN,
        ),
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(help="Problems in all (default: as many as the run can use).", rich_help_panel=_OWN),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="Which part of a generator's or hub data set's problems.", rich_help_panel=_OWN),
    ] = "train",
    thinking: Annotated[
        str,
        typer.Option(help="How problems are asked: on, off, both (half of them each).", rich_help_panel=_OWN),
    ] = "both",
    toggle: Toggle = "system",
    think_open: ThinkOpen = None,
    think_close: ThinkClose = None,
    store_teacher: Annotated[
        int | None,
        typer.Option(
            help="Ask the teacher once, keep its so many likeliest tokens, and train without it.",
            rich_help_panel=_ONCE,
        ),
    ] = None,
    teacher_store: Annotated[
        Path | None,
        typer.Option(
            help="Where they are kept, for other runs too (default: OUTPUT/teacher).", rich_help_panel=_ONCE
        ),
    ] = None,
    full: Full = False,
    rank: Rank = 64,
    alpha: Alpha = None,
    dropout: Annotated[float, typer.Option(help="LoRA dropout.", rich_help_panel=TRAINED)] = 0.0,
    targets: Targets = "all-linear",
    dtype: TrainDtype = None,
    device: TrainDevice = None,
    slots: Slots = 64,
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
    """Teach a student a teacher's probabilities: KL divergence on logits, on rows or on what the student writes itself.

    Writes OUTPUT/adapter/ (or OUTPUT/model/), metrics.jsonl, loss.svg, preflight.json, samples.md and checkpoints/.
    """
    options = given(locals())
    from bethink.core.config import validate
    from bethink.core.console import out
    from bethink.train.distill.config import DistillConfig

    config = validate(DistillConfig, options, name="bethink distill", flags=True)
    config.inputs()  # what is not there is said before torch is imported, which takes seconds
    config.located_teacher()

    from bethink.train.distill.run import run_distill

    result = run_distill(config)
    divergence_left = result.last["divergence"]
    out.print(
        f"{result.path}  {result.steps:,} steps, last divergence {divergence_left:.4f}",
        highlight=False,
        soft_wrap=True,
    )
