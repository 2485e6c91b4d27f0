"""What the user sees while work goes on: results on stdout, everything else on stderr.

On a terminal a live line with rate and ETA; elsewhere (a log file, CI) one plain line every few seconds.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line what a closed pipe means; Rich would end the program here."""
        raise  # the BrokenPipeError that Rich has just caught


out = _Console()
err = _Console(stderr=True)

_LOG_EVERY_SECONDS = 10.0


def note(message: str) -> None:
    """One line of information on stderr."""
    err.print(message, highlight=False, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """One line of warning on stderr."""
    err.print(Text(f"warning: {message}", style="yellow"), soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as people say them: 42s, 3m05s, 2h10m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """Progress of one piece of work.

    label: what is being done; total: how many `unit`s in all (None when unknown); done: how many were done by an earlier run, so
    that a resumed run's rate and ETA are honest.
    """

    def __init__(self, label: str, total: int | None, *, unit: str = "rows", done: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = done
        self._initially_done = done
        self._printed: int | None = None
        self._fields: dict[str, str] = {}
        self._started = self._last_line = time.monotonic()
        self._live = (
            Live(Text(""), console=err, refresh_per_second=4, transient=False) if err.is_terminal else None
        )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(Text(self.line()))
            self._live.stop()
        elif self._printed != self.done or kind is not None:
            self._print_line()

    def advance(self, amount: int = 1, **fields: object) -> None:
        """`amount` more units are done; `fields` are shown beside the rate (loss=0.31, kept=120)."""
        self.done += amount
        self._fields.update({name: str(value) for name, value in fields.items()})
        if self._live:
            self._live.update(Text(self.line()))
        elif time.monotonic() - self._last_line >= _LOG_EVERY_SECONDS:
            self._print_line()

    def line(self) -> str:
        """The progress as one line of text."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._initially_done) / elapsed
        of = f"/{self.total:,}" if self.total is not None else ""
        parts = [
            f"{self.label}: {self.done:,}{of} {self.unit}",
            f"{rate:,.1f} {self.unit}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s/{self.unit}",
            duration(elapsed),
        ]
        if self.total is not None and rate > 0 and self.done < self.total:
            parts.append(f"ETA {duration((self.total - self.done) / rate)}")
        parts += [f"{name} {value}" for name, value in self._fields.items()]
        return "  ".join(parts)

    def _print_line(self) -> None:
        self._last_line, self._printed = time.monotonic(), self.done
        print(self.line(), file=sys.stderr, flush=True)
