"""The curriculum is a fair interleaving of two sorted rows, whatever their numbers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.curate.curriculum import Curriculum, position, thin
from bethink.curate.mix import WHOLE, shares
from bethink.curate.report import _histogram
from bethink.curate.spill import KEPT, KEY_FIELDS, REASONS

_counts = st.integers(0, 80)
_settings = settings(deadline=None, max_examples=50)


@_settings
@given(on=_counts, off=_counts)
def test_places_are_the_order_of_how_far_each_mode_has_come(on: int, off: int) -> None:
    way = [
        (Fraction(2 * rank + 1, 2 * count), mode, rank)
        for mode, count in enumerate((on, off))
        for rank in range(count)
    ]
    expected = {(mode, rank): place for place, (_, mode, rank) in enumerate(sorted(way))}
    for mode, count in enumerate((on, off)):
        if count:
            places = position(np.arange(count), mode, on, off)
            assert places.tolist() == [expected[mode, rank] for rank in range(count)]


@_settings
@given(count=_counts, share=st.floats(0, 1))
def test_thinning_keeps_the_number_asked_for_spread_evenly(count: int, share: float) -> None:
    keep = round(count * share)
    kept, new = thin(np.arange(count), count, keep)
    assert new[kept].tolist() == list(range(keep))
    gaps = np.diff(np.flatnonzero(kept))
    assert gaps.max(initial=1) - gaps.min(initial=count) <= 1


@_settings
@given(
    on=_counts,
    off=_counts,
    ratio=st.none() | st.fractions(Fraction(1, 9), 9),
    most=st.none() | st.integers(1, 100),
)
def test_shares_keep_the_ratio_and_the_maximum(
    on: int, off: int, ratio: Fraction | None, most: int | None
) -> None:
    (by_mode,) = shares([(on, off)], WHOLE, ratio, most)
    for share, found in zip(by_mode, (on, off), strict=True):
        assert 0 <= share.taken <= share.balanced <= share.found == found
    balanced_on, balanced_off = (share.balanced for share in by_mode)
    taken = sum(share.taken for share in by_mode)
    assert (
        taken == balanced_on + balanced_off
        if most is None
        else taken == min(most, balanced_on + balanced_off)
    )
    if ratio is not None:
        assert abs(balanced_on - ratio * balanced_off) <= max(1, ratio)
        assert balanced_on == on or balanced_off == off or on < 2 * ratio or off < 2 / ratio


def keys_of(rng: np.random.Generator, count: int, *, repeats: int = 0, on: float = 0.5) -> np.ndarray:
    keys = np.zeros(count, dtype=np.dtype(KEY_FIELDS))
    keys["row"] = np.arange(count) * 2
    keys["mode"] = rng.random(count) > on
    keys["difficulty"] = rng.integers(0, 50, count)
    keys["verdict"] = np.where(rng.random(count) < 0.1, REASONS.index("max_tokens"), KEPT)
    keys["hash_high"] = rng.integers(0, 1 << 60, count)
    keys["hash_low"] = keys["hash_high"] + 1
    keys["size"] = 10
    if repeats:
        keys["hash_high"][-repeats:] = keys["hash_high"][:repeats]
        keys["hash_low"][-repeats:] = keys["hash_low"][:repeats]
    return keys


@pytest.mark.parametrize(
    ("on", "ratio", "most"), [(0.5, None, None), (0.9, None, 700), (0.2, Fraction(1, 1), None)]
)
def test_verdicts_and_places_agree_with_a_plain_sort(
    tmp_path: Path, on: float, ratio: Fraction | None, most: int | None
) -> None:
    rng = np.random.default_rng(0)
    blocks = [keys_of(rng, int(count), on=on) for count in rng.integers(0, 300, 12)]
    blocks.append(blocks[3].copy())  # all of it repeated, the rows too long included
    with Curriculum(tmp_path) as curriculum:
        for index, keys in enumerate(blocks):
            curriculum.add(index, keys)
        curriculum.arrange(dedup=True, on_per_off=ratio, max_samples=most)
        found = [np.concatenate(part) for part in zip(*curriculum.verdicts(), strict=True)]
        taken, cuts = curriculum.taken(), curriculum.cuts(1000)

    keys = np.concatenate(blocks)
    repeated = np.arange(len(keys)) >= len(keys) - len(blocks[3])
    good = ~repeated & (keys["verdict"] == KEPT)
    assert (found[0][repeated] == REASONS.index("duplicate")).all()
    assert (found[0][~repeated & ~good] == REASONS.index("max_tokens")).all()
    counts = int((good & (keys["mode"] == 0)).sum()), int((good & (keys["mode"] == 1)).sum())
    (by_mode,) = shares([counts], WHOLE, ratio, most)
    for mode, share in enumerate(by_mode):
        order = [
            i for i in np.argsort(keys["difficulty"], kind="stable") if good[i] and keys["mode"][i] == mode
        ]
        places = [int(found[1][i]) for i in order if found[0][i] == KEPT]
        assert places == sorted(places)
        assert len(places) == share.taken
    kept = found[0] == KEPT
    assert sorted(found[1][kept].tolist()) == list(range(taken))
    assert cuts[0] == 0
    assert cuts == sorted(set(cuts))


def test_percentiles_need_no_sort_of_all_rows_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bethink.curate.curriculum.MEMORY_LIMIT", "24MB")
    rng = np.random.default_rng()
    tokens = [rng.integers(1, 16_000, 60_000) for _ in range(8)]
    with Curriculum(tmp_path) as curriculum:
        for index, lengths in enumerate(tokens):
            keys = keys_of(rng, len(lengths), on=1.0)
            keys["verdict"], keys["tokens"] = KEPT, lengths
            curriculum.add(index, keys)
        curriculum.arrange(dedup=False, on_per_off=None, max_samples=None)
        found = _histogram(curriculum, "tokens")
    values = np.sort(np.concatenate(tokens))
    for name, share in (("p5", 0.05), ("p50", 0.5), ("p95", 0.95), ("max", 1.0)):
        assert found["on"][name] == values[int(np.ceil(share * len(values))) - 1]
    assert found["on"]["mean"] == round(values.mean(), 2)
    assert found["off"] == {
        "count": 0, "mean": None, "p5": None, "p50": None, "p95": None, "max": None, "bins": [],
    }  # fmt: skip


def test_any_window_has_the_share_of_the_whole() -> None:
    for on, off in ((5000, 5000), (9000, 1000), (300, 7000)):
        modes = np.empty(on + off)
        for mode, count in enumerate((on, off)):
            modes[position(np.arange(count), mode, on, off)] = mode == 0
        windows = np.convolve(modes, np.ones(1000) / 1000, mode="valid")
        assert np.abs(windows - on / (on + off)).max() < 0.005


def test_without_dedup_nothing_is_a_repeat(tmp_path: Path) -> None:
    keys = keys_of(np.random.default_rng(0), 60, repeats=20)
    with Curriculum(tmp_path) as curriculum:
        curriculum.add(0, keys)
        curriculum.arrange(dedup=False, on_per_off=None, max_samples=None)
        assert curriculum.counts()["duplicate"] == 0
