"""The small process that starts sandboxes, one for each program, and ends them.

It stands between them and whoever wants them for three reasons. It joins a control group and becomes an ordinary user once, for all of
them. It forks cheaply, where a process that holds a model would not. And the sandboxes die with it, and it with its parent, however
that ended.

It is a program of its own (`python -I -S warden.py SETTINGS`), standard library only. Requests come one at a time over a socket, each
answered before the next: `start` (with the sandbox's end of its own socket attached), `end` and `state`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

_LONGEST_REQUEST = 4096
_TOLD = 2000
"""Bytes of what a sandbox that did not start had to say."""

_LAST_SECONDS = 2.0
_ADOPT = 36
_NEW_MOUNTS, _BIND, _RECURSIVE, _PRIVATE = 0x00020000, 0x1000, 0x4000, 1 << 18
_STAGED = "{STAGED}"
_STAGES = ("/mnt", "/media", "/srv", "/opt")


def serve(settings: dict[str, Any]) -> None:
    """Start and end sandboxes until the parent hangs up.

    settings: "socket" (its descriptor), "command" (of a sandbox; "{SOCKET}" and "{FILTER}" stand for descriptors, "{STAGED}" stands before
    paths), "filter" (hexadecimal), "environment", "groups" (control groups to join: their cgroup.procs files), "user" (whom to become, or
    null), "staged" (paths that this user could not reach, to be made reachable), "own_place" (each program gets an empty directory to
    work in).
    """
    if sys.platform == "linux":
        # What a killed sandbox leaves comes here, and not to a first process that in many containers never looks.
        ctypes.CDLL(None).prctl(_ADOPT, 1, 0, 0, 0)
    for group in settings["groups"]:
        with open(group, "w", encoding="ascii") as file:
            file.write("0")
    command, places = settings["command"], {}
    if settings["user"] is not None:
        places = _stage(settings["staged"])
        os.setgroups([])
        os.setgid(settings["user"])
        os.setuid(settings["user"])
    command = [places.get(word, word.removeprefix(_STAGED)) for word in command]
    parent = socket.socket(fileno=settings["socket"])
    house = _House(command, bytes.fromhex(settings["filter"]), settings["environment"], settings["own_place"])
    parent.sendall(b'{"ready": true}\n')
    try:
        while True:
            request, descriptors, _, _ = socket.recv_fds(parent, _LONGEST_REQUEST, 1)
            if not request:
                return
            parent.sendall(json.dumps(house.answer(json.loads(request), descriptors)).encode() + b"\n")
    finally:
        house.close()


def _stage(paths: list[str]) -> dict[str, str]:
    """Where each path can be reached by everyone: bound below a directory that looks so to this process and its children alone."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(done: int, what: str) -> None:
        if done != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")

    call(libc.unshare(_NEW_MOUNTS), "unshare")
    call(libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None), "mount")
    stage = next(
        place
        for place in _STAGES
        if os.path.isdir(place) and not any(p.startswith(f"{place}/") for p in paths)
    )
    call(libc.mount(b"none", stage.encode(), b"tmpfs", 0, b"mode=755"), "mount")
    places = {}
    for number, path in enumerate(paths):
        place = f"{stage}/{number}"
        if os.path.isdir(path):
            os.mkdir(place)
        else:
            with open(place, "wb"):
                pass
        call(libc.mount(path.encode(), place.encode(), None, _BIND | _RECURSIVE, None), f"mount {path}")
        places[_STAGED + path] = place
    return places


class _House:
    """The sandboxes that are alive, by process id."""

    def __init__(
        self, command: list[str], filter_: bytes, environment: dict[str, str], own_place: bool
    ) -> None:
        self._command = command
        self._filter = filter_
        self._environment = environment
        self._own_place = own_place
        self._alive: dict[int, tuple[subprocess.Popen[bytes], str | None]] = {}

    def answer(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """What the parent is told."""
        self._reap()
        try:
            match request["do"]:
                case "start":
                    return {"number": self._start(descriptors[0])}
                case "state":
                    return {"code": self._alive[request["number"]][0].poll()}
                case _:
                    return self._end(request["number"])
        except OSError as error:
            return {"error": str(error)}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _start(self, theirs: int) -> int:
        place = tempfile.mkdtemp(prefix="bethink-code-") if self._own_place else None
        read, write = os.pipe()
        try:
            os.write(write, self._filter)
            os.close(write)
            numbers = {"{SOCKET}": str(theirs), "{FILTER}": str(read)}
            process = subprocess.Popen(
                [numbers.get(word, word) for word in self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs, read),
                env=self._environment,
                cwd=place or "/",
                start_new_session=True,
            )
        finally:
            os.close(read)
        self._alive[process.pid] = process, place
        return process.pid

    def _end(self, number: int) -> dict[str, Any]:
        """Kill a sandbox, and say how it had ended if it had."""
        process, place = self._alive.pop(number)
        code = process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        said = b""
        if process.stderr is not None:
            os.set_blocking(process.stderr.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                said = os.read(process.stderr.fileno(), _TOLD)
            process.stderr.close()
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        return {"code": code, "said": said.decode("utf-8", errors="replace")}

    def _reap(self) -> bool:
        """Take note of every process that has ended: the sandboxes, and what they left to this process. Says whether any is left."""
        while True:
            try:
                number, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if number == 0:
                return True
            if number in self._alive:
                self._alive[number][0].returncode = os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """End every sandbox, and wait a moment for what they were made of."""
        for number in list(self._alive):
            self._end(number)
        until = time.monotonic() + _LAST_SECONDS
        while self._reap() and time.monotonic() < until:
            time.sleep(0.005)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(json.loads(sys.argv[1]))
    except OSError as error:
        sys.exit(f"{type(error).__name__}: {error}")
