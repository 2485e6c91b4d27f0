"""Options that several verbs share, each described once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bethink.chat.toggle import Mode, ThinkFormat, ToggleStyle

Toggle = Annotated[
    str,
    typer.Option(
        help="How the model is told the mode: system (prompt), words (for a model that knows no toggle), kwargs (of the template), slash."
    ),
]
ThinkOpen = Annotated[str | None, typer.Option(help="Opening tag of the model's think block, if unusual.")]
ThinkClose = Annotated[str | None, typer.Option(help="Its closing tag.")]
Prompted = Annotated[
    bool,
    typer.Option(
        "--prompted",
        help="Ask for step-by-step work and a boxed answer in the question; rows and lists of problems hold the bare one.",
    ),
]
Dtype = Annotated[
    str | None, typer.Option(help="bfloat16 or float32.", show_default="what suits the machine")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …", show_default="what suits the machine")]
CodeSeconds = Annotated[
    float,
    typer.Option(
        help="Seconds of processor time a model's program may take for one test case, and ten times as many for all."
    ),
]
CodeMemory = Annotated[int, typer.Option(help="MiB of memory a model's program may have.")]
UnsafeCode = Annotated[
    bool,
    typer.Option(
        "--unsafe-code",
        help="Run programs that a model wrote even where there is no sandbox: they can read and delete your files.",
    ),
]


RUN, TRAINED, MACHINE, KEPT, ALLOW = (
    "The run",
    "What is trained",
    "The machine",
    "What is kept",
    "Preflight",
)
"""Panels of a trainer's help."""

ModelSpec = Annotated[
    str, typer.Option(help="Directory, hub id, GGUF file, built-in name, or MODEL+ADAPTER_DIR.")
]
TrainOutput = Annotated[Path, typer.Option(help="Directory for what is trained, metrics and checkpoints.")]
Rows = Annotated[
    Path, typer.Option(help="Output directory of `bethink curate`, or one .jsonl or .parquet file.")
]
Lr = Annotated[float, typer.Option(help="Peak learning rate.", rich_help_panel=RUN)]
Warmup = Annotated[float, typer.Option(help="Share of the steps spent warming up.", rich_help_panel=RUN)]
MinLrRatio = Annotated[
    float,
    typer.Option(help="Where the cosine ends, as a share of --lr; 1 is constant.", rich_help_panel=RUN),
]
WeightDecay = Annotated[float, typer.Option(help="AdamW's weight decay.", rich_help_panel=RUN)]
Clip = Annotated[float, typer.Option(help="Largest gradient norm; 0 is off.", rich_help_panel=RUN)]
Seed = Annotated[int, typer.Option(help="Decides everything that is random.", rich_help_panel=RUN)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint in --output.", rich_help_panel=RUN)
]
Full = Annotated[
    bool, typer.Option("--full", help="Train all weights instead of an adapter.", rich_help_panel=TRAINED)
]
Rank = Annotated[int, typer.Option(help="LoRA rank of a new adapter.", rich_help_panel=TRAINED)]
Alpha = Annotated[
    float | None, typer.Option(help="LoRA alpha (default: twice the rank).", rich_help_panel=TRAINED)
]
Targets = Annotated[
    str,
    typer.Option(
        help="all-linear, layer names separated by commas, or a regular expression.", rich_help_panel=TRAINED
    ),
]
TrainDtype = Annotated[
    str | None,
    typer.Option(
        help="bfloat16 or float32: what the model computes in.",
        show_default="what suits the machine",
        rich_help_panel=MACHINE,
    ),
]
TrainDevice = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1.", show_default="the best there is", rich_help_panel=MACHINE),
]
TokensPerMicrobatch = Annotated[
    int | None, typer.Option(help="Tokens computed at once (default: by device).", rich_help_panel=MACHINE)
]
Slots = Annotated[int, typer.Option(help="Completions sampled at once.", rich_help_panel=MACHINE)]
CheckpointEvery = Annotated[
    int, typer.Option(help="Steps between checkpoints; 0: only at the end.", rich_help_panel=KEPT)
]
Keep = Annotated[int, typer.Option(help="Checkpoints kept.", rich_help_panel=KEPT)]

