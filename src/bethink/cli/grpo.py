"""`bethink grpo`: reinforcement learning with verifiable rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bethink.cli.options import (
    ALLOW,
    KEPT,
    MACHINE,
    RUN,
    Adapter,
    AllowMemory,
    Alpha,
    CheckpointEvery,
    Clip,
    CodeMemory,
    CodeSeconds,
    Full,
    GradientCheckpointing,
    Keep,
    Lr,
    MinLrRatio,
    ModelSpec,
    Problems,
    Prompted,
    Rank,
    Resume,
    Seed,
    Slots,
    Split,
    Targets,
    ThinkClose,
    ThinkOpen,
    Toggle,
    TokensPerMicrobatch,
    TrainDevice,
    TrainDtype,
    TrainOutput,
    UnsafeCode,
    Warmup,
    WeightDecay,
    given,
)

_REWARD, _LOSS, _DRAW = "Rewards", "The policy loss", "Which problems come when"


def grpo(
    model: ModelSpec,
    tasks: Annotated[
        list[str],
        typer.Option(help="Generators (chain_sum:min_terms=3) or files (train.jsonl:gsm8k), with commas."),
    ],
    output: TrainOutput,
    adapter: Adapter = None,
    steps: Annotated[int, typer.Option(help="Steps of rollouts and updates.", rich_help_panel=RUN)] = 100,
    problems_per_step: Annotated[int, typer.Option(help="Problems a step.", rich_help_panel=RUN)] = 16,
    group_size: Annotated[int, typer.Option(help="Completions of a problem.", rich_help_panel=RUN)] = 8,
    updates_per_step: Annotated[
        int, typer.Option(help="Optimizer updates on a step's rollouts.", rich_help_panel=RUN)
    ] = 1,
    problems: Problems = None,
    split: Split = "train",
    modes: Annotated[
        str,
        typer.Option(
            help="on, off, both (each problem in both), or shares: on=0.5,both=0.5.", rich_help_panel=RUN
        ),
    ] = "on",
    prompted: Prompted = False,
    max_tokens: Annotated[
        int, typer.Option(help="Tokens of a completion, at most.", rich_help_panel=RUN)
    ] = 1024,
    temperature: Annotated[
        float, typer.Option(help="Of the policy that is sampled and trained.", rich_help_panel=RUN)
    ] = 1.0,
    lr: Lr = 1e-5,
    warmup: Warmup = 0.03,
    min_lr_ratio: MinLrRatio = 1.0,
    weight_decay: WeightDecay = 0.0,
    clip: Clip = 1.0,
    seed: Seed = 0,
    resume: Resume = False,
    rewards: Annotated[
        str,
        typer.Option(help="Names and weights (docs/rewards.md).", rich_help_panel=_REWARD),
    ] = "accuracy=1,format=0.5",
    overlong: Annotated[
        str,
        typer.Option(
            help="What a completion cut at --max-tokens is: score (like any other) or mask (not learned from).",
            rich_help_panel=_REWARD,
        ),
    ] = "score",
    algorithm: Annotated[
        str,
        typer.Option(
            help="grpo, dr_grpo, dapo, gspo, cispo, rloo: what the choices below begin as.",
            rich_help_panel=_LOSS,
        ),
    ] = "grpo",
    advantage: Annotated[
        str | None, typer.Option(help="group, centred, leave_one_out.", rich_help_panel=_LOSS)
    ] = None,
    ratio: Annotated[str | None, typer.Option(help="token, sequence.", rich_help_panel=_LOSS)] = None,
    clipping: Annotated[str | None, typer.Option(help="ppo, cispo, none.", rich_help_panel=_LOSS)] = None,
    aggregation: Annotated[
        str | None, typer.Option(help="token, sequence, constant.", rich_help_panel=_LOSS)
    ] = None,
    clip_low: Annotated[
        float | None, typer.Option(help="The ratio may fall by so much.", rich_help_panel=_LOSS)
    ] = None,
    clip_high: Annotated[
        float | None, typer.Option(help="It may rise by so much.", rich_help_panel=_LOSS)
    ] = None,
    kl: Annotated[
        float | None,
        typer.Option(help="Weight of the KL term; 0 saves the reference pass.", rich_help_panel=_LOSS),
    ] = None,
    kl_estimator: Annotated[str | None, typer.Option(help="k1, k2, k3.", rich_help_panel=_LOSS)] = None,
    kl_place: Annotated[str | None, typer.Option(help="loss, reward.", rich_help_panel=_LOSS)] = None,
    reference: Annotated[
        str,
        typer.Option(
            help="Of the KL term: start (the policy as it begins), base (the model below its adapter).",
            rich_help_panel=_LOSS,
        ),
    ] = "start",
    reference_every: Annotated[
        int,
        typer.Option(
            help="Steps after which the reference becomes the policy; 0: never.", rich_help_panel=_LOSS
        ),
    ] = 0,
    importance_cap: Annotated[
        float,
        typer.Option(
            help="Largest weight that corrects for the sampler's rounding; 0: none.", rich_help_panel=_LOSS
        ),
    ] = 2.0,
    refills: Annotated[
        int,
        typer.Option(
            help="Further draws in place of groups without signal (dynamic sampling).", rich_help_panel=_DRAW
        ),
    ] = 0,
    curriculum: Annotated[
        str, typer.Option(help="shuffled, progressive, mastery.", rich_help_panel=_DRAW)
    ] = "shuffled",
    pass_rates: Annotated[
        Path | None,
        typer.Option(help="Pass rates for the progressive curriculum.", rich_help_panel=_DRAW),
    ] = None,
    progressive_start: Annotated[
        float | None,
        typer.Option(
            help="Pass rate that the first step's problems are around.",
            show_default="0.7",
            rich_help_panel=_DRAW,
        ),
    ] = None,
    progressive_end: Annotated[
        float | None,
        typer.Option(help="The same of the last step's.", show_default="0.1", rich_help_panel=_DRAW),
    ] = None,
    progressive_width: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of a step's pass rates.", show_default="0.15", rich_help_panel=_DRAW
        ),
    ] = None,
    progressive_drop: Annotated[
        float | None,
        typer.Option(
            help="Problems with this pass rate or more are left out.",
            show_default="0.75",
            rich_help_panel=_DRAW,
        ),
    ] = None,
    mastery_threshold: Annotated[
        float | None,
        typer.Option(
            help="Pass rate that opens the next level (a task each).",
            show_default="0.7",
            rich_help_panel=_DRAW,
        ),
    ] = None,
    mastery_fall_back: Annotated[
        float | None,
        typer.Option(
            help="Pass rate below which it closes again.", show_default="0.3", rich_help_panel=_DRAW
        ),
    ] = None,
    mastery_window: Annotated[
        int | None,
        typer.Option(
            help="Problems of a level whose mean pass rate is judged.",
            show_default="32",
            rich_help_panel=_DRAW,
        ),
    ] = None,
    mastery_rehearsal: Annotated[
        float | None,
        typer.Option(
            help="Share of a step for the open levels below the newest.",
            show_default="0.25",
            rich_help_panel=_DRAW,
        ),
    ] = None,
    eval_every: Annotated[
        int,
        typer.Option(help="Steps between evaluations on held-out problems; 0: never.", rich_help_panel=KEPT),
    ] = 0,
    eval_tasks: Annotated[
        list[str] | None,
        typer.Option(help="Tasks they are of (default: those of --tasks).", rich_help_panel=KEPT),
    ] = None,
    eval_size: Annotated[
        int, typer.Option(help="Held-out problems of each task.", rich_help_panel=KEPT)
    ] = 100,
    full: Full = False,
    rank: Rank = 64,
    alpha: Alpha = None,
    targets: Targets = "all-linear",
    toggle: Toggle = "system",
    think_open: ThinkOpen = None,
    think_close: ThinkClose = None,
    dtype: TrainDtype = None,
    device: TrainDevice = None,
    slots: Slots = 64,
    workers: Annotated[
        int | None, typer.Option(help="Grading processes (default: one a core).", rich_help_panel=MACHINE)
    ] = None,
    tokens_per_microbatch: TokensPerMicrobatch = None,
    gradient_checkpointing: GradientCheckpointing = None,
    checkpoint_every: CheckpointEvery = 10,
    keep: Keep = 2,
    code_seconds: CodeSeconds = 5.0,
    code_memory: CodeMemory = 1024,
    unsafe_code: UnsafeCode = False,
    allow_truncated: Annotated[
        float,
        typer.Option(help="Share of the first completions that may be cut.", rich_help_panel=ALLOW),
    ] = 0.5,
    allow_no_signal: Annotated[
        float,
        typer.Option(help="Share of the first groups that may have no signal.", rich_help_panel=ALLOW),
    ] = 0.9,
    allow_ungraded: Annotated[
        float,
        typer.Option(
            help="Share of the first completions whose grading may fail, and of the first problems with an unusable reference answer.",
            rich_help_panel=ALLOW,
        ),
    ] = 0.05,
    allow_memory: AllowMemory = False,
) -> None:
    """Reinforcement learning with verifiable rewards: sample, grade, prefer what was right.

    Writes OUTPUT/adapter/ (or OUTPUT/model/), rollouts.jsonl, rollouts.html, metrics.jsonl, plots, preflight.json and checkpoints/.
    """
    options = given(locals())
    from bethink.core.config import validate
    from bethink.core.console import out
    from bethink.train.rl.config import GRPOConfig

    config = validate(GRPOConfig, options, name="bethink grpo", flags=True)
    config.located()  # what is not there is said before torch is imported, which takes seconds

    from bethink.train.rl.run import run_grpo

    result = run_grpo(config)
    reward = result.last["reward"]
    out.print(
        f"{result.path}  {result.steps:,} steps, last reward {reward:.3f}", highlight=False, soft_wrap=True
    )
