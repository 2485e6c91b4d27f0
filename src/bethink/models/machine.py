"""What this machine offers a model: devices, memory, and the number format it computes fast in.

Reads what the system says of itself and measures nothing. torch is imported only where a question is about a GPU.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

from bethink.core.config import did_you_mean
from bethink.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

_SHORT_NAMES = {"auto": None, "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def _full_name(word: Any) -> Any:
    return _SHORT_NAMES.get(word, word) if isinstance(word, str) else word


DtypeName = Annotated[Literal["bfloat16", "float16", "float32"] | None, BeforeValidator(_full_name)]
"""A number format as options name it: torch's name or its short form (bf16, fp16, fp32); None or `auto` is what suits the device."""

_FAST_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


@cache
def cpu_flags() -> frozenset[str]:
    """The CPU's instruction-set flags as Linux names them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(found.partition(":")[2].split())


def cpu_has_fast_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware; without that, fp32 is faster."""
    return bool(_FAST_BF16_FLAGS & cpu_flags())


def cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int:
    """Bytes of memory this process could ever use: the machine's, or its container's limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _container_memory()
    return min(physical, limit[0]) if limit else physical


def free_memory() -> int:
    """Bytes that can be allocated now without swapping, within the container's limit if there is one."""
    limit = _container_memory()
    free = _meminfo_available()
    return min(free, limit[0] - limit[1]) if limit else free


def _meminfo_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    name = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf(name)


def _container_memory() -> tuple[int, int] | None:
    """(limit, in use and not reclaimable) of the control group in bytes; None where no limit is set."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = int((root / "memory.max").read_text())
        used = int((root / "memory.current").read_text())
        pairs = (line.split() for line in (root / "memory.stat").read_text().splitlines())
        cached = {name: int(value) for name, value in pairs}.get("inactive_file", 0)
    except (OSError, ValueError):  # no control group, or the limit reads "max"
        return None
    return limit, used - cached


def best_device() -> str:
    """ "cuda" when torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_device(name: str | None) -> str:
    """The device that `name` means: `cpu`, `cuda`, `cuda:N` or `mps`, as torch knows them; None or `auto` is the best there is.

    Raises ConfigError for a name that means none, and for a device that is not there.
    """
    if name in (None, "auto"):
        return best_device()
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        known = "use cpu, cuda, cuda:N (N counts from 0), mps or auto"
        raise ConfigError(
            f"there is no kind of device called `{name}`",
            where="--device",
            fix=did_you_mean(name, ("cpu", "cuda", "mps"), known),
        )
    if name != "cpu" and (reason := _why_not(name)):
        raise ConfigError(
            f"the device `{name}` cannot be used: {reason}",
            where="--device",
            fix="use --device cpu, or leave it out for the best there is; `bethink doctor` shows what there is",
        )
    return name


def _why_not(device: str) -> str | None:
    """Why torch cannot use this GPU; None when it can."""
    import torch

    if device == "mps":
        return None if torch.backends.mps.is_available() else "torch sees no Apple GPU"
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    count = torch.cuda.device_count()
    index = int(device.partition(":")[2] or 0)
    return None if index < count else f"torch sees {count} GPU(s), the last is cuda:{count - 1}"


def best_dtype(device: str) -> torch.dtype:
    """bf16 where the device multiplies it in hardware (CUDA from Ampere on; CPUs with AVX512-BF16 or AMX), else fp32."""
    import torch

    if device.startswith("cuda"):
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        fast = device == "cpu" and cpu_has_fast_bf16()
    return torch.bfloat16 if fast else torch.float32


def torch_dtype(name: str | None, device: str) -> torch.dtype:
    """The number format that `name` means (see `DtypeName`), or the device's best. Raises ConfigError for a name that means none."""
    import torch

    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    full = _full_name(name)
    if full is None:
        return best_dtype(device)
    if full not in known:
        raise ConfigError(
            f"unknown number format `{name}`", where="--dtype", fix=f"use {', '.join(known)} or auto"
        )
    return known[full]


@cache
def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for the next step of the same size: with glibc, else nothing.

    A step's tensors are freed and made again; given back to the system, every page of theirs costs a fault at its next use, together a
    twentieth of a training step. The most memory held at once stays the same.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most glibc takes


def give_back_freed_memory() -> None:
    """Let others have the memory that this process has freed and kept, on the CPU (with glibc) and on a GPU: before another model comes.

    Objects that hold each other are freed first.
    """
    import torch

    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of mallopt (malloc.h)."""
