"""`bethink run RECIPE`: every stage of a recipe, in order, in one directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe file, or the name of a packaged one: quickstart, reinforce, weekend-8b, r1-zero, r1, r1-distill, llama-nemotron, domain, gsm8k, lab."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="The run's directory.", show_default="runs/NAME or runs/NAME-PRESET")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="One of the recipe's presets, such as a smaller machine's.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override: vars.NAME, seed, or STAGE.OPTION. Repeatable."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="The last stage to run; the same command without it goes on from there."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; run nothing.")
    ] = False,
    fresh_sibling: Annotated[
        bool,
        typer.Option(
            "--fresh-sibling", help="If the directory holds a finished run, use DIR-2, DIR-3… instead."
        ),
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Replace stages there that were made from other settings.")
    ] = False,
) -> None:
    """Run a recipe. What is done is skipped, what is half done goes on where it stopped."""
    import shlex

    from bethink.core.console import duration, note, out
    from bethink.evaluate.results import results_table
    from bethink.recipe.inputs import missing_inputs
    from bethink.recipe.plan import estimate
    from bethink.recipe.plan_text import plan_table, plan_words
    from bethink.recipe.results import read_results
    from bethink.recipe.run import choose_directory, run_recipe
    from bethink.recipe.schema import load_recipe
    from bethink.recipe.stages import prepare

    overrides = set_ or []
    loaded = load_recipe(recipe, overrides, preset)
    directory = output or Path("runs") / "-".join(filter(None, (loaded.recipe.name, preset)))
    if dry_run:
        stages = prepare(loaded, directory.absolute())
        lines = estimate(loaded.recipe, stages)
        out.print(plan_table(lines))
        out.print(plan_words(loaded.recipe, lines, missing_inputs(stages)), highlight=False)
        return
    if fresh_sibling:
        directory = choose_directory(directory, loaded.recipe)
    chosen = [f"preset={preset}"] if preset else []
    try:
        manifest = run_recipe(loaded, directory, overrides=[*chosen, *overrides], redo=redo, until=until)
    except KeyboardInterrupt:
        again = ["bethink", "run", recipe, *(["--preset", preset] if preset else [])]
        again += [word for one in overrides for word in ("--set", one)]
        note(f"stopped; go on with: {shlex.join([*again, '--output', str(directory)])}")
        raise
    if rows := read_results(directory):
        out.print(results_table(rows))
    report = directory / "report.html"
    peak = manifest.peak_memory_bytes / 2**30
    out.print(f"wall time {duration(manifest.seconds)}, peak memory {peak:.1f} GiB", highlight=False)
    if report.exists():
        out.print(f"report: {report}", highlight=False, soft_wrap=True)
