"""Options that several verbs share, each described once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bethink.chat.toggle import Mode, ThinkFormat, ToggleStyle

Toggle = Annotated[
    str,
    typer.Option(help="How the model is told the mode: system (prompt), kwargs (of the template), slash."),
]
ThinkOpen = Annotated[str | None, typer.Option(help="Opening tag of the model's think block, if unusual.")]
ThinkClose = Annotated[str | None, typer.Option(help="Its closing tag.")]
Dtype = Annotated[
    str | None, typer.Option(help="bfloat16 or float32.", show_default="what suits the machine")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …", show_default="what suits the machine")]
UnsafeCode = Annotated[
    bool,
    typer.Option(
        "--unsafe-code",
        help="Run programs that a model wrote even where there is no sandbox: they can read and delete your files.",
    ),
]


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
        raise typer.BadParameter("say system, kwargs or slash", param_hint="--toggle")
    return ToggleStyle(toggle)


def read_tags(think_open: str | None, think_close: str | None) -> ThinkFormat:
    """The tags of the model's think block: those given, the usual ones otherwise."""
    from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat

    return ThinkFormat(think_open or DEFAULT_FORMAT.open, think_close or DEFAULT_FORMAT.close)
