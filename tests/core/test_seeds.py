"""Seeds do not collide and do not depend on the machine."""

import random

from bethink.core.seeds import derive_seed


def test_neighbouring_seeds_share_nothing():
    base = random.SystemRandom().randrange(2**31)
    windows = [set(range(s, s + 10_000)) for s in (derive_seed(base + i, "train") for i in range(50))]
    assert len(set.union(*windows)) == 50 * 10_000


def test_parts_their_kinds_and_their_order_all_count():
    assert (
        len(
            {
                derive_seed(1, "a"),
                derive_seed("1", "a"),
                derive_seed("a", 1),
                derive_seed("1a"),
                derive_seed(1, "", "a"),
            }
        )
        == 5
    )
    assert derive_seed(1, "a") == 9068971922568923937, "seeds in manifests must mean the same for ever"
    assert 0 <= derive_seed("x") < 2**63
