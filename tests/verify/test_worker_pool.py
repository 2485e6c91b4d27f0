"""Whatever a job does, it alone fails, in time, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from bethink.verify.pool import Done, WorkerPool, in_order
from processes import children

LIMIT = 0.3


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2, timeout=LIMIT, memory=400 * 2**20) as workers:
        yield workers


def run(pool: WorkerPool, job: str, *arguments: object) -> Done:
    return pool.submit(f"pool_jobs:{job}", *arguments).result(timeout=30)


@pytest.mark.parametrize(
    ("job", "arguments", "error"),
    [
        ("spin", (), "timed out"),
        ("sleep", (), "timed out"),
        ("big_power", (), "timed out"),
        ("eat_memory", (), "out of memory"),
        ("leave", (3,), "exit code 3"),
        ("abort", (), "signal 6"),
        ("fail", (), "ValueError: as it should"),
        ("recurse", (), "RecursionError"),
        ("unsendable", (), "the worker ended"),
        ("no_such_job", (), "AttributeError"),
    ],
)
def test_a_job_that_misbehaves_fails_alone(
    pool: WorkerPool, job: str, arguments: tuple[int, ...], error: str
) -> None:
    started = time.monotonic()
    done = run(pool, job, *arguments)
    assert done.error is not None
    assert error in done.error
    assert time.monotonic() - started < 20
    assert run(pool, "double", 21) == Done(42)


def test_a_hanging_job_does_not_hold_up_the_others(pool: WorkerPool) -> None:
    jobs = [pool.submit("pool_jobs:spin"), *(pool.submit("pool_jobs:double", n) for n in range(20))]
    results = [job.result(timeout=30) for job in jobs]
    assert results[0].error is not None
    assert results[1:] == [Done(2 * n) for n in range(20)]


def test_what_cannot_be_sent_is_an_error_of_that_job(pool: WorkerPool) -> None:
    assert "cannot be sent" in str(run(pool, "double", lambda: None).error)
    assert run(pool, "double", 1) == Done(2)


def test_what_a_job_prints_disturbs_nothing(pool: WorkerPool, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(pool, "chatter") == Done("done")
    assert capfd.readouterr() == ("", "")


def test_results_come_in_order_and_items_are_read_as_needed(pool: WorkerPool) -> None:
    read: list[int] = []

    def items():
        for n in range(60):
            read.append(n)
            yield n

    results = in_order(items(), lambda n: pool.submit("pool_jobs:slow_double", n), ahead=8)
    first = next(results)
    assert first == Done(0)
    assert len(read) <= 8
    assert [first, *results] == [Done(2 * n) for n in range(60)]


def test_it_works_from_other_threads(pool: WorkerPool) -> None:
    results: dict[int, Done] = {}

    def ask(n: int) -> None:
        results[n] = run(pool, "double", n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: Done(2 * n) for n in range(6)}


def test_workers_import_neither_torch_nor_transformers() -> None:
    with WorkerPool(1) as workers:
        assert run(workers, "double", 1) == Done(2)
        done = workers.submit("bethink.verify.symbolic:judge", r"\sin x", r"\cos x").result()
        assert done == Done("different")
        modules = run(workers, "imported_modules").value
    assert {"torch", "transformers"}.isdisjoint(modules)


def test_closing_ends_running_jobs_and_leaves_no_process() -> None:
    before = set(children(os.getpid()))
    pool = WorkerPool(2, timeout=60)
    jobs = [pool.submit("pool_jobs:sleep") for _ in range(5)]
    while len(set(children(os.getpid())) - before) < 2:
        time.sleep(0.01)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 5
    assert set(children(os.getpid())) <= before
    assert all(job.cancelled() or job.result().error for job in jobs)


def test_a_pool_left_open_ends_with_the_program() -> None:
    script = """
        from bethink.verify.grade import GradeItem, grade_item
        print(grade_item(GradeItem("1", r"\\boxed{\\sin(x)^2 + \\cos(x)^2}", "math")).outcome)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "correct", "")


def test_ctrl_c_ends_program_and_workers(tmp_path: Path) -> None:
    script = """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        from bethink.verify.pool import WorkerPool
        with WorkerPool(2, timeout=60) as pool:
            pids = [pool.submit("os:getpid") for _ in range(8)]
            print(*{job.result().value for job in pids}, flush=True)
            jobs = [pool.submit("pool_jobs:spin") for _ in range(4)]
            [job.result() for job in jobs]
    """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    workers = [int(pid) for pid in program.stdout.readline().split()]
    time.sleep(0.3)
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait(timeout=20) != 0
    program.stdout.close()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            return
        time.sleep(0.05)
    pytest.fail(f"workers still alive: {workers}")
