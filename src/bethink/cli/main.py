"""`bethink`: the verbs, and how errors reach the user.

Each verb is a module of this package with a function of the same name, imported when it is asked for; its heavy imports happen inside.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from bethink.core.errors import BethinkError

VERBS = {
    "doctor": "What this machine has, what is missing, and how to get it.",
    "models": "List and fetch the built-in models.",
    "curate": "Raw post-training rows in, a clean curriculum out.",
    "sample": "A model's own answers, graded and filtered, as training rows.",
    "sft": "Fine-tune the thinking toggle (LoRA or all weights).",
    "grpo": "Reinforcement learning with verifiable rewards.",
    "distill": "Teach a student a teacher's probabilities (KL on logits).",
    "prefer": "Preference tuning (DPO), and reward models.",
    "pretrain": "Next-token training from random weights.",
    "grade": "Grade outputs made elsewhere.",
    "eval": "Accuracy, compliance and tokens with thinking on and off.",
    "compare": "Two evaluations, problem by problem.",
    "chat": "Talk to a model in the terminal.",
    "serve": "An OpenAI-compatible server.",
    "run": "A whole recipe: stages, resume, report.",
    "report": "Write a run's HTML report again.",
}


_SPINS = "2000"
"""Rounds of a busy wait, some tenths of a millisecond; the library's own number is 300,000."""


class _ReaderGoneError(Exception):
    """Nobody reads the output any more."""


class _Verbs(TyperGroup):
    """Lets a closed pipe through to `main`: Typer would take it for itself and end with its own exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGoneError from error


app = typer.Typer(
    cls=_Verbs,
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


def _register(arguments: list[str]) -> None:
    """Register the one verb asked for; with none named, every verb by name and summary alone, so that `--help` imports none."""
    asked = next((word for word in arguments if not word.startswith("-")), None)
    if asked not in VERBS:
        for verb, summary in VERBS.items():
            app.command(verb, short_help=summary)(lambda: None)
        return
    command = getattr(importlib.import_module(f"bethink.cli.{asked}"), asked)
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=asked, help=VERBS[asked])
    else:
        app.command(asked, short_help=VERBS[asked])(command)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 a BethinkError or what the system refused, 2 wrong usage, 130 interrupted, 141 nobody reads the output any more.
    """
    _share_the_cores()
    try:
        _register(sys.argv[1:])
        app()
    except BethinkError as error:
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except _ReaderGoneError:
        # What is still buffered cannot be written either, and Python would try to when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = None if error.filename is None else str(error.filename)
        _fail(BethinkError(f"the system refuses: {error.strerror or error}", where=where))


def _share_the_cores() -> None:
    """Let threads that wait for each other give their cores up soon, where other programs want them too.

    The OpenMP library waits busily for milliseconds, while the thread that is waited for may have no core: beside two busy programs on two
    cores training took more than ten times as long as with a short wait, which costs nothing on a quiet machine (`benchmarks/busy.py`).
    Read when the library is loaded, so set before; the user's own settings go first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def _fail(error: BethinkError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
