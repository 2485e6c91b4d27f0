"""What a program tries beyond computing is contained: it ends as it should, and nothing outside has changed."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from attempts import probe, program

from bethink.core.errors import PreflightError
from bethink.verify.code.layers import self_test
from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.sandbox import Limits, Plan, Status, plans
from processes import alive, descendants

VIOLATIONS = {
    "connect": "import socket\ndef probe(): socket.create_connection(('127.0.0.1', 22), 1)",
    "connect by number": "import socket\ndef probe(): socket.socket().connect(('1.1.1.1', 53))",
    "datagram": "import socket\ndef probe(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "netlink": "import socket\ndef probe(): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "unix socket": "import socket\ndef probe(): socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
    "fork": "import os\ndef probe(): return os.fork() >= 0",
    "fork bomb": "import os\ndef probe():\n    while True: os.fork()",
    "subprocess": "import subprocess\ndef probe(): subprocess.run(['/bin/ls'])",
    "system": "import os\ndef probe(): return os.system('true') == 0",
    "multiprocessing": """
        import multiprocessing as m
        def work(): pass
        def probe(): m.get_context('fork').Process(target=work).start()
    """,
    "exec": "import os, sys\ndef probe(): os.execv(sys.executable, ['python', '-c', 'pass'])",
    "exec of a program of its own": """
        import os
        def probe():
            with open('/tmp/x', 'wb') as file:
                file.write(b'#!/bin/sh')
            os.chmod('/tmp/x', 0o755)
            os.execv('/tmp/x', ['x'])
    """,
    "new user namespace": "import ctypes\ndef probe(): ctypes.CDLL(None).unshare(0x10000000)",
    "new mount namespace": "import ctypes\ndef probe(): ctypes.CDLL(None).unshare(0x00020000)",
    "clone into a namespace": "import ctypes\ndef probe(): ctypes.CDLL(None).syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "enter a namespace": "import ctypes\ndef probe(): ctypes.CDLL(None).setns(0, 0)",
    "mount": "import ctypes\ndef probe(): ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "unmount": "import ctypes\ndef probe(): ctypes.CDLL(None).umount2(b'/tmp', 2)",
    "new mount calls": "import ctypes\ndef probe(): ctypes.CDLL(None).syscall(428, -100, b'/', 0)",
    "chroot": "import os\ndef probe(): os.chroot('/tmp')",
    "trace the parent": "import ctypes, os\ndef probe(): ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
    "trace itself": "import ctypes\ndef probe(): ctypes.CDLL(None).ptrace(0, 0, 0, 0)",
    "read another's memory": "import ctypes\ndef probe(): ctypes.CDLL(None).process_vm_readv(1, None, 0, None, 0, 0)",
    "bpf": "import ctypes\ndef probe(): ctypes.CDLL(None).syscall(321, 0, 0, 0)",
    "perf": "import ctypes\ndef probe(): ctypes.CDLL(None).syscall(298, 0, 0, 0, 0, 0)",
    "keys": "import ctypes\ndef probe(): ctypes.CDLL(None).syscall(250, 0, 0, 0, 0, 0)",
    "io_uring": "import ctypes\ndef probe(): ctypes.CDLL(None).syscall(425, 8, 0)",
    "userfaultfd": "import ctypes\ndef probe(): ctypes.CDLL(None).syscall(323, 0)",
    "calls of the other table": "import ctypes\ndef probe(): ctypes.CDLL(None).syscall(0x40000000 + 39)",
    "anonymous files": "import os\ndef probe(): os.memfd_create('x')",
    "shared memory": "import ctypes\ndef probe():\n    if ctypes.CDLL(None).shmget(0, 4096, 0o1600) < 0: raise PermissionError",
}
NO_FILTER = struct.pack("=HBBI", 0xFFFF, 0, 0, 0)
"""No instruction that the kernel knows."""

X86 = {
    "clone into a namespace", "new mount calls", "bpf", "perf", "keys", "io_uring", "userfaultfd", "calls of the other table",
}  # fmt: skip


@pytest.mark.parametrize("name", VIOLATIONS)
def test_what_no_computation_needs_is_a_violation(sandboxes: Sandboxes, name: str) -> None:
    if name in X86 and os.uname().machine != "x86_64":
        pytest.skip("the number is that of another machine")
    result = probe(sandboxes, VIOLATIONS[name])
    assert result.status is Status.VIOLATION, result


def test_calls_newer_than_the_filter_do_not_exist(sandboxes: Sandboxes) -> None:
    code = """
        import ctypes, errno
        def probe():
            libc = ctypes.CDLL(None, use_errno=True)
            return [(libc.syscall(n, 0, 0, 0), ctypes.get_errno() == errno.ENOSYS) for n in (435, 463, 500)]
    """
    assert probe(sandboxes, code, expected=[(-1, True)] * 3).status is Status.OK


def test_files_and_environment_of_the_machine_are_not_there(sandboxes: Sandboxes, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("42")
    code = """
        import os, glob
        def probe(*paths):
            seen = [path for path in paths if os.path.exists(path)]
            try:
                open(paths[0])
                seen.append("opened")
            except OSError:
                pass
            seen += [name for name in os.environ if "SECRET" in name or "BETHINK" in name]
            seen += glob.glob('/proc/*') + glob.glob('/sys/*') + glob.glob('/home/*') + glob.glob('/tmp/*')
            return seen
    """
    here = [
        str(secret),
        __file__,
        sys.executable,
        "/etc/passwd",
        "/etc/hostname",
        "/proc/self",
        "/root/.bashrc",
    ]
    result = probe(sandboxes, code, *here, expected=[])
    assert result.status is Status.OK, result


def test_no_other_user_file_can_be_read_by_any_way_round(sandboxes: Sandboxes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("42")
    code = """
        import os
        def probe(path):
            for start in ('/', '/usr/lib', '/tmp'):
                try:
                    os.chdir(start + '/..' * 20)
                    os.symlink(path, '/tmp/link')
                    open('/tmp/link').read()
                    return False
                except OSError:
                    pass
            return os.listdir('/tmp') in (['link'], [])
    """
    assert probe(sandboxes, code, str(tmp_path / "secret")).status is Status.OK


def test_nothing_outside_can_be_written(sandboxes: Sandboxes, tmp_path: Path) -> None:
    code = """
        import os, sys
        def probe(here):
            places = [here, '/', '/usr', '/usr/lib', '/dev', '/etc', '/root', sys.prefix, os.path.dirname(os.__file__), os.path.dirname(sys.executable)]
            written = []
            for place in places:
                try:
                    os.makedirs(place, exist_ok=True)
                    with open(os.path.join(place, 'written'), 'w') as file:
                        file.write('x')
                    written.append(place)
                except OSError:
                    pass
            try:
                os.chmod(os.__file__, 0o777)
                written.append('mode')
            except OSError:
                pass
            return written
    """
    assert probe(sandboxes, code, str(tmp_path), expected=[str(tmp_path)]).status is Status.OK
    assert list(tmp_path.iterdir()) == []  # it was a directory in the /tmp of its own


def test_nothing_stays_for_the_next_program(sandboxes: Sandboxes) -> None:
    code = "import os\ndef probe():\n    open('/tmp/note', 'w').close()\n    return os.listdir('/tmp') == ['note']"
    for _ in range(6):
        assert probe(sandboxes, code).status is Status.OK


MEMORY = {
    "a list": "def probe():\n    held = []\n    while True: held.append('x' * 10**6)",
    "one block": "def probe(): return len(bytearray(2**33))",
    "a number": "def probe(): return 1 << (1 << 36)",
    "maps": "import mmap\ndef probe():\n    held = []\n    try:\n        while True: held.append(mmap.mmap(-1, 2**24))\n    except OSError: raise MemoryError",
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_bounded(sandboxes: Sandboxes, name: str) -> None:
    assert probe(sandboxes, MEMORY[name]).status is Status.MEMORY


def test_memory_outside_the_process_is_bounded_too(sandboxes: Sandboxes) -> None:
    code = """
        def probe():
            written = 0
            for n in range(1000):
                try:
                    with open(f'/tmp/{n}', 'wb') as file:
                        for _ in range(64):
                            file.write(bytes(2**20))
                            file.flush()
                            written += 2**20
                except OSError:
                    return written <= 2**24
            return False
    """
    assert probe(sandboxes, code).status is Status.OK


def test_threads_are_bounded(sandboxes: Sandboxes) -> None:
    code = """
        import threading, time
        def probe():
            threading.stack_size(2**15)
            started = 0
            try:
                while started < 5000:
                    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                    started += 1
            except RuntimeError:
                return started < 100
            return False
    """
    if sandboxes.plan.user is None and os.geteuid() == 0 and "pids" not in sandboxes.groups:
        pytest.skip("as root without a control group for processes nothing but memory bounds threads")
    assert probe(sandboxes, code).status is Status.OK


ENDLESS = {
    "loop": "def probe():\n    while True: pass",
    "sleep": "import time\ndef probe(): time.sleep(1000)",
    "deaf loop": """
        import signal
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        def probe():
            while True:
                try:
                    while True: pass
                except BaseException: pass
    """,
    "a wait": "import threading\ndef probe(): threading.Event().wait()",
    "at import": "while True: pass",
    "in a description": "class E(Exception):\n    def __str__(self):\n        while True: pass\ndef probe(): raise E",
    "in an answer": "def probe():\n    def forever():\n        while True: pass\n        yield\n    return forever()",
    "in C": "def probe(): return sum(range(10**12))",
    "flood of output": "def probe():\n    while True: print('x' * 10**6)",
    "signals to itself": "import os, signal\ndef probe():\n    signal.signal(15, lambda *_: None)\n    while True: os.kill(os.getpid(), 15)",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_ended(short_sandboxes: Sandboxes, name: str) -> None:
    started = time.monotonic()
    assert probe(short_sandboxes, ENDLESS[name]).status is Status.TIMEOUT
    assert time.monotonic() - started < 10


FLOODS = {
    "a long answer": "def probe(): return 'x' * 2**25",
    "many parts": "def probe(): return list(range(2 * 10**6))",
    "no answer at all": "import os\ndef probe():\n    for n in range(3, 64):\n        try: os.write(n, b'x' * 2**16)\n        except OSError: pass\n    return True",
    "a length that lies": "import os\ndef probe():\n    for n in range(3, 64):\n        try: os.write(n, b'\\xff' * 64)\n        except OSError: pass\n    return True",
    "deep nesting": "import os\ndef probe():\n    for n in range(3, 64):\n        try: os.write(n, (200000).to_bytes(4, 'big') + b'[' * 200000)\n        except OSError: pass\n    return True",
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_cut_off(sandboxes: Sandboxes, name: str) -> None:
    assert probe(sandboxes, FLOODS[name]).status in (Status.VIOLATION, Status.WRONG)


def test_printed_output_is_bounded(sandboxes: Sandboxes) -> None:
    result = program(sandboxes, "while True: print('x' * 10**6)")
    assert result.status is Status.ERROR, result
    assert program(sandboxes, "print('x' * 10**7)").status is Status.ERROR


KILLERS = {
    "the parent": "import os\ndef probe():\n    os.kill(os.getppid(), 9)\n    return True",
    "process 1": "import os\ndef probe():\n    os.kill(1, 9)\n    return True",
    "the parent's group": "import os\ndef probe():\n    os.killpg(0, 9)\n    return True",
    "everyone": "import os\ndef probe():\n    os.kill(-1, 9)\n    return True",
    "itself": "import os\ndef probe(): os.kill(os.getpid(), 9)",
    "by a crash": "import ctypes\ndef probe(): ctypes.string_at(0)",
    "by an abort": "import os\ndef probe(): os.abort()",
    "by a deep recursion": "import sys, ctypes\ndef probe():\n    sys.setrecursionlimit(10**9)\n    class A:\n        def __repr__(self): return repr([self])\n    return repr(A())",
}


@pytest.mark.parametrize("name", KILLERS)
def test_killing_reaches_nobody_outside(sandboxes: Sandboxes, name: str) -> None:
    result = probe(sandboxes, KILLERS[name])
    assert result.status is not Status.INFRA_ERROR, result
    assert probe(sandboxes, "def probe(): return True").status is Status.OK


def test_every_layer_holds(sandboxes: Sandboxes) -> None:
    layers = {layer.name: layer for layer in self_test()}
    assert set(layers) >= {
        "user", "environment", "system", "scratch", "memory", "network", "processes", "programs", "filter", "answer", "output",
        "processor time", "clock", "die with parent",
    }  # fmt: skip
    loose = [name for name, layer in layers.items() if not layer.active]
    assert set(loose) <= {"control group", "threads"}, loose


@pytest.mark.usefixtures("sandboxes")
def test_a_layer_that_is_off_is_said_to_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(*words: str) -> set[str]:
        def loose(limits: Limits) -> list[Plan]:
            left = [[word for word in plan.command if word not in words] for plan in plans(limits)]
            return [
                replace(plan, command=tuple(command))
                for plan, command in zip(plans(limits), left, strict=True)
            ]

        monkeypatch.setattr("bethink.verify.code.pool.plans", loose)
        return {layer.name for layer in self_test() if not layer.active}

    usual = off()
    assert off("--die-with-parent") == usual | {"die with parent"}
    monkeypatch.setattr("bethink.verify.code.live.last_filter", lambda: b"")
    assert off() >= {"filter", "programs"}


@pytest.mark.usefixtures("sandboxes")
def test_a_sandbox_whose_filter_the_kernel_refuses_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bethink.verify.code.live.last_filter", lambda: NO_FILTER)
    with pytest.raises(PreflightError, match="did not take the filter"):
        Sandboxes(1)


def test_without_a_sandbox_it_is_said_whether_the_kernel_took_the_filter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    held = {layer.name for layer in self_test(unsafe=True) if layer.active}
    assert held >= {"filter", "processes", "network", "memory", "processor time", "clock", "die with parent"}
    assert not held & {"system", "scratch"}
    assert "start other programs" not in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr("bethink.verify.code.live.last_filter", lambda: NO_FILTER)
    held = {layer.name for layer in self_test(unsafe=True) if layer.active}
    assert held >= {"memory", "processor time", "clock", "die with parent"}
    assert not held & {"filter", "processes", "network", "system calls", "system"}
    assert "start other programs" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("sandboxes")
def test_a_killed_parent_leaves_nothing_behind() -> None:
    code = textwrap.dedent(
        """
        import sys
        from bethink.verify.code.pool import Sandboxes
        from bethink.verify.code.run import run
        from bethink.verify.code.sandbox import Limits
        from bethink.verify.code.tasks import Call, CallTask
        task = CallTask("", (Call("f", (), {}, (1,)),))
        with Sandboxes(1, limits=Limits(seconds=60)) as sandboxes:
            print("ready", flush=True)
            run(task, "import time\\ndef f(): time.sleep(100)", sandboxes)
        """
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        below = descendants(process.pid)
        assert len(below) >= 3
        process.send_signal(signal.SIGKILL)
        process.wait()
    until = time.monotonic() + 10
    while alive(below) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive(below) == []


def test_a_closed_pool_leaves_nothing_behind() -> None:
    from conftest import LIMITS, open_sandboxes

    before = set(descendants(os.getpid()))
    with open_sandboxes(LIMITS) as own:
        groups = [Path(entrance).parent for entrance in own._warden.groups.entrances]
        assert probe(own, "def probe(): return True").status is Status.OK
        below = [pid for pid in descendants(os.getpid()) if pid not in before]
        assert below
    until = time.monotonic() + 10
    while alive(below) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive(below) == []
    assert not any(group.exists() for group in groups)


def zombies() -> set[int]:
    """Ended processes of sandboxes that nobody has taken note of."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and "(bwrap) Z" in (entry / "stat").read_text():
                found.add(int(entry.name))
    return found


