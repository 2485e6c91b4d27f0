"""Files are whole or absent, and a run directory belongs to one run."""

import json
from pathlib import Path

import pytest

from bethink.core.errors import DataError, OutputError
from bethink.core.files import (
    atomic_path,
    cache_dir,
    claim_output,
    dump_line,
    explain_os_errors,
    read_jsonl,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_a_full_disk_is_one_clear_error():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OutputError, match="disk is full"), explain_os_errors(Path("/dev/full")):
        Path("/dev/full").write_text("x" * 100_000)


def test_a_path_through_a_file_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a directory|is a file"):
        claim_output(tmp_path / "file", resume=False, fingerprint={})
    with pytest.raises(OutputError):
        write_json(tmp_path / "file" / "below.json", {})


def test_rows_survive_the_round_trip_and_faults_name_their_line(tmp_path):
    rows = [{"text": "naïve — ≤ \u2028 \n"}, {"n": 1.5}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(dump_line(row) for row in rows), encoding="utf-8")
    assert list(read_jsonl(path)) == rows
    path.write_text(dump_line(rows[1]) + "{broken\n")
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path))
    assert caught.value.where == f"{path}:2"
    path.write_text("[1]\n")
    with pytest.raises(DataError, match="expected an object"):
        list(read_jsonl(path))


def test_of_a_file_that_grows_the_whole_rows_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = dump_line({"text": "é"}) + dump_line({"text": "日本"})
    for cut in range(1, len(dump_line({"text": "日本"}).encode())):
        path.write_bytes(whole.encode()[:-cut])
        assert list(read_jsonl(path, growing=True)) == [{"text": "é"}]
        if cut > 1:
            with pytest.raises(DataError, match="not valid"):
                list(read_jsonl(path))
    path.write_text(whole)
    assert len(list(read_jsonl(path, growing=True))) == 2


def test_an_occupied_output_is_refused_unless_the_same_run_resumes(tmp_path):
    run = tmp_path / "run"
    claim_output(run, resume=False, fingerprint={"seed": 1, "path": tmp_path})
    with pytest.raises(OutputError, match="already holds"):
        claim_output(run, resume=False, fingerprint={"seed": 1, "path": tmp_path})
    claim_output(run, resume=True, fingerprint={"seed": 1, "path": tmp_path})
    with pytest.raises(OutputError, match="seed: was 1, now 2"):
        claim_output(run, resume=True, fingerprint={"seed": 2, "path": tmp_path})
    assert json.loads((run / ".fingerprint.json").read_text())["seed"] == 1


def test_a_directory_that_holds_no_run_cannot_be_resumed(tmp_path):
    (tmp_path / "somebody's.txt").write_text("precious")
    with pytest.raises(OutputError, match="there is no run to resume"):
        claim_output(tmp_path, resume=True, fingerprint={})
    assert [path.name for path in tmp_path.iterdir()] == ["somebody's.txt"]


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("BETHINK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "bethink"
