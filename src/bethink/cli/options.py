"""Options that several verbs share, each described once."""

from __future__ import annotations

from typing import Annotated

import typer

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
