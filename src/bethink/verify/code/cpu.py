"""Processor time of a process at the other end of a socket, as the kernel counts it: nothing the process says or does changes it.

Who sent a message is told by the kernel (SCM_CREDENTIALS, man 7 unix), and what a process has used by its clock (man 3
clock_getcpuclockid). Both are Linux's; elsewhere nothing is known.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group."""

_OF_A_PROCESS = 2
"""The kind of a process's clock that counts what its scheduler gave it; the rest of a clock's number is the process, inverted."""


def ask_who_sends(connection: socket.socket, *, wanted: bool = True) -> None:
    """From now on messages on this Unix socket come with their sender."""
    if sys.platform == "linux":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, int(wanted))


def who_sends(connection: socket.socket) -> int | None:
    """The process that sent what comes next, which stays to be read. None where the kernel does not say; waits as the socket does."""
    if sys.platform != "linux":
        return None
    _, told, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_PEEK)
    for level, kind, body in told:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(body) >= _CREDENTIALS.size:
            return int(_CREDENTIALS.unpack_from(body)[0]) or None
    return None


def seconds_used(process: int | None) -> float:
    """Processor time of a process with all its threads. 0 where there is none, or nothing is known of it."""
    if process is not None and sys.platform == "linux":
        with contextlib.suppress(OSError):
            return time.clock_gettime(~process << 3 | _OF_A_PROCESS)
    return 0.0
