"""`bethink doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bethink.cli.options import Device

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
    bench: Annotated[
        bool,
        typer.Option(
            "--bench", help="Also measure how fast this machine is, and what a model could reach on it."
        ),
    ] = False,
    model: Annotated[str, typer.Option(help="The model of --bench.")] = "smollm2-135m",
    device: Device = None,
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
    findings = [*examine(recipe, network=network), *_code_sandbox()]
    missing = [finding for finding in findings if finding.state is State.MISSING]
    measured = _measure(model, device) if bench else None
    if json:
        _print_json(findings, measured, ready=not missing)
    else:
        _print_tables(findings, recipe)
        if measured:
            _print_speed(measured, model)
    if missing:
        raise typer.Exit(1)


def _code_sandbox() -> list[Finding]:
    """Whether programs that a model wrote can be run in a sandbox here, and which of its layers hold."""
    from bethink.core.errors import PreflightError
    from bethink.models.checkup import Finding, State
    from bethink.verify.code.layers import self_test
    from bethink.verify.code.sandbox import bubblewrap_version

    section = "code"
    try:
        layers = self_test()
    except PreflightError as error:
        return [Finding(section, "sandbox", error.what, State.NOTE, error.fix)]
    version = bubblewrap_version() or "bubblewrap"
    held = [layer.name for layer in layers if layer.active]
    findings = [Finding(section, "sandbox", f"{version}; holds: {', '.join(held)}")]
    for layer in layers:
        if not layer.active:
            findings.append(Finding(section, layer.name, f"not active ({layer.detail})", State.NOTE))
    return findings


def _measure(model: str, device: str | None) -> dict[str, Any]:
    """The device's best speed so far in the number format it is best at, and the most tokens a second it allows the model."""
    from dataclasses import asdict

    from transformers import AutoConfig

    from bethink.core.console import note
    from bethink.core.errors import ModelError
    from bethink.models.cost import Shape
    from bethink.models.known_speed import measure_again
    from bethink.models.locate import locate
    from bethink.models.machine import best_dtype, resolve_device
    from bethink.models.speed import floors

    directory, device = locate(model).directory, resolve_device(device)
    note("measuring (a few seconds; nothing else should be running)")
    speed = measure_again(device, best_dtype(device), thoroughly=True)
    if speed is None:
        raise ModelError(
            "the GPU has too little memory free to be measured", fix="free some, or use --device cpu"
        )
    shape = Shape.of(AutoConfig.from_pretrained(directory, local_files_only=True))
    return asdict(speed) | {"tokens_per_second": floors(shape, speed)}


def _print_speed(measured: dict[str, Any], model: str) -> None:
    from rich.table import Table

    from bethink.core.console import out

    out.print()
    out.print(
        f"{measured['device']} in {measured['dtype']}, {measured['threads']} threads, the best so far",
        style="bold",
        highlight=False,
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(width=30)
    table.add_column(justify="right")
    for rows, rate in measured["products"].items():
        table.add_row(f"  products of {rows:,} row{'s' if rows > 1 else ''}", f"{rate / 1e9:,.0f} GFLOP/s")
    table.add_row("  reading memory", f"{measured['bandwidth'] / 1e9:,.1f} GB/s")
    out.print(table)
    out.print(f"at most, with {model}", style="bold", highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(width=30)
    table.add_column(justify="right")
    for work, rate in measured["tokens_per_second"].items():
        table.add_row(f"  {work}", f"{rate:,.0f} tokens/s")
    out.print(table)


def _print_json(findings: list[Finding], measured: dict[str, Any] | None, *, ready: bool) -> None:
    import json
    from dataclasses import asdict

    document = {"ready": ready, "findings": [asdict(finding) for finding in findings]}
    print(json.dumps(document | ({"bench": measured} if measured else {}), indent=2))


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
