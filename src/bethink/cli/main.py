"""`bethink`: the verbs, and how errors reach the user.

Each verb is a module of this package with a function of the same name; its heavy imports happen inside, so that `--help` is instant.
"""

from __future__ import annotations

import importlib
import sys

import typer

from bethink.core.errors import BethinkError

VERBS = {
    "doctor": "What this machine has, what is missing, and how to get it.",
    "models": "List and fetch the built-in models.",
    "curate": "Raw post-training rows in, a clean curriculum out.",
    "sft": "Fine-tune the thinking toggle (LoRA or all weights).",
    "grade": "Grade outputs made elsewhere.",
    "eval": "Accuracy, compliance and tokens with thinking on and off.",
    "compare": "Two evaluations, problem by problem.",
    "chat": "Talk to a model in the terminal.",
    "serve": "An OpenAI-compatible server.",
    "run": "A whole recipe: stages, resume, report.",
    "report": "Write a run's HTML report again.",
}

app = typer.Typer(
    name="bethink",
    help="Turn a language model into one that thinks before it answers, and knows when not to.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(show: bool) -> None:
    if show:
        from bethink import __version__

        typer.echo(f"bethink {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    pass


def _register() -> None:
    for verb, summary in VERBS.items():
        module = importlib.import_module(f"bethink.cli.{verb}")
        command = getattr(module, verb)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=verb, help=summary)
        else:
            app.command(verb, short_help=summary)(command)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a BethinkError, 2 wrong usage, 130 interrupted."""
    _register()
    try:
        app()
    except BethinkError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
