"""Does the sandbox hold? Each layer is tried from the inside, by a program that attempts what the layer forbids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent

from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.run import Result, run
from bethink.verify.code.sandbox import Limits, Status
from bethink.verify.code.tasks import Call, CallTask

_MEMORY = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. active: whether it held; detail: what was tried, or what is known."""

    name: str
    active: bool
    detail: str


_PROBES: dict[str, tuple[str, str]] = {
    "user": ("not root", "import os\ndef probe(): return os.getuid() != 0 and os.geteuid() != 0"),
    "environment": (
        "nothing of yours in it",
        "import os\ndef probe(): return len(os.environ) < 12 and not os.path.exists('/proc/self/environ')",
    ),
    "system": (
        "read-only, and only the interpreter",
        """
        import os, sys
        def probe():
            for place in (sys.prefix, os.path.dirname(os.__file__), '/', '/usr/lib', '/dev'):
                try:
                    open(os.path.join(place, 'written'), 'w').close()
                    return False
                except OSError:
                    pass
            return not any(map(os.path.exists, ('/etc/passwd', '/home', '/root/.bashrc', '/proc/1', '/sys')))
        """,
    ),
    "scratch": (
        "an empty /tmp of its own, of a bounded size",
        """
        import os
        def probe():
            size = os.statvfs('/tmp')
            return os.listdir('/tmp') == [] and size.f_blocks * size.f_frsize <= 2**27
        """,
    ),
    "memory": (
        "bounded for the process",
        """
        def probe():
            try:
                bytearray(2 * MEMORY)
            except MemoryError:
                return True
            return False
        """.replace("MEMORY", str(_MEMORY)),
    ),
    "threads": (
        "bounded",
        """
        import threading, time
        def probe():
            threading.stack_size(2**16)
            try:
                for _ in range(200):
                    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            except RuntimeError:
                return True
            return False
        """,
    ),
}
"""Layer → what it promises, and a program that says whether it keeps it."""

_FORBIDDEN: dict[str, tuple[str, str]] = {
    "network": (
        "none",
        "import socket\ndef probe(): socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(('127.0.0.1', 9))",
    ),
    "processes": ("no other one can be started", "import os\ndef probe(): os.fork()"),
    "programs": (
        "no other one can take its place",
        "import os, sys\ndef probe(): os.execv(sys.executable, ['python'])",
    ),
    "system calls": (
        "filtered",
        "import ctypes\ndef probe(): ctypes.CDLL(None).ptrace(0, 0, 0, 0)",
    ),
    "namespaces": ("no new ones", "import ctypes\ndef probe(): ctypes.CDLL(None).unshare(0x10000000)"),
}
"""Layer → what it promises, and a program that must end as a violation."""


def self_test(*, unsafe: bool = False) -> list[Layer]:
    """Every layer and whether it is active. Raises PreflightError where there is no sandbox (and `unsafe` does not accept that)."""
    limits = Limits(seconds=5, memory=_MEMORY)
    with Sandboxes(2, limits=limits, unsafe=unsafe) as sandboxes:
        tried = [
            *((name, what, code, Status.OK) for name, (what, code) in _PROBES.items()),
            *((name, what, code, Status.VIOLATION) for name, (what, code) in _FORBIDDEN.items()),
        ]
        results = [sandboxes.submit(_attempt(code)) for _, _, code, _ in tried]
        layers = [
            Layer(name, result.result().status is status, what)
            for (name, what, _, status), result in zip(tried, results, strict=True)
        ]
        groups = sandboxes.groups
        layers.append(
            Layer(
                "control group",
                bool(groups),
                f"bounds {' and '.join(sorted(groups))} of all together"
                if groups
                else "none may be made here",
            )
        )
        plan = sandboxes.plan
    if plan.user is not None:
        layers.append(Layer("user outside", True, "nobody"))
    if plan.bubblewrap:
        closed = "closed by the kernel" if plan.closed_to_namespaces else "closed by the filter alone"
        layers.append(Layer("inner namespaces", True, closed))
    with Sandboxes(1, limits=Limits(wall_seconds=0.3), unsafe=unsafe) as sandboxes:
        late = sandboxes.submit(_attempt("import time\ndef probe(): time.sleep(60)")).result()
        layers.append(Layer("clock", late.status is Status.TIMEOUT, "ends what does not end"))
    return layers


def _attempt(code: str) -> Callable[[Sandboxes], Result]:
    task = CallTask("", (Call("probe", (), {}, (True,)),))
    return lambda sandboxes: run(task, dedent(code), sandboxes)
