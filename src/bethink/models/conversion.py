"""The cache of converted models: a GGUF file in, a plain safetensors directory out, built once.

A directory is complete when its manifest is there and was written by this converter. It is built beside its place and renamed, so
that a killed conversion leaves nothing that could be mistaken for a model; when two processes convert at once, the first to finish
wins and the other's is discarded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bethink.core.console import note
from bethink.core.errors import DataError, ModelError, OutputError
from bethink.core.files import cache_dir, explain_os_errors, read_object, sha256_file, write_json
from bethink.models.weights import make_readable, scratch_beside

MANIFEST = "manifest.json"
FORMAT = 1
"""Raised when the converter is mended: models that an older one converted are converted again."""


def is_complete(directory: Path) -> bool:
    """Whether a model stands in `directory` that was converted wholly, and as it would be now."""
    try:
        return read_object(directory / MANIFEST).get("format") == FORMAT
    except (DataError, OSError):
        return False


def converted(gguf: Path) -> Path:
    """The converted form of a GGUF file, from the cache or made now; keyed by the file's SHA-256.

    Raises ModelError when the file cannot be converted, OutputError when the cache cannot be written.
    """
    digest = sha256_file(gguf)
    directory = cache_dir() / "models" / f"gguf-{digest[:16]}"
    if is_complete(directory):
        return directory
    note(f"{gguf.name}: converting to safetensors, once, into {directory}")
    return build_directory(gguf, directory, source={"file": str(gguf.resolve()), "sha256": digest})


def build_directory(gguf: Path, directory: Path, *, source: Mapping[str, str]) -> Path:
    """Convert `gguf` into `directory`; `source` is written to its manifest. Returns `directory`.

    Raises ModelError when the file cannot be converted or the disk has too little room, OutputError when it cannot be written.
    """
    from bethink.models.gguf_file import convert, read_gguf

    opened = read_gguf(gguf)
    with cache_scratch(directory) as scratch:
        _check_space(opened.unpacked_bytes, scratch)
        built = scratch / "model"
        built.mkdir()
        convert(opened, built)
        make_readable(*built.iterdir())
        write_json(built / MANIFEST, {"format": FORMAT, **source})
        _move_into_place(built, directory)
    return directory


@contextmanager
def cache_scratch(directory: Path) -> Iterator[Path]:
    """A temporary directory beside `directory`, which is in the cache. Raises OutputError that tells how to move the cache."""
    try:
        with explain_os_errors(directory), scratch_beside(directory) as scratch:
            yield scratch
    except OutputError as error:
        fix = "free some space there, or set BETHINK_CACHE to another directory"
        raise OutputError(error.what, where=error.where, fix=fix) from error


def _check_space(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"converting needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
            where=str(folder),
            fix="free some space, or set BETHINK_CACHE to a directory on another disk",
        )


def _move_into_place(built: Path, directory: Path) -> None:
    if directory.exists() and not is_complete(directory):
        shutil.rmtree(directory)
    try:
        os.rename(built, directory)
    except OSError:
        if not is_complete(directory):  # not because another process was first
            raise
