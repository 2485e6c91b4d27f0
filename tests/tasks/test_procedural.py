"""Procedural problems: deterministic, different from each other, and held-out splits that are held out."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from bethink.core.errors import ConfigError
from bethink.tasks.problem import question_key
from bethink.tasks.procedural import _ITEM_BITS, first_seed, generate, generators

SMALL_RANGE = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}


def questions(problems):
    return {question_key(p.question) for p in problems}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("chain_sum", {"min_terms": 5, "max_terms": 8, "min_digits": 1, "max_digits": 1}),
        ("chain_sum", SMALL_RANGE),
        ("gsm_symbolic", {}),
        ("gcd", {}),
        ("letter_counting", {}),
        ("pool_matrix", {}),
        ("list_functions", {}),
        ("time_intervals", {}),
    ],
)
def test_held_out_problems_are_not_in_training(name, config):
    train = generate(name, 300, seed=100, split="train", config=config)
    for seed in (100, 110):
        test = generate(
            name, 100, seed=seed, split="test", config=config, exclude=[p.question for p in train]
        )
        assert len(test) == 100
        assert not questions(train) & questions(test)
        assert len(questions(test)) == 100


def test_what_exclusion_drops_is_counted():
    train = generate("chain_sum", 1000, seed=1, split="train", config=SMALL_RANGE)
    test = generate("chain_sum", 200, seed=1, split="test", config=SMALL_RANGE)
    overlap = questions(train) & questions(test)
    assert overlap, "this range is small enough for splits to meet by chance"
    cleaned = generate(
        "chain_sum", 200, seed=1, split="test", config=SMALL_RANGE, exclude=[p.question for p in train]
    )
    assert cleaned.dropped["excluded"] >= len(overlap)
    assert not questions(train) & questions(cleaned)


def test_the_splits_never_share_a_seed_whatever_the_users_seeds_are():
    for name in ("chain_sum", "pool_matrix"):
        regions = {}
        for split in ("train", "validation", "test"):
            starts = [first_seed(seed, split, name) for seed in range(500)]
            regions[split] = (min(starts), max(starts) + 2**_ITEM_BITS)
        ordered = sorted(regions.values())
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))
    assert first_seed(7, "test", "pool_matrix") + 2**_ITEM_BITS <= 2**32


def test_ranges_of_one_split_do_not_overlap_for_neighbouring_seeds():
    starts = sorted(first_seed(seed, "train", "chain_sum") for seed in range(2000))
    assert all(b - a >= 2**_ITEM_BITS for a, b in itertools.pairwise(starts))


def test_the_same_arguments_give_the_same_problems():
    first = generate("products", 20, seed=3, split="test")
    assert generate("products", 20, seed=3, split="test") == first
    assert generate("products", 40, seed=3, split="test").problems[:20] == first.problems
    assert generate("products", 20, seed=4, split="test") != first


NAMED = """
import json, sys
from bethink.tasks.procedural import generate, generators

def problems(name, size):
    return [(p.id, p.answer) for p in generate(name, size, seed=3, split="test")]

names = [name for name in generators() if name != "composite"]
walk_over_sets = {"codeio", "isomorphic_strings", "knight_swap", "list_functions", "polynomial_multiplication", "ransom_note", "word_ladder"}
order = reversed(names) if sys.argv[1:] else names
print(json.dumps({name: problems(name, 10 if name in walk_over_sets else 1) for name in order}))
"""


def test_the_problems_are_the_same_in_every_process():
    # Each process salts its hashes in its own way, and asks for the generators in another order.
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", NAMED, *order],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
        )
        for seed, order in (("1", []), ("2", ["reversed"]))
    ]
    first, second = (json.loads(process.communicate(timeout=240)[0]) for process in processes)
    assert len(first) > 100
    assert [name for name in first if first[name] != second[name]] == []


def test_the_callers_own_random_numbers_are_left_alone():
    import random

    random.seed(7)
    expected = random.random()
    random.seed(7)
    generate("list_functions", 5, seed=1, split="test")
    assert random.random() == expected


def test_a_used_up_generator_gives_what_it_has_and_says_so(capsys):
    tiny = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    everything = generate("chain_sum", 300, seed=1, split="train", config=tiny)
    assert len(everything) == 200  # 10 · 10 · 2 signs
    assert "only 200 of 300" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ConfigError, match="no problem left"):
        generate("chain_sum", 5, seed=1, split="test", config=tiny, exclude=[p.question for p in everything])


def test_difficulty_levels_follow_the_generators_curriculum():
    easy = generate("chain_sum", 50, seed=1, split="train", config={"level": 0})
    hard = generate("chain_sum", 50, seed=1, split="train", config={"level": 6, "max_digits": 2})
    assert max(p.question.count(" ") for p in easy) < max(p.question.count(" ") for p in hard)
    assert hard.problems[0].meta["config"]["max_digits"] == 2


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("chainsum", {}, "did you mean `chain_sum`"),
        ("chain_sum", {"min_term": 3}, "did you mean `min_terms`"),
        ("chain_sum", {"min_terms": 9, "max_terms": 3}, "max_terms must be >= min_terms"),
        ("chain_sum", {"min_terms": "five"}, "refuses these options"),
        ("chain_sum", {"min_terms": "five"}, "`min_terms` is 'five', its default is 2"),
        ("chain_sum", {"level": 99}, "above the highest"),
        ("gsm_symbolic", {"level": 1}, "has no difficulty levels"),
        ("composite", {}, "refuses these options"),
        ("letter_counting", {"min_words": 2.5, "max_words": 4.5}, "cannot make a problem"),
    ],
)
def test_a_mistake_in_the_options_is_named(name, config, said):
    with pytest.raises(ConfigError) as caught:
        generate(name, 3, seed=1, split="train", config=config)
    assert said in str(caught.value)


def test_no_problems_asked_for_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        generate("chain_sum", 0, seed=1, split="train")


def test_every_generator_but_the_composite_makes_problems():
    slow_or_composite = {"composite", "boxnet", "rush_hour", "sokoban", "zebra_puzzles", "arc_1d"}
    for name in set(generators()) - slow_or_composite:
        (problem,) = generate(name, 1, seed=5, split="train")
        assert problem.question
        assert isinstance(problem.answer, str)
