"""The rows of a set are the same, in the same order, whatever the format, the packing and the size of the blocks."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.core.errors import DataError, OutputError
from bethink.curate import read
from bethink.curate.read import find_inputs, plan_blocks, read_rows
from bethink.curate.schema import Drop
from curate.rows import row


def rows_of(paths: list[Path], block_bytes: int = 1 << 20, **options: Any) -> list[Any]:
    blocks = list(plan_blocks(find_inputs(paths), block_bytes, **options))
    assert [block.index for block in blocks] == list(range(len(blocks)))
    return [found for block in blocks for found in read_rows(block)]


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"").rstrip(b"\r")), max_size=20
    ),
    end=st.sampled_from([b"", b"\n"]),
    block_bytes=st.integers(1, 60),
    limit=st.none() | st.integers(1, 25),
)
def test_blocks_of_any_size_hold_each_line_once_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    end: bytes,
    block_bytes: int,
    limit: int | None,
) -> None:
    data = b"\n".join(lines) + end
    expected = (data.removesuffix(b"\n").split(b"\n") if data else [])[:limit]
    directory = tmp_path_factory.mktemp("lines")
    for name, packed in (
        ("a.jsonl", data),
        ("b.jsonl.gz", gzip.compress(data)),
        ("c.jsonl.zst", zstandard.compress(data)),
    ):
        path = write(directory / name, packed)
        found = rows_of([path], block_bytes, limit=limit)
        assert [line.rstrip(b"\r") for line in found] == [line.rstrip(b"\r") for line in expected]


def test_a_zstd_file_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    packed = zstandard.compress(b"1\n2\n") + zstandard.compress(b"3\n" * 100_000) + zstandard.compress(b"4")
    found = rows_of([write(tmp_path / "a.jsonl.zst", packed)])
    assert len(found) == 100_003
    assert found[-1] == b"4"


def test_a_file_cut_off_gives_its_rows_and_a_fault_and_the_next_one_is_read(tmp_path: Path) -> None:
    import random

    draw = random.Random(0)
    data = b"".join(str(draw.random()).encode() + b"\n" for _ in range(50_000))
    for name, pack in (("a.jsonl.gz", gzip.compress), ("b.jsonl.zst", zstandard.compress)):
        packed = pack(data)
        broken = write(tmp_path / name, packed[: len(packed) // 2])
        *good, fault, after = rows_of([broken, write(tmp_path / "next.jsonl", b"after\n")], 50_000)
        assert data.startswith(b"\n".join(good))
        assert len(good) > 1000
        assert isinstance(fault, Drop)
        assert fault.reason == "unreadable_file"
        assert after == b"after"


def test_what_is_not_parquet_is_a_fault(tmp_path: Path) -> None:
    (fault,) = rows_of([write(tmp_path / "a.parquet", b"not parquet at all")])
    assert fault.reason == "unreadable_file"


def test_parquet_rows_are_the_json_rows(tmp_path: Path) -> None:
    records = [row(number) for number in range(300)]
    for record in records:
        record["used_in_training"] = ["Nano"]
    plain = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(records), plain, row_group_size=70)
    packed = write(tmp_path / "b.parquet.zst", zstandard.compress(plain.read_bytes()))
    for path in (plain, packed):
        found = rows_of([path], 5_000, columns=["rating"])
        assert found == records
        assert rows_of([path], 5_000, limit=123) == [
            {k: v for k, v in r.items() if k != "rating"} for r in records[:123]
        ]


def test_text_in_parquet_that_is_no_utf8_is_that_rows_fault_alone(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 3, pa.array([b"one", b"\xff\xfe", b"three"]).buffers())
    pq.write_table(pa.table({"input": bad, "output": ["a", "b", "c"]}), tmp_path / "a.parquet")
    first, second, third = rows_of([tmp_path / "a.parquet"])
    assert first == {"input": "one", "output": "a"}
    assert second.reason == "bad_utf8"
    assert third == {"input": "three", "output": "c"}


def test_a_line_without_end_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "LONGEST_LINE", 1000)
    long = b"x" * 5000
    path = write(
        tmp_path / "a.jsonl", b"one\n" + long + b"\ntwo\n" + b"y" * 1000 + b"\n" + b"z" * 999 + b"\nlast"
    )
    for block_bytes in (1 << 20, 700, 64):
        one, fault, two, other, fits, last = rows_of([path], block_bytes)
        assert (one, two, fits, last) == (b"one", b"two", b"z" * 999, b"last")
        assert (fault.reason, other.reason) == ("line_too_long", "line_too_long")
    packed = write(tmp_path / "b.jsonl.gz", gzip.compress(long))
    assert rows_of([packed])[0].reason == "line_too_long"


def test_files_are_found_in_order_and_once(tmp_path: Path) -> None:
    for name in (
        "b/two.jsonl",
        "a/one.jsonl.gz",
        "a/three.parquet",
        "a/notes.txt",
        "a/.hidden.jsonl",
        "out/old.jsonl",
    ):
        write(tmp_path / name, b"")
    files = find_inputs([tmp_path / "b" / "two.jsonl", tmp_path], exclude=tmp_path / "out")
    assert [file.label for file in files] == ["two.jsonl", "a/one.jsonl.gz", "a/three.parquet"]
    assert [file.label for file in find_inputs([tmp_path], ["one", "thr"])] == [
        "a/one.jsonl.gz",
        "a/three.parquet",
    ]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        write(root / "rows.jsonl", b"")
    labels = [file.label for file in find_inputs(roots)]
    assert labels == [(root / "rows.jsonl").as_posix() for root in roots]


def test_linked_directories_are_read_and_none_twice(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    write(root / "own" / "one.jsonl", b"1")
    write(elsewhere / "deep" / "two.jsonl", b"2")
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "deep" / "loop").symlink_to(root)
    (elsewhere / "self").symlink_to(elsewhere)
    (root / "twice").symlink_to(root / "own")
    (root / ".hidden").symlink_to(root / "own")
    assert [file.label for file in find_inputs([root])] == ["linked/deep/two.jsonl", "own/one.jsonl"]


def test_what_is_passed_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jsonl", "b.json", "c.jsonl.bz2", ".hidden.json", ".git/d.json"):
        write(tmp_path / name, b"")
    (tmp_path / "e.jsonl").symlink_to(tmp_path / "nowhere")
    assert [file.label for file in find_inputs([tmp_path])] == ["a.jsonl"]
    said = capsys.readouterr().err
    assert all(name in said for name in ("b.json", "c.jsonl.bz2", "e.jsonl"))
    assert not any(name in said for name in ("a.jsonl", ".hidden.json", "d.json"))
    find_inputs([tmp_path], ["a.js"])
    assert capsys.readouterr().err == ""
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError) as caught:
        find_inputs([tmp_path])
    assert "b.json" in str(caught.value.fix)


def test_a_directory_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", b"")
    locked = write(tmp_path / "locked" / "b.jsonl", b"").parent
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="Permission denied") as caught:
        find_inputs([tmp_path])
    assert caught.value.where == str(locked)


def test_a_name_that_is_no_text_is_written_as_text(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jsonl", "wb") as handle:
        handle.write(b"one\n")
    (file,) = find_inputs([tmp_path])
    assert file.label == "caf\ufffd.jsonl"
    assert rows_of([tmp_path]) == [b"one"]


def test_a_temporary_file_without_room_is_no_fault_of_the_input(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"input": str(number), "output": "x" * 40} for number in range(20_000)])
    pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False)
    packed = write(tmp_path / "b.parquet.gz", gzip.compress((tmp_path / "a.parquet").read_bytes()))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(OutputError, match="temporary file") as caught:
            rows_of([packed])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "TMPDIR" in str(caught.value.fix)
    assert len(rows_of([packed])) == 20_000


@pytest.mark.parametrize("name", ["missing", "notes.txt", "empty", "~no-such-user-here", "a" * 300])
def test_inputs_that_cannot_be_used_are_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "notes.txt", b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        find_inputs([tmp_path / name])
    assert name in str(caught.value)


def test_json_lines_are_what_the_reader_hands_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    first, blank, second = rows_of([path])
    assert (json.loads(first.decode("utf-8-sig")), blank, json.loads(second)) == ({"a": 1}, b"", {"a": 2})
