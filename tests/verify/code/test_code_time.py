"""Time is bounded for each case and for all of them together, and no program sets its own bounds."""

from __future__ import annotations

import time

import pytest
from attempts import probe

from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.run import Result, run
from bethink.verify.code.sandbox import Limits, Status
from bethink.verify.code.tasks import Call, CallTask, OutputTask, Task

SPIN = """
import time
def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
    return True
"""


def calls(*seconds: float) -> CallTask:
    return CallTask("", tuple(Call("spin", (one,), {}, (True,)) for one in seconds))


def inputs(*seconds: float) -> OutputTask:
    return OutputTask(tuple((f"{one}\n", "True") for one in seconds))


def tried(task: Task, sandboxes: Sandboxes) -> Result:
    code = SPIN if isinstance(task, CallTask) else f"{SPIN}\nprint(spin(float(input())))"
    return run(task, code, sandboxes)


@pytest.mark.parametrize("kind", [calls, inputs])
def test_every_case_has_the_time_of_a_case(brief_sandboxes: Sandboxes, kind: type) -> None:
    """Together they take longer than one may."""
    result = tried(kind(0.3, 0.3, 0.3), brief_sandboxes)
    assert (result.status, result.passed) == (Status.OK, 3), result


@pytest.mark.parametrize("kind", [calls, inputs])
def test_a_case_has_no_time_of_the_others(brief_sandboxes: Sandboxes, kind: type) -> None:
    result = tried(kind(0.01, 0.9, 0.01), brief_sandboxes)
    assert (result.status, result.passed, result.total) == (Status.TIMEOUT, 1, 3), result
    assert result.detail == "more than 0.5 s of processor time"


@pytest.mark.parametrize("kind", [calls, inputs])
def test_all_cases_together_are_bounded_too(brief_sandboxes: Sandboxes, kind: type) -> None:
    result = tried(kind(*[0.3] * 8), brief_sandboxes)
    assert result.status is Status.TIMEOUT, result
    assert 3 <= result.passed <= 4
    assert result.detail == "more than 1.5 s of processor time for all cases"


def test_what_stands_before_the_calls_counts_for_all_of_them(brief_sandboxes: Sandboxes) -> None:
    task = CallTask("", (Call("spin", (0.3,), {}, (True,)),))
    assert run(task, SPIN, brief_sandboxes).status is Status.OK
    assert run(task, f"{SPIN}\nspin(0.3)", brief_sandboxes).status is Status.TIMEOUT


@pytest.mark.usefixtures("sandboxes")
def test_the_clock_is_for_each_case_and_for_all_of_them() -> None:
    limits = Limits(wall_seconds=1, together=2, memory=256 * 2**20)
    code = "import time\ndef nap(seconds):\n    time.sleep(seconds)\n    return True"
    with Sandboxes(1, limits=limits) as own:
        for naps, passed, detail in (
            ((0.7, 0.7), 2, "2 of 2 calls"),
            ((0.01, 5, 0.01), 1, "more than 1 s by the clock"),
            ((0.7,) * 4, 2, "more than 2 s by the clock for all cases"),
        ):
            task = CallTask("", tuple(Call("nap", (nap,), {}, (True,)) for nap in naps))
            result = run(task, code, own)
            assert (result.passed, result.detail) == (passed, detail)


STUBBORN = """
import resource, signal, time
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
for bounds in ((-1, -1), (100, 100)):
    try: resource.setrlimit(resource.RLIMIT_CPU, bounds)
    except (ValueError, OSError): pass
hardest = resource.getrlimit(resource.RLIMIT_CPU)[1]
try: resource.setrlimit(resource.RLIMIT_CPU, (hardest, hardest))
except (ValueError, OSError): pass
def probe():
    while True: pass
"""


def test_a_program_cannot_give_itself_more_time(brief_sandboxes: Sandboxes) -> None:
    started = time.monotonic()
    result = probe(brief_sandboxes, STUBBORN)
    assert (result.status, result.detail) == (Status.TIMEOUT, "more than 0.5 s of processor time")
    assert time.monotonic() - started < 10


def test_the_kernel_bounds_what_the_parent_does_not_see(sandboxes: Sandboxes) -> None:
    """Of one case as many seconds as of one, of many as many as they may have together; no program is asked."""
    code = "import resource\ndef probe(): return resource.getrlimit(resource.RLIMIT_CPU)[1]"
    seconds = int(sandboxes.limits.seconds)
    for cases, most in ((1, seconds), (2, 2 * seconds), (99, sandboxes.limits.together * seconds)):
        bounds = tuple(range(most, most + 3))  # what starting took, and a second for the soft limit's signal
        task = CallTask("", tuple(Call("probe", (), {}, bounds) for _ in range(cases)))
        result = run(task, code, sandboxes)
        assert result.status is Status.OK, result


def test_threads_spend_their_program_s_time(brief_sandboxes: Sandboxes) -> None:
    code = """
        import hashlib, threading
        def work():
            while True: hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**5)
        def probe():
            for _ in range(4): threading.Thread(target=work, daemon=True).start()
            threading.Event().wait()
    """
    result = probe(brief_sandboxes, code)
    assert (result.status, result.detail) == (Status.TIMEOUT, "more than 0.5 s of processor time")
