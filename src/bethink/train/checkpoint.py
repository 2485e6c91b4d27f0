"""Checkpoints that are whole or absent: a directory a step, renamed into place when everything in it is on disk.

Tensors are safetensors, the rest is JSON; nothing is pickled. Generator states are not kept, because every step seeds its own
randomness from (seed, step).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bethink.core.files import explain_os_errors, read_json, write_json

_OPTIMIZER, _METHOD = "state.safetensors", "method.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """step: steps done; tensors: the optimizer's state_dict; state, of_method: the method's own state, as JSON and as tensors."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    state: dict[str, Any]
    of_method: Mapping[str, torch.Tensor] = field(default_factory=dict)


def save(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `directory/step-NNNNNNNN` and remove all but the last `keep`. Raises OutputError (disk full, not writable)."""
    final = directory / f"step-{checkpoint.step:08d}"
    with replaced_directory(final) as part:
        _save(checkpoint.tensors, part / _OPTIMIZER)
        if checkpoint.of_method:
            _save(checkpoint.of_method, part / _METHOD)
        write_json(part / "state.json", {"step": checkpoint.step, "method": checkpoint.state})
    for old in [*existing(directory)[:-keep], *directory.glob(".*.part")]:  # a part is what a killed run left
        shutil.rmtree(old)
    return final


def existing(directory: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted(directory.glob("step-*"))


def steps_done(directory: Path) -> int:
    """The step of the last whole checkpoint; 0 when there is none."""
    found = existing(directory)
    return int(found[-1].name.rpartition("-")[2]) if found else 0


def latest(directory: Path) -> Checkpoint | None:
    """The last whole checkpoint, or None."""
    if not (found := existing(directory)):
        return None
    state, of_method = read_json(found[-1] / "state.json"), found[-1] / _METHOD
    return Checkpoint(
        state["step"],
        load_file(found[-1] / _OPTIMIZER),
        state["method"],
        load_file(of_method) if of_method.exists() else {},
    )


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)


class replaced_directory:  # noqa: N801 - used like a function
    """A temporary directory that takes the place of `final`, flushed to disk, when the block ends well; else it is removed."""

    def __init__(self, final: Path) -> None:
        self.final, self.part = final, final.with_name(f".{final.name}.part")

    def __enter__(self) -> Path:
        shutil.rmtree(self.part, ignore_errors=True)
        with explain_os_errors(self.final):
            self.part.mkdir(parents=True)
        return self.part

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            shutil.rmtree(self.part, ignore_errors=True)
            if isinstance(error, SafetensorError) and (found := re.search(r"os error (\d+)", str(error))):
                with explain_os_errors(self.final):  # safetensors hides the system's reason in its message
                    raise OSError(int(found[1]), os.strerror(int(found[1])), str(self.final)) from error
            return
        with explain_os_errors(self.final):
            for path in self.part.rglob("*"):
                _flush(path)
            _flush(self.part)
            shutil.rmtree(self.final, ignore_errors=True)
            os.replace(self.part, self.final)
            _flush(self.final.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
