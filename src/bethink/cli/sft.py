"""`bethink sft`: fine-tune the thinking toggle."""

from __future__ import annotations

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
    ModelSpec,
    Rank,
    Resume,
    Rows,
    SampleQuestion,
    SampleTokens,
    Seed,
    Steps,
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
    steps: Steps = None,
    epochs: Epochs = 1.0,
    batch_size: BatchSize = 256,
    lr: Lr = 1e-4,
    warmup: Warmup = 0.05,
    min_lr_ratio: MinLrRatio = 0.0,
    weight_decay: WeightDecay = 0.001,
    clip: Clip = 1.0,
    seed: Seed = 0,
    max_tokens: MaxRowTokens = None,
    resume: Resume = False,
    full: Full = False,
    rank: Rank = 64,
    alpha: Alpha = None,
    dropout: Dropout = 0.0,
    targets: Targets = "all-linear",
    dtype: TrainDtype = None,
    device: TrainDevice = None,
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
