"""`bethink distill`: teach a student a teacher's probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bethink.cli.options import (
    AllowDropped,
    AllowEmpty,
    AllowMemory,
    AllowTemplateFailures,
    Alpha,
    BatchSize,
    CheckpointEvery,
    Clip,
    Dropout,
    Epochs,
    EvalData,
    EvalEvery,
    Full,
    GradientCheckpointing,
    HeldOut,
    Keep,
    Lr,
    MaxHeldOut,
    MaxRowTokens,
    MinLrRatio,
    Problems,
    Rank,
    Resume,
    SampleQuestion,
    SampleTokens,
    Seed,
    Slots,
    Split,
    Steps,
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
    steps: Steps = None,
    epochs: Epochs = 1.0,
    batch_size: BatchSize = 64,
    lr: Lr = 1e-4,
    warmup: Warmup = 0.05,
    min_lr_ratio: MinLrRatio = 0.0,
    weight_decay: WeightDecay = 0.001,
    clip: Clip = 1.0,
    seed: Seed = 0,
    max_tokens: MaxRowTokens = None,
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
    problems: Problems = None,
    split: Split = "train",
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
    store_only: Annotated[
        bool,
        typer.Option(
            "--store-only",
            help="End when they are kept: training from them is for another run, or another machine.",
            rich_help_panel=_ONCE,
        ),
    ] = False,
    layer_by_layer: Annotated[
        bool | None,
        typer.Option(
            "--layer-by-layer/--no-layer-by-layer",
            help="Read its weights one layer after the other (default: where memory cannot hold them).",
            rich_help_panel=_ONCE,
        ),
    ] = None,
    full: Full = False,
    rank: Rank = 64,
    alpha: Alpha = None,
    dropout: Dropout = 0.0,
    targets: Targets = "all-linear",
    dtype: TrainDtype = None,
    device: TrainDevice = None,
    slots: Slots = 64,
    tokens_per_microbatch: TokensPerMicrobatch = None,
    gradient_checkpointing: GradientCheckpointing = None,
    checkpoint_every: CheckpointEvery = 50,
    keep: Keep = 2,
    eval_data: EvalData = None,
    held_out: HeldOut = 0.01,
    max_held_out: MaxHeldOut = 64,
    eval_every: EvalEvery = None,
    sample_question: SampleQuestion = None,
    sample_tokens: SampleTokens = 256,
    allow_dropped: AllowDropped = 0.05,
    allow_empty: AllowEmpty = 0.0,
    allow_template_failures: AllowTemplateFailures = 0.0,
    allow_memory: AllowMemory = False,
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
    if config.store_only:
        out.print(str(result.path), highlight=False, soft_wrap=True)
        return
    divergence_left = result.last["divergence"]
    out.print(
        f"{result.path}  {result.steps:,} steps, last divergence {divergence_left:.4f}",
        highlight=False,
        soft_wrap=True,
    )