Adapter = Annotated[Path | None, typer.Option(help="Adapter to train on; without one a new one is added.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps; wins over --epochs.", rich_help_panel=RUN)]
Epochs = Annotated[float, typer.Option(help="Passes over the data.", rich_help_panel=RUN)]
BatchSize = Annotated[int, typer.Option(help="Samples an optimizer step.", rich_help_panel=RUN)]
MaxRowTokens = Annotated[
    int | None,
    typer.Option(help="Drop rows longer than this (default: the model's positions).", rich_help_panel=RUN),
]
Dropout = Annotated[float, typer.Option(help="LoRA dropout.", rich_help_panel=TRAINED)]
GradientCheckpointing = Annotated[
    bool | None,
    typer.Option(
        help="Compute in the backward pass again what memory cannot hold (default: when it is short).",
        rich_help_panel=MACHINE,
    ),
]
EvalData = Annotated[Path | None, typer.Option(help="Held-out data, like --data.", rich_help_panel=KEPT)]
HeldOut = Annotated[
    float, typer.Option(help="Share of --data held out when there is no --eval-data.", rich_help_panel=KEPT)
]
MaxHeldOut = Annotated[int, typer.Option(help="About how many are held out at most.", rich_help_panel=KEPT)]
EvalEvery = Annotated[
    int | None,
    typer.Option(
        help="Steps between evaluations on what is held out; 0: never (default: a quarter of the run).",
        rich_help_panel=KEPT,
    ),
]
SampleQuestion = Annotated[
    str | None,
    typer.Option(
        help="Question asked on and off at each evaluation (default: a held-out one).", rich_help_panel=KEPT
    ),
]
SampleTokens = Annotated[int, typer.Option(help="Longest sampled answer; 0: none.", rich_help_panel=KEPT)]
AllowDropped = Annotated[
    float, typer.Option(help="Share of the data that may be unusable or too long.", rich_help_panel=ALLOW)
]
AllowEmpty = Annotated[
    float, typer.Option(help="Share of rows that may have an empty completion.", rich_help_panel=ALLOW)
]
AllowTemplateFailures = Annotated[
    float,
    typer.Option(help="Share of the first 100 rows that may not fit the tokenizer.", rich_help_panel=ALLOW),
]
AllowMemory = Annotated[
    bool, typer.Option("--allow-memory", help="Go on when memory looks short.", rich_help_panel=ALLOW)
]
Problems = Annotated[
    int | None,
    typer.Option(help="Problems in all (default: as many as the run can use).", rich_help_panel=RUN),
]
Split = Annotated[
    str, typer.Option(help="Which part of a generator's or hub data set's problems.", rich_help_panel=RUN)
]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """A verb's options without those that were left to the config."""
    return {name: value for name, value in options.items() if value is not None}


def read_mode(thinking: str) -> Mode:
    """The mode that `--thinking` names."""
    from bethink.chat.toggle import Mode

    if thinking not in list(Mode):
        raise typer.BadParameter("say on or off", param_hint="--thinking")
    return Mode(thinking)


def read_style(toggle: str) -> ToggleStyle:
    """The convention that `--toggle` names."""
    from bethink.chat.toggle import ToggleStyle

    if toggle not in list(ToggleStyle):
        raise typer.BadParameter(f"say {', '.join(ToggleStyle)}", param_hint="--toggle")
    return ToggleStyle(toggle)


def read_tags(think_open: str | None, think_close: str | None) -> ThinkFormat:
    """The tags of the model's think block: those given, the usual ones otherwise."""
    from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat

    return ThinkFormat(think_open or DEFAULT_FORMAT.open, think_close or DEFAULT_FORMAT.close)
