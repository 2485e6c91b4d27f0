"""What a worker leaves on disk for a finished block, and how it is read again.

One file a block: a JSON header on the first line, then a fixed-size key for every row that passed the rules of `filters`, then the
output lines of the survivors, in the order of the rows. The file appears whole or not at all, so its presence says that the block is
done, which is all that resuming needs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bethink.core.files import atomic_path
from bethink.curate.filters import BLOCK_FILTERS, SELECTION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEPT = 0
REASONS = ("kept", *BLOCK_FILTERS, *SELECTION)
"""The verdict codes of a key, by index."""

MODES = ("on", "off")
_KEY = struct.Struct("<IBBBdIIQQI")
KEY_FIELDS = [
    ("row", "<u4"),  # in the block
    ("source", "u1"),  # index in the mix
    ("mode", "u1"),  # index in MODES
    ("verdict", "u1"),  # index in REASONS
    ("difficulty", "<f8"),
    ("tokens", "<u4"),
    ("completion_tokens", "<u4"),
    ("hash_high", "<u8"),  # of prompt and output
    ("hash_low", "<u8"),
    ("size", "<u4"),  # bytes of the output line
]


@dataclass(frozen=True, slots=True)
class Key:
    """What is decided by about one row that passed the rules."""

    row: int
    source: int
    mode: int
    verdict: int
    difficulty: float
    tokens: int
    completion_tokens: int
    hash_high: int
    hash_low: int
    size: int

    def pack(self) -> bytes:
        """The key's bytes, as KEY_FIELDS describes them."""
        return _KEY.pack(
            self.row, self.source, self.mode, self.verdict, self.difficulty, self.tokens,
            self.completion_tokens, self.hash_high, self.hash_low, self.size,
        )  # fmt: skip


@dataclass(slots=True)
class Header:
    """A block's account.

    size: bytes of input it stands for. rows: how many it had. rejects: [row, reason, detail] of those the rules dropped. details: what was seen of rows dropped
    later, by row. skipped: rules skipped for want of a label, with how often. keys: how many keys follow; file: the input's index.
    """

    file: int
    size: int = 0
    rows: int = 0
    keys: int = 0
    rejects: list[tuple[int, str, str]] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)


def block_path(work: Path, index: int) -> Path:
    """Where block `index` is kept; a thousand to a directory."""
    return work / "blocks" / f"{index // 1000:05d}" / f"{index:08d}"


def write_block(path: Path, header: Header, keys: list[Key], lines: list[bytes]) -> None:
    """Write a finished block, whole or not at all. lines: the survivors' output lines, in the order of their keys."""
    header.keys = len(keys)
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        # A detail quotes what a row or a library said, which may be what no file can hold.
        handle.write(json.dumps(asdict(header), ensure_ascii=False).encode(errors="replace") + b"\n")
        handle.writelines(key.pack() for key in keys)
        handle.writelines(lines)


@dataclass(frozen=True, slots=True)
class Spilled:
    """A block read back: its header, its keys as a structured array, and the file's path with where the lines begin."""

    header: Header
    keys: NDArray[np.void]
    path: Path
    lines_at: int

    def lines(self) -> Iterator[bytes]:
        """The output lines of the survivors, in order."""
        sizes = self.keys["size"].tolist()
        with open(self.path, "rb") as handle:
            handle.seek(self.lines_at)
            for size in sizes:
                yield handle.read(size) if size else b""


def read_block(path: Path) -> Spilled:
    """Read a block's header and keys."""
    import numpy as np

    with open(path, "rb") as handle:
        fields: dict[str, Any] = json.loads(handle.readline())
        header = Header(**fields)
        keys = np.frombuffer(handle.read(header.keys * _KEY.size), dtype=np.dtype(KEY_FIELDS))
        return Spilled(header, keys, path, handle.tell())
