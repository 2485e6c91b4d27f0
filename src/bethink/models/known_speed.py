"""Measured speeds, kept in the cache: a device is measured when its speed is first asked for, and from then on it is known.

A measurement names the device, the processor and cores beside it, the threads, the number format and torch's version; another of these is
another measurement. What disturbs one only ever makes it slower, so of several the best figures are kept, and one that had to share the
cores with other programs is made again the next time. It is a short one, to delay no run by more than a second; `bethink doctor --bench`
takes its time. Imports torch only for what is not known yet.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bethink.core.errors import DataError, OutputError
from bethink.core.files import cache_dir, read_object, write_json
from bethink.models.machine import cores, cpu_has_fast_bf16
from bethink.models.speed import Speed, measure

if TYPE_CHECKING:
    import torch

_SHORT, _LONG = 0.03, 0.4
"""Seconds for each number of rows."""
_UNDISTURBED = 0.75
"""Of the time of all threads, what a measurement gets of an idle CPU at least; some of it runs in one thread."""


@dataclass(frozen=True, slots=True)
class _Key:
    """What a measurement holds for. name: the GPU's or again the processor's."""

    device: str
    name: str
    processor: str
    cores: int
    threads: int
    dtype: str
    torch: str

    @property
    def path(self) -> Path:
        words = f"{self.name} {self.cores} cores {self.threads} threads {self.dtype} torch {self.torch}"
        if self.name != self.processor:
            words += f" {self.processor}"
        return _directory() / f"{re.sub(r'[^A-Za-z0-9.]+', '-', words)}.json"


@dataclass(frozen=True, slots=True)
class _Kept:
    """of: what it holds for; steady: the device was this measurement's alone, as far as can be told."""

    of: dict[str, Any]
    steady: bool
    speed: Speed


def speed_of(device: str, dtype: torch.dtype) -> Speed | None:
    """The device's speed in this number format; measured, in about half a second, where it is not known yet.

    None where it cannot be measured, for want of memory on a GPU.
    """
    key = _key(device, dtype)
    kept = _read(key.path)
    return kept.speed if kept and kept.steady else _measured(key, device, dtype, _SHORT)


def measure_again(device: str, dtype: torch.dtype, *, thoroughly: bool) -> Speed | None:
    """The best of another measurement, in half a second or thoroughly in some, and of what was known. None as in `speed_of`."""
    return _measured(_key(device, dtype), device, dtype, _LONG if thoroughly else _SHORT)


def recall(device: str | None, dtype: str | None) -> Speed | None:
    """What is known of this machine's device of that kind, or of its best one, in that number format or its best; None for nothing.

    For plans: without torch nothing can be measured, and the number of threads is not known; the fastest measurement is taken.
    """
    device = None if device == "auto" else device
    kind = (device or ("cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu")).partition(":")[0]
    dtype = dtype or ("bfloat16" if kind != "cpu" or cpu_has_fast_bf16() else "float32")
    here = {"device": kind, "processor": processor(), "cores": cores(), "dtype": dtype, "torch": _torch()}
    kept = [_read(path) for path in sorted(_directory().glob("*.json"))]
    fitting = [one.speed for one in kept if one and here.items() <= one.of.items()]
    return max(fitting, key=lambda speed: max(speed.products.values()), default=None)


@cache
def processor() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _measured(key: _Key, device: str, dtype: torch.dtype, seconds: float) -> Speed | None:
    import torch

    first = key.device == "cuda" and not torch.cuda.memory_allocated(device)
    wall, busy = time.perf_counter(), time.process_time()
    try:
        speed = measure(device, dtype, seconds=seconds)
    except torch.OutOfMemoryError:
        return None
    finally:
        if first:  # what the run takes at most is not what measuring took
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
    share = (time.process_time() - busy) / (time.perf_counter() - wall) / key.threads
    steady = key.device != "cpu" or share > _UNDISTURBED
    if (before := _read(key.path)) is not None:
        speed, steady = _best_of(speed, before.speed), steady or before.steady
    with suppress(OutputError):  # a cache that cannot be written costs half a second each time, and no run
        write_json(key.path, asdict(_Kept(asdict(key), steady, speed)))
    return speed


def _best_of(one: Speed, other: Speed) -> Speed:
    rows = sorted({*one.products, *other.products})
    products = {n: max(one.products.get(n, 0.0), other.products.get(n, 0.0)) for n in rows}
    return Speed(one.device, one.dtype, one.threads, products, max(one.bandwidth, other.bandwidth))


def _read(path: Path) -> _Kept | None:
    """A kept measurement; None where there is none, or none that can be read."""
    try:
        found = read_object(path)
        fields = found["speed"]
        products = {int(rows): float(rate) for rows, rate in fields.pop("products").items()}
        kept = _Kept(dict(found["of"]), found["steady"] is True, Speed(**fields, products=products))
        sound = min(*products.values(), kept.speed.bandwidth) > 0
    except (OSError, DataError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return kept if sound else None


def _key(device: str, dtype: torch.dtype) -> _Key:
    import torch

    kind = device.partition(":")[0]
    name = torch.cuda.get_device_name(device) if kind == "cuda" else processor()
    return _Key(
        device=kind,
        name=name,
        processor=processor(),
        cores=cores(),
        threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
        torch=_torch(),
    )


def _torch() -> str:
    return importlib.metadata.version("torch")


def _directory() -> Path:
    return cache_dir() / "speed"
