"""Worker processes that can be killed: for jobs that may hang, eat the memory or crash.

A job is a function named by "module:function" and its arguments. It ends in time, or its worker is replaced and the job alone has
failed. Knows nothing of grading.

How it holds: each job runs under kernel timers in its worker (a signal with its default action ends the process even where Python code
no longer runs, and even when the parent is gone) and under a memory limit (RLIMIT_AS); the parent waits a little longer and kills what
is left. The limit is on the job's own CPU time, so that a busy machine changes no verdict; for jobs that sleep there is a longer one on
the clock. Workers are plain `python -c` processes on a socket pair: nothing of the caller's main module is imported again
(no torch, no `if __name__ == "__main__"` needed), and a pool works from any thread. A module is imported once a worker, outside the
job's time.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pickle
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

DEFAULT_TIMEOUT = 5.0
DEFAULT_MEMORY = 2 * 2**30
_LOADING_SECONDS = 120.0
_GRACE_SECONDS = 1.0
_CLOCK_FACTOR = 4.0

_BOOT = (
    "import sys,json;a=json.loads(sys.argv[1]);sys.path[:]=a['path'];"
    "from bethink.verify.pool import _serve;_serve(a['fd'],a['timeout'],a['memory'])"
)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a job. error is None when `value` is its result, else why there is none, in a few words."""

    value: Any = None
    error: str | None = None


class WorkerPool:
    """Up to `workers` processes, started when first needed.

    timeout: seconds of CPU time a job may take, and a quarter of what it may take by the clock; memory: bytes of address space a worker may use. Use as a context manager, or call `close`.
    """

    def __init__(
        self, workers: int | None = None, *, timeout: float = DEFAULT_TIMEOUT, memory: int = DEFAULT_MEMORY
    ) -> None:
        self.workers = workers or available_cores()
        self.timeout = timeout
        self.memory = memory
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="bethink-worker")
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._alive: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, target: str, *arguments: Any) -> Future[Done]:
        """Run `target` ("module:function") on picklable arguments. The future always yields a `Done`, never an exception."""
        return self._threads.submit(self._run, target, arguments)

    def close(self) -> None:
        """Kill every worker and wait for it. Jobs under way end with an error, waiting ones are cancelled."""
        with self._lock:
            self._closed = True
            alive = list(self._alive)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in alive:
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in alive:
            worker.hang_up()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, target: str, arguments: tuple[Any, ...]) -> Done:
        try:
            worker = self._take()
        except OSError as error:
            return Done(error=f"no worker could be started: {error}")
        if worker is None:
            return Done(error="the pool is closed")
        done, fit = worker.run(target, arguments)
        if fit:
            self._idle.put(worker)
        else:
            self._retire(worker)
        return done

    def _take(self) -> _Worker | None:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            if self._closed:
                return None
            worker = _Worker(self.timeout, self.memory)
            self._alive.add(worker)
            return worker

    def _retire(self, worker: _Worker) -> None:
        worker.kill()
        worker.hang_up()
        with self._lock:
            self._alive.discard(worker)


