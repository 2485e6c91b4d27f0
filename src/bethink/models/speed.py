"""How fast a device multiplies matrices and reads memory, measured, and what that allows a model at the best.

A product is measured over several weights in turn, as a model's layers come in turn, so that none stays in the cache of a core. The
floors are `cost`'s counts at these speeds: no program on this device can be faster, whatever it leaves out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bethink.models.cost import Cost, Shape, decode_step, prefill, sft_step

ROWS = (1, 16, 64, 256, 1024)
_WEIGHTS, _BYTES = 12, 1 << 28
_IN, _OUT = 576, 1536


@dataclass(frozen=True, slots=True)
class Speed:
    """products: floating-point operations a second by rows of the left factor; bandwidth: bytes read a second."""

    device: str
    dtype: str
    threads: int
    products: dict[int, float]
    bandwidth: float

    def floor(self, cost: Cost, rows: int) -> float:
        """Least seconds for a cost whose products have so many rows: at the best rate of any measured number up to that."""
        usable = [
            rate for measured, rate in self.products.items() if measured <= max(rows, min(self.products))
        ]
        return cost.seconds(max(usable), self.bandwidth)


def measure(device: str, dtype: torch.dtype, *, seconds: float = 0.4) -> Speed:
    """Measure for about `seconds` each number of rows, and the bandwidth. Nothing else should be running."""
    weights = [torch.randn(_OUT, _IN, device=device).to(dtype) for _ in range(_WEIGHTS)]
    products = {}
    for rows in ROWS:
        x = torch.randn(rows, _IN, device=device).to(dtype)

        def multiply(x: torch.Tensor = x) -> None:
            for weight in weights:
                F.linear(x, weight)

        products[rows] = 2 * rows * _IN * _OUT * _WEIGHTS / _best(multiply, device, seconds)
    memory = torch.ones(_BYTES // 4, device=device).view(-1, 4096)
    bandwidth = _BYTES / _best(lambda: memory.amax(1), device, seconds)
    return Speed(device, str(dtype).removeprefix("torch."), torch.get_num_threads(), products, bandwidth)


def _best(work: Callable[[], object], device: str, seconds: float) -> float:
    """The shortest of several runs: what disturbs a run only ever makes it longer."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    with torch.inference_mode():
        while len(times) < 5 or time.perf_counter() < until:
            started = time.perf_counter()
            work()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    return min(times[1:])


def floors(shape: Shape, speed: Speed, *, rank: int = 32) -> dict[str, float]:
    """Most tokens a second of typical work: training on 128-token samples half of which is learned, prompts of 128, 256 tokens cached."""
    width = 4 if speed.dtype == "float32" else 2
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
