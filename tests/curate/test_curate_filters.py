"""Each rule drops what it says and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bethink.curate.config import CurateConfig
from bethink.curate.filters import SAMPLE_FILTERS, build_filters, first_drop, has_filled_box
from bethink.curate.schema import Drop, Sample, read_row
from bethink.verify.language import LanguageJudge
from curate.rows import row

_judge = LanguageJudge().judge


def dropped_by(values: dict[str, Any], **options: Any) -> str | None:
    """The rule that drops a row with these values, the others being those of a good math row with thinking on."""
    sample = read_row({**row(1, "on"), **values})
    assert isinstance(sample, Sample), sample
    config = CurateConfig(input=(Path("x"),), output=Path("y"), tokenizer="z", **options)
    drop = first_drop(sample, build_filters(config, _judge), {})
    return drop.reason if isinstance(drop, Drop) else None


def test_a_good_row_passes() -> None:
    assert dropped_by({}) is None


def test_rules_are_asked_in_the_order_they_are_reported() -> None:
    config = CurateConfig(
        input=(Path("x"),),
        output=Path("y"),
        tokenizer="z",
        category=("a",),
        license="b",
        generator="c",
        version="d",
        difficulty="field:rating",
    )
    assert [rule.name for rule in build_filters(config, _judge)] == list(SAMPLE_FILTERS)


def test_any_turns_a_rule_off() -> None:
    assert dropped_by({"used_in_training": ["Ultra"]}, trained_by="any") is None
    assert dropped_by({"output": "<think>\nyes\n</think>\n\nIt is twelve, I am sure."}, boxed="any") is None
    german = "Wie viele Kisten sind es insgesamt, wenn wir alle zusammen zählen?"
    assert dropped_by({"input": german}) == "language"
    assert dropped_by({"input": german}, language="any") is None
    assert dropped_by({"input": german}, language=["de", "en"]) is None


@pytest.mark.parametrize("label", ["category", "license", "generator", "version"])
def test_a_label_must_be_one_of_those_asked_for(label: str) -> None:
    assert dropped_by({label: "this"}, **{label: ("That", "THIS")}, boxed="any") is None
    assert dropped_by({label: "this"}, **{label: ("that",)}, boxed="any") == label


def test_a_rule_without_its_label_is_skipped_and_counted() -> None:
    sample = read_row({"input": "How many?", "output": "It is twelve, I am sure.", "reasoning": "off"})
    assert isinstance(sample, Sample)
    config = CurateConfig(input=(Path("x"),), output=Path("y"), tokenizer="z", license="mit")
    skipped: dict[str, int] = {}
    assert first_drop(sample, build_filters(config, _judge), skipped) is None
    assert skipped == {"trained_by": 1, "license": 1, "boxed": 1}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("\\boxed{5}", True),
        ("so \\boxed {x}", True),
        ("\\boxed{\\frac{1}{2}}", True),
        ("\\boxed{\\{1, 2\\}}", True),
        ("\\boxed{} then \\boxed{7}", True),
        ("\\boxed{ \\boxed{3} ", True),
        ("\\boxed{\\}}", True),
        ("", False),
        ("5", False),
        ("\\boxed 5", False),
        ("\\boxed{}", False),
        ("\\boxed{ \n }", False),
        ("\\boxed{5", False),
        ("\\boxed{\\frac{1}{2}", False),
        ("\\boxed{5\\}", False),
        ("}{5}", False),
    ],
)
def test_a_filled_box(text: str, filled: bool) -> None:
    assert has_filled_box(text) is filled


def test_many_open_boxes_take_no_time() -> None:
    assert not has_filled_box("\\boxed{" * 200_000)


def test_the_box_counts_in_the_answer_only_and_for_math_only() -> None:
    thought = {"output": "<think>\nIt is \\boxed{12}.\n</think>\n\nIt is twelve, I am sure."}
    assert dropped_by(thought) == "boxed"
    assert dropped_by({**thought, "category": "chat"}) is None
