"""Which files hold rows, and their bytes unpacked.

JSON Lines and Parquet, plain or packed with gzip or zstd. Knows nothing of what is in the rows.
"""

from __future__ import annotations

import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from bethink.core.errors import OutputError

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
SUFFIXES = tuple(f"{name}{packed}" for name in _SUFFIXES for packed in ("", *_COMPRESSIONS))
"""How the name of a file of rows ends."""

DAMAGED = (EOFError, OSError, zlib.error)
"""What reading a damaged packed file raises."""


def file_format(path: Path) -> tuple[str, str | None]:
    """("jsonl", "parquet" or "unknown"; "gz", "zst" or None), by the file's name."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    inner = Path(path.stem) if compression else path
    return _SUFFIXES.get(inner.suffix.lower(), "unknown"), compression


def known_formats() -> str:
    """The suffixes as a message names them."""
    return f"{', '.join(_SUFFIXES)}, each plain or with {' or '.join(_COMPRESSIONS)}"


@contextmanager
def unpacked(raw: BinaryIO, compression: str | None) -> Iterator[IO[bytes]]:
    """The bytes of an open file, unpacked as they are read. Reading raises what is in DAMAGED."""
    if compression is None:
        yield raw
    elif compression == "gz":
        with gzip.open(raw, "rb") as stream:
            yield cast("IO[bytes]", stream)
    else:
        yield io.BufferedReader(_ZstdStream(raw), 1 << 20)


@contextmanager
def seekable(raw: BinaryIO, compression: str | None) -> Iterator[IO[bytes]]:
    """The same for a format that is read from its end, as Parquet is: a packed one is unpacked into a temporary file first.

    Raises what is in DAMAGED, and OutputError when there is no room for the temporary file: that is no fault of this one.
    """
    if compression is None:
        yield raw
        return
    with _temporary_file() as whole:
        with unpacked(raw, compression) as stream:
            while chunk := stream.read(1 << 20):
                _write(whole, chunk)
        yield whole


def _temporary_file() -> io.FileIO:
    """A file that is gone once closed. Without a buffer, which would try once more to write its rest when a full disk has been said."""
    with _room_explained():
        return tempfile.TemporaryFile(buffering=0)


def _write(file: io.FileIO, data: bytes) -> None:
    with _room_explained():
        while data:
            data = data[file.write(data) :]


@contextmanager
def _room_explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot unpack into a temporary file: {error.strerror}",
            where=str(tempfile.tempdir or "the temporary directory"),
            fix="free some space there, or set TMPDIR to a directory on another disk",
        ) from error


class _ZstdStream(io.RawIOBase):
    """Unpacks a zstd file of any number of frames; raises OSError where it is damaged and EOFError where it is cut off."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._raw = raw
        self._packed = b""
        self._error = zstandard.ZstdError
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            packed = self._packed or self._raw.read(1 << 17)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the compressed file is cut off")
                return 0
            self._frame = self._frame or self._new_frame()
            try:
                self._ready = self._frame.decompress(packed)
            except self._error as error:
                raise OSError(str(error)) from error
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        size = min(len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size
