"""The front door: quick, complete, and free of tracebacks for mistakes."""

import os
import subprocess
import sys
import time

import pytest

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


@pytest.mark.parametrize(
    ("given", "waits"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_wait_shortly_unless_the_user_says_otherwise(given, waits):
    program = (
        "import os, sys\n"
        "from bethink.cli.main import main\n"
        "sys.argv = ['bethink', '--help']\n"
        "try: main()\n"
        "except SystemExit: print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    kept = {
        key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=kept | given)
    assert done.stdout.splitlines()[-1] == waits


def test_an_unknown_verb_is_wrong_usage():
    result = run("trian")
    assert result.returncode == 2
    assert "trian" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sft", "--model", "nowhere", "--data", __file__, "--output", "x"], "cannot read `.py` files"),
        (["sft", "--model", "nowhere", "--data", "rows", "--output", "x"], "no such file or directory"),
        (
            ["eval", "--model", "nowhere", "--tasks", "chain_sum", "--output", "x"],
            "there is no model `nowhere`",
        ),
        (["eval", "--model", "m", "--tasks", "chain_sum", "--output", "x", "--modes", "maybe"], "`--modes`"),
        (["curate", "--input", "nowhere", "--tokenizer", "m", "--output", "x"], "the input does not exist"),
        (
            ["curate", "--input", "a", "--tokenizer", "m", "--output", "x", "--on-off-ratio", "half"],
            "`--on-off-ratio`",
        ),
        (
            ["grpo", "--model", "m", "--tasks", "a,b", "--output", "x", "--curriculum", "mastery",
             "--mastery-fall-back", "0.8"],
            "cannot open at a pass rate of 0.7 and fall back below 0.8",
        ),
        (["run", "quickstart", "--dry-run", "--set", "sft.rnak=2"], "did you mean `rank`?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_slow_is_imported(words, said, tmp_path):
    program = (
        "import sys\n"
        "from bethink.cli.main import main\n"
        f"sys.argv = ['bethink', *{words!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, [m for m in ('torch', 'transformers', 'reasoning_gym') if m in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert said in result.stderr
    assert result.stdout.split("\n")[-2] == "1 []"


def test_no_top_p_is_wrong_usage():
    result = run("chat", "--model", "nowhere", "--top-p", "0")
    assert result.returncode == 2
    assert "--top-p" in result.stderr


def test_what_the_system_refuses_is_one_line(tmp_path):
    program = (
        "import sys\n"
        "import bethink.recipe.report as report\n"
        "def refuse(*_, **__): raise PermissionError(13, 'Permission denied', '/some/file')\n"
        "report.write_report = refuse\n"
        "from bethink.cli.main import main\n"
        "sys.argv = ['bethink', 'report', '.']\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "error: the system refuses: Permission denied\n  at:  /some/file\n"


@pytest.mark.parametrize("words", [["models", "list"], ["doctor"]])
def test_a_pipe_that_nobody_reads_ends_the_program_quietly(words):
    import os

    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([*BETHINK, *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")
