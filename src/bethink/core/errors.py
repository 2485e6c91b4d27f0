"""The errors a user can see.

Each says what was wrong, where (file, line, key) and how to mend it; the command line prints exactly that and no traceback.
Raise these at the edges, where the user's input enters; inside, let Python's own errors rise.
"""

from __future__ import annotations


class BethinkError(Exception):
    """A mistake or an obstacle the user can do something about.

    what:  one sentence, what is wrong.
    where: the file, line, key or option it was found at.
    fix:   what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  at:  {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class ConfigError(BethinkError):
    """An option, recipe or config value that cannot be used."""


class DataError(BethinkError):
    """Input data that cannot be read or does not hold what it must."""


class TemplateError(BethinkError):
    """A chat template that does not do what training or sampling needs of it."""


class ModelError(BethinkError):
    """A model or adapter that is missing, unreadable or of the wrong kind."""


class OutputError(BethinkError):
    """An output that exists already, cannot be written, or for which there is no space."""


class PreflightError(BethinkError):
    """A check before spending compute failed; `fix` names the flag that overrides it."""


class EndpointError(BethinkError):
    """A remote endpoint that is unreachable or answers with an error."""
