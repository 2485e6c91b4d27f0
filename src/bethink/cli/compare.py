"""`bethink compare A B`: two evaluations, problem by problem."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    a: Annotated[Path, typer.Argument(help="Output directory of a `bethink eval`.")],
    b: Annotated[Path, typer.Argument(help="Another one, of the same problems.")],
    mode: Annotated[str | None, typer.Option(help="Only this mode: on or off.", show_default="each")] = None,
    against: Annotated[
        str | None, typer.Option(help="B's mode, where it is another: compare A A --mode off --against on.")
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Compare the problems both have, where they differ.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap (several samples a problem).")] = 0,
    flips: Annotated[int, typer.Option(help="How many fixed and broken problems to show.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Directory for comparison.json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Which of two evaluations is better, by how much, how surely, and on which problems."""
    import json
    from dataclasses import asdict

    from bethink.core.config import validate
    from bethink.core.console import out
    from bethink.evaluate.compare import CompareConfig, run_compare
    from bethink.evaluate.compare_table import comparison_view

    options = {
        "a": a,
        "b": b,
        "mode": mode,
        "against": against,
        "shared": shared,
        "seed": seed,
        "output": output,
    }
    result = run_compare(validate(CompareConfig, options, name="bethink compare", flags=True))
    name_a, name_b = f"{result.a} ({a})", f"{result.b} ({b})"
    if as_json:
        print(json.dumps({**asdict(result), "a": name_a, "b": name_b}, indent=2))
    else:
        out.print(comparison_view(result.comparisons, name_a, name_b, flips=flips))
