"""The front door: quick, complete, and free of tracebacks for mistakes."""

import subprocess
import sys
import time

from bethink.cli.main import VERBS

BETHINK = [sys.executable, "-m", "bethink.cli.main"]


def run(*arguments):
    return subprocess.run([*BETHINK, *arguments], capture_output=True, text=True, timeout=120)


def test_help_is_quick_and_names_every_verb():
    times = []
    for _ in range(3):
        started = time.perf_counter()
        shown = run("--help").stdout
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5
    assert all(verb in shown for verb in VERBS)


def test_every_verb_has_help_that_needs_no_torch():
    program = (
        "import sys, importlib\n"
        f"for verb in {list(VERBS)!r}: importlib.import_module('bethink.cli.' + verb)\n"
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"
    )


def test_an_unknown_verb_is_wrong_usage():
    result = run("trian")
    assert result.returncode == 2
    assert "trian" in result.stderr
    assert "Traceback" not in result.stderr
