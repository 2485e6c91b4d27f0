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
