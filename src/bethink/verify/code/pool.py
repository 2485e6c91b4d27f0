"""Sandboxes ready for use: each waits, its interpreter started, for one program and is thrown away after it.

Starting one takes tens of milliseconds; that happens while others work. Work goes through futures (`submit`), so that many programs run
at once. Knows nothing of tasks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TypeVar

from bethink.core.console import warn
from bethink.core.errors import BethinkError
from bethink.tasks.problem import Problem
from bethink.verify.code.live import EndedError, NotStartedError, Sandbox, Warden
from bethink.verify.code.options import CodeOptions
from bethink.verify.code.sandbox import Limits, Plan, Status, plans, refusal, risk, unsafe_plan
from bethink.verify.pool import OnePerProcess, available_cores

Result = TypeVar("Result")


class Sandboxes:
    """Up to `workers` programs at once, and as many sandboxes waiting.

    unsafe: where no sandbox can be built, run programs without one (a warning says what that means). Raises PreflightError where none can
    be built and that is not wanted. Use as a context manager, or call `close`.
    """

    def __init__(
        self, workers: int | None = None, *, limits: Limits | None = None, unsafe: bool = False
    ) -> None:
        self.workers = workers or available_cores()
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._wanted = threading.Condition(self._lock)
        self._waiting: deque[Sandbox] = deque()
        self._alive: set[Sandbox] = set()
        self._closed = False
        self.filtered = False
        """Whether the kernel took the filter of system calls. In a sandbox it always has: there is none without."""
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="bethink-code")
        self._warden, self.plan = self._open(unsafe)
        self._filler = threading.Thread(target=self._fill, name="bethink-sandboxes", daemon=True)
        self._filler.start()

    @property
    def groups(self) -> set[str]:
        """What the control group bounds: "memory", "pids", or nothing where none may be made."""
        return self._warden.groups.limits

    def submit(self, work: Callable[[Sandboxes], Result]) -> Future[Result]:
        """Do `work` on a thread of the pool's."""
        return self._threads.submit(work, self)

    @contextmanager
    def take(self, cases: int = 1) -> Iterator[Sandbox]:
        """A fresh sandbox, for one program. cases: how many it will be tried on. Raises EndedError (infra_error) when none can be started."""
        sandbox = self._next()
        sandbox.cases = cases
        try:
            sandbox.wait_until_ready()
            yield sandbox
        finally:
            sandbox.end()
            with self._lock:
                self._alive.discard(sandbox)

    def close(self) -> None:
        """End every sandbox. Work under way ends with an error, work not begun is cancelled."""
        with self._lock:
            self._closed = True
            alive = list(self._alive)
            self._wanted.notify_all()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._filler.join()
        for sandbox in alive:
            sandbox.hang_up()
        self._threads.shutdown(wait=True)
        with self._lock:
            left = list(self._alive)
        for sandbox in left:
            sandbox.end()
        self._warden.close()

    def __enter__(self) -> Sandboxes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, unsafe: bool) -> tuple[Warden, Plan]:
        """The first way of building a sandbox that works, shown by building one."""
        reasons = []
        for plan in plans(self.limits):
            try:
                return self._try(plan), plan
            except NotStartedError as error:
                reasons.append(str(error))
        if not unsafe:
            raise refusal(reasons)
        plan = unsafe_plan()
        try:
            warden = self._try(plan)
        except NotStartedError as error:
            raise BethinkError(f"no process could be started to run programs in: {error}") from None
        warn(risk(filtered=self.filtered))
        return warden, plan

    def _try(self, plan: Plan) -> Warden:
        warden = Warden(plan, self.limits, most=3 * self.workers + 1)
        try:
            sandbox = Sandbox(warden, self.limits)
            try:
                sandbox.wait_until_ready()
                self.filtered = sandbox.filtered
            finally:
                sandbox.end()
        except EndedError as error:
            warden.close()
            raise NotStartedError(error.detail) from None
        except BaseException:
            warden.close()
            raise
        return warden

    def _next(self) -> Sandbox:
        with self._lock:
            if self._closed:
                raise EndedError(Status.INFRA_ERROR, "the pool is closed")
            sandbox = self._waiting.popleft() if self._waiting else None
            self._wanted.notify_all()
        return sandbox or self._start()

    def _start(self) -> Sandbox:
        warden = self._warden
        try:
            sandbox = Sandbox(warden, self.limits)
        except EndedError:
            if warden.alive():
                raise
            sandbox = Sandbox(self._successor(warden), self.limits)
        with self._lock:
            self._alive.add(sandbox)
        return sandbox

    def _successor(self, dead: Warden) -> Warden:
        """A warden in place of one that something has killed."""
        with self._starting:
            if self._warden is dead:
                dead.close()
                try:
                    self._warden = self._try(self.plan)
                except NotStartedError as error:
                    raise EndedError(Status.INFRA_ERROR, str(error)) from None
            return self._warden

    def _fill(self) -> None:
        """Keep as many sandboxes waiting as there are workers."""
        while True:
            with self._lock:
                while not self._closed and len(self._waiting) >= self.workers:
                    self._wanted.wait()
                if self._closed:
                    return
            try:
                sandbox = self._start()
            except EndedError:  # whoever needs one tries again, and tells why it fails
                time.sleep(0.1)
                continue
            with self._lock:
                self._waiting.append(sandbox)


def require_sandbox(options: CodeOptions) -> None:
    """Raises PreflightError where programs cannot be run in a sandbox, unless the options accept that."""
    if options.unsafe_code:
        return
    with Sandboxes(1, limits=options.code_limits):
        pass


def sandboxes_for(
    problems: Iterable[Problem], workers: int | None, options: CodeOptions
) -> AbstractContextManager[Sandboxes | None]:
    """Where programs run, if any of the problems asks for one."""
    if not any(problem.grader == "code" for problem in problems):
        return nullcontext()
    return Sandboxes(workers, limits=options.code_limits, unsafe=options.unsafe_code)


shared_sandboxes = OnePerProcess(Sandboxes)
"""The sandboxes used where the caller brings none. Raises PreflightError without bubblewrap."""
