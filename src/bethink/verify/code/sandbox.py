"""What a sandbox is: how its program may end, what it may use, and the command that builds it.

bubblewrap gives the program namespaces of its own (users, processes, network, mounts, names, messages): no network, nothing of the file
system but the interpreter and its libraries, read-only, an empty /tmp, no /proc, no environment. On top come a seccomp filter
(`seccomp`), limits on memory, processor time, files and threads that the driver sets on itself before it takes any code (`driver`), a
user that owns nothing (`warden`), a control group where one may be made (`cgroup`), and a clock in the parent (`live`).

Without bubblewrap there is the process alone with its limits, the filter and the clock: code in it can read and change what its user can.
"""

from __future__ import annotations

import glob
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bethink.core.errors import PreflightError
from bethink.verify.code.seccomp import build_filter, supported

NOBODY = 65534
"""The user and group of the program: outside, where we may choose, and inside."""

INSTALL = "install bubblewrap (apt-get install bubblewrap; dnf install bubblewrap), or accept the risk with --unsafe-code"


class Status(StrEnum):
    """What became of a program."""

    OK = "ok"
    WRONG = "wrong"  # it ended, with other results
    ERROR = "error"  # it raised, crashed or left
    TIMEOUT = "timeout"
    MEMORY = "memory"
    VIOLATION = "violation"  # it tried what no computation needs
    INFRA_ERROR = "infra_error"  # ours or the data set's fault, not the program's


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    seconds: of processor time, for one case (a call, a run on one input, a whole test of the data set's own); wall_seconds: by the clock,
    by default four times as many, so that a busy machine changes no verdict; together: all cases of a program may take so many times the
    time of one; memory: bytes of address space; scratch: bytes of /tmp; reply: bytes of one answer.
    """

    seconds: float = 5.0
    wall_seconds: float | None = None
    together: int = 10
    memory: int = 2**30
    scratch: int = 64 * 2**20
    reply: int = 4 * 2**20
    threads: int = 64
    files: int = 64

    @property
    def clock(self) -> float:
        return 4 * self.seconds if self.wall_seconds is None else self.wall_seconds

    def shares(self, cases: int) -> int:
        """How many times the time of one case so many of them may take together."""
        return min(cases, self.together)


@dataclass(frozen=True, slots=True)
class Plan:
    """One way of building a sandbox.

    command: with "{SOCKET}" and "{FILTER}" for descriptors, and STAGED before some paths; user: whom the warden becomes first (None: stays who it is); staged: the paths
    of the command that this user could not reach by itself.
    """

    command: tuple[str, ...]
    user: int | None = None
    staged: tuple[str, ...] = ()
    bubblewrap: bool = True
    closed_to_namespaces: bool = True


ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",  # each arena would take 64 MB of the address space
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",  # the same program has the same verdict every time
}
"""All there is. Since it is ours to the last word, the interpreter may heed it (`-I` without the `-E` in it)."""

_BOOT = """
import marshal, os, sys
fd = int(sys.argv[1])
def read(size):
    parts = b""
    while len(parts) < size:
        piece = os.read(fd, size - len(parts))
        if not piece:
            os._exit(0)
        parts += piece
    return parts
settings, modules = marshal.loads(read(int.from_bytes(read(4), "big")))
for name, code in modules:
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
module.serve(fd, settings)
"""
"""The first thing a sandbox runs: it takes the driver from the socket, compiled, so that no file of ours has to be in it."""

STAGED = "{STAGED}"
"""Before a path in a command: where the warden has made it reachable."""

_PYTHON = ("-P", "-s", "-S", "-B", "-X", "utf8", "-c", _BOOT, "{SOCKET}")


def find_bubblewrap() -> str | None:
    """Where bubblewrap is, or None."""
    return shutil.which("bwrap")


def bubblewrap_version() -> str | None:
    """What it calls itself ("bubblewrap 0.8.0"), or None without it."""
    path = find_bubblewrap()
    if path is None:
        return None
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None


def plans(limits: Limits) -> list[Plan]:
    """The ways of building a sandbox on this machine, the tightest first. Empty without bubblewrap.

    As root the program runs as nobody, unless the system forbids that; a bubblewrap before 0.8 cannot close the sandbox to further
    namespaces by itself, and leaves that to the filter.
    """
    path = find_bubblewrap()
    if path is None or not supported():
        return []
    root = os.geteuid() == 0
    return [
        Plan(
            command=(path, *_bubblewrap(limits, closed=closed)),
            user=NOBODY if drop else None,
            staged=tuple(_interpreter()) if drop else (),
            closed_to_namespaces=closed,
        )
        for drop in ((True, False) if root else (False,))
        for closed in (True, False)
    ]


def unsafe_plan() -> Plan:
    """A process with limits, and no sandbox around it. Raises PreflightError on Windows, where a process has none of these limits."""
    if platform.system() == "Windows":
        raise refusal([])
    return Plan((sys.executable, *_PYTHON), bubblewrap=False, closed_to_namespaces=False)


def risk(*, filtered: bool) -> str:
    """What it means that programs run here without a sandbox. filtered: whether the kernel took the filter of system calls."""
    reach = (
        ""
        if filtered
        else ", start other programs and reach the network: the kernel took no filter of system calls"
    )
    return (
        "--unsafe-code: there is no sandbox on this machine, so programs that a model wrote run with your rights: "
        f"they can read and delete your files{reach}"
    )


def refusal(reasons: list[str]) -> PreflightError:
    """Why code cannot be graded here. reasons: what each way of building a sandbox ended with."""
    system, machine = platform.system(), platform.machine()
    if not supported():
        otherwise = "" if system == "Windows" else ", or accept the risk with --unsafe-code"
        return PreflightError(
            "programs that a model wrote are not run without a sandbox, which needs Linux on x86_64 or aarch64 "
            f"(this is {system} on {machine})",
            fix=f"use such a machine, or a Linux container or virtual machine on this one{otherwise}",
        )
    if reasons:
        return PreflightError(
            f"bubblewrap cannot build a sandbox here: {reasons[0]}",
            fix="allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces, "
            "kernel.apparmor_restrict_unprivileged_userns=0; a container may need --security-opt seccomp=unconfined), "
            "or accept the risk with --unsafe-code",
        )
    return PreflightError(
        "no bubblewrap here: programs that a model wrote are not run without a sandbox", fix=INSTALL
    )


def filter_of(plan: Plan) -> bytes:
    """The filter that bubblewrap puts in place before the driver starts (it still has to be started)."""
    return build_filter(allow_exec=True) if plan.bubblewrap else b""


def last_filter() -> bytes:
    """The filter that the driver adds once it runs: no other program takes its place. b"" where none is known for the machine."""
    return build_filter(allow_exec=False) if supported() else b""


def _bubblewrap(limits: Limits, *, closed: bool) -> list[str]:
    """Everything after the program's name. Later mounts lie over earlier ones."""
    words = ["--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--disable-userns"] if closed else []
    words += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"]
    for path in _libraries():
        words += ["--ro-bind", path, path]
    for link in ("/lib", "/lib64"):
        if os.path.islink(link):
            words += ["--symlink", os.readlink(link), link]
    for path in _interpreter():
        words += ["--ro-bind", f"{STAGED}{path}", path]
    words += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for hidden in _packages():
        words += ["--tmpfs", hidden, "--remount-ro", hidden]
    for device in ("null", "zero", "full", "random", "urandom"):
        words += ["--dev-bind-try", f"/dev/{device}", f"/dev/{device}"]
    words += ["--size", str(limits.scratch), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    return [*words, "--seccomp", "{FILTER}", "--", _executable(), *_PYTHON]


def _executable() -> str:
    """The interpreter itself, behind all links: of a virtual environment the one it was made from."""
    return os.path.realpath(sys.executable)


def _libraries() -> list[str]:
    """Directories of the system's shared libraries."""
    places = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
    return [place for place in places if os.path.isdir(place) and not os.path.islink(place)]


def _interpreter() -> list[str]:
    """What the interpreter needs that the system's libraries do not hold."""
    executable = _executable()
    library = os.path.dirname(sysconfig.get_path("stdlib", vars=_base()))
    seen = [place for place in (library,) if not _within(place, _libraries())]
    return [*seen, executable]


def _base() -> dict[str, str]:
    return {"base": sys.base_prefix, "installed_base": sys.base_prefix, "platbase": sys.base_exec_prefix}


def _packages() -> list[str]:
    """Directories of installed packages among what the sandbox sees: a program has the standard library."""
    library = Path(sysconfig.get_path("stdlib", vars=_base()))
    candidates = [
        library / "site-packages",
        library / "dist-packages",
        Path("/usr/lib/python3/dist-packages"),
    ]
    candidates += [Path(found) for found in glob.glob(f"{library.parent}/python3*/*-packages")]
    return sorted({str(found) for found in candidates if found.is_dir()})


def _within(path: str, directories: list[str]) -> bool:
    real = os.path.realpath(path)
    return any(real == place or real.startswith(f"{place}/") for place in map(os.path.realpath, directories))
