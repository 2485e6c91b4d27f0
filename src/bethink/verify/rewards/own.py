"""The user's own reward: a Python function, named by its place.

    # brevity.py, in the directory the command is run from
    def no_apology(attempt):
        return 0.0 if "sorry" in attempt.text.lower() else 1.0

is the reward `brevity:no_apology` (or `brevity.no_apology`). It takes an `Attempt` and returns a number, None (cannot be judged: the
completion is masked) or a pair of one of these and a note for people.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bethink.core.config import nearest
from bethink.core.errors import BethinkError, ConfigError
from bethink.verify.rewards.attempt import Attempt, Part, Reward, each


def names_function(name: str) -> bool:
    """Whether a reward's name is the place of a function: "module.path:function" or "module.path.function"."""
    return ":" in name or "." in name


def python(place: str) -> Reward:
    """The reward of the function at `place`.

    Raises ConfigError when there is no such function. The reward raises BethinkError, with the function and the problem, when the
    function raises or returns something else.
    """
    function = load(place)

    def judge(attempt: Attempt) -> Part:
        try:
            said = function(attempt)
        except Exception as error:
            raise BethinkError(
                f"the reward `{place}` raised {type(error).__name__}: {error}",
                where=f"problem {attempt.problem.id!r} of {attempt.problem.task}, thinking {attempt.mode}",
                fix="return None for what cannot be judged",
            ) from error
        value, note = said if isinstance(said, tuple) and len(said) == 2 else (said, "")
        number = isinstance(value, int | float) and math.isfinite(value)
        if not (value is None or number) or not isinstance(note, str):
            raise BethinkError(
                f"the reward `{place}` returned {said!r:.80}",
                where=f"problem {attempt.problem.id!r} of {attempt.problem.task}, thinking {attempt.mode}",
                fix="return a finite number, None, or a pair of one of these and a text",
            )
        return Part(None if value is None else float(value), note=note)

    return each(judge)


def load(place: str) -> Callable[[Attempt], Any]:
    """The function at `place`, from the packages installed or the current directory. Raises ConfigError."""
    module_name, colon, name = place.partition(":")
    if not colon:
        module_name, _, name = place.rpartition(".")
    if not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise ConfigError(f"`{place}` is no place of a function", fix="write module.path:function")
    try:
        _make_current_directory_importable()
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failed(place, module_name, error) from error
        raise ConfigError(
            f"the reward `{place}` is not there: no module `{error.name}`",
            fix=f"put it on Python's path or into {Path.cwd()}",
        ) from error
    except Exception as error:
        raise _failed(place, module_name, error) from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = [each_name for each_name in vars(found) if not each_name.startswith("_")]
            guess = nearest(part, known)
            raise ConfigError(
                f"the reward `{place}` is not there: `{module_name}` has no `{part}`",
                where=getattr(found, "__file__", None),
                fix=f"did you mean `{guess}`?" if guess else None,
            )
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"the reward `{place}` is no function but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _failed(place: str, module: str, error: Exception) -> ConfigError:
    return ConfigError(f"the reward `{place}`: importing `{module}` raised {type(error).__name__}: {error}")


def _make_current_directory_importable() -> None:
    """As `python` itself does for a script; behind everything else, so that no package is hidden."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
