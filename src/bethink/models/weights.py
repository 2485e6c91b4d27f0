"""Model directories on disk: what their safetensors files say of themselves, and how new ones come to be whole or absent.

Reads headers only: tensor names, sizes, whether a file is complete. Imports no torch.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bethink.core.errors import DataError, ModelError, OutputError
from bethink.core.files import explain_os_errors, read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def weight_files(directory: Path) -> list[Path]:
    """The model's safetensors files: the single one, or the shards its index names. Raises ModelError when a shard is missing."""
    index = directory / INDEX
    if not index.is_file():
        return [directory / SINGLE] if (directory / SINGLE).is_file() else []
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the weights' index cannot be read: {error}", where=str(index)) from error
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(names)} weight files are missing, the first is {missing[0]}",
            where=str(directory),
            fix="download the model again",
        )
    return [directory / name for name in names]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: in which file, from which byte on, how many; dtype: safetensors' name of its format (F32, BF16, …)."""

    path: Path
    start: int
    size: int
    shape: tuple[int, ...]
    dtype: str


def read_header(path: Path) -> dict[str, tuple[int, int]]:
    """Tensor name -> (elements, bytes) of one safetensors file. Raises ModelError as `stored_tensors` does."""
    return {name: (math.prod(one.shape), one.size) for name, one in stored_tensors(path).items()}


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Tensor name -> where it lies, of one safetensors file.

    Raises ModelError when the file is not safetensors (a Git LFS pointer, a download page) or shorter than its header says.
    """
    size = path.stat().st_size
    with open(path, "rb") as handle:
        start = handle.read(8)
        if start.startswith(b"version "):
            raise ModelError(
                "a Git LFS pointer, not the weights", where=str(path), fix="run `git lfs pull` there"
            )
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        text = handle.read(length) if 8 + length <= size else b""
    try:
        header = json.loads(text)
        found = {}
        for name, entry in header.items():
            if name != "__metadata__":
                first, end = entry["data_offsets"]
                shape, dtype = tuple(map(int, entry["shape"])), str(entry["dtype"])
                found[name] = Stored(path, 8 + length + first, end - first, shape, dtype)
        whole = max((one.start + one.size for one in found.values()), default=8 + length)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            "not a safetensors file, or a damaged one", where=str(path), fix="download it again"
        ) from error
    if size < whole:
        raise ModelError(
            f"the file is cut short: {size:,} bytes of {whole:,}",
            where=str(path),
            fix="download it again",
        )
    return found


def tensor_sizes(directory: Path) -> dict[str, tuple[int, int]]:
    """Tensor name -> (elements, bytes) over all of a model's weight files. Raises ModelError as `read_header` does."""
    return {name: size for path in weight_files(directory) for name, size in read_header(path).items()}


@contextmanager
def as_os_error() -> Iterator[None]:
    """Turn the safetensors writer's own error into the OSError it wraps, which says whether the disk is full."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            code = int(number.group(1))
            raise OSError(code, os.strerror(code)) from error
        raise


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target`, gone afterwards; also removes those that killed runs left more than a day ago.

    Raises OutputError when nothing can be written there.
    """
    with explain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for old in target.parent.glob(f".{target.name}.*.making"):
            if time.time() - old.stat().st_mtime > 86400:
                shutil.rmtree(old, ignore_errors=True)
        made = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".making", dir=target.parent)
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def require_new(directory: Path) -> None:
    """Raise OutputError when `directory` holds something already, or is a file."""
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise OutputError("the output exists already", where=str(directory), fix="choose another --output")


def make_readable(*paths: Path) -> None:
    """Give files the permissions new files have; the safetensors writer makes its own private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in paths:
        path.chmod(0o666 & ~mask)
