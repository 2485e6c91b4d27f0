"""A wrong key or value is found, placed and, where possible, corrected."""

import pytest

from bethink.core.config import StrictModel, nearest, parse_yaml, validate
from bethink.core.errors import ConfigError


class Inner(StrictModel):
    learning_rate: float = 1e-4


class Outer(StrictModel):
    name: str
    train: Inner = Inner()


def check(text):
    value, lines = parse_yaml(text, "r.yaml")
    return validate(Outer, value, name="r.yaml", lines=lines)


def test_a_good_config_is_read():
    assert check("name: a\ntrain:\n  learning_rate: 1.0e-3\n").train.learning_rate == 1e-3


def test_an_unknown_key_names_its_line_and_the_nearest_known_key():
    with pytest.raises(ConfigError) as caught:
        check("name: a\ntrain:\n  learning_rat: 1\n")
    assert (caught.value.where, caught.value.fix) == ("r.yaml:3", "did you mean `learning_rate`?")
    assert "train.learning_rat" in caught.value.what


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("name: a\ntrain:\n  learning_rate: fast\n", "r.yaml:3", "learning_rate"),
        ("train: {}\n", "r.yaml", "name"),
        ("name: [a\n", "r.yaml:2:1", "YAML"),
        ("name: a\nname: b\n", "r.yaml:2", "twice"),
        ("- a\n", "r.yaml", ""),
        ("", "r.yaml", ""),
    ],
)
def test_every_fault_is_placed(text, where, what):
    with pytest.raises(ConfigError) as caught:
        check(text)
    assert caught.value.where == where
    assert what in caught.value.what


def test_nearest_gives_up_on_nonsense():
    assert nearest("lerning_rate", ["learning_rate", "seed"]) == "learning_rate"
    assert nearest("zzz", ["learning_rate", "seed"]) is None


@pytest.mark.parametrize(
    ("value", "named"),
    [({"train": {"learning_rate": "x"}, "name": "a"}, "`--learning-rate`"), ({}, "`--name`")],
)
def test_a_command_s_faults_are_named_by_its_options(value, named):
    with pytest.raises(ConfigError) as caught:
        validate(Outer, value, name="bethink sft", flags=True)
    assert caught.value.what.startswith(named)


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "2024-13-01", "2024-01-01", "truely"])
def test_only_true_and_false_are_booleans(word):
    assert parse_yaml(f"{word}: {word}\n", "r.yaml")[0] == {word: word}
    assert parse_yaml("[true, True, false, FALSE]", "r.yaml")[0] == [True, True, False, False]


def test_what_two_aliases_stand_for_are_two_things():
    value, _ = parse_yaml("a: &x {deep: {list: [1]}}\nb: *x\nc: {<<: *x}\n", "r.yaml")
    value["b"]["deep"]["list"].append(2)
    value["c"]["deep"]["more"] = 3
    assert value["a"] == {"deep": {"list": [1]}}


@pytest.mark.parametrize(
    "text",
    [
        "a: \x01", "? [a]\n: b", "a: !!int three", "a: !!timestamp never", "a: &a [*a]", "[" * 5000, "a: !!bool maybe",
        "a: !!set {b}", "\ud800",
    ],
)  # fmt: skip
def test_what_is_no_plain_yaml_is_refused_by_name(text):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "r.yaml")
    assert str(caught.value.where).startswith("r.yaml")
