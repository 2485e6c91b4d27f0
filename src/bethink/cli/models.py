"""`bethink models list|pull`: the built-in models."""

from __future__ import annotations

from typing import Annotated

import typer

models = typer.Typer(no_args_is_help=True)


@models.command("list")
def list_models() -> None:
    """The built-in models and whether they are in the cache."""
    from bethink.core.console import out
    from bethink.models.builtin import BUILTIN, cached

    for name, builtin in BUILTIN.items():
        state = "ready" if cached(name) else "not fetched"
        out.print(f"{name:16} {state:12} {builtin.description}", highlight=False)


@models.command("pull")
def pull_model(name: Annotated[str, typer.Argument(help="A name from `bethink models list`.")]) -> None:
    """Fetch a built-in model into the cache; works offline afterwards."""
    from bethink.core.console import out
    from bethink.models.builtin import pull

    out.print(f"{name}: {pull(name)}", highlight=False, soft_wrap=True)
