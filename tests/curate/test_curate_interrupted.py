"""Killed, stopped or out of space, a run loses no finished block and resumes to the same bytes; and its processes are gone."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from curate.rows import write_rows
from processes import children


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("many")
    write_rows(directory, 500, defective=0.0, seed=3, files=3)
    return directory


_SCRIPT = """
import sys
from pathlib import Path
from bethink.core.errors import BethinkError
from bethink.curate.config import CurateConfig
from bethink.curate.pipeline import curate

if __name__ == "__main__":
    source, output, tokenizer, *flags = sys.argv[1:]
    try:
        curate(CurateConfig(input=tuple(sorted(Path(source).iterdir())), mix={"1": 2, "any": 3}, output=Path(output), tokenizer=tokenizer, workers=2, block_bytes=10_000,
                            max_completion_tokens=1200, max_bad_share=1.0, resume="resume" in flags))
    except BethinkError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def start(raw: Path, tiny_tokenizer_dir: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """start(output, *flags) begins a run with two workers and small blocks in a process of its own."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)

    def begin(output: Path, *flags: str, prepare: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(raw), str(output), str(tiny_tokenizer_dir), *flags]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=prepare)

    return begin


def blocks(output: Path) -> int:
    return len(list((output / ".work" / "blocks").glob("*/[0-9]*")))


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir() if not path.name.startswith(".")}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(raw: Path, tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    output = tmp_path_factory.mktemp("whole") / "out"
    script = output.parent / "script.py"
    script.write_text(_SCRIPT)
    subprocess.run([sys.executable, script, raw, output, tiny_tokenizer_dir], check=True, capture_output=True)
    return contents(output)


def test_killed_anywhere_and_resumed_it_writes_the_same_bytes(
    start: Callable[..., subprocess.Popen[str]], whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    moments: list[Callable[[], bool]] = [
        lambda: blocks(output) >= 3,
        lambda: blocks(output) >= 12,
        lambda: (output / ".work" / "keys").exists(),
        lambda: (output / ".work" / "out").exists(),
        lambda: (output / "rejects.jsonl").exists(),
    ]
    flags: list[str] = []
    for moment in moments:
        process = start(output, *flags)
        wait_for(moment, process)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
        assert not (output / "report.json").exists() or contents(output) == whole
        flags = ["resume"]
    assert start(output, *flags).wait() == 0
    assert contents(output) == whole
    assert not (output / ".work").exists()


def test_stopped_by_the_user_it_says_how_to_go_on(
    start: Callable[..., subprocess.Popen[str]], whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start(output)
    wait_for(lambda: blocks(output) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate()
    assert process.returncode == 130
    assert "continue with --resume" in messages
    assert "Traceback" not in messages
    assert {path.name for path in output.iterdir()} == {".work", ".fingerprint.json"}
    assert start(output, "resume").wait() == 0
    assert contents(output) == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """small_disk(size) makes a file system of that size, or gives the one it made that size."""
    mount = tmp_path / "disk"

    def resize(size: str) -> Path:
        how = f"{'remount,' if mount.exists() else ''}size={size}"
        mount.mkdir(exist_ok=True)
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", how, "tmpfs", mount], capture_output=True
        ).returncode:
            pytest.skip("may not mount a file system here")
        return mount

    yield resize
    subprocess.run(["umount", "-l", mount], capture_output=True)


def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_space(
    start: Callable[..., subprocess.Popen[str]], whole: dict[str, bytes], small_disk: Callable[[str], Path]
) -> None:
    """The disk fills up while blocks are worked through, while keys are sorted, and while the result is written."""
    flags: list[str] = []
    for size in ("150k", "400k", "600k"):
        output = small_disk(size) / "out"
        process = start(output, *flags)
        _, messages = process.communicate()
        assert process.returncode == 1
        error = messages[messages.index("error:") :]
        assert "disk is full" in error
        assert "--resume" in error
        assert "Traceback" not in messages
        assert {path.name for path in output.iterdir()} == {".work", ".fingerprint.json"}
        flags = ["resume"]
    output = small_disk("200m") / "out"
    assert start(output, "resume").wait() == 0
    assert contents(output) == whole


def test_a_file_the_system_will_not_let_grow_is_one_error(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(tmp_path / "out", prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)))
    _, messages = process.communicate()
    assert process.returncode == 1
    assert "cannot write" in messages
    assert "Traceback" not in messages


def test_workers_load_nothing_heavy() -> None:
    probe = (
        "import sys, bethink.curate.local; "
        "print([m for m in ('torch', 'transformers', 'numpy', 'pyarrow', 'duckdb', 'matplotlib') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def test_no_worker_is_left_behind() -> None:
    assert not [
        pid for pid in children(os.getpid()) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
