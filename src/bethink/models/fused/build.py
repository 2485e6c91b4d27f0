"""Compiles the C++ files beside it for this machine, once, and loads them.

A compiler on the machine (c++, g++ or clang++) takes about ten seconds for them, with the processor's own instructions; the result is kept in
the cache directory under a name made of the sources, the compiler and the processor. It runs in torch's own pool of threads: a second
pool would fight with the first over the cores. Where anything is missing there is no library, and callers use torch's operations.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache, partial
from importlib.resources import files
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch

from bethink.core.files import cache_dir

OFF = "BETHINK_FUSED"
"""Set to 0, this environment variable keeps torch's own operations in use."""
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fPIC")
_PATIENCE = 120.0
"""Seconds a compiler may take."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled operations, or None where they cannot be had; `why_not` then says why."""
    return _found()[0]


def why_not() -> str | None:
    """What kept the operations from being compiled, or None."""
    return _found()[1]


@cache
def _found() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get(OFF) == "0":
        return None, f"switched off by {OFF}=0"
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return None, "no C++ compiler (c++, g++ or clang++) is installed"
    sources = {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted(files(__package__).iterdir(), key=lambda file: file.name)
        if file.name.endswith((".cpp", ".h"))
    }
    try:
        path = _compiled(compiler, sources)
        _share_threads()
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW), None
    except subprocess.CalledProcessError as error:
        return None, f"{compiler} failed: {_first_error(error.stderr)}"
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{compiler}: {error}"


def _compiled(compiler: str, sources: Mapping[str, str]) -> Path:
    """The library's path; compiled unless it is there. Raises CalledProcessError, OSError."""
    version = _run(compiler, "--version")
    told = "\n".join((*sources.values(), version, *_FLAGS, _processor()))
    folder = cache_dir() / "fused"
    path = folder / f"cpu-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            written = [Path(work) / name for name in sources]
            for file, text in zip(written, sources.values(), strict=True):
                file.write_text(text, encoding="utf-8")
            units = [file for file in written if file.suffix == ".cpp"]
            with ThreadPool() as pool:
                objects = pool.map(partial(_object, compiler), units)
            # Linked apart: this command must not name an OpenMP library, since torch's is to be used.
            linked = Path(work) / path.name
            _run(compiler, "-shared", *map(str, objects), "-o", str(linked))
            os.replace(linked, path)
    return path


def _object(compiler: str, unit: Path) -> Path:
    made = unit.with_suffix(".o")
    _run(compiler, *_FLAGS, "-c", str(unit), "-o", str(made))
    return made


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout


def _share_threads() -> None:
    """Make the OpenMP functions that torch runs on visible to our library. Raises OSError where torch has none."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        mapped = {line.split(None, 5)[-1] for line in maps.read_text().splitlines() if ".so" in line}
        found = sorted(path for path in mapped if "omp" in Path(path).name)
    else:
        found = sorted(str(path) for path in (Path(torch.__file__).parent / "lib").glob("lib*omp*"))
    if not found:
        raise OSError("torch runs without OpenMP")
    for path in found:
        ctypes.CDLL(path, mode=os.RTLD_GLOBAL | os.RTLD_NOW)


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(
        line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))
    )


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if "error" in line] or output.splitlines() or ["no message"]
    return lines[0].strip()[:200]
