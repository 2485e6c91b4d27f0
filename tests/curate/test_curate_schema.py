"""A row becomes a Sample or a reason, and nothing it can hold raises."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bethink.chat.toggle import Mode
from bethink.curate.schema import UNREADABLE, Drop, Sample, read_line, read_row
from curate.rows import DEFECTS, row

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant"]) | _JSON, "content": _JSON}
)


def sample(**values: Any) -> Sample:
    found = read_row({**row(1), **values})
    assert isinstance(found, Sample), found
    return found


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_reason(line: bytes) -> None:
    found = read_line(line)
    assert isinstance(found, dict) or found.reason in UNREADABLE


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["input", "output", "reasoning", "system_prompt", "used_in_training", "category", "version"]
        ),
        _JSON | st.lists(_MESSAGE, max_size=3) | st.sampled_from(["on", "off"]),
    )
)
def test_any_object_is_a_sample_or_a_reason(record: dict[str, Any]) -> None:
    found = read_row(record, difficulty_field="version")
    assert isinstance(found, Sample) or found.reason in UNREADABLE


def test_every_unreadable_defect_is_told_by_its_reason() -> None:
    import random

    for name, (kind, reason, spoil) in DEFECTS.items():
        if reason not in UNREADABLE:
            continue
        spoiled = spoil(row(3, kind), random.Random(0))
        found: Any = read_line(spoiled if isinstance(spoiled, bytes) else json.dumps(spoiled).encode())
        found = read_row(found) if isinstance(found, dict) else found
        assert isinstance(found, Drop), name
        assert found.reason == reason, name


def test_a_string_is_one_user_message() -> None:
    assert sample(input="How many?").messages == [{"role": "user", "content": "How many?"}]


def test_the_tags_of_a_string_and_of_a_list_are_the_same() -> None:
    for value in (["Ultra", "Nano"], "['Ultra', 'Nano']", '["Ultra", "Nano"]', "Ultra,Nano", "Ultra Nano"):
        assert sample(used_in_training=value).labels["used_in_training"] == ("Ultra", "Nano")


def test_a_missing_label_is_not_an_empty_one() -> None:
    assert "category" not in sample(category=None).labels
    assert sample(used_in_training=[]).labels["used_in_training"] == ()


def test_toggles_are_read_and_taken_out() -> None:
    asked = [
        {"role": "system", "content": "detailed thinking on\n\nBe brief."},
        {"role": "user", "content": "How many?"},
    ]
    found = sample(input=asked, system_prompt="detailed thinking off", reasoning="on")
    assert found.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How many?"},
    ]
    assert set(found.said) == {Mode.ON, Mode.OFF}


def test_a_system_prompt_of_the_users_own_is_kept_once() -> None:
    own = {"role": "system", "content": "Be brief."}
    for asked in ([], [own], [{"role": "system", "content": "detailed thinking on\n\nBe brief."}]):
        found = sample(
            input=[*asked, {"role": "user", "content": "How many?"}],
            system_prompt="detailed thinking on\n\nBe brief.",
            reasoning="on",
        )
        assert found.messages[0] == own
        assert len(found.messages) == 2


def test_a_question_that_is_nothing_but_a_toggle_is_empty() -> None:
    for asked in ("/no_think", " /think ", [{"role": "user", "content": "/no_think"}]):
        found = read_row({**row(1), "input": asked})
        assert isinstance(found, Drop)
        assert (found.reason, found.detail) == ("empty_input", "the last user message is empty")
    assert sample(input="How many? /no_think").messages == [{"role": "user", "content": "How many?"}]


def test_the_answer_is_what_stands_after_the_thinking() -> None:
    for output, answer in (
        ("Four.", "Four."),
        ("<think>a</think>Four.", "Four."),
        ("Four. <think>a</think>", ""),
    ):
        assert sample(output=output).answer == answer


def test_the_difficulty_is_a_finite_number_or_none() -> None:
    for value, expected in (
        (3, 3.0),
        (0.25, 0.25),
        (True, None),
        ("3", None),
        (float("nan"), None),
        (10**400, None),
    ):
        found = read_row({**row(1), "hard": value}, difficulty_field="hard")
        assert isinstance(found, Sample)
        assert found.difficulty == expected
