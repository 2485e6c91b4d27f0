"""The curricula of a run: their options reach them, what was left out is said, and what does not go together is refused."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bethink.cli.grpo import grpo
from bethink.core.config import validate
from bethink.core.errors import ConfigError
from bethink.core.files import read_jsonl
from bethink.recipe.report.page import reinforcement_facts
from bethink.train.curricula.mastery import Mastery
from bethink.train.curricula.progressive import Progressive
from bethink.train.metrics import read_metrics
from bethink.train.resume import resume_command
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.run import run_grpo

Make = Callable[..., GRPOConfig]
Answers = Callable[[str, int], str]


def metrics_of(config: GRPOConfig) -> list[dict[str, Any]]:
    return read_metrics(config.output / "metrics.jsonl")


def drawn(config: GRPOConfig) -> list[set[str]]:
    """The questions of each step."""
    rows = list(read_jsonl(config.output / "rollouts.jsonl"))
    return [{row["question"] for row in rows if row["step"] == step + 1} for step in range(config.steps)]


def rates_file(path: Path, rates: Mapping[str, float]) -> Path:
    rows = [{"question": question, "pass_rate": rate} for question, rate in rates.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_plan_of_the_progressive_curriculum_is_as_asked_for(
    make_grpo: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {f"What is {n} plus {n + 2}?": n / 20 for n in range(20)}
    shuffled = random.sample(list(rates.items()), len(rates))
    config = make_grpo(
        curriculum="progressive",
        pass_rates=rates_file(tmp_path / "rates.jsonl", dict(shuffled)),
        progressive_start=0.5,
        progressive_end=0.2,
        progressive_width=0.01,
        progressive_drop=0.6,
        steps=3,
        problems_per_step=1,
        problems=20,
    )
    run_grpo(config)
    assert (
        "8 of 20 problems with a pass rate are dropped as too easy (0.6 or more)" in capsys.readouterr().err
    )
    rows = metrics_of(config)
    assert [row["curriculum/target"] for row in rows] == pytest.approx([0.5, 0.35, 0.2])
    assert [row["curriculum/offline_rate"] for row in rows] == pytest.approx([0.5, 0.35, 0.2])
    assert {row["curriculum/dropped"] for row in rows} == {8}
    assert reinforcement_facts(tuple(rows))["problems dropped as too easy"] == "8"
    assert [rates[question] for step in drawn(config) for question in step] == [0.5, 0.35, 0.2]


def test_without_dropping_much_the_easiest_come_first(make_grpo: Make, tmp_path: Path) -> None:
    rates = {f"What is {n} plus {n + 2}?": n / 20 for n in range(20)}
    config = make_grpo(
        curriculum="progressive",
        pass_rates=rates_file(tmp_path / "rates.jsonl", rates),
        progressive_start=0.9,
        progressive_width=0.01,
        progressive_drop=1,
        steps=2,
        problems=20,
    )
    run_grpo(config)
    assert metrics_of(config)[0]["curriculum/dropped"] == 0
    assert "What is 18 plus 20?" in drawn(config)[0]


@pytest.mark.parametrize(("window", "opened"), [(4, 2), (8, 3)])
def test_a_level_is_judged_by_the_window_asked_for_and_rehearsed_as_much_as_asked_for(
    make_grpo: Make, guessing_model_dir: Path, answers_file: Answers, window: int, opened: int
) -> None:
    """The easier level is solved half of the time and opens the next as soon as its window is full."""
    easy, hard = answers_file("7", 30), answers_file("8", 30)
    settings = {
        "model": str(guessing_model_dir),
        "tasks": (easy, hard),
        "curriculum": "mastery",
        "mastery_threshold": 0.2,
        "mastery_fall_back": 0.0,
        "mastery_window": window,
        "steps": 4,
        "group_size": 16,
        "lr": 1e-9,
        "seed": random.SystemRandom().randrange(2**31),
    }
    print(settings)
    base = make_grpo()
    alone = make_grpo(**settings, mastery_rehearsal=0.0, output=base.output.with_name("alone"))
    mixed = make_grpo(**settings, mastery_rehearsal=0.75, output=base.output.with_name("mixed"))
    for config, of_the_newest in ((alone, 4), (mixed, 1)):
        run_grpo(config)
        assert [row["curriculum/level"] for row in metrics_of(config)] == [0] * (opened - 2) + [1] * (
            6 - opened
        )
        for step, questions in enumerate(drawn(config), 1):
            hardest = sum(question.endswith("of 8?") for question in questions)
            assert hardest == (of_the_newest if step >= opened else 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mastery_window": 8}, "--mastery-window is an option of the mastery curriculum, and this one is shuffled"),
        ({"mastery_threshold": 0.7}, "--mastery-threshold"),
        ({"progressive_drop": 0.75}, "--progressive-drop .*say --curriculum progressive"),
        ({"pass_rates": "rates.jsonl"}, "--pass-rates is an option of the progressive"),
        ({"curriculum": "mastery", "tasks": "a,b", "progressive_end": 0.1}, "--progressive-end"),
        ({"curriculum": "mastery", "tasks": "a,b", "pass_rates": "r"}, "--pass-rates"),
        ({"curriculum": "progressive", "pass_rates": "r", "mastery_rehearsal": 0.25}, "--mastery-rehearsal"),
        ({"curriculum": "progressive"}, "needs --pass-rates"),
        ({"curriculum": "progressive", "pass_rates": "r", "progressive_start": 0.05}, "cannot move from 0.05 to 0.1"),
        ({"curriculum": "progressive", "pass_rates": "r", "progressive_drop": 75}, "`--progressive-drop`"),
        ({"curriculum": "progressive", "pass_rates": "r", "progressive_width": 0}, "`--progressive-width`"),
        ({"curriculum": "progressive", "pass_rates": "r", "progressive_width": float("inf")}, "`--progressive-width`"),
        ({"curriculum": "mastery", "tasks": "a,b", "mastery_fall_back": 0.7}, "cannot open at a pass rate of 0.7"),
        ({"curriculum": "mastery", "tasks": "a,b", "mastery_window": 0}, "`--mastery-window`"),
        ({"curriculum": "mastery", "tasks": "a,b", "mastery_rehearsal": 1}, "`--mastery-rehearsal`"),
        ({"curriculum": "mastery"}, "several tasks"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    options = {"model": "m", "tasks": "chain_sum", "output": "x", **changes}
    with pytest.raises(ConfigError, match=words):
        validate(GRPOConfig, options, name="bethink grpo", flags=True)


def test_the_command_has_the_configs_options_and_names_the_curricula_defaults() -> None:
    options = inspect.signature(grpo).parameters
    assert set(options) == set(GRPOConfig.model_fields)
    for name, option in options.items():
        # Where the option has none of its own, the config's is taken.
        if option.default not in (None, inspect.Parameter.empty) and name != "modes":
            assert option.default == GRPOConfig.model_fields[name].default, name
    shown = inspect.get_annotations(grpo, eval_str=True)
    for curriculum in (Progressive, Mastery):
        prefix = f"{curriculum.__name__.lower()}_"
        for name, argument in inspect.signature(curriculum).parameters.items():
            if argument.default is not argument.empty:
                assert shown[prefix + name].__metadata__[0].show_default == str(argument.default)


def test_the_command_that_resumes_says_the_curriculums_options(make_grpo: Make) -> None:
    tasks = ("chain_sum:min_terms=2", "chain_sum:min_terms=3")
    config = make_grpo(tasks=tasks, curriculum="mastery", mastery_window=8)
    words = resume_command("grpo", config)
    assert "--curriculum mastery --mastery-window 8" in words
    assert "--mastery-threshold" not in words
