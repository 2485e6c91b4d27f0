"""How a user names a task: generators, files and hub data sets, with samples that are stable and exclusions that hold."""

import json

import pytest

from bethink.core.errors import BethinkError, ConfigError
from bethink.tasks.sources import load_tasks, parse_options, split_specs


@pytest.fixture
def gsm_file(tmp_path):
    path = tmp_path / "test.jsonl"
    rows = [{"question": f"What is {n} + {n}?", "answer": f"…\n#### {2 * n}"} for n in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_generator_with_options():
    problems = load_tasks("chain_sum:min_terms=5,max_terms=5,max_digits=1", size=4, seed=1, split="test")
    assert len(problems) == 4
    assert all(p.question.count(" + ") + p.question.count(" - ") == 4 for p in problems)


def test_options_are_read_as_yaml():
    assert parse_options("a=1,b=[+, -],c=true,d=x y", "here") == {
        "a": 1,
        "b": ["+", "-"],
        "c": True,
        "d": "x y",
    }


def test_several_tasks_in_one_text():
    text = "chain_sum:min_terms=5,max_terms=8, gsm_symbolic,basic_arithmetic:operators=[+,-],x.jsonl:question=a,answer=b"
    assert split_specs(text) == [
        "chain_sum:min_terms=5,max_terms=8",
        "gsm_symbolic",
        "basic_arithmetic:operators=[+,-]",
        "x.jsonl:question=a,answer=b",
    ]


def test_a_sample_of_a_file_is_stable_nested_and_in_order(gsm_file):
    def ids(size, seed):
        return [p.id for p in load_tasks(f"{gsm_file}:gsm8k", size=size, seed=seed, split="test")]

    everything = ids(None, 1)
    assert len(everything) == 50
    assert ids(10, 1) == ids(10, 1) != ids(10, 2)
    assert set(ids(10, 1)) < set(ids(20, 1))
    assert sorted(ids(20, 1), key=everything.index) == ids(20, 1)


def test_excluded_questions_are_left_out_and_counted(gsm_file):
    asked = [f"what is  {n} + {n}?" for n in range(20)]  # other case and spacing, the same questions
    problems = load_tasks(f"{gsm_file}:gsm8k", size=None, seed=1, split="test", exclude=asked)
    assert len(problems) == 30
    assert problems.dropped["excluded"] == 20
    with pytest.raises(ConfigError, match="all 50 are excluded"):
        load_tasks(
            f"{gsm_file}:gsm8k",
            size=None,
            seed=1,
            split="test",
            exclude=[f"What is {n} + {n}?" for n in range(50)],
        )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("test.jsonl", "what the columns mean"),
        ("folder/gsm8k_test.parquet", "what the columns mean"),
        ("hub:openai/gsm8k", "what the columns mean"),
        ("hub:gsm8k:gsm8k", "not a data set id"),
        ("chain_sum:5", "`5` is not an option"),
        ("chain_sums", "did you mean `chain_sum`"),
        ("chain_sum:min_terms=[", "cannot read the value"),
        ("chain_sum:min_terms=2024-99-99", "`min_terms` is '2024-99-99', its default is 2"),
        ("chain_sum:min_terms=" + "[" * 5000 + "]" * 5000, "cannot read the value"),
        ("test.txt:gsm8k", "neither a generator nor a file of rows"),
    ],
)
def test_what_cannot_be_understood_is_said(spec, said):
    with pytest.raises(BethinkError) as caught:
        load_tasks(spec, size=5, seed=1, split="test")
    assert said in str(caught.value)


def test_a_generator_needs_a_size():
    with pytest.raises(ConfigError, match="as many problems as it is asked for"):
        load_tasks("chain_sum", size=None, seed=1, split="test")
