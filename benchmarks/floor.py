"""What this device can do at the best: products of matrices by rows and number format, memory bandwidth, and a model's floors from them.

    python benchmarks/floor.py [--model smollm2-135m] [--device cpu]

Writes benchmarks/results/floor.json, which other scripts' shares of the floor can be compared with. `bethink doctor --bench` shows the same.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from transformers import AutoConfig

from bethink.models.cost import Shape
from bethink.models.locate import locate
from bethink.models.machine import resolve_device
from bethink.models.speed import floors, measure
from harness import machine, parser_for, write


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    device = resolve_device(options.device)
    shape = Shape.of(AutoConfig.from_pretrained(locate(options.model).directory))
    result = {"machine": machine("bethink", "torch"), "model": options.model, "formats": {}}
    for dtype in (torch.bfloat16, torch.float32):
        speed = measure(device, dtype, seconds=options.seconds)
        least = floors(shape, speed)
        result["formats"][speed.dtype] = asdict(speed) | {"tokens_per_second": least}
        print(
            f"\n{speed.dtype} on {device}, {speed.threads} threads; memory {speed.bandwidth / 1e9:.1f} GB/s"
        )
        for rows, rate in speed.products.items():
            print(f"  {rows:5} rows  {rate / 1e9:8.0f} GFLOP/s")
        for work, rate in least.items():
            print(f"  {work:24} at most {rate:8,.0f} tokens/s")
    write("floor", result)


if __name__ == "__main__":
    main()
