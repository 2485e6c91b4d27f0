"""The system calls a sandboxed program may not make, as a seccomp filter (a classic BPF program; man 2 seccomp).

A program that computes needs no other processes, no network, no mounts, no namespaces and no kernel modules. Trying ends it (it shows as
a *violation*); what harmless library code may try by itself gets an error instead. Calls newer than this list do not exist for it.
"""

from __future__ import annotations

import errno
import platform
import struct

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine → the kernel's name for its calls, and the column of the tables below."""

# name: number on x86_64, number on aarch64 (None: there is no such call)
_KILLED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "unshare": (272, 97), "setns": (308, 268),
    "bpf": (321, 280), "perf_event_open": (298, 241),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142),
    "sethostname": (170, 161), "setdomainname": (171, 162), "acct": (163, 89),
    "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "settimeofday": (164, 170), "clock_settime": (227, 112),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "lookup_dcookie": (212, 18),
    "vhangup": (153, 58), "uselib": (134, None), "nfsservctl": (180, 42), "_sysctl": (156, None),
    "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
}  # fmt: skip
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183), "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "mbind": (237, 235),
    "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450),
    "vmsplice": (278, 75), "pidfd_open": (434, 434), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "syslog": (103, 116), "personality": (135, 92), "mknod": (133, None), "mknodat": (259, 33),
    "sysfs": (139, None), "ustat": (136, None),
}  # fmt: skip
_EXEC: dict[str, tuple[int | None, int | None]] = {"execve": (59, 221), "execveat": (322, 281)}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_IOCTL = (16, 29)
_NEWEST = 462
"""The last call this file was written for; newer ones are answered as by a kernel that lacks them."""

_X32 = 0x40000000
_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
_TIOCSTI = 0x5412
_NUMBER, _ARCH, _FIRST, _SECOND = 0, 4, 16, 24
"""Offsets in what a filter sees: the call's number, the architecture, the low halves of the first two arguments."""

_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def supported() -> bool:
    """Whether a filter is known for this machine."""
    return platform.system() == "Linux" and platform.machine() in _ARCHITECTURES


def build_filter(*, allow_exec: bool) -> bytes:
    """The filter as the kernel takes it: instructions of eight bytes.

    allow_exec: starting another program in place of this one stays possible, as whoever starts the sandboxed program needs it.
    """
    architecture, column = _ARCHITECTURES[platform.machine()]
    program = _Program(column)
    program.load(_ARCH)
    program.unless(_EQUAL, architecture, _KILL)
    program.load(_NUMBER)
    program.when(_AT_LEAST, _X32, _KILL)
    for call in [*_KILLED.values(), *([] if allow_exec else _EXEC.values())]:
        program.on(call, _KILL)
    for call in _REFUSED.values():
        program.on(call, _error(errno.EPERM))
    program.on(
        _CLONE3, _error(errno.ENOSYS)
    )  # its flags are out of a filter's sight; the C library then uses clone
    program.on_argument(_CLONE, _FIRST, _ANY_BIT, _CLONE_THREAD, met=_ALLOW, unmet=_KILL)
    program.on_argument(_SOCKET, _FIRST, _EQUAL, _AF_UNIX, met=_error(errno.EPERM), unmet=_KILL)
    program.on_argument(_SOCKETPAIR, _FIRST, _EQUAL, _AF_UNIX, met=_ALLOW, unmet=_error(errno.EPERM))
    program.on_argument(_IOCTL, _SECOND, _EQUAL, _TIOCSTI, met=_error(errno.EPERM), unmet=_ALLOW)
    program.when(_AT_LEAST, _NEWEST + 1, _error(errno.ENOSYS))
    program.answer(_ALLOW)
    return program.bytes()


def _error(number: int) -> int:
    return 0x00050000 | number


class _Program:
    """Instructions, one after another. column: which of a call's two numbers is meant."""

    def __init__(self, column: int) -> None:
        self._column = column
        self._code: list[bytes] = []

    def load(self, offset: int) -> None:
        self._add(_LOAD, offset)

    def answer(self, action: int) -> None:
        self._add(_RETURN, action)

    def when(self, test: int, value: int, action: int) -> None:
        """Answer if the loaded word passes the test."""
        self._add(test, value, met=0, unmet=1)
        self.answer(action)

    def unless(self, test: int, value: int, action: int) -> None:
        self._add(test, value, met=1, unmet=0)
        self.answer(action)

    def on(self, call: tuple[int | None, int | None], action: int) -> None:
        """Answer a call, whatever its arguments."""
        number = call[self._column]
        if number is not None:
            self.when(_EQUAL, number, action)

    def on_argument(
        self, call: tuple[int, int], offset: int, test: int, value: int, *, met: int, unmet: int
    ) -> None:
        """Answer a call by one of its arguments."""
        self._add(_EQUAL, call[self._column], met=0, unmet=4)
        self.load(offset)
        self._add(test, value, met=0, unmet=1)
        self.answer(met)
        self.answer(unmet)

    def bytes(self) -> bytes:
        return b"".join(self._code)

    def _add(self, operation: int, value: int, *, met: int = 0, unmet: int = 0) -> None:
        self._code.append(struct.pack("=HBBI", operation, met, unmet, value))
