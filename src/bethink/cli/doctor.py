"""`bethink doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bethink.models.checkup import Finding


def doctor(
    recipe: Annotated[
        str, typer.Option(help="The recipe whose needs are checked: quickstart or weekend-8b.")
    ] = "quickstart",
    network: Annotated[
        bool, typer.Option("--network", help="Also ask whether the model hub answers.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Examine this machine. Exits with 1 when something required is missing."""
    from bethink.core.config import nearest
    from bethink.core.errors import ConfigError
    from bethink.models.checkup import NEEDS, State, examine

    if recipe not in NEEDS:
        guess = nearest(recipe, list(NEEDS))
        raise ConfigError(
            f"no needs are known for a recipe `{recipe}`",
            where="--recipe",
            fix=f"choose {guess or ' or '.join(NEEDS)}",
        )
    findings = examine(recipe, network=network)
    missing = [finding for finding in findings if finding.state is State.MISSING]
    if json:
        _print_json(findings, ready=not missing)
    else:
        _print_tables(findings, recipe)
    if missing:
        raise typer.Exit(1)


def _print_json(findings: list[Finding], *, ready: bool) -> None:
    import json
    from dataclasses import asdict

    print(json.dumps({"ready": ready, "findings": [asdict(finding) for finding in findings]}, indent=2))


def _print_tables(findings: list[Finding], recipe: str) -> None:
    from itertools import groupby

    from rich.columns import Columns
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from bethink.core.console import out
    from bethink.models.checkup import State

    marks = {State.OK: ("✓", "green"), State.NOTE: ("•", "yellow"), State.MISSING: ("✗", "bold red")}
    width = max(len(finding.name) for finding in findings) + 1
    for section, group in groupby(findings, key=lambda finding: finding.section):
        out.print(Text(section, style="bold"))
        rows = list(group)
        if section == "packages":  # many and dull where they fit: side by side
            fitting = [f for f in rows if f.state is State.OK]
            told = [Text.assemble(("✓ ", "green"), f"{f.name} ", (f.value, "dim")) for f in fitting]
            out.print(Padding(Columns(told, equal=True, padding=(0, 2)), (0, 0, 0, 2)))
            rows = [f for f in rows if f.state is not State.OK]
        table = Table.grid(padding=(0, 1))
        table.add_column(width=3, justify="right")
        table.add_column(width=width, no_wrap=True)
        table.add_column(overflow="fold")
        for row in rows:
            mark, style = marks[row.state]
            value = Text(row.value)
            if row.fix:
                value.append(f"\n→ {row.fix}", style="cyan" if row.state is State.MISSING else "dim")
            table.add_row(Text(mark, style=style), Text(row.name), value)
        if rows:
            out.print(table)
        out.print()
    missing = [finding.name for finding in findings if finding.state is State.MISSING]
    if missing:
        out.print(Text(f"Missing for {recipe}: {', '.join(missing)}.", style="bold red"))
    else:
        out.print(Text(f"Ready for {recipe}.", style="bold green"))
