"""Files that are whole or absent.

Every file the package writes for keeps goes through `atomic_path`: a reader never sees half a file, and a crash, a full disk or
`kill -9` leaves the old one. `claim_output` guards a run directory against being overwritten by another run, `only_process` against
being written by two processes at once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bethink.core.errors import DataError, OutputError

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space or choose an --output on another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose an --output on another disk"),
    errno.EACCES: ("permission denied", "choose an --output you may write to"),
    errno.EPERM: ("permission denied", "choose an --output you may write to"),
    errno.EROFS: ("the file system is read-only", "choose an --output on a writable disk"),
    errno.ENOTDIR: ("a part of the path is a file, not a directory", "choose another --output"),
    errno.EEXIST: ("a part of the path is a file, not a directory", "choose another --output"),
    errno.ENOENT: ("a part of the path does not exist", "choose another --output"),
    errno.EFBIG: (
        "the file is larger than this system allows",
        "choose an --output on another disk, or raise the limit",
    ),
    errno.EISDIR: ("the path is a directory", "name a file"),
}


def cache_dir() -> Path:
    """Where downloads and conversions are kept: $BETHINK_CACHE, else $XDG_CACHE_HOME/bethink, else ~/.cache/bethink."""
    if explicit := os.environ.get("BETHINK_CACHE"):
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "bethink"


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into an OutputError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        reason, fix = _REASONS[error.errno]
        raise OutputError(f"cannot write: {reason}", where=str(error.filename or path), fix=fix) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it, flushed to disk, when the block ends well; otherwise it is removed.

    Raises OutputError for a full disk or a path that cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON document. Raises DataError that names the file and the line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("file not found", where=str(path)) from None
    except RecursionError as error:
        raise DataError("not valid JSON: nested too deeply", where=str(path)) from error
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise DataError(f"not valid JSON: {error}", where=str(path)) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read one JSON object. Raises DataError for anything else, naming the file."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"expected an object, found {type(value).__name__}", where=str(path))
    return value


def dump_line(row: Any) -> str:
    """One JSON Lines record, newline included: the only way rows are written, so that equal rows are equal bytes."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"


def read_jsonl(path: Path, *, growing: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file that must be whole (one of our own). Raises DataError with file and line.

    growing: it may be a file that rows are still appended to, or were when the process was killed: a last line without its end is left out.
    """
    try:
        with open(path, "rb") as handle:
            for number, line in enumerate(handle, 1):
                if growing and not line.endswith(b"\n"):
                    return
                try:
                    row = json.loads(line.decode())
                except UnicodeDecodeError as error:
                    raise DataError(f"not valid UTF-8: {error}", where=f"{path}:{number}") from error
                except RecursionError as error:
                    raise DataError("not valid JSON: nested too deeply", where=f"{path}:{number}") from error
                except ValueError as error:
                    raise DataError(f"not valid JSON: {error}", where=f"{path}:{number}") from error
                if not isinstance(row, dict):
                    raise DataError(
                        f"expected an object, found {type(row).__name__}", where=f"{path}:{number}"
                    )
                yield row
    except FileNotFoundError:
        raise DataError("file not found", where=str(path)) from None


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def only_process(directory: Path, name: str = ".lock") -> Iterator[None]:
    """Hold `directory` for this process alone, by a lock on the file `name` in it, which goes with the process however that ends.

    Raises OutputError when another process holds it, and when the file cannot be written.
    """
    import fcntl

    lock = directory / name
    with explain_os_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    with open(lock, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                "another process is running in this directory",
                where=str(directory),
                fix="wait for it, or choose another --output",
            ) from None
        yield


CLAIM = ".fingerprint.json"
"""What `claim_output` writes into an output first."""


def claim_output(directory: Path, *, resume: bool, fingerprint: dict[str, Any]) -> None:
    """Make `directory` this run's own, or refuse.

    fingerprint: everything that decides the run's bytes (options, input hashes). It is kept in `directory/CLAIM`;
    resuming with another one is refused with the keys that differ. Raises OutputError.
    """
    stamp = directory / CLAIM
    fingerprint = json.loads(json.dumps(fingerprint, default=str))
    with explain_os_errors(directory):
        if directory.exists() and not directory.is_dir():
            raise OutputError(
                "the output exists and is a file", where=str(directory), fix="choose another --output"
            )
        # A run killed while its stamp was being written has left nothing but that part.
        occupied = directory.is_dir() and any(path.suffix != ".part" for path in directory.iterdir())
        if occupied and not resume:
            raise OutputError(
                "the output directory already holds something",
                where=str(directory),
                fix="choose another --output, or continue that run with --resume",
            )
        if occupied and not stamp.exists():
            raise OutputError(
                "there is no run to resume: the output directory holds something else",
                where=str(directory),
                fix="choose another --output",
            )
        if occupied:
            before = read_json(stamp)
            differing = sorted(
                k for k in {*before, *fingerprint} if before.get(k, None) != fingerprint.get(k, None)
            )
            if differing:
                shown = "; ".join(
                    f"{k}: was {before.get(k)!r}, now {fingerprint.get(k)!r}" for k in differing
                )
                raise OutputError(
                    f"the run there was started with other settings ({shown})",
                    where=str(directory),
                    fix="resume with the same settings, or choose another --output",
                )
            return
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise OutputError(
                "cannot write: permission denied",
                where=str(directory),
                fix="choose an --output you may write to",
            )
    write_json(stamp, fingerprint)
