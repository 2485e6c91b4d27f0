"""`bethink report RUN_DIR`: the page again, from what the run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run_dir: Annotated[Path, typer.Argument(help="A directory written by `bethink run`.")],
    examples: Annotated[
        int, typer.Option(min=0, help="Questions shown with their outputs side by side.")
    ] = 4,
    every: Annotated[
        bool | None,
        typer.Option(
            "--every/--ends",
            help="Each evaluated model's outputs, or the first's and last's.",
            show_default="as the recipe says",
        ),
    ] = None,
) -> None:
    """Write a run's report.html again."""
    from bethink.core.console import out
    from bethink.recipe.report import write_report

    out.print(
        f"report: {write_report(run_dir, examples=examples, every=every)}", highlight=False, soft_wrap=True
    )
