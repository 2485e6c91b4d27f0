"""Does the sandbox hold? Each layer is tried from the inside, by a program that attempts what the layer forbids."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from textwrap import dedent

from bethink.verify.code.live import EndedError, NotStartedError, Sandbox, Warden
from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.run import Result, run
from bethink.verify.code.sandbox import Limits, Plan, Status
from bethink.verify.code.tasks import Call, CallTask, OutputTask

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

_LIMITS = Limits(seconds=5, memory=_MEMORY)
_BRIEF = Limits(seconds=0.2, wall_seconds=10)
_LATE = Limits(wall_seconds=0.3)
_DIES_WITHIN = 2.0
"""Seconds."""


def self_test(*, unsafe: bool = False) -> list[Layer]:
    """Every layer and whether it is active. Raises PreflightError where there is no sandbox (and `unsafe` does not accept that)."""
    with Sandboxes(2, limits=_LIMITS, unsafe=unsafe) as sandboxes:
        plan, groups = sandboxes.plan, sandboxes.groups
        # Without a sandbox the machine's files are there: that is known, and nothing is written to show it.
        probes = _PROBES if plan.bubblewrap else {name: _PROBES[name] for name in _PROBES if name != "system"}
        tried = [
            *((name, what, code, Status.OK) for name, (what, code) in probes.items()),
            *((name, what, code, Status.VIOLATION) for name, (what, code) in _FORBIDDEN.items()),
        ]
        results = [sandboxes.submit(_attempt(code)) for _, _, code, _ in tried]
        layers = [
            Layer(name, result.result().status is status, what)
            for (name, what, _, status), result in zip(tried, results, strict=True)
        ]
        layers += [] if plan.bubblewrap else [Layer("system", False, "its files are within reach")]
        layers += [_filter(sandboxes), *_output(sandboxes)]
        told = f"bounds {' and '.join(sorted(groups))} of all together" if groups else "none may be made here"
        layers.append(Layer("control group", bool(groups), told))
    if plan.user is not None:
        layers.append(Layer("user outside", True, "nobody"))
    if plan.bubblewrap:
        closed = "closed by the kernel" if plan.closed_to_namespaces else "closed by the filter alone"
        layers.append(Layer("inner namespaces", True, closed))
    return [*layers, _processor_time(unsafe), _clock(unsafe), _end_with_parent(plan)]


def _filter(sandboxes: Sandboxes) -> Layer:
    taken = "taken by the kernel" if sandboxes.filtered else "none was taken by the kernel"
    return Layer("filter", sandboxes.filtered, taken)


def _output(sandboxes: Sandboxes) -> list[Layer]:
    """A result and a print that are longer than they may be."""
    most = sandboxes.limits.reply
    long = sandboxes.submit(_attempt(f"def probe(): return 'x' * {2 * most}"))
    printed = sandboxes.submit(lambda own: run(OutputTask((("", ""),)), f"print('x' * {most})", own))
    answer, told = long.result(), printed.result()
    return [
        Layer("answer", answer.status is Status.VIOLATION, "of a bounded size"),
        Layer("output", "OutputTooLarge" in told.detail, "of a bounded size"),
    ]


def _processor_time(unsafe: bool) -> Layer:
    """A program that computes without end, deaf to warnings and with its own limit lifted as far as it can be."""
    code = """
        import resource, signal
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        for most in (-1, resource.getrlimit(resource.RLIMIT_CPU)[1]):
            try: resource.setrlimit(resource.RLIMIT_CPU, (most, most))
            except (ValueError, OSError): pass
        def probe():
            while True: pass
    """
    with Sandboxes(1, limits=_BRIEF, unsafe=unsafe) as sandboxes:
        ended = sandboxes.submit(_attempt(code)).result()
    held = ended.status is Status.TIMEOUT and ended.detail.endswith("of processor time")
    return Layer("processor time", held, "bounded for the process")


def _clock(unsafe: bool) -> Layer:
    with Sandboxes(1, limits=_LATE, unsafe=unsafe) as sandboxes:
        late = sandboxes.submit(_attempt("import time\ndef probe(): time.sleep(60)")).result()
    return Layer("clock", late.status is Status.TIMEOUT, "ends what does not end")


def _end_with_parent(plan: Plan) -> Layer:
    """The process that starts sandboxes is killed, so that it ends nothing itself, and one of its sandboxes is asked whether it lives."""
    held = False
    with suppress(EndedError, NotStartedError), closing(Warden(plan, _LIMITS, most=1)) as warden:
        sandbox = Sandbox(warden, _LIMITS)
        try:
            sandbox.wait_until_ready()
            warden.kill()
            held = _dies(sandbox)
        finally:
            sandbox.end()
    return Layer("die with parent", held, "ended by the kernel when what started it is killed")


def _dies(sandbox: Sandbox) -> bool:
    until = time.monotonic() + _DIES_WITHIN
    while time.monotonic() < until:
        try:
            sandbox.ask({"do": "prepare", "preamble": "", "classes": []})
        except EndedError as error:
            return error.status is Status.INFRA_ERROR
        time.sleep(0.01)
    return False


def _attempt(code: str) -> Callable[[Sandboxes], Result]:
    task = CallTask("", (Call("probe", (), {}, (True,)),))
    return lambda sandboxes: run(task, dedent(code), sandboxes)