def test_ended_sandboxes_do_not_pile_up_as_zombies() -> None:
    from conftest import SHORT, open_sandboxes

    before = zombies()
    with open_sandboxes(SHORT) as own:
        for _ in range(20):
            assert probe(own, "def probe(): return True").status is Status.OK
        assert probe(own, "import time\ndef probe(): time.sleep(100)").status is Status.TIMEOUT
        assert len(zombies() - before) < 10
    until = time.monotonic() + 5
    while (left := zombies() - before) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


@pytest.mark.usefixtures("sandboxes")
def test_every_way_of_building_a_sandbox_that_works_here_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root there are four, the tightest of which is taken; the others are for systems that forbid it."""
    from conftest import LIMITS, open_sandboxes

    ways = plans(LIMITS)
    for way in ways:
        monkeypatch.setattr("bethink.verify.code.pool.plans", lambda _, way=way: [way])
        try:
            own = open_sandboxes(LIMITS, workers=1)
        except (pytest.skip.Exception, pytest.fail.Exception):
            continue
        with own:
            assert (
                probe(own, "import os\ndef probe(): return os.getuid()", expected=65534).status is Status.OK
            )
            for name in ("fork", "connect", "new user namespace", "mount", "exec"):
                assert probe(own, VIOLATIONS[name]).status is Status.VIOLATION, (way, name)
            assert probe(own, MEMORY["a list"]).status is Status.MEMORY


def test_the_namespaces_hold_without_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer by itself: here every system call is allowed, and the rest must do."""
    from conftest import LIMITS, open_sandboxes

    monkeypatch.setattr(
        "bethink.verify.code.live.filter_of", lambda _: struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
    )
    monkeypatch.setattr("bethink.verify.code.live.last_filter", lambda: b"")
    code = """
        import ctypes, os, socket
        libc = ctypes.CDLL(None)
        def refused(call, *arguments):
            try:
                return call(*arguments) in (-1, None)
            except OSError:
                return True
        def forks():
            pids = []
            try:
                while len(pids) < 500:
                    if (pid := os.fork()) == 0:
                        os.read(0, 1) or os._exit(0) if False else __import__('time').sleep(30)
                    pids.append(pid)
            except OSError:
                pass
            return len(pids) < 100
        def probe():
            return [
                [name for _, name in socket.if_nameindex()] == ['lo'],
                refused(lambda: socket.create_connection(('1.1.1.1', 53), 0.2)),
                refused(libc.unshare, 0x10000000),
                refused(libc.unshare, 0x00020000),
                refused(libc.mount, b'none', b'/tmp', b'tmpfs', 0, None),
                refused(libc.umount2, b'/usr', 2),
                refused(os.chroot, '/tmp'),
                refused(os.setuid, 0),
                refused(libc.sethostname, b'x', 1),
                refused(open, '/usr/lib/written', 'w'),
                forks(),
            ]
    """
    with open_sandboxes(LIMITS, workers=1) as own:
        result = probe(own, code, expected=[True] * 11)
        if own.plan.closed_to_namespaces and (own.plan.user is not None or os.geteuid() != 0):
            assert result.status is Status.OK, result
        assert (
            probe(own, "import os\ndef probe(): return os.fork() >= 0").status is Status.OK
        )  # it is off indeed


def test_a_warden_that_is_killed_has_a_successor() -> None:
    from conftest import LIMITS, open_sandboxes

    with open_sandboxes(LIMITS, workers=1) as own:
        for _ in range(3):
            assert probe(own, "def probe(): return True").status is Status.OK
            own._warden.kill()
        assert probe(own, "def probe(): return True").status is Status.OK
