"""`bethink pretrain`: a base model from random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bethink.cli.options import (
    KEPT,
    RUN,
    AllowMemory,
    CheckpointEvery,
    Clip,
    Epochs,
    EvalEvery,
    GradientCheckpointing,
    Keep,
    Lr,
    MaxHeldOut,
    MinLrRatio,
    Resume,
    Seed,
    Steps,
    TokensPerMicrobatch,
    TrainDevice,
    TrainDtype,
    TrainOutput,
    Warmup,
    WeightDecay,
    given,
)

_MODEL = "The model"


def pretrain(
    data: Annotated[
        list[Path],
        typer.Option(help="Texts: .txt, .jsonl or .parquet files, or directories of them. Repeatable."),
    ],
    output: TrainOutput,
    model: Annotated[
        str,
        typer.Option(help="An architecture, or a config.json or directory with one.", rich_help_panel=_MODEL),
    ] = "llama",
    shape: Annotated[
        str,
        typer.Option(help="Its sizes: hidden_size=256,num_hidden_layers=6,…", rich_help_panel=_MODEL),
    ] = "",
    tokenizer: Annotated[
        str | None, typer.Option(help="A model whose tokenizer is used.", rich_help_panel=_MODEL)
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(help="Or: learn one of so many tokens from the texts.", rich_help_panel=_MODEL),
    ] = None,
    context: Annotated[
        int, typer.Option(help="Tokens of the longest piece of text.", rich_help_panel=_MODEL)
    ] = 1024,
    field: Annotated[str, typer.Option(help="The rows' column with the text.")] = "text",
    steps: Steps = None,
    epochs: Epochs = 1.0,
    tokens_per_step: Annotated[
        int, typer.Option(help="Tokens an optimizer step, about.", rich_help_panel=RUN)
    ] = 65_536,
    lr: Lr = 6e-4,
    warmup: Warmup = 0.02,
    min_lr_ratio: MinLrRatio = 0.1,
    weight_decay: WeightDecay = 0.1,
    beta2: Annotated[
        float, typer.Option(help="AdamW's decay of the second moment.", rich_help_panel=RUN)
    ] = 0.95,
    clip: Clip = 1.0,
    seed: Seed = 0,
    resume: Resume = False,
    dtype: TrainDtype = None,
    device: TrainDevice = None,
    tokens_per_microbatch: TokensPerMicrobatch = None,
    gradient_checkpointing: GradientCheckpointing = None,
    checkpoint_every: CheckpointEvery = 50,
    keep: Keep = 2,
    held_out: Annotated[
        float, typer.Option(help="Share of the texts held out.", rich_help_panel=KEPT)
    ] = 0.01,
    max_held_out: MaxHeldOut = 512,
    eval_every: EvalEvery = None,
    allow_memory: AllowMemory = False,
) -> None:
    """Next-token training from a config with random weights.

    Writes OUTPUT/model/, metrics.jsonl, loss.svg and checkpoints/.
    """
    options = given(locals())
    from bethink.core.config import validate
    from bethink.core.console import out
    from bethink.train.pretrain.config import PretrainConfig

    config = validate(PretrainConfig, options, name="bethink pretrain", flags=True)

    from bethink.train.pretrain.run import run_pretrain

    result = run_pretrain(config)
    loss = result.last["loss"]
    out.print(f"{result.path}  {result.steps:,} steps, last loss {loss:.4f}", highlight=False, soft_wrap=True)
