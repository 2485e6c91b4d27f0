"""Whole runs of a tiny model: it learns what is preferred, resumes to the same bytes, and refuses what would waste it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bethink.core.errors import ConfigError, DataError, OutputError, PreflightError
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.train.metrics import TIMING, read_metrics
from bethink.train.prefer.choices import ALGORITHMS
from bethink.train.prefer.config import PreferConfig
from bethink.train.prefer.run import run_prefer
from bethink.train.prefer.watch import FALL, WINDOW, Watch
from train.prefer.conftest import digit_pairs, write_pairs
from train.prefer.test_pair_rows import answer
from train.runs import undisturbed_and_killed, untimed

Make = Callable[..., PreferConfig]

_CHANGES = {"dpo": {}, "ipo": {"beta": 0.5}, "simpo": {"beta": 4.0}}


@pytest.mark.parametrize("algorithm", list(_CHANGES))
def test_a_random_model_learns_what_is_preferred(
    make_prefer: Make, tmp_path: Path, algorithm: str, fresh_seed: int
) -> None:
    """The adapter tells held-out pairs apart, which at first it could not."""
    data = write_pairs(tmp_path / "many.jsonl", digit_pairs(800, fresh_seed))
    config = make_prefer(
        algorithm=algorithm, data=data, steps=60, batch_size=16, rank=8, lr=1e-2, seed=fresh_seed, eval_every=60,
        held_out=0.1, **_CHANGES[algorithm],
    )  # fmt: skip
    run_prefer(config)
    rows = read_metrics(config.output / "metrics.jsonl")
    assert rows[-1]["eval_accuracy"] >= 0.9, rows[-1]
    assert rows[-1]["eval_margin"] > rows[0]["margin"]
    if ALGORITHMS[algorithm].reference:
        assert abs(rows[0]["margin"]) < 1e-4, "the policy begins as its own reference"
    assert rows[0]["accuracy"] < 0.9
    assert {"eval_accuracy_on", "eval_accuracy_off", "eval_loss_on"} <= rows[-1].keys()
    for name in ("training.svg", "training.png", "preflight.json", "config.json"):
        assert (config.output / name).stat().st_size > 0
    assert not list(config.output.glob(".pairs*")), "what was needed on the way is gone"
    load_model(locate(f"{config.model}+{config.product}"), dtype=torch.float32, device="cpu")


def test_the_added_cross_entropy_keeps_chosen_completions_likely(make_prefer: Make, tmp_path: Path) -> None:
    found = {}
    for sft in (0.0, 1.0):
        config = make_prefer(output=tmp_path / str(sft), sft=sft, steps=20, lr=5e-3, seed=1)
        run_prefer(config)
        rows = read_metrics(config.output / "metrics.jsonl")
        found[sft] = rows[-1]["chosen_change"]
    assert found[1.0] > found[0.0] + 0.1


def test_every_pair_is_taken_once_a_pass_in_a_new_order(make_prefer: Make, pairs_file: Path) -> None:
    result = run_prefer(make_prefer(steps=None, epochs=2.0, batch_size=50, held_out=0.0, lr=1e-6))
    rows = read_metrics(result.path.parent / "metrics.jsonl")
    assert [row["pairs"] for row in rows] == [50] * 6 + [20]
    assert rows[-1]["epoch"] == 2.0
    assert rows[-1]["samples"] == 320


def test_pairs_longer_than_a_row_are_learned_the_same(make_prefer: Make, tmp_path: Path) -> None:
    """How the tokens are packed decides nothing."""
    lines = []
    for capacity in (512, 16):
        config = make_prefer(
            output=tmp_path / str(capacity), tokens_per_microbatch=capacity, seed=2, steps=2, held_out=0.1
        )
        run_prefer(config)
        lines.append(read_metrics(config.output / "metrics.jsonl"))
    for wide, narrow in zip(*lines, strict=True):
        for key in ("loss", "margin", "chosen", "rejected", "grad_norm"):
            assert narrow[key] == pytest.approx(wide[key], rel=1e-3, abs=1e-4), key
        assert narrow["pairs"] == wide["pairs"]


@pytest.mark.parametrize("reward_model", [False, True])
def test_recomputing_layers_changes_nothing_but_memory(
    make_prefer: Make, tmp_path: Path, reward_model: bool
) -> None:
    lines = []
    for asked in (False, True):
        config = make_prefer(
            output=tmp_path / str(asked), gradient_checkpointing=asked, reward_model=reward_model, steps=2
        )
        run_prefer(config)
        rows = read_metrics(config.output / "metrics.jsonl")
        lines.append([{k: v for k, v in row.items() if k not in TIMING} for row in rows])
    assert lines[0] == lines[1]


def test_a_models_own_answers_become_pairs_and_are_learned(make_prefer: Make, tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = []
    for number in range(40):
        for right in (True, True, False):
            text = "".join(draw.choice("0123456789" if right else "abcdefgh") for _ in range(6))
            rows.append(answer(str(number), text, "correct" if right else "wrong"))
    answers = tmp_path / "sampled" / "answers"
    answers.mkdir(parents=True)
    (answers / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make_prefer(data=None, answers=tmp_path / "sampled", steps=20, lr=1e-2, pairs_per_problem=2)
    run_prefer(config)
    pairs = [json.loads(line) for line in (config.output / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 80
    found = json.loads((config.output / "preflight.json").read_text())
    assert found["answers"]["pairs"] == {"wrong": 80}
    assert read_metrics(config.output / "metrics.jsonl")[-1]["accuracy"] >= 0.9
    # The pairs are rows like any other.
    again = make_prefer(data=config.output, output=tmp_path / "again", held_out=0.0)
    assert run_prefer(again).steps == 4
    # Answers that are all alike teach nothing.
    (answers / "samples.jsonl").write_text(json.dumps(rows[0]) + "\n")
    alike = make_prefer(data=None, answers=tmp_path / "sampled", output=tmp_path / "alike")
    with pytest.raises(DataError, match="no pairs"):
        run_prefer(alike)
    assert not alike.output.exists()


def test_a_warning_says_when_chosen_completions_become_unlikely(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    for step in range(WINDOW):
        watch.see(step + 1, {"chosen_change": -0.1})
    assert "less likely" not in capsys.readouterr().err
    for step in range(2 * WINDOW):
        watch.see(step + 1, {"chosen_change": -2 * FALL})
    assert capsys.readouterr().err.count("less likely") == 1
    without_reference = Watch([{"chosen": -1.0}] * WINDOW)
    for step in range(WINDOW):
        without_reference.see(step + 1, {"chosen": -1.0 - 2 * FALL})
    assert capsys.readouterr().err.count("less likely") == 1


def test_preflight_stops_what_would_waste_a_run(make_prefer: Make, tmp_path: Path, pairs_file: Path) -> None:
    bad = {"prompt": "Hi", "chosen": "same", "rejected": "same", "mode": "on"}
    long = {"prompt": "Hi", "chosen": "a " * 3000, "rejected": "b", "mode": "on"}
    data = write_pairs(tmp_path / "mixed.jsonl", [*digit_pairs(20, 1), bad, long])
    stopped = make_prefer(data=data)
    with pytest.raises(
        PreflightError, match=r"both completions the same: 1(.|\n)*mixed.jsonl:21(.|\n)*--allow-dropped"
    ):
        run_prefer(stopped)
    dropped = json.loads((stopped.output / "preflight.json").read_text())["dropped"]
    assert dropped == {"same": 1, "too_long": 1}
    assert run_prefer(make_prefer(data=data, allow_dropped=0.2, resume=True)).steps == 4


def test_what_cannot_be_learned_from_leaves_the_output_free(make_prefer: Make, tmp_path: Path) -> None:
    data = tmp_path / "broken.jsonl"
    data.write_text('{"prompt": "Hi", "chosen": "a"}\n')
    config = make_prefer(data=data)
    with pytest.raises(DataError, match="broken.jsonl:1"):
        run_prefer(config)
    assert not config.output.exists()
    data.write_text(json.dumps({"prompt": "Hi", "chosen": "a", "rejected": "a", "mode": "on"}) + "\n")
    with pytest.raises(DataError, match="same: 1"):
        run_prefer(config)
    assert not config.output.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "either --data"),
        ({"answers": "x"}, "either --data"),
        ({"algorithm": "dpoo"}, "did you mean `dpo`"),
        ({"model": "m+a", "adapter": "a"}, "named twice"),
        ({"full": True, "adapter": "a"}, "leave one of them out"),
        ({"reward_model": True, "beta": 0.1}, "Bradley and Terry"),
        ({"reward_model": True, "algorithm": "ipo"}, "Bradley and Terry"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    make_prefer: Make, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        make_prefer(**changes)


def test_resuming_with_other_pairs_or_settings_is_refused(make_prefer: Make, pairs_file: Path) -> None:
    run_prefer(make_prefer(steps=1))
    with pytest.raises(OutputError, match="beta: was None, now 0.5"):
        run_prefer(make_prefer(steps=1, beta=0.5, resume=True))
    write_pairs(pairs_file, digit_pairs(9, 0))
    with pytest.raises(OutputError, match="data_sha256"):
        run_prefer(make_prefer(steps=1, resume=True))


def test_half_a_line_left_by_a_killed_process_is_no_hindrance(make_prefer: Make) -> None:
    config = make_prefer(checkpoint_every=2)
    run_prefer(config)
    metrics = config.output / "metrics.jsonl"
    whole = metrics.read_text()
    shutil.rmtree(config.product)
    metrics.write_text(whole + '{"step": 5, "lo')
    assert run_prefer(make_prefer(checkpoint_every=2, resume=True)).steps == 4
    assert metrics.read_text() == whole


@pytest.mark.parametrize(
    "changes", [{}, {"full": True, "dtype": "bfloat16", "algorithm": "rpo"}, {"reward_model": True}]
)
def test_killed_at_a_random_moment_and_resumed_gives_the_same_bytes(
    make_prefer: Make, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = {"steps": 24, "checkpoint_every": 3, "eval_every": 5, **changes}
    whole = make_prefer(output=tmp_path / "whole", **settings)
    killed = make_prefer(output=tmp_path / "killed", **settings)
    undisturbed_and_killed(run_prefer, whole, killed, after=random.randint(0, 12))
    files = [path.relative_to(whole.product) for path in whole.product.rglob("*") if path.is_file()]
    assert files
    for name in files:
        assert (killed.product / name).read_bytes() == (whole.product / name).read_bytes(), name
    assert untimed(killed) == untimed(whole)
