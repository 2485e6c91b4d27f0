"""The program inside a sandbox: takes code and calls from its parent, one message at a time, and answers with what they gave.

It is given inputs only. What the answers should be is not in this process, so nothing in it is worth finding: code that reads this
module's frames, writes to its pipe or ends the process has only said what it returns.

The same program runs a data set's own tests in a second sandbox, in which no model's code ever runs: there the function under test is a
stand-in that asks the parent, who asks the first sandbox.

A message is four bytes of length and JSON. Standard library only; imported by name in the sandbox, where the package is not.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from bethink.verify.code.stand_in import Desk, StandIn, UnaskableError
from bethink.verify.code.wire import Reader, WireError, encode

Message = dict[str, Any]

_ModuleType = type(sys)
_TOLD = 300
"""Characters of an error's message."""


def serve(descriptor: int, settings: Message) -> None:
    """Answer the parent's messages until it hangs up. The first one says "cpu": the seconds of processor time that this program may take.

    settings: "memory" (bytes of address space), "cpu" (seconds that any program may take), "file" (bytes a file may have), "files" (open at
    once), "threads", "filter" (a seccomp program as bytes, or b"") and "bounded" (whether a sandbox is around this process).
    """
    channel = _Channel(descriptor)
    _close_the_usual_files()
    filtered = _confine(settings)
    channel.send({"ready": True, "filtered": filtered, "uid": os.getuid()})
    program, message = _Program(channel), channel.receive()
    _limit_time(message["cpu"], strict=settings["bounded"])
    while True:
        channel.send(program.answer(message))
        message = channel.receive()


class _Channel:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, message: Message) -> None:
        body = json.dumps(message, ensure_ascii=False).encode("utf-8", errors="surrogatepass")
        left = memoryview(len(body).to_bytes(4, "big") + body)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def ask(self, message: Message) -> Message:
        self.send(message)
        return self.receive()

    def receive(self) -> Message:
        message: Message = json.loads(self._read(int.from_bytes(self._read(4), "big")))
        return message

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            piece = os.read(self._descriptor, size - len(parts))
            if not piece:
                os._exit(0)
            parts += piece
        return bytes(parts)


def _close_the_usual_files() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for usual in (0, 1, 2):
        os.dup2(nowhere, usual)
    os.close(nowhere)


def _confine(settings: Message) -> bool:
    """Limit this process for good. Says whether the kernel took the filter."""
    filtered = _filter(settings["filter"])
    for name, limit in (
        ("AS", settings["memory"]),
        ("FSIZE", settings["file"]),
        ("NOFILE", settings["files"]),
        ("NPROC", settings["threads"]),
        ("CORE", 0),
    ):
        _limit(name, limit, strict=settings["bounded"])
    _limit_time(settings["cpu"], strict=settings["bounded"])
    return filtered


def _limit_time(seconds: int, *, strict: bool) -> None:
    """Have the kernel end this process after so much processor time. What it took so far does not count, in whole seconds."""
    _limit("CPU", seconds + int(sum(os.times()[:2])), strict=strict, beyond=1)


def _limit(name: str, limit: int, *, strict: bool, beyond: int = 0) -> None:
    """Lower a limit, for good. beyond: by how much the hard one, which kills, lies beyond the soft one, which can be caught."""
    kind = getattr(resource, f"RLIMIT_{name}", None)
    if kind is None:
        return
    _, hardest = resource.getrlimit(kind)
    soft = limit if hardest == resource.RLIM_INFINITY else min(limit, hardest)
    hard = soft + beyond if soft < hardest % 2**63 else soft
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError):
        if strict:
            raise


_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER, _DEATH_SIGNAL, _SIGKILL = 38, 22, 2, 1, 9


