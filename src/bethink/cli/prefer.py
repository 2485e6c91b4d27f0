"""`bethink prefer`: learn from pairs of a better and a worse completion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bethink.cli.options import (
    RUN,
    TRAINED,
    Adapter,
    AllowDropped,
    AllowMemory,
    Alpha,
    CheckpointEvery,
    Clip,
    Epochs,
    EvalData,
    EvalEvery,
    Full,
    GradientCheckpointing,
    HeldOut,
    Keep,
    Lr,
    MaxHeldOut,
    MinLrRatio,
    ModelSpec,
    Rank,
    Resume,
    Seed,
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

_LOSS, _PAIRS = "The loss", "Pairs from answers"


def prefer(
    model: ModelSpec,
    output: TrainOutput,
    data: Annotated[
        Path | None, typer.Option(help="Pairs: a .jsonl or .parquet file, or a directory with them.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="Or: output of `bethink sample`, whose graded answers are made into pairs."),
    ] = None,
    adapter: Adapter = None,
    reward_model: Annotated[
        bool,
        typer.Option("--reward-model", help="Train a model of what is preferred, not a policy."),
    ] = False,
    steps: Steps = None,
    epochs: Epochs = 1.0,
    batch_size: Annotated[int, typer.Option(help="Pairs an optimizer step.", rich_help_panel=RUN)] = 32,
    lr: Lr = 5e-5,
    warmup: Warmup = 0.1,
    min_lr_ratio: MinLrRatio = 0.0,
    weight_decay: WeightDecay = 0.0,
    clip: Clip = 1.0,
    seed: Seed = 0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Leave out pairs with a completion longer than this, prompt included (default: the model's positions).",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Resume = False,
    algorithm: Annotated[
        str, typer.Option(help="dpo, rpo, hinge, ipo, simpo: sets all of these.", rich_help_panel=_LOSS)
    ] = "dpo",
    comparison: Annotated[
        str | None, typer.Option(help="sigmoid, hinge or squared.", rich_help_panel=_LOSS)
    ] = None,
    reference: Annotated[
        bool | None,
        typer.Option(help="Count gains over the policy before training.", rich_help_panel=_LOSS),
    ] = None,
    length: Annotated[
        str | None,
        typer.Option(help="sum or mean of a completion's token log-probabilities.", rich_help_panel=_LOSS),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="How much a gain counts.", rich_help_panel=_LOSS)] = None,
    margin: Annotated[
        float | None, typer.Option(help="By how much the chosen has to win.", rich_help_panel=_LOSS)
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(help="Share of pairs taken to be the wrong way round.", rich_help_panel=_LOSS),
    ] = None,
    sft: Annotated[
        float | None,
        typer.Option(help="Weight of the chosen completions' cross-entropy.", rich_help_panel=_LOSS),
    ] = None,
    longer: Annotated[
        float,
        typer.Option(
            help="Of two right answers the one so many times as long is rejected.", rich_help_panel=_PAIRS
        ),
    ] = 1.5,
    pairs_per_problem: Annotated[
        int, typer.Option(help="Pairs of a problem in a mode, at most.", rich_help_panel=_PAIRS)
    ] = 4,
    full: Full = False,
    rank: Rank = 64,
    alpha: Alpha = None,
    targets: Targets = "all-linear",
    mode: Annotated[
        str | None,
        typer.Option(help="on or off: of rows that do not say it.", rich_help_panel=TRAINED),
    ] = None,
    toggle: Toggle = "system",
    think_open: ThinkOpen = None,
    think_close: ThinkClose = None,
    dtype: TrainDtype = None,
    device: TrainDevice = None,
    tokens_per_microbatch: TokensPerMicrobatch = None,
    gradient_checkpointing: GradientCheckpointing = None,
    checkpoint_every: CheckpointEvery = 50,
    keep: Keep = 2,
    eval_data: EvalData = None,
    held_out: HeldOut = 0.05,
    max_held_out: MaxHeldOut = 256,
    eval_every: EvalEvery = None,
    allow_dropped: AllowDropped = 0.05,
    allow_memory: AllowMemory = False,
) -> None:
    """Preference tuning (DPO, IPO, SimPO, …) on pairs of completions, or a reward model of them.

    Writes OUTPUT/adapter/ (or model/, or reward_model/), metrics.jsonl, training.svg, preflight.json and checkpoints/.
    """
    options = given(locals())
    from bethink.core.config import validate
    from bethink.core.console import out
    from bethink.train.prefer.config import PreferConfig

    config = validate(PreferConfig, options, name="bethink prefer", flags=True)
    config.files()  # what is not there is said before torch is imported, which takes seconds
    config.located()

    from bethink.train.prefer.run import run_prefer

    result = run_prefer(config)
    last = result.last
    accuracy = last.get("eval_accuracy", last["accuracy"])
    out.print(
        f"{result.path}  {result.steps:,} steps, last loss {last['loss']:.4f}, accuracy {accuracy:.1%}",
        highlight=False,
        soft_wrap=True,
    )
