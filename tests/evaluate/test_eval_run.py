"""Evaluating end to end on a tiny random model: the same bytes however often it is killed, and numbers that are what they say."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from bethink.core.console import Progress
from bethink.core.errors import ConfigError, ModelError, OutputError
from bethink.core.files import read_jsonl
from bethink.evaluate.compare import CompareConfig, run_compare
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.draw import _Desk
from bethink.evaluate.plan import make_plan
from bethink.evaluate.results import results_table, summarize
from bethink.evaluate.runner import run_eval

TASK = "chain_sum:min_terms=2,max_terms=3,min_digits=1,max_digits=1"


def options(model, output, **more):
    return {
        "model": str(model),
        "output": str(output),
        "tasks": [TASK, "gcd"],
        "size": 6,
        "samples": 2,
        "max_tokens": 24,
        "seed": 5,
        "workers": 1,
        "slots": 8,
        **more,
    }


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory):
    """An uninterrupted evaluation."""
    output = tmp_path_factory.mktemp("eval") / "whole"
    return run_eval(EvalConfig(**options(tiny_model_dir, output)))


def test_every_completion_is_kept_in_canonical_order(finished):
    rows = list(read_jsonl(finished.samples))
    assert (
        len(rows) == 2 * 6 * 2 + 2 * 6
    )  # two tasks, six problems; two samples with thinking on, one (greedy) off
    order = [(row["task"], row["mode"]) for row in rows]
    assert list(dict.fromkeys(order)) == [
        ("chain_sum", "on"),
        ("chain_sum", "off"),
        ("gcd", "on"),
        ("gcd", "off"),
    ]
    assert {row["sample"] for row in rows if row["mode"] == "off"} == {0}
    assert len({row["seed"] for row in rows}) == len(rows)
    for row in rows:
        assert f"detailed thinking {row['mode']}" in row["prompt"]
        assert row["question"] in row["prompt"]
        assert row["thinking_tokens"] + row["answer_tokens"] <= 24
        assert row["finish_reason"] in ("stop", "length")
        assert row["verdict"] in ("wrong", "no_answer", "truncated", "correct")


def test_the_results_follow_from_the_samples(finished):
    rows = list(read_jsonl(finished.samples))
    document = json.loads(finished.results.read_text(encoding="utf-8"))
    assert document["rows"] == finished.rows
    assert [(r["task"], r["mode"], r["n"], r["samples"]) for r in finished.rows] == [
        ("chain_sum", "on", 6, 2),
        ("chain_sum", "off", 6, 1),
        ("gcd", "on", 6, 2),
        ("gcd", "off", 6, 1),
        ("all", "on", 12, 2),
        ("all", "off", 12, 1),
    ]
    for result in finished.rows:
        mine = [r for r in rows if r["mode"] == result["mode"] and result["task"] in (r["task"], "all")]
        assert 0 <= result["low"] <= result["accuracy"] <= result["high"] <= 1
        assert result["truncated"] == pytest.approx(
            sum(r["finish_reason"] == "length" for r in mine) / len(mine)
        )
        assert result["compliance"] == pytest.approx(sum(r["compliant"] for r in mine) / len(mine))
        assert result["answer_tokens"] == pytest.approx(sum(r["answer_tokens"] for r in mine) / len(mine))
        assert result["tokens_per_second"] > 0
        assert 0 < result["floor_share"] < 1
    shown = results_table(finished.rows).caption
    assert shown.count(" % of the floor)") == 2


def test_a_run_killed_at_any_time_resumes_to_the_same_bytes(finished, tiny_model_dir, tmp_path):
    output = tmp_path / "killed"
    code = (
        "import json, sys\nfrom bethink.evaluate.runner import EvalConfig, run_eval\n"
        "run_eval(EvalConfig(**json.loads(sys.argv[1])))"
    )
    arguments = options(tiny_model_dir, output)
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(arguments)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    samples = output / "samples.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if samples.exists() and samples.read_bytes().count(b"\n") >= 3:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait()
    before = samples.read_bytes()
    assert before.count(b"\n") >= 3
    whole = finished.samples.read_bytes()
    # A write cut in the middle of a row is what a killed machine leaves behind.
    samples.write_bytes(before.rpartition(b"\n")[0] + b"\n" + whole[:57])
    resumed = run_eval(EvalConfig(**{**arguments, "resume": True}))
    assert resumed.samples.read_bytes() == whole
    timed = ("tokens_per_second", "floor_share")
    assert [{**row, **dict.fromkeys(timed)} for row in resumed.rows] == [
        {**row, **dict.fromkeys(timed)} for row in finished.rows
    ]
    assert all(0 < row["floor_share"] < 1 for row in resumed.rows)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tiny_model_dir, tmp_path):
    output = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "bethink.cli.main",
        "eval",
        "--model",
        str(tiny_model_dir),
        "--tasks",
        "gcd",
    ]
    command += ["--output", str(output), "-n", "60", "--modes", "off", "--max-tokens", "64", "--slots", "2"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    samples = output / "samples.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if samples.exists() and samples.read_bytes().count(b"\n") >= 2:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.002)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "of 60 completions finished; --resume goes on from there" in " ".join(said.split())
    assert "Traceback" not in said
    rows = list(read_jsonl(samples))
    assert 2 <= len(rows) < 60
    assert not (output / "results.json").exists()


def test_a_finished_run_is_not_overwritten_and_resumes_at_once(finished, tiny_model_dir):
    arguments = options(tiny_model_dir, finished.samples.parent)
    with pytest.raises(OutputError, match="already holds something"):
        run_eval(EvalConfig(**arguments))
    with pytest.raises(OutputError, match="seed: was 5, now 6"):
        run_eval(EvalConfig(**{**arguments, "seed": 6, "resume": True}))
    before = finished.samples.read_bytes()
    again = run_eval(EvalConfig(**{**arguments, "resume": True, "name": "renamed"}))
    assert finished.samples.read_bytes() == before
    assert {row["model"] for row in again.rows} == {"renamed"}


def test_what_else_is_asked_does_not_change_a_completion(finished, tiny_model_dir, tmp_path):
    alone = run_eval(
        EvalConfig(**options(tiny_model_dir, tmp_path / "one", tasks=["gcd"], modes=["on"], slots=4))
    )
    whole = {
        (r["id"], r["sample"]): r
        for r in read_jsonl(finished.samples)
        if (r["task"], r["mode"]) == ("gcd", "on")
    }
    assert {(r["id"], r["sample"]): r for r in read_jsonl(alone.samples)} == whole
    assert [row["task"] for row in alone.rows] == ["gcd"]


def test_questions_of_the_training_rows_are_left_out(finished, tiny_model_dir, tmp_path):
    asked = [row["prompt"] for row in read_jsonl(finished.samples) if row["task"] == "gcd"]
    training = tmp_path / "train.jsonl"
    training.write_text("".join(json.dumps({"input": prompt}) + "\n" for prompt in asked), encoding="utf-8")
    result = run_eval(
        EvalConfig(
            **options(
                tiny_model_dir, tmp_path / "held", tasks=["gcd"], modes=["off"], exclude=[str(training)]
            )
        )
    )
    before = {row["id"] for row in read_jsonl(finished.samples)}
    assert not before & {row["id"] for row in read_jsonl(result.samples)}
    document = json.loads(result.results.read_text(encoding="utf-8"))
    assert document["dropped"]["gcd"]["excluded"] == 6


def test_the_prompted_variant_asks_but_keeps_the_question(tiny_model_dir, tmp_path):
    result = run_eval(
        EvalConfig(**options(tiny_model_dir, tmp_path / "p", tasks=["gcd"], modes=["off"], prompted=True))
    )
    for row in read_jsonl(result.samples):
        assert "step by step" in row["prompt"]
        assert "step by step" not in row["question"]


def test_a_grader_that_does_not_exist_is_refused_before_the_model_is_loaded(tiny_model_dir, tmp_path):
    path = tmp_path / "essays.jsonl"
    row = {"question": "Why?", "answer": "So.", "grader": "essay"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no grader `essay`"):
        run_eval(EvalConfig(**options(tiny_model_dir, tmp_path / "out", tasks=[f"{path}:plain"])))


def test_a_wrong_model_leaves_the_output_free(tiny_model_dir, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(ModelError):
        run_eval(EvalConfig(**options(tmp_path / "no model", output, tasks=["gcd"])))
    run_eval(
        EvalConfig(**options(tiny_model_dir, output, tasks=["gcd"], modes=["off"], size=2, max_tokens=4))
    )


def test_two_sources_of_one_name_are_told_apart(tiny_model_dir, tmp_path):
    tasks = ["gcd:max_value=50", "gcd:min_value=60,max_value=90"]
    result = run_eval(
        EvalConfig(
            **options(tiny_model_dir, tmp_path / "two", tasks=tasks, modes=["off"], size=3, max_tokens=4)
        )
    )
    assert [row["task"] for row in result.rows] == [*tasks, "all"]


def test_a_completions_seed_does_not_depend_on_what_else_is_asked():
    first, second = "gcd:max_value=50", "gcd:min_value=60,max_value=90"
    both, alone = (
        make_plan(EvalConfig(**options("m", "out", tasks=tasks)), ["reasoning_gym"])
        for tasks in ([first, second], [first])
    )
    drawn = {
        (item.problem.id, item.mode, item.sample): item.seed
        for item in both.items
        if item.problem.task == first
    }
    assert drawn == {(item.problem.id, item.mode, item.sample): item.seed for item in alone.items}
    assert len(drawn) == 6 * 2 + 6


def test_a_slow_verdict_holds_no_finished_row_back(tmp_path):
    slow = threading.Event()

    class Desk(_Desk):
        def _judge(self, item, question, reply):
            if reply == "slow":
                slow.wait(timeout=60)
            return row("correct", reply)

    path = tmp_path / "samples.jsonl"
    config = EvalConfig(output=tmp_path, tasks="chain_sum", model="m")
    with (
        open(path, "w", encoding="utf-8") as file,
        Progress("evaluating", 3) as progress,
        ThreadPoolExecutor(2) as graders,
    ):
        desk = Desk(config, file, progress, None, graders)
        for reply in ("slow", "quick", "quicker"):
            desk.submit(None, None, reply)
        deadline = time.monotonic() + 30
        while desk.finished < 2 and time.monotonic() < deadline:
            desk.collect()
        assert [one["id"] for one in read_jsonl(path)] == ["quick", "quicker"]
        slow.set()
        desk.finish()
    assert [one["id"] for one in read_jsonl(path)] == ["quick", "quicker", "slow"]


def row(verdict, problem, sample=0, **more):
    return {
        "task": "t",
        "id": problem,
        "mode": "on",
        "sample": sample,
        "verdict": verdict,
        "compliant": True,
        "finish_reason": "stop",
        "thinking_tokens": 10,
        "answer_tokens": 2,
        **more,
    }


def test_a_graders_failure_counts_for_nothing_but_is_shown():
    rows = [row("correct", "a"), row("wrong", "b"), row("grader_error", "c"), row("truncated", "d")]
    (result,) = summarize(rows, model="m", speed={})
    assert (result["n"], result["grader_errors"]) == (3, 1)
    assert result["accuracy"] == pytest.approx(1 / 3)
    (nothing,) = summarize([row("grader_error", "c")], model="m", speed={})
    assert (nothing["n"], nothing["accuracy"]) == (0, None)


def test_problems_weigh_the_same_whatever_their_samples():
    rows = [row("correct", "a", 0), row("grader_error", "a", 1), row("wrong", "b", 0), row("wrong", "b", 1)]
    (result,) = summarize(rows, model="m", speed={})
    assert result["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": None}, "a model or an endpoint"),
        ({"endpoint": "http://x"}, "a model or an endpoint"),
        ({"max_thinking_tokens": 24}, "less than max_tokens"),
        ({"modes": ["on", "sometimes"]}, "on"),
        ({"taks": ["gcd"]}, "taks"),
        ({"tasks": [5]}, "a line of text, not 5"),
        ({"tasks": 5}, "a line of text, not 5"),
        ({"tasks": [{"chain_sum": {"min_terms": 3}}]}, "options go after a colon"),
        ({"tasks": {"chain_sum": {"min_terms": 3}}}, "options go after a colon"),
        ({"tasks": " , "}, "no task is named"),
    ],
)
def test_options_that_contradict_are_refused(more, said):
    with pytest.raises(ValueError, match=said):
        EvalConfig(**{**options("m", "out"), **more})


def test_modes_and_tasks_are_read_as_people_write_them():
    config = EvalConfig(
        **options("m", "out", modes=[True, False], tasks="gcd,chain_sum:min_terms=2,max_terms=3")
    )
    assert [str(mode) for mode in config.modes] == ["on", "off"]
    assert config.tasks == ("gcd", "chain_sum:min_terms=2,max_terms=3")
    assert [str(mode) for mode in EvalConfig(**options("m", "out", modes="off, on")).modes] == ["off", "on"]


def test_a_task_without_a_grader_has_lengths_and_no_accuracy(tiny_model_dir, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Write about {n} birds."}) + "\n" for n in range(3)))
    tasks = [TASK, f"{prompts}:question=prompt,grader=none"]
    found = run_eval(
        EvalConfig(**options(tiny_model_dir, tmp_path / "out", tasks=tasks, size=3, modes="off"))
    )
    rows = {row["task"]: row for row in found.rows}
    assert {task: (row["n"], row["not_judged"], row["grader_errors"]) for task, row in rows.items()} == {
        "chain_sum": (3, 0, 0),
        "prompts": (0, 3, 0),
        "all": (3, 3, 0),
    }
    assert rows["prompts"]["accuracy"] is None
    assert rows["all"]["accuracy"] == rows["chain_sum"]["accuracy"]
    assert rows["prompts"]["answer_tokens"] > 0
    assert rows["prompts"]["compliance"] is not None
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(results_table(found.rows))
    assert "3 completions are of problems without a grader" in console.export_text()

    both = CompareConfig(a=tmp_path / "out", b=tmp_path / "out")
    (one,) = run_compare(both).comparisons
    assert (one.task, one.problems, one.skipped) == ("chain_sum", 3, 0)
