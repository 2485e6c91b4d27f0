"""Sources have the shares they are given, to the row, and what is left out for them is accounted for."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.core.errors import BethinkError, ConfigError, DataError, OutputError
from bethink.core.files import read_jsonl
from bethink.curate.config import CurateConfig
from bethink.curate.curriculum import Curriculum
from bethink.curate.mix import Source, by_input, read_sources, shares
from bethink.curate.pipeline import curate
from bethink.curate.report import Report
from bethink.curate.spill import KEPT
from curate.rows import row
from curate.test_curate_cli import invoke
from curate.test_curate_curriculum import keys_of

_pairs = st.tuples(st.integers(0, 60), st.integers(0, 60))
_settings = settings(deadline=None, max_examples=150)


@st.composite
def _sources(draw: st.DrawFn, fills: bool = False) -> tuple[list[tuple[int, int]], list[Source]]:
    """Rows found by source and mode, and the sources; the first has a fixed share, the last may have none at all."""
    found = draw(st.lists(_pairs, min_size=1, max_size=4))
    sources = [
        Source(str(index), Fraction(draw(st.integers(1, 5))), fills and index > 0 and draw(st.booleans()))
        for index in range(len(found))
    ]
    if len(found) > 1 and draw(st.booleans()):
        sources[-1] = Source("", Fraction(0))
    return found, sources


@_settings
@given(case=_sources(fills=True), most=st.none() | st.integers(1, 100))
def test_the_scarcest_source_is_taken_whole_and_the_others_have_their_parts(
    case: tuple[list[tuple[int, int]], list[Source]], most: int | None
) -> None:
    found, sources = case
    result = shares(found, sources, None, most)
    rows = [sum(share.balanced for share in pair) for pair in result]
    taken = [sum(share.taken for share in pair) for pair in result]
    fixed = [index for index, source in enumerate(sources) if source.parts and not source.fills]
    scale = min(sum(found[index]) / sources[index].parts for index in fixed)
    assert any(rows[index] == sum(found[index]) for index in fixed)
    for index, (pair, source) in enumerate(zip(result, sources, strict=True)):
        assert all(0 <= share.taken <= share.balanced == share.mixed <= share.found for share in pair)
        if not source.parts:
            assert rows[index] == 0
        else:
            assert rows[index] == min(sum(found[index]), int(source.parts * scale))
        if rows[index]:
            on, have = pair[0].balanced, Fraction(found[index][0], sum(found[index]))
            assert abs(on - have * rows[index]) <= 1
    assert sum(taken) == (sum(rows) if most is None else min(most, sum(rows)))
    if any(taken[index] < rows[index] for index in fixed):
        assert all(taken[index] == 0 for index in range(len(rows)) if sources[index].fills)


def _possible(
    found: list[tuple[int, int]], parts: list[Fraction], on_share: Fraction, scale: Fraction
) -> bool:
    """Whether fractions of rows can be chosen: the most and the least thinking-on rows there can be have the share between them."""
    rows = [part * scale for part in parts]
    if any(count > sum(pair) for count, pair in zip(rows, found, strict=True)):
        return False
    least = sum(max(Fraction(0), count - pair[1]) for count, pair in zip(rows, found, strict=True))
    most = sum(min(Fraction(pair[0]), count) for count, pair in zip(rows, found, strict=True))
    return least <= on_share * sum(rows) <= most


@_settings
@given(case=_sources(), ratio=st.fractions(Fraction(1, 6), 6, max_denominator=6), most=st.integers(1, 200))
def test_sources_and_modes_have_their_shares_at_once_and_as_many_rows_as_can_be(
    case: tuple[list[tuple[int, int]], list[Source]], ratio: Fraction, most: int
) -> None:
    found, sources = case
    result = shares(found, sources, ratio, most)
    assert all(s.taken <= s.balanced <= s.mixed <= s.found for pair in result for s in pair)
    named = [index for index, source in enumerate(sources) if source.parts]
    parts, on_share = [sources[index].parts for index in named], ratio / (1 + ratio)
    rows = [sum(share.balanced for share in result[index]) for index in named]
    assert abs(sum(result[index][0].balanced for index in named) - on_share * sum(rows)) <= len(rows)
    low, high = Fraction(0), Fraction(200)
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if _possible([found[index] for index in named], parts, on_share, middle)
            else (low, middle)
        )
    for count, part in zip(rows, parts, strict=True):
        assert abs(count - part * low) <= 1.01
    assert sum(s.taken for pair in result for s in pair) == min(most, sum(rows))


def test_rows_are_left_out_evenly_along_their_source_and_nothing_stands_twice(tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng()
    keys = keys_of(rng, 3000)
    keys["source"] = rng.random(3000) < 0.8
    keys["verdict"] = KEPT
    sources = read_sources({"1": "1", "2": "2"})
    with Curriculum(tmp_path) as curriculum:
        for index in range(3):
            curriculum.add(index, keys[index * 1000 : (index + 1) * 1000])
        curriculum.arrange(dedup=False, sources=sources, on_per_off=None, max_samples=None)
        verdict, place = (np.concatenate(part) for part in zip(*curriculum.verdicts(), strict=True))
    kept = verdict == KEPT
    scarce = int((keys["source"] == 0).sum())
    assert Counter(keys["source"][kept].tolist()) == {0: scarce, 1: 2 * scarce}
    assert sorted(place[kept]) == list(range(3 * scarce))
    for mode in (0, 1):
        here = kept & (keys["mode"] == mode)
        in_order = keys["difficulty"][here][np.argsort(place[here])]
        assert (np.diff(in_order) >= 0).all()
    larger = keys["source"] == 1
    assert abs(np.median(keys["difficulty"][larger & kept]) - np.median(keys["difficulty"][larger])) <= 1


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, ...]:
    """Own rows (20, thinking on, of category domain), general ones (90: a third on, of category chat), a few more (10, off)."""

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
        return path

    general = [row(100 + number, "on" if number % 3 == 0 else "off") for number in range(90)]
    return (
        write("own.jsonl", [{**row(number, "on"), "category": "Domain"} for number in range(20)]),
        write("general.jsonl", [{**one, "category": "chat"} for one in general]),
        write("more.jsonl", [row(900 + number, "off") for number in range(10)]),
    )


def config(
    files: tuple[Path, ...], output: Path, tokenizer: Path, mix: Any = None, **options: Any
) -> CurateConfig:
    defaults: dict[str, Any] = {"boxed": "any", "workers": 1, "mix": mix}
    return CurateConfig(input=files, output=output, tokenizer=str(tokenizer), **{**defaults, **options})


def kept(output: Path) -> Counter[tuple[str, str]]:
    rows = read_jsonl(output / "train-00000.jsonl")
    return Counter((one["source"].partition(".")[0], one["mode"]) for one in rows)


def account(report: Report) -> dict[str, tuple[int, ...]]:
    """Good rows, rows kept, and those left out for the mix, the ratio and the number asked for, by source."""
    keys = ("good", "kept", "mix", "on_off_ratio", "max_samples")
    assert report.rows.dropped["mix"] == sum(one["mix"] for one in report.sources)
    assert report.rows.kept == sum(one["kept"] for one in report.sources)
    return {one["source"]: tuple(one[key] for key in keys) for one in report.sources}


def test_inputs_are_mixed_by_number(
    files: tuple[Path, ...], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    report = curate(config(files, output, tiny_tokenizer_dir, {"1": 1, "2": 3, "3": 0.5}))
    assert account(report) == {"1": (20, 20, 0, 0, 0), "2": (90, 60, 30, 0, 0), "3": (10, 10, 0, 0, 0)}
    assert kept(output) == {("own", "on"): 20, ("general", "on"): 20, ("general", "off"): 40, ("more", "off"): 10}  # fmt: skip
    rejects = Counter((one["file"], one["reason"]) for one in read_jsonl(output / "rejects.jsonl"))
    assert rejects == {("general.jsonl", "mix"): 30}
    rest = curate(config(files, tmp_path / "rest", tiny_tokenizer_dir, "1=1,any=3", max_samples=40))
    assert account(rest) == {"1": (20, 10, 0, 0, 10), "any": (100, 30, 40, 0, 30)}


def test_categories_are_mixed_by_name_and_rows_of_none_are_left_out(
    files: tuple[Path, ...], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    report = curate(config(files, tmp_path / "out", tiny_tokenizer_dir, {"domain": 2, "chat": 1}))
    assert account(report) == {"domain": (20, 20, 0, 0, 0), "chat": (90, 10, 80, 0, 0), "": (10, 0, 10, 0, 0)}
    report = curate(config(files, tmp_path / "any", tiny_tokenizer_dir, {"any": 1, "domain": 1}))
    assert account(report) == {"any": (100, 20, 80, 0, 0), "domain": (20, 20, 0, 0, 0)}


@pytest.mark.parametrize(
    ("most", "own", "general"),
    [(None, 20, 60), (50, 20, 30), (15, 15, 0)],
    ids=["a cap", "gives way first", "gives way wholly"],
)
def test_what_fills_up_costs_the_others_no_row(
    files: tuple[Path, ...],
    tiny_tokenizer_dir: Path,
    tmp_path: Path,
    most: int | None,
    own: int,
    general: int,
) -> None:
    mix = {"1": 1, "any": "up to 3"}
    report = curate(config(files, tmp_path / "out", tiny_tokenizer_dir, mix, max_samples=most))
    assert [one["kept"] for one in report.sources] == [own, general]
    few = (files[1], files[2], files[0])
    report = curate(config(few, tmp_path / "few", tiny_tokenizer_dir, {"1": 1, "any": "up to 3"}))
    assert report.rows.kept == 120, "too few to fill up with are all taken"


def test_the_ratio_and_the_mix_hold_together(
    files: tuple[Path, ...], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    report = curate(config(files, output, tiny_tokenizer_dir, {"1": 3, "any": 3}, on_off_ratio="1:1"))
    assert kept(output).keys() == {("own", "on"), ("general", "off"), ("more", "off")}
    assert report.modes == {"on": 20, "off": 20}
    assert account(report) == {"1": (20, 20, 0, 0, 0), "any": (100, 20, 80, 0, 0)}
    report = curate(config(files, tmp_path / "on", tiny_tokenizer_dir, {"1": 1, "2": 9, "3": 1}, on_off_ratio="2:1"))  # fmt: skip
    # Input 2 has 9 parts in 11 and 30 rows that think, input 3 has none that do: the ratio is what is scarce.
    assert report.modes == {"on": 34, "off": 16}
    assert [one["kept"] for one in report.sources] == [4, 42, 4]
    assert report.rows.dropped["mix"] == 10, "what the mix alone would leave out: half of input 1"
    assert report.rows.dropped["on_off_ratio"] == 60


def test_nothing_but_rows_options_and_seed_decides_what_is_mixed(
    files: tuple[Path, ...], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    mix = {"1": 1, "any": 2}
    written = {}
    for name, seed, more in (
        ("a", 1, {"workers": 2, "block_bytes": 4000}),
        ("b", 1, {}),
        ("c", 2, {}),
    ):
        options = config(files, tmp_path / name, tiny_tokenizer_dir, mix, order="random", seed=seed, **more)
        report = curate(options)
        assert [one["kept"] for one in report.sources] == [20, 40]
        written[name] = (options.output / "train-00000.jsonl").read_bytes()
    assert written["a"] == written["b"] != written["c"]
    with pytest.raises(OutputError, match="mix"):
        curate(config(files, tmp_path / "a", tiny_tokenizer_dir, {"1": 1, "any": 3}, order="random", seed=1, resume=True))  # fmt: skip


def test_a_source_without_a_good_row_and_shares_that_cannot_be_are_one_error(
    files: tuple[Path, ...], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="`science` has a share in the mix and not one good row"):
        curate(config(files, tmp_path / "none", tiny_tokenizer_dir, {"science": 1, "any": 1}))
    with pytest.raises(DataError, match="--limit takes the first rows"):
        curate(config(files, tmp_path / "few", tiny_tokenizer_dir, {"1": 1, "any": 1}, limit=10))
    own_and_more = (files[0], files[2])  # all of one mode, all of the other
    with pytest.raises(DataError, match="both the shares of --mix and the ratio"):
        curate(config((files[0],), tmp_path / "one", tiny_tokenizer_dir, {"1": 1}, on_off_ratio="1:1"))
    report = curate(config(own_and_more, tmp_path / "two", tiny_tokenizer_dir, {"1": 1, "2": 3}, on_off_ratio="1:3"))  # fmt: skip
    assert report.modes == {"on": 3, "off": 10}


@pytest.mark.parametrize(
    ("mix", "more", "said"),
    [
        ({"1": 0, "2": 1}, {}, "1=0 is no share"),
        ("1,2=1", {}, "1= is no share"),
        ("1=1,2=1,1=3", {}, "a source stands twice"),
        ({"1": 1, "2": "at most 3"}, {}, "2=at most 3 is no share"),
        ({"1": "up to 1", "2": "up to 3"}, {}, "nothing says how many rows"),
        ({"1": 1, "3": 1}, {}, "there are 2 inputs"),
        ({"1": 1}, {}, "input 2 no share"),
        ({"1": 1, "2": 1, "any": 1}, {}, "every input is named"),
        ({"math": 1, "Math": 2}, {}, "twice"),
        ({"1": 1, "2": "up to 3"}, {"on_off_ratio": "1:1"}, "fixed shares"),
        ({}, {}, "nothing says how many rows"),
    ],
)
def test_a_mix_that_means_nothing_is_refused(mix: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CurateConfig(input=(Path("a"), Path("b")), output=Path("c"), tokenizer="d", mix=mix, **more)


def test_numbers_name_inputs_and_words_categories() -> None:
    assert by_input(read_sources({"1": "1", "any": "2"}))
    assert not by_input(read_sources({"1": "1", "chat": "2"}))


def test_the_command_mixes_and_says_by_source_what_was_kept(
    files: tuple[Path, ...], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    words = ("--input", str(files[1]), "--boxed", "any", "--mix")
    result = invoke(files[0], tmp_path / "out", tiny_tokenizer_dir, *words, "1=1, 2=up to 2")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "mix: 1 (share 1): 20 of 20 good rows kept" in said
    assert "mix: 2 (share up to 2): 40 of 90 good rows kept" in said
    refused = invoke(files[0], tmp_path / "no", tiny_tokenizer_dir, *words, "1=1,2=much")
    assert isinstance(refused.exception, ConfigError | BethinkError)
    assert "--mix" in str(refused.exception)