def _filter(program: bytes) -> bool:
    """Have the kernel refuse what a computation does not need, and end this process with its parent."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes
    except ImportError:
        return False

    class _FilterProgram(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    prctl = ctypes.CDLL(None).prctl
    prctl(_DEATH_SIGNAL, _SIGKILL, 0, 0, 0)
    if not program:
        return False
    given = _FilterProgram(len(program) // 8, program)
    return bool(
        prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
        and prctl(_SET_SECCOMP, _FILTER, ctypes.byref(given), 0, 0) == 0
    )


class _Program:
    """The code this sandbox is for, once it is loaded."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._names: dict[str, Any] = {}
        self._owners: dict[str, Any] = {}
        self._class_names: list[str] = []
        self._kept: list[Any] = []

    def answer(self, message: Message) -> Message:
        """What the parent is told. Errors of the code are answers."""
        work: dict[str, Callable[[Message], Message]] = {
            "prepare": self._prepare,
            "load": self._load,
            "call": self._call,
            "run": self._run,
            "test": self._test,
        }
        try:
            return work[message["do"]](message)
        except MemoryError:
            gc.collect()
            return {"memory": True}
        except BaseException as error:  # noqa: BLE001  whatever the code raises is its answer
            return {"raised": type(error).__name__, "text": _describe(error)}

    def _prepare(self, message: Message) -> Message:
        """Run what stands before the program, before there is a program."""
        self._names = _new_module("solution")
        self._class_names = message["classes"]
        self._execute("preamble", message["preamble"])
        return {"prepared": True}

    def _load(self, message: Message) -> Message:
        self._execute("solution", message["code"])
        return {"loaded": True}

    def _execute(self, name: str, text: str) -> None:
        exec(compile(text, f"{name}.py", "exec", dont_inherit=True), self._names)

    def _classes(self) -> dict[str, type[Any]]:
        found = {name: self._names.get(name) for name in self._class_names}
        return {name: kind for name, kind in found.items() if isinstance(kind, type)}

    def _keep(self, item: object) -> int:
        self._kept.append(item)
        return len(self._kept) - 1

    def _call(self, message: Message) -> Message:
        """Call a function, and say what it gave and what became of its arguments."""
        classes, keep = self._classes(), self._keep if message["keep"] else None
        reader = Reader(message["arguments"], classes=classes, kept=self._kept.__getitem__)
        arguments, options = reader.value()
        given = self._target(message["target"])(*arguments, **options)
        value = encode(given, classes=classes, keep=keep)
        if not message["keep"]:
            return {"value": value}
        return {"value": value, "after": encode(arguments, classes=classes, keep=keep)}

    def _target(self, target: list[Any]) -> Callable[..., Any]:
        match target:
            case ["name", name, owner] if owner in self._names:
                if owner not in self._owners:
                    self._owners[owner] = self._names[owner]()
                return getattr(self._owners[owner], name)  # type: ignore[no-any-return]
            case ["name", name, _]:
                if name not in self._names:
                    raise NameError(f"the code defines no `{name}`")
                return self._names[name]  # type: ignore[no-any-return]
            case ["kept", number]:
                return self._kept[number]  # type: ignore[no-any-return]
            case ["get", number, name]:
                return lambda: getattr(self._kept[number], name)
            case ["set", number, name]:
                return lambda value: setattr(self._kept[number], name, value)
        raise WireError("no such target")

    def _run(self, message: Message) -> Message:
        """Run a whole program on an input, and say what it printed."""
        _usual_files("in", message["input"])
        names = _new_module("__main__")
        names["exit"] = names["quit"] = _exit
        try:
            exec(compile(message["code"], "program.py", "exec", dont_inherit=True), names)
        except SystemExit as error:
            if error.code not in (None, 0):
                raise
        _finish_threads()
        return _printed(message["most"])

    def _test(self, message: Message) -> Message:
        """Run a data set's test. Says "passed", or why it failed and whether a stand-in had answered by then."""
        desk = Desk(self._channel.ask, message["classes"])
        self._names = desk.names = _new_module("test")
        try:
            self._execute("preamble", message["preamble"])
            for name, owner in message["stand_ins"]:
                self._names[name] = StandIn(desk, ["name", name, owner])
            self._execute("test", message["test"])
            if message["candidate"]:
                name, owner = message["candidate"]
                self._names["check"](StandIn(desk, ["name", name, owner]))
        except BaseException as error:  # noqa: BLE001  a failed test may raise anything
            return {
                "failed": _describe(error),
                "line": _line_of(error, message["test"]),
                "answered": desk.answered,
                "ours": isinstance(error, UnaskableError),
            }
        return {"passed": True, "answered": desk.answered}


def _new_module(name: str) -> dict[str, Any]:
    """The names of an empty module that other modules can find."""
    module = sys.modules[name] = _ModuleType(name)
    return module.__dict__


def _describe(error: BaseException) -> str:
    try:
        text = str(error)[:_TOLD]
    except BaseException:  # noqa: BLE001  an exception of the code's own may do anything
        text = ""
    return text.encode("utf-8", errors="replace").decode()


def _line_of(error: BaseException, text: str) -> str:
    """The line of the test that raised."""
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "test.py":
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = text.splitlines()
    return lines[number - 1].strip()[:_TOLD] if 0 < number <= len(lines) else ""


def _exit(code: object = None) -> NoReturn:
    raise SystemExit(code)


def _usual_files(name: str, text: str) -> None:
    """Let standard input be `text`, and standard output an empty file."""
    with open(name, "wb") as file:
        file.write(text.encode("utf-8", errors="surrogatepass"))
    for number, path, flags in (
        (0, name, os.O_RDONLY),
        (1, "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # type: ignore[misc]  # noqa: SIM115


def _finish_threads() -> None:
    """What Python does at the end of a program: wait for its threads, call what was left for the end."""
    import atexit

    if threading := sys.modules.get("threading"):
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon:
                thread.join()
    atexit._run_exitfuncs()


def _printed(most: int) -> Message:
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(ValueError, AttributeError):  # closed, or none
            stream.flush()  # type: ignore[union-attr]
    size = os.lseek(1, 0, os.SEEK_END)
    if size > most:
        return {"raised": "OutputTooLarge", "text": f"more than {most:,} bytes"}
    os.lseek(1, 0, os.SEEK_SET)
    parts = []
    while piece := os.read(1, most):
        parts.append(piece)
    return {"output": b"".join(parts).decode("utf-8", errors="replace")}
