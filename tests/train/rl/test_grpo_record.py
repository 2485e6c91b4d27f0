"""What a run writes down: rewards, penalties, differences and warnings in its metrics, rollouts, plots and page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from bethink.train.metrics import read_metrics
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.plot import curves
from bethink.train.rl.run import run_grpo
from bethink.train.rl.watch import Watch

Make = Callable[..., GRPOConfig]


def rollouts(config: GRPOConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.output / "rollouts.jsonl").read_text().splitlines()]


def test_a_kl_term_in_the_reward_leaves_the_rewards_what_they_are(make_grpo: Make) -> None:
    config = make_grpo(
        algorithm="rloo", rewards="train.rl.test_grpo_run:rarely=0.5", steps=3, lr=1e-2, full=True
    )
    run_grpo(config)
    metrics = read_metrics(config.output / "metrics.jsonl")
    silent = 0
    for step, row in enumerate(metrics, 1):
        groups: dict[str, list[dict[str, Any]]] = {}
        for r in rollouts(config):
            if r["step"] == step:
                groups.setdefault(r["problem"], []).append(r)
        every = [r for group in groups.values() for r in group]
        for group in groups.values():
            paid = [r["reward"] - r["kl_penalty"] for r in group]
            for r, own in zip(group, paid, strict=True):
                assert r["reward"] == 0.5 * r["parts"]["train.rl.test_grpo_run:rarely"]
                others = (sum(paid) - own) / (len(paid) - 1)
                assert r["advantage"] == pytest.approx(own - others, abs=1e-5)
                assert r["trained"]
        penalties = [r["kl_penalty"] for r in every]
        assert row["kl_penalty"] == pytest.approx(fmean(penalties), abs=1e-5)
        assert row["kl"] * 0.03 * sum(r["tokens"] for r in every) == pytest.approx(sum(penalties), abs=1e-4)
        assert row["reward"] == pytest.approx(fmean(r["reward"] for r in every), abs=1e-5)
        assert row["without_signal"] == sum(
            len({r["reward"] for r in group}) == 1 for group in groups.values()
        )
        assert row["learned_groups"] == len(groups) - row["without_signal"]
        silent += row["without_signal"]
    assert silent
    assert "KL penalty" in (config.output / "rollouts.html").read_text()
    assert [abs(row["kl"]) > 1e-6 for row in metrics] == [False, True, True]


def test_rewards_are_told_apart_by_mode_and_what_is_paid_though_wrong_is_marked(make_grpo: Make) -> None:
    name = "train.rl.test_grpo_record:luck"
    config = make_grpo(modes="both", rewards=f"accuracy=1,{name}=1", steps=2, group_size=8, max_tokens=6)
    run_grpo(config)
    rows = rollouts(config)
    flagged = wrong = 0
    for step, metrics in enumerate(read_metrics(config.output / "metrics.jsonl"), 1):
        of_step = [row for row in rows if row["step"] == step]
        for mode in ("on", "off"):
            of_mode = [row for row in of_step if row["mode"] == mode]
            for part in ("accuracy", name):
                mean = fmean(row["parts"][part] for row in of_mode)
                assert metrics[f"reward/{part}_{mode}"] == pytest.approx(mean, abs=1e-5)
            assert metrics[f"truncated_{mode}"] == pytest.approx(
                fmean(row["truncated"] for row in of_mode), abs=1e-5
            )
        assert f"reward/{name}" in metrics
        assert "truncated" in metrics
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in of_step:
            groups.setdefault((row["problem"], row["mode"]), []).append(row)
        for group in groups.values():
            mean = fmean(row["reward"] for row in group)
            for row in group:
                wrong += row["outcome"] != "correct"
                flagged += row["paid_though_wrong"]
                assert row["paid_though_wrong"] == (
                    row["outcome"] != "correct" and row["reward"] > mean + 1e-9
                )
    assert 0 < flagged < wrong
    assert (config.output / "rollouts.html").read_text().count("paid though wrong") == flagged


def test_where_nothing_was_learned_nothing_was_measured(make_grpo: Make) -> None:
    config = make_grpo(rewards="train.rl.test_grpo_record:nothing=1", algorithm="dapo", steps=1)
    (row,) = [run_grpo(config).last]
    assert row["learned_tokens"] == 0
    for name in ("mismatch", "mismatch_max", "mismatch_kl", "entropy", "clipped", "capped"):
        assert row[name] is None, name


def test_the_two_policies_difference_has_a_logarithmic_panel_of_its_own(make_grpo: Make) -> None:
    config = make_grpo(steps=2)
    run_grpo(config)
    rows = read_metrics(config.output / "metrics.jsonl")
    rows.append({**rows[-1], "step": 3, "mismatch": None, "mismatch_max": None, "mismatch_kl": None})
    rows.append({**rows[-1], "step": 4, "mismatch": 0.5, "mismatch_max": 3.0, "mismatch_kl": 0.0})
    figure = curves(rows, columns=5, size=(17, 6))
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes}
    panel = shown.pop("sampler from trainer (nats a token)")
    assert panel.get_yscale() == "log"
    assert {axes.get_yscale() for axes in shown.values()} == {"linear"}
    mean = next(line for line in panel.get_lines() if line.get_label() == "mean")
    assert list(mean.get_xdata()) == [row["step"] for row in rows if row["mismatch"]]
    assert not [line for line in shown["KL (nats a token)"].get_lines() if "trainer" in str(line.get_label())]


def luck(attempt: Any) -> float:
    """Pays what has nothing to do with the answer."""
    return float(len(attempt.text) % 3)


def nothing(attempt: Any) -> float:
    """Pays nobody."""
    return 0.0


def peek(attempt: Any) -> float:
    """Looks at the run's output, which the test has made the current directory's `grpo`."""
    written = ("rollouts.html", "training.svg", "training.png")
    with open("seen.jsonl", "a") as handle:
        handle.write(json.dumps([name for name in written if Path("grpo", name).exists()]) + "\n")
    return float(len(attempt.text) % 3)


def test_a_run_at_work_has_its_page_and_plots_from_the_first_checkpoint_on(
    make_grpo: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = make_grpo(rewards="train.rl.test_grpo_record:peek=1", steps=4, checkpoint_every=2)
    run_grpo(config)
    each = config.problems_per_step * config.group_size
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert seen == [[]] * 2 * each + [["rollouts.html", "training.svg", "training.png"]] * 2 * each
    assert all(row["warnings"] == [] for row in read_metrics(config.output / "metrics.jsonl"))


def test_what_the_watch_warns_of_is_in_the_metrics_while_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    def row(disagreement: float) -> dict[str, Any]:
        return {"reward": 0.5, "reward/format": 0.5, "reward/format_on": 0.5, "disagreement": disagreement}

    watch = Watch([{**row(0.9), "step": step} for step in range(1, 9)])
    assert watch.see(row(0.9)) == []
    for _ in range(2):
        (warned,) = watch.see(row(0.9))
        assert (warned["kind"], warned["about"]) == ("disagreement", "")
        assert "90%" in warned["text"]
        json.dumps(warned)
    for _ in range(9):
        last = watch.see(row(0.0))
    assert last == []
    assert capsys.readouterr().err.count("rewarded at least as much") == 1, "said once"
