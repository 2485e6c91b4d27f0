"""How fast a device multiplies matrices and reads memory, measured, and what that allows a model at the best.

The floors are `cost`'s counts at these speeds: no program on this device can be faster, whatever it leaves out. So what is measured is the
best that the device is seen to do: square products of a size that suits it, with weights as its library wants them (prepacked.py), over
several weights in turn, as a model's layers come in turn, so that none stays in the cache of a core. What was measured once is kept
by known_speed.py. Imports torch only to measure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bethink.models.cost import Cost, Shape, decode_step, prefill, sft_step

if TYPE_CHECKING:
    import torch

ROWS = (1, 4, 16, 64, 256)
ROWS_ON_GPU = (*ROWS, 1024, 4096, 16384)
USUAL_SHARE = {"sft": 0.6, "eval": 0.5}
"""The share of the floor to expect of training and of sampling before a run has shown its own."""
WIDTHS = {"float32": 4}
"""Bytes of a number in the formats that are not of two."""
_WEIGHTS = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """products: floating-point operations a second by rows of the left factor; bandwidth: bytes read a second."""

    device: str
    dtype: str
    threads: int
    products: dict[int, float]
    bandwidth: float

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return WIDTHS.get(self.dtype, 2)

    def rate(self, rows: int) -> float:
        """Most operations a second in products of so many rows, measured or between those that were.

        More rows never have a lower rate, and never take less time.
        """
        best, bounds = 0.0, []
        for measured in sorted(self.products):
            best = max(best, self.products[measured])
            bounds.append(best * max(rows / measured, 1.0))
        return min(best, *bounds)

    def floor(self, cost: Cost, rows: int) -> float:
        """Least seconds for a cost whose products have so many rows."""
        return cost.seconds(self.rate(rows), self.bandwidth)


def measure(device: str, dtype: torch.dtype, *, seconds: float = 0.4) -> Speed:
    """Measure for about `seconds` each number of rows, and the bandwidth. Nothing else should be running.

    Raises torch.OutOfMemoryError where a GPU has less than two gigabytes free.
    """
    import torch
    from torch import nn

    from bethink.models.prepacked import prepack_

    on_cpu = device == "cpu"
    # A GPU's time of one small product is mostly that of starting it, so that several are timed together.
    width, size, runs = (2048, 1 << 28, 1) if on_cpu else (4096, 1 << 30, 8)
    counts = ROWS if on_cpu else ROWS_ON_GPU
    own: dict[str, Any] = {"device": device, "dtype": dtype}
    # A run's random numbers must not depend on whether it measured.
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        layers = nn.Sequential(*(nn.Linear(width, width, bias=False, **own) for _ in range(_WEIGHTS)))
        left = torch.randn(max(counts), width, **own)
    prepack_(layers)
    products = {}
    for rows in counts:
        taken = _best(partial(layers, left[:rows]), runs, device, seconds)
        products[rows] = 2 * rows * width**2 * _WEIGHTS / taken
        if 12 * runs * taken > 25 * seconds:  # three runs of four times as many rows would take too long
            break
    memory = torch.ones(size // 4, device=device).view(-1, 4096)
    bandwidth = size / _best(lambda: memory.amax(1), runs, device, seconds)
    return Speed(device, str(dtype).removeprefix("torch."), torch.get_num_threads(), products, bandwidth)


def _best(work: Callable[[], Any], runs: int, device: str, seconds: float) -> float:
    """The shortest of several times of `work`: what disturbs one only ever makes it longer. The first is not counted."""
    import torch

    times: list[float] = []
    until = time.perf_counter() + seconds
    with torch.inference_mode():
        while len(times) < 3 or time.perf_counter() < until:
            started = time.perf_counter()
            for _ in range(runs):
                work()
            if device != "cpu":
                getattr(torch, device.partition(":")[0]).synchronize()
            times.append((time.perf_counter() - started) / runs)
    return min(times[1:])


def floors(shape: Shape, speed: Speed, *, rank: int = 32) -> dict[str, float]:
    """Most tokens a second of typical work: training on 128-token samples half of which is learned, prompts of 128, 256 tokens cached."""
    width = speed.width
    samples = [128] * 8
    adapter = sft_step(shape, samples, 512, rank=rank, weight_bytes=width)
    whole = sft_step(shape, samples, 512, rank=None, trains_head=True, weight_bytes=width)
    result = {
        f"LoRA step, rank {rank}": 1024 / speed.floor(adapter, 1024),
        "full step": 1024 / speed.floor(whole, 1024),
        "prefill": 1024 / speed.floor(prefill(shape, samples, weight_bytes=width), 1024),
    }
    for rows in (1, 16, 64, 256):
        step = decode_step(shape, rows, 256, weight_bytes=width)
        result[f"decoding {rows} row{'s' if rows > 1 else ''}"] = rows / speed.floor(step, rows)
    return result


def of_the_floor(share: float | None) -> str:
    """A share in words, in brackets, to stand behind a rate; nothing where it is not known."""
    return "" if share is None else f" ({100 * share:.0f} % of the floor)"
