"""Rewards by name and weight, and rewards of one's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.core.errors import BethinkError, ConfigError
from bethink.verify.rewards.attempt import Credit, Part
from bethink.verify.rewards.compose import KNOWN, Rewards
from verify.rewards.attempts import WRONG, attempt, ungraded


def test_a_total_is_the_weighted_sum_and_every_part_is_kept_unweighted() -> None:
    rewards = Rewards.of("accuracy=2, format=0.5 ,steps=0.25:process=true")
    assert rewards.names == ("accuracy", "format", "steps")
    right, wrong = rewards.score([attempt("12 + 7 = 18"), attempt("12 + 7 = 19", WRONG)])
    assert right.parts == {"accuracy": 1.0, "format": 1.0, "steps": -1.0}
    assert right.total == pytest.approx(2 + 0.5 - 0.25)
    assert wrong.total == pytest.approx(0.5)
    assert [credit.value for credit in right.credits] == [-0.25]
    assert right.notes == ("answer right, step 1 wrong: 12 + 7 = 18, it is 19",)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(set(KNOWN) - {"overlong", "language"})),
        st.floats(-5, 5, allow_nan=False),
        min_size=1,
    )
)
def test_a_spec_as_text_and_as_mapping_are_the_same(weights: dict[str, float]) -> None:
    group = [attempt("12 + 7 = 19"), attempt("12 + 7 = 18", WRONG), attempt(None)]
    text = ",".join(f"{name}={weight!r}" for name, weight in weights.items())
    assert Rewards.of(text).score(group) == Rewards.of(weights).score(group)
    assert Rewards.of(text).weights == weights


def test_what_was_not_graded_is_masked_and_never_nought() -> None:
    scored, other = Rewards.of("accuracy=1,format=1,steps=1:process=true").score(
        [ungraded("2 + 2 = 5"), attempt("a")]
    )
    assert scored.total is None
    assert scored.credits == ()
    assert scored.parts["accuracy"] is None
    assert scored.parts["format"] == 1.0
    assert other.total is not None


def test_a_weight_of_nought_is_logged_and_masks_nothing() -> None:
    [scored] = Rewards.of("accuracy=0,format=1,steps=0:process=true").score([ungraded("2 + 2 = 5")])
    assert scored.total == 1.0
    assert scored.credits == ()
    assert scored.parts == {"accuracy": None, "format": 1.0, "steps": -1.0}


def test_options_come_from_the_spec_then_by_reward_then_for_all() -> None:
    group = [attempt("a", tokens=90)]

    def value(spec: str, **options: object) -> float | None:
        return Rewards.of(spec, **options).score(group)[0].parts["overlong"]

    assert value("accuracy=1,overlong=1", max_tokens=100) == -0.5
    assert value("overlong=1", max_tokens=100, overlong={"cache": 40}) == pytest.approx(-0.75)
    assert value("overlong=1:max_tokens=1000:cache=100", max_tokens=100) == 0.0
    assert Rewards.of({"overlong": 1}, overlong={"max_tokens": 100}).score(group)[0].total == -0.5


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("acuracy=1", {}, "did you mean `accuracy`?"),
        ("zzz", {}, "known rewards: accuracy, format"),
        ("accuracy=much", {}, "the weight of the reward `accuracy` is 'much'"),
        ("accuracy=nan", {}, "must be a number"),
        ("accuracy=1,accuracy=2", {}, "stands twice"),
        ("", {}, "no reward is named"),
        ("steps=1:proces=true", {}, "did you mean `process`?"),
        ("steps=1:process=perhaps", {}, "true or false"),
        ("steps=1:process", {}, "has no value"),
        ("repetition=1:ngram=2.5", {}, "a whole number"),
        ("repetition=1:ngram=0", {}, "1 or more"),
        ("overlong=1", {}, "needs the option `max_tokens`"),
        ("format=1:x=2", {}, "it has none"),
        ("accuracy=1", {"steps": {"process": True}}, "which is not asked for"),
        ({"accuracy": True}, {}, "must be a number"),
        ({"steps": 1}, {"steps": {"process": 1}}, "true or false"),
        ("no_such_module_here:score", {}, "no module `no_such_module_here`"),
        ("bethink.core.seeds:derive_sed", {}, "did you mean `derive_seed`?"),
        ("bethink.core.seeds:__doc__", {}, "is no function"),
        ("a b:c", {}, "is no place of a function"),
        ("bethink.core.seeds:derive_seed=1:x=2", {}, "has no options"),
    ],
)
def test_a_bad_spec_is_an_error_that_says_what_to_do(
    spec: object, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Rewards.of(spec, **options)  # type: ignore[arg-type]
    assert said in str(error.value)


def test_a_reward_built_elsewhere_joins_in() -> None:
    rewards = Rewards.of("accuracy=1")
    more = rewards.with_scorer(
        "preference", 0.5, lambda group: [Part(float(-i), (Credit(0, 1, 2.0),)) for i in range(len(group))]
    )
    assert rewards.names == ("accuracy",)
    assert more.names == ("accuracy", "preference")
    first, second = more.score([attempt("a"), attempt("b")])
    assert (first.total, second.total) == (1.0, 0.5)
    assert first.credits == (Credit(0, 1, 1.0),)
    with pytest.raises(ConfigError):
        more.with_scorer("accuracy", 1.0, lambda group: [])


@pytest.mark.parametrize("parts", [[], [Part(1.0)] * 3, [Part(float("nan"))], [Part(float("inf"))]])
def test_a_scorer_that_gives_too_little_or_no_number_stops_the_run(parts: list[Part]) -> None:
    with pytest.raises(BethinkError, match="odd"):
        Rewards().with_scorer("odd", 1.0, lambda group: parts).score([attempt("a")])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's in the current directory."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "def brevity(attempt):\n    return -len(attempt.text) / 1000\n"
        "def noted(attempt):\n    return (0.5, 'as ' + attempt.mode)\n"
        "def unsure(attempt):\n    return None\n"
        "def flag(attempt):\n    return attempt.verdict.correct\n"
        "def broken(attempt):\n    return {}['key']\n"
        "def endless(attempt):\n    return float('inf')\n"
        "def odd(attempt):\n    return 'much'\n"
        "class Judges:\n    @staticmethod\n    def one(attempt):\n        return 1\n"
    )
    (tmp_path / f"{name}_bad.py").write_text("import no_such_thing_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_function_of_the_users_own_is_a_reward(own: str) -> None:
    rewards = Rewards.of(f"accuracy=1,{own}:noted=0.5,{own}.flag=2,{own}:Judges.one")
    [scored] = rewards.score([attempt("a")])
    assert scored.parts == {
        "accuracy": 1.0,
        f"{own}:noted": 0.5,
        f"{own}.flag": 1.0,
        f"{own}:Judges.one": 1.0,
    }
    assert scored.total == pytest.approx(1 + 0.25 + 2 + 1)
    assert scored.notes == ("as on",)
    assert Rewards.of(f"{own}:unsure").score([attempt("a")])[0].total is None


def test_a_function_that_fails_is_named_with_the_problem(own: str) -> None:
    for name, said in (("broken", "KeyError"), ("odd", "'much'"), ("endless", "return a finite number")):
        with pytest.raises(BethinkError) as error:
            Rewards.of(f"{own}:{name}").score([attempt("a")])
        assert f"{own}:{name}" in str(error.value)
        assert said in str(error.value)
        assert "p1" in str(error.value)
    with pytest.raises(ConfigError, match="did you mean|not there"):
        Rewards.of(f"{own}:brevty")
    with pytest.raises(ConfigError, match="no_such_thing_at_all"):
        Rewards.of(f"{own}_bad:anything")
