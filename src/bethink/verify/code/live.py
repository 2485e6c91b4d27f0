"""One sandbox at work, and the process that starts them, seen from the parent.

A `Warden` is the parent's end of `warden.py`; a `Sandbox` is one program's: it is sent the driver, then asked one thing at a time under
the clock. How it ended, if it did, is told by an `EndedError`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import marshal
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from bethink.core.errors import BethinkError
from bethink.verify.code.bounds import SHORTEST_WAIT, TimeBounds, countdown
from bethink.verify.code.cgroup import ControlGroups
from bethink.verify.code.cpu import ask_who_sends, who_sends
from bethink.verify.code.sandbox import ENVIRONMENT, Limits, Plan, Status, filter_of, last_filter

Message = dict[str, Any]

_START_SECONDS = 30.0
_OWN_MEMORY = 64 * 2**20
"""What a sandbox takes beside its program: bubblewrap's processes and the kernel's tables."""
_OWN_PROCESSES = 4


class EndedError(Exception):
    """A sandbox ended before it answered. status: how; detail: in a few words."""

    source: Sandbox | None = None

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class NotStartedError(Exception):
    """This way of building a sandbox does not work here; the message says why."""


class Sandbox:
    """One sandbox, from its start to its end. Used by one thread at a time; `hang_up` may come from any.

    Time is bounded twice: each question may take what a case may, and all of them what `cases` may together. The parent holds both
    bounds, by its clock and by the kernel's count of processor time; the kernel's own limit is what all may take.
    """

    def __init__(self, warden: Warden, limits: Limits) -> None:
        self._warden = warden
        self.limits = limits
        self.cases = 1
        self._process: int | None = None
        self._bounds: TimeBounds | None = None
        self._ready = False
        self._ended = False
        self.uid = -1
        self.filtered = False
        self._hung_up = False
        self._oom = warden.groups.out_of_memory()
        try:
            self._ours, theirs = socket.socketpair()
        except OSError as error:
            raise EndedError(Status.INFRA_ERROR, f"no sandbox could be started: {error}") from None
        ask_who_sends(self._ours)
        with theirs:
            try:
                self._number = warden.start(theirs)
            except BaseException:
                self._ours.close()
                raise
        with contextlib.suppress(OSError):  # where it has ended already, whoever waits for it is told why
            self._send(_boot(warden.settings), _START_SECONDS)

    def wait_until_ready(self) -> None:
        """Raises EndedError (infra_error) when the sandbox did not start."""
        if self._ready:
            return
        try:
            self._ours.settimeout(_START_SECONDS)
            self._process = who_sends(self._ours)
            told = self._receive(countdown(_START_SECONDS))
            ask_who_sends(self._ours, wanted=False)
        except (OSError, ValueError) as error:
            ended = self.end()
            detail = (
                " ".join(ended["said"].split()) or str(error) or f"it ended with exit code {ended['code']}"
            )
            raise EndedError(Status.INFRA_ERROR, detail) from None
        self.uid, self.filtered = told["uid"], told["filtered"]
        settings = self._warden.settings
        if settings["bounded"] and settings["filter"] and not self.filtered:
            self.end()
            raise EndedError(Status.INFRA_ERROR, "the kernel did not take the filter of system calls")
        self._ready = True

    def ask(self, message: Message) -> Message:
        """The answer to a message. The time of all of them runs from the first one on.

        Raises EndedError when there is none: the time was up, the process ended, or what came is no answer.
        """
        try:
            return self._ask(message)
        except EndedError as error:
            error.source = self
            raise

    def _ask(self, message: Message) -> Message:
        if self._bounds is None:
            self._bounds = TimeBounds(self.limits, self.cases, self._process)
            message = {**message, "cpu": math.ceil(self._bounds.processor_seconds)}
        self._bounds.next_question()
        try:
            self._bounds.left()
            self._send(json.dumps(message).encode(), self._bounds.clock_left())
            return self._receive(self._bounds.left)
        except TimeoutError as error:
            raise EndedError(Status.TIMEOUT, str(error)) from None
        except _NoAnswerError as error:
            raise EndedError(Status.VIOLATION, str(error)) from None
        except OSError:
            raise self._cause_of_death() from None

    def end(self) -> Message:
        """Kill what is left. Gives "code" (None: it was alive) and "said" (what bubblewrap complained of)."""
        if self._ended:
            return {"code": None, "said": ""}
        self._ended = True
        self.hang_up()
        return self._warden.request({"do": "end", "number": self._number})

    def hang_up(self) -> None:
        """Close the connection: a thread that waits for an answer sees its end."""
        self._hung_up = True
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        if self._ended:
            self._ours.close()

    def _send(self, body: bytes, seconds: float) -> None:
        self._ours.settimeout(max(seconds, SHORTEST_WAIT))
        try:
            self._ours.sendall(len(body).to_bytes(4, "big") + body)
        except TimeoutError:
            raise TimeoutError("it did not take its input in time") from None

    def _receive(self, left: Callable[[], float]) -> Message:
        size = int.from_bytes(self._read(4, left), "big")
        if size > self.limits.reply:
            raise _NoAnswerError(f"an answer of {size:,} bytes; {self.limits.reply:,} are allowed")
        try:
            message = json.loads(self._read(size, left))
        except (ValueError, RecursionError):
            raise _NoAnswerError("what it sent is no answer") from None
        if not isinstance(message, dict):
            raise _NoAnswerError("what it sent is no answer")
        return message

    def _read(self, size: int, left: Callable[[], float]) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            self._ours.settimeout(left())
            try:
                piece = self._ours.recv(min(size - len(parts), 2**16))
            except TimeoutError:
                continue
            if not piece:
                raise ConnectionResetError("it ended")
            parts += piece
        return bytes(parts)

    def _cause_of_death(self) -> EndedError:
        """The process hung up: how it ended."""
        if self._hung_up:
            return EndedError(Status.INFRA_ERROR, "the pool was closed")
        if not self._warden.alive():
            return EndedError(Status.INFRA_ERROR, "the process that starts sandboxes has ended")
        code = self._exit_code()
        if code is None:
            return EndedError(Status.VIOLATION, "it closed the connection and went on")
        # bubblewrap ends with 128 and the number of the signal, a process of our own with its negative.
        signal = -code if code < 0 else code - 128 if code > 128 else 0
        if signal == 31:
            return EndedError(Status.VIOLATION, "a system call that is not allowed")
        if self._warden.groups.out_of_memory() > self._oom:
            return EndedError(Status.MEMORY, "the control group's memory was used up")
        bounds = self._bounds
        if bounds is not None and (signal == 24 or (signal == 9 and bounds.passed)):
            most = bounds.processor_seconds
            return EndedError(Status.TIMEOUT, f"more than {most:g} s of processor time")
        how = f"signal {signal}" if signal else f"exit code {code}"
        return EndedError(Status.ERROR, f"the process ended before it answered ({how})")

    def _exit_code(self) -> int | None:
        for _ in range(50):
            code: int | None = self._warden.request({"do": "state", "number": self._number})["code"]
            if code is not None:
                return code
            time.sleep(0.004)
        return None


class _NoAnswerError(ValueError):
    """What a sandbox sent is none of the messages that the driver sends."""


class Warden:
    """The parent's end of the process that starts sandboxes."""

    def __init__(self, plan: Plan, limits: Limits, *, most: int) -> None:
        self.groups = ControlGroups(
            memory=most * (limits.memory + limits.scratch + _OWN_MEMORY),
            processes=most * (limits.threads + _OWN_PROCESSES) + 8,
        )
        self.settings: Message = {
            "memory": limits.memory,
            "cpu": math.ceil(limits.together * limits.seconds),
            "file": limits.scratch,
            "files": limits.files,
            "threads": limits.threads,
            "filter": last_filter(),
            "bounded": plan.bubblewrap,
        }
        self._lock = threading.Lock()
        self._ours, theirs = socket.socketpair()
        settings = {
            "socket": theirs.fileno(),
            "command": plan.command,
            "filter": filter_of(plan).hex(),
            "environment": ENVIRONMENT,
            "groups": self.groups.entrances,
            "user": plan.user,
            "staged": plan.staged,
            "own_place": not plan.bubblewrap,
        }
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(Path(__file__).with_name("warden.py")),
                    json.dumps(settings),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for the parent, which then ends it
                env={},
            )
        self._ours.settimeout(_START_SECONDS)
        self._answers = self._ours.makefile("rb")
        if not self._read().get("ready"):
            reason = self._last_words()
            self.close()
            raise NotStartedError(reason)

    def start(self, theirs: socket.socket) -> int:
        """Start a sandbox on its end of a socket. Gives its number."""
        answer = self.request({"do": "start"}, theirs)
        if "number" not in answer:
            raise EndedError(Status.INFRA_ERROR, f"no sandbox could be started: {answer.get('error')}")
        number: int = answer["number"]
        return number

    def request(self, message: Message, attached: socket.socket | None = None) -> Message:
        """The warden's answer; without a warden, one that says so."""
        body = json.dumps(message).encode()
        with self._lock:
            try:
                if attached is not None:
                    socket.send_fds(self._ours, [body], [attached.fileno()])
                else:
                    self._ours.sendall(body)
                return self._read()
            except (OSError, ValueError) as error:
                return self._gone(str(error))

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill it as it stands, so that it ends nothing by itself."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, and with it every sandbox."""
        self._ours.close()
        self._answers.close()
        try:
            self._process.wait(timeout=_START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()
        self.groups.close()

    def _read(self) -> Message:
        line = self._answers.readline()
        if not line:
            return self._gone("the process that starts sandboxes has ended")
        answer: Message = json.loads(line)
        return answer

    def _gone(self, why: str) -> Message:
        return {"code": None, "said": why, "error": why}

    def _last_words(self) -> str:
        """What it said before it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, said = self._process.communicate(timeout=_START_SECONDS)
            return (
                " ".join(said.decode("utf-8", errors="replace").split())
                or "the process that starts sandboxes ended"
            )
        return "the process that starts sandboxes does not answer"


def _boot(settings: Message) -> bytes:
    """What a sandbox is sent first."""
    return marshal.dumps((settings, _driver()))


@cache
def _driver() -> list[tuple[str, Any]]:
    """The driver and what it imports, compiled: (name, code)."""
    modules = []
    for name in ("wire", "stand_in", "driver"):
        full = f"bethink.verify.code.{name}"
        found = importlib.util.find_spec(full)
        if found is None or found.origin is None:
            raise BethinkError(f"{full} is missing from the installation", fix="install bethink again")
        text = Path(found.origin).read_text(encoding="utf-8")
        modules.append((full, compile(text, f"{name}.py", "exec", dont_inherit=True, optimize=2)))
    return modules
