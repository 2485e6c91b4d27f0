"""Work in a process whose hashes are the same in every run.

Python salts the hashes of texts anew in each process, unless PYTHONHASHSEED forbids it when the process starts; whatever walks over a
set of texts comes out otherwise each time. `call` runs a function in a child that was started with PYTHONHASHSEED=0. One child serves
the whole process: it is started when first needed, imports a library once, and ends with its parent. It has its own state of Python's
and numpy's shared random numbers, and what is printed there on stdout is thrown away.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from bethink.core.errors import BethinkError, DataError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_BOOT = (
    "import sys,json;a=json.loads(sys.argv[1]);sys.path[:]=a['path'];"
    "from bethink.tasks.steady import _serve;_serve(a['fd'])"
)


def call(
    function: Callable[Parameters, Result], *arguments: Parameters.args, **options: Parameters.kwargs
) -> Result:
    """`function(*arguments, **options)`, done in the child.

    function: of a module's top level; its arguments and result are pickled. Raises the BethinkError that it raises, RuntimeError with
    the traceback for any other error in it, and DataError when the child dies.
    """
    global _child
    with _lock:
        if _child is None:
            _child = _Child()
        try:
            done, result = _child.ask((function, arguments, options))
        except BaseException:
            # Interrupted or dead, it must not answer the next call with what was left of this one.
            _child.end()
            _child = None
            raise
    if done:
        answer: Result = result
        return answer
    raise result


class _Child:
    """The process and this end of its socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        settings = json.dumps({"path": sys.path, "fd": theirs.fileno()})
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, settings],
                env={**os.environ, "PYTHONHASHSEED": "0"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for the parent, which then ends its child
            )
        self._connection = Connection(ours.detach())

    def ask(self, job: Any) -> tuple[bool, Any]:
        """(whether it was done, its result or the error it raised)."""
        try:
            self._connection.send(job)
            answer: tuple[bool, Any] = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise DataError(
                f"the process that makes problems ended before it was done (exit status {self._process.wait()})",
                fix="try again; -9 is what the system does to a process when memory runs out",
            ) from error
        return answer

    def end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


def _serve(fd: int) -> None:
    """The child: answer one job after the other until the parent is gone."""
    connection = Connection(fd)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, arguments, options = connection.recv()
            try:
                answer = pickle.dumps((True, function(*arguments, **options)))
            except BethinkError as error:
                answer = pickle.dumps((False, error))
            except Exception:  # noqa: BLE001  whatever a job raises is raised where it was asked for, in words
                answer = pickle.dumps((False, RuntimeError(traceback.format_exc())))
            connection.send_bytes(answer)


_child: _Child | None = None
_lock = threading.Lock()


@atexit.register
def _end() -> None:
    global _child
    if _child is not None:
        _child.end()
        _child = None


def _forget() -> None:
    """In a forked child of this process the other end still belongs to the parent."""
    global _child, _lock
    _child, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
