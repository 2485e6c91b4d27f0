"""`bethink grade`: verdicts on outputs made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bethink.cli.options import CodeMemory, CodeSeconds, UnsafeCode

if TYPE_CHECKING:
    from bethink.verify.grade_file import Summary


def grade(
    input_: Annotated[
        Path, typer.Option("--input", help="JSON Lines with the columns answer, output and grader.")
    ],
    output: Annotated[Path, typer.Option(help="Where the rows with their verdicts go.")],
    grader: Annotated[
        str | None,
        typer.Option(
            help="For rows without a grader: math, choice, exact, numeric, code, none or a reasoning-gym generator."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; all cores by default.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds of CPU time one answer may take that is no program.")
    ] = 5.0,
    max_bad_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="End with an error when more of the lines than this cannot be graded."
        ),
    ] = 0.1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output or an unfinished run.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run of the same options.")
    ] = False,
    code_seconds: CodeSeconds = 5.0,
    code_memory: CodeMemory = 1024,
    unsafe_code: UnsafeCode = False,
) -> None:
    """Grade outputs made elsewhere: adds verdict, extracted and detail to every row.

    Lines that cannot be graded are left out and listed, with the reason, in NAME.rejects.jsonl beside the output.
    """
    from bethink.core.config import validate
    from bethink.core.console import note
    from bethink.core.errors import DataError
    from bethink.verify.code.options import CodeOptions
    from bethink.verify.grade_file import grade_file, rejects_path

    code = {"code_seconds": code_seconds, "code_memory": code_memory, "unsafe_code": unsafe_code}
    summary = grade_file(
        input_,
        output,
        grader=grader,
        workers=workers,
        timeout=timeout,
        overwrite=overwrite,
        resume=resume,
        code=validate(CodeOptions, code, name="bethink grade", flags=True),
    )
    _print(summary)
    if not summary.rejected:
        return
    note(f"lines that could not be graded: {summary.rejected:,}, see {rejects_path(output)}")
    lines = summary.graded + summary.rejected
    if summary.rejected > max_bad_share * lines:
        raise DataError(
            f"{summary.rejected:,} of {lines:,} lines could not be graded; the others are in {output}",
            where=str(rejects_path(output)),
            fix="mend the lines listed there, or raise --max-bad-share",
        )


def _print(summary: Summary) -> None:
    """The table of outcomes, a line for each grader."""
    from rich.table import Table

    from bethink.core.console import out
    from bethink.verify.verdict import UNCOUNTED, Outcome

    found = set().union(*summary.outcomes.values())
    shown = [outcome for outcome in Outcome if outcome is not Outcome.NOT_JUDGED or outcome in found]
    table = Table(box=None, pad_edge=False)
    table.add_column("grader", min_width=max(map(len, summary.outcomes), default=0))
    for title in ("rows", "accuracy", *(outcome.value.replace("_", " ") for outcome in shown)):
        table.add_column(title, justify="right")
    for name, counts in sorted(summary.outcomes.items()):
        judged = counts.total() - sum(counts[outcome] for outcome in UNCOUNTED)
        accuracy = f"{counts[Outcome.CORRECT] / judged:.1%}" if judged else "-"
        table.add_row(name, f"{counts.total():,}", accuracy, *(f"{counts[outcome]:,}" for outcome in shown))
    out.print(table)