class _Worker:
    """One process and the parent's end of its socket. Used by one thread at a time; `kill` may come from any."""

    def __init__(self, timeout: float, memory: int) -> None:
        self._timeout = timeout
        self._loaded: set[str] = set()
        ours, theirs = socket.socketpair()
        settings = {"path": sys.path, "fd": theirs.fileno(), "timeout": timeout, "memory": memory}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for the parent, which then kills its workers
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "MKL_NUM_THREADS": "1",
                },
            )
        self._connection = Connection(ours.detach())

    def run(self, target: str, arguments: tuple[Any, ...]) -> tuple[Done, bool]:
        """The job's result, and whether the worker is fit for another."""
        module = target.partition(":")[0]
        limit = (
            _CLOCK_FACTOR * self._timeout
            + _GRACE_SECONDS
            + (0 if module in self._loaded else _LOADING_SECONDS)
        )
        try:
            self._connection.send((target, arguments))
            if not self._connection.poll(limit):
                return Done(error=self._late()), False
            done, fit = self._connection.recv()
        except (EOFError, OSError):
            return Done(error=self._cause_of_death()), False
        except (pickle.PickleError, TypeError, AttributeError) as error:
            return Done(error=f"cannot be sent to a worker: {error}"), True
        self._loaded.add(module)
        return done, fit

    def kill(self) -> None:
        """End the process and wait for it. The thread that waits for its answer then sees the socket's end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def hang_up(self) -> None:
        """Close the parent's end; nobody may be using it."""
        self._connection.close()

    def _late(self) -> str:
        return f"timed out after {self._timeout:g} s"

    def _cause_of_death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=_GRACE_SECONDS)
            if code in (-signal.SIGALRM, -signal.SIGPROF):
                return self._late()
            return (
                f"the worker was killed (signal {-code})"
                if code < 0
                else f"the worker ended (exit code {code})"
            )
        return "the worker stopped answering"


def _serve(descriptor: int, timeout: float, memory: int) -> None:
    """The worker's side: run jobs until the parent closes the socket."""
    connection = Connection(descriptor)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for name in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(name, signal.SIG_DFL)
    functions: dict[str, Callable[..., Any]] = {}
    while True:
        try:
            target, arguments = connection.recv()
        except EOFError:
            return
        done, fit = _attempt(functions, target, arguments, timeout)
        connection.send((done, fit))
        if not fit:
            return


def _attempt(
    functions: dict[str, Callable[..., Any]], target: str, arguments: tuple[Any, ...], timeout: float
) -> tuple[Done, bool]:
    try:
        if target not in functions:
            module, _, name = target.partition(":")
            functions[target] = getattr(importlib.import_module(module), name)
        _set_timers(timeout)
        try:
            return Done(functions[target](*arguments)), True
        finally:
            _set_timers(0)
    except MemoryError:
        return Done(error="out of memory"), False
    except BaseException as error:  # noqa: BLE001  whatever a job raises is its result; the worker must live on
        return Done(error=f"{type(error).__name__}: {str(error)[:200]}"), not isinstance(error, SystemExit)


def _set_timers(timeout: float) -> None:
    """Start the clock of one job; 0 stops it."""
    signal.setitimer(signal.ITIMER_PROF, timeout)
    signal.setitimer(signal.ITIMER_REAL, _CLOCK_FACTOR * timeout)


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    items: Iterable[Item], start: Callable[[Item], Result | Future[Result]], *, ahead: int
) -> Iterator[Result]:
    """The results of `start` on each item, in the items' order, with at most `ahead` of them under way or waiting to be yielded.

    start: gives the result at once, or a future of it.
    """
    waiting: deque[Result | Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(start(item))
            while waiting and (len(waiting) >= ahead or _ready(waiting[0])):
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        for left in waiting:
            if isinstance(left, Future):
                left.cancel()


def _ready(result: Result | Future[Result]) -> bool:
    return not isinstance(result, Future) or result.done()


def _result(result: Result | Future[Result]) -> Result:
    return result.result() if isinstance(result, Future) else result


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Closable(Protocol):
    """What must be closed before Python ends."""

    def close(self) -> None: ...


Kept = TypeVar("Kept", bound=Closable)


class OnePerProcess(Generic[Kept]):
    """Something made when it is first asked for, one a process, and closed when Python ends.

    In a forked child it is made anew: the parent's threads do not exist there, and its processes are the parent's.
    """

    def __init__(self, make: Callable[[], Kept]) -> None:
        self._make = make
        self._kept: Kept | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self) -> Kept:
        """The one of this process. Raises what making it raises."""
        with self._lock:
            kept = self._kept
            if kept is None:
                kept = self._kept = self._make()
                atexit.register(kept.close)
            return kept

    def _forget(self) -> None:
        self._kept, self._lock = None, threading.Lock()


shared_pool = OnePerProcess(WorkerPool)
"""The pool used where the caller brings none."""
