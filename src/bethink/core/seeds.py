"""Seeds that do not collide.

Adding small numbers to a seed makes streams overlap (seed 110 is seed 100 shifted by ten wherever item i uses seed + i), so every
seed used anywhere is a hash of what it is for.
"""

from __future__ import annotations

import hashlib


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) that depends on every part and on their order, the same on every machine and Python."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
