"""What each reward pays for, what it does not, and what it takes to cheat it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.chat.parse import compose
from bethink.chat.toggle import DEFAULT_FORMAT, Mode
from bethink.core.errors import ConfigError
from bethink.tasks.problem import Problem
from bethink.verify.rewards.attempt import Attempt, Part, Reward
from bethink.verify.rewards.compose import Rewards
from bethink.verify.rewards.consistency import language
from bethink.verify.rewards.lengths import efficiency, length, overlong
from bethink.verify.rewards.outcome import accuracy, form
from bethink.verify.rewards.repetition import repetition
from bethink.verify.rewards.stepwise import steps
from bethink.verify.verdict import Outcome, Verdict
from verify.rewards.attempts import WRONG, attempt, ungraded, unjudged


def values(reward: Reward, *group: Attempt) -> list[float | None]:
    parts = reward(group)
    assert all(parts)
    return [part.value for part in parts if part]


def test_accuracy_pays_right_answers_and_masks_what_was_not_graded() -> None:
    silent = attempt("hm", "I do not know what to say about this matter.")
    assert values(accuracy(), attempt("hm"), attempt("hm", WRONG), silent, ungraded()) == [
        1.0,
        0.0,
        0.0,
        None,
    ]


def test_accuracy_may_take_the_graders_own_measure() -> None:
    half = replace(attempt("hm", WRONG), verdict=Verdict(Outcome.WRONG, "18", score=0.5))
    assert values(accuracy(partial=True), half, attempt("hm")) == [0.5, 1.0]
    assert values(accuracy(), half) == [0.0]


OPEN, CLOSE = DEFAULT_FORMAT.open, DEFAULT_FORMAT.close


@pytest.mark.parametrize(
    ("text", "mode", "opened", "value"),
    [
        (compose("12 + 7", "19"), Mode.ON, False, 1.0),
        (f"12 + 7\n{CLOSE}\n19", Mode.ON, True, 1.0),
        ("19", Mode.ON, False, 0.0),
        (compose("12 + 7", ""), Mode.ON, False, 0.0),
        (compose("", "19"), Mode.ON, False, 0.0),
        (compose(" \n ", "19"), Mode.ON, False, 0.0),
        (f"{OPEN}\n12 + 7 = 19", Mode.ON, False, 0.0),
        (compose("12 + 7", f"19 {CLOSE}"), Mode.ON, False, 0.0),
        (compose("a", compose("b", "19")), Mode.ON, False, 0.0),
        (f"12{CLOSE}7{OPEN}19", Mode.ON, False, 0.0),
        ("19", Mode.OFF, False, 1.0),
        (compose("12 + 7", "19"), Mode.OFF, False, 0.0),
        (f"19 {OPEN}", Mode.OFF, False, 0.0),
    ],
)
def test_form_is_that_of_the_mode(text: str, mode: Mode, opened: bool, value: float) -> None:
    assert values(form(), attempt("", text=text, mode=mode, opened=opened)) == [value]


def test_length_prefers_the_short_among_the_right_and_pays_nothing_for_a_short_wrong_one() -> None:
    group = [
        attempt("a", tokens=100),
        attempt("a", tokens=150),
        attempt("a", tokens=200),
        attempt("a", WRONG, tokens=100),
        attempt("a", WRONG, tokens=200),
        ungraded(),
    ]
    assert values(length(), *group) == [0.5, 0.0, -0.5, 0.0, -0.5, None]
    assert values(length(), *(replace(each, tokens=70) for each in group[:5])) == [0.0] * 5


def test_efficiency_counts_tokens_beyond_the_shortest_right_completion() -> None:
    group = [
        attempt("a", WRONG, tokens=5),
        attempt("a", tokens=100),
        attempt("a", tokens=150),
        attempt("a", tokens=900),
        ungraded(),
    ]
    assert values(efficiency(), *group) == [0.0, 0.0, -0.5, -1.0, None]
    assert values(efficiency(cap=3), group[1], group[3]) == [0.0, -3.0]
    assert values(efficiency(), group[0]) == [0.0]


def test_overlong_falls_linearly_up_to_the_limit() -> None:
    group = [attempt("a", tokens=n) for n in (1, 80, 90, 100, 130)]
    assert values(overlong(max_tokens=100, cache=20), *group) == [0.0, 0.0, -0.5, -1.0, -1.0]
    assert values(overlong(max_tokens=100), *group) == [0.0, 0.0, -0.5, -1.0, -1.0]
    for bad in ({"max_tokens": 0}, {"max_tokens": 10, "cache": 20}, {"max_tokens": 10, "cache": -1}):
        with pytest.raises(ConfigError):
            overlong(**bad)


def test_repetition_costs_a_loop_and_spares_working() -> None:
    loop = attempt("Let me check that again. " * 40)
    number = attempt("1 " * 300)
    chinese = attempt("让我再检查一遍。" * 40)
    working = attempt("\n".join(f"{n} + {n + 3} = {2 * n + 3}" for n in range(3, 60, 4)))
    short = attempt("a")
    looped, numbered, repeated, worked, brief = values(repetition(), loop, number, chinese, working, short)
    assert max(looped, numbered, repeated) < -0.9
    assert worked > -0.1
    assert brief == 0.0


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.integers(1, 9))
def test_repetition_lies_between_minus_one_and_nought(text: str, ngram: int) -> None:
    [value] = values(repetition(ngram=ngram), attempt(text))
    assert value is not None
    assert -1 < value <= 0


def test_steps_pay_no_bonus_and_blame_what_each_wrong_step_claims() -> None:
    text = "12 + 7 = 18\n18 + 2 = 20"
    [part] = steps(process=True)([attempt(text)])
    assert part.value == -0.5
    assert part.note == "answer right, step 1 wrong: 12 + 7 = 18, it is 19"
    [credit] = part.credits
    assert attempt(text).text[credit.start : credit.end] == " 18"
    assert credit.value == -1.0
    assert steps()([attempt(text)])[0].credits == ()


def test_neither_trivial_nor_repeated_equations_earn_or_hide_anything() -> None:
    wrong = "12 + 7 = 18\n18 + 1 = 19"
    padding = "7 = 7\n7 + 0 = 7\n1 * 7 = 7\n18 + 1 = 19\n" * 30
    silent, all_right, padded_silent = (
        attempt("hm"),
        attempt("12 + 7 = 19"),
        attempt("7 = 7\n5 + 0 = 5\n" * 30),
    )
    found = values(steps(), silent, all_right, padded_silent, attempt(wrong), attempt(wrong + "\n" + padding))
    assert found == [0.0, 0.0, 0.0, -0.5, -0.5]


def test_steps_of_a_thinking_block_that_was_never_closed_and_of_an_answer_without_one_are_checked_too() -> (
    None
):
    assert values(steps(), attempt("", text=f"{OPEN}\n12 + 7 = 18"), attempt(None, "12 + 7 = 18")) == [
        -1.0,
        -1.0,
    ]


ENGLISH = "First we add the tens of both numbers and then the ones. After that we look whether anything has to be carried over."
GERMAN = "Zuerst addieren wir die Zehner der beiden Zahlen und danach die Einer. Anschließend prüfen wir, ob ein Übertrag nötig ist."
CHINESE = "首先我们把两个数的十位相加，然后再把个位相加。最后我们检查是否需要进位。"


def asked(question: str) -> Problem:
    return Problem("q", "sums", ({"role": "user", "content": question},), "19", "numeric")


IN_ENGLISH = asked(
    "A farmer has twelve sheep and buys seven more at the market. How many sheep does he have in the end?"
)
IN_GERMAN = asked(
    "Ein Bauer hat zwölf Schafe und kauft auf dem Markt sieben weitere dazu. Wie viele Schafe hat er am Ende?"
)
IN_CHINESE = asked("一个农民有十二只羊，他又在市场上买了七只。最后他一共有多少只羊？")


@pytest.mark.parametrize("problem", [IN_ENGLISH, IN_GERMAN, IN_CHINESE])
def test_thinking_in_the_problems_language_is_consistent_and_any_other_is_not(problem: Problem) -> None:
    own = {id(IN_ENGLISH): ENGLISH, id(IN_GERMAN): GERMAN, id(IN_CHINESE): CHINESE}[id(problem)]
    for text in (ENGLISH, GERMAN, CHINESE):
        [value] = values(language(), attempt(text, "19", problem=problem))
        assert value == (1.0 if text is own else 0.0)


def test_mixing_is_measured_by_its_share() -> None:
    mixed = attempt(f"{ENGLISH}\n{GERMAN}", "19", problem=IN_ENGLISH)
    mostly = attempt(f"{ENGLISH}\n{ENGLISH}\n{ENGLISH}\n{GERMAN}", "19", problem=IN_ENGLISH)
    slipped = attempt(f"{ENGLISH} So the 答案 is here.", "19", problem=IN_ENGLISH)
    half, most, nearly = values(language(), mixed, mostly, slipped)
    assert 0.4 < half < 0.6 < most < nearly < 1.0
    assert values(language(target="de"), mixed)[0] == pytest.approx(1 - half, abs=0.05)


@pytest.mark.parametrize("word", ["答案", "сумма", "итого", "합계", "مجموع", "σύνολο", "кг", "סך"])
def test_one_word_in_other_letters_is_seen_though_its_language_is_not_certain(word: str) -> None:
    [value] = values(language(), attempt(f"{ENGLISH} So the {word} is here.", "19", problem=IN_ENGLISH))
    assert value is not None
    assert 0.8 < value < 1.0


def test_formulas_and_numbers_have_no_language() -> None:
    formulas = attempt("12 + 7 = 19\n$\\frac{a}{b} = x^2$\nx = 3", "\\boxed{19}", problem=IN_GERMAN)
    wordless = attempt(GERMAN, problem=asked("12 + 7 = ?"))
    assert values(language(), formulas) == [1.0]
    assert values(language(), wordless) == [1.0]
    with pytest.raises(ConfigError):
        language(target="English")


def test_rewards_do_not_depend_on_the_order_of_the_group() -> None:
    group = [attempt("a " * n, WRONG if n % 3 else "The answer is 19.", tokens=n) for n in range(1, 12)]
    rewards = Rewards.of(
        "accuracy,format,language,length,efficiency,repetition,steps,overlong=1:max_tokens=8"
    )
    order = random.sample(range(len(group)), len(group))
    there = rewards.score(group)
    shuffled = rewards.score([group[i] for i in order])
    assert [there[i] for i in order] == shuffled


def test_whatever_earns_a_reward_only_an_answer_that_is_right_earns_the_most() -> None:
    rewards = Rewards.of("accuracy=1,format=0.2,language=0.1,length=0.1,repetition=0.1,steps=0.2")
    honest = attempt("12 + 7 = 19", tokens=20)
    cheats = [
        attempt("1 + 1 = 2\n2 + 2 = 4\n3 + 3 = 6", WRONG, tokens=20),
        attempt("12 + 7 = 19", WRONG, tokens=12),
        attempt(None, "", mode=Mode.OFF, tokens=1),
        attempt(None, "19 19 19", mode=Mode.ON, tokens=5),
    ]
    best, *others = (scored.total for scored in rewards.score([honest, *cheats]))
    assert best is not None
    assert all(other is not None and other < best for other in others)


def test_what_has_no_grader_has_no_part_of_accuracy_and_no_gain_by_length() -> None:
    short, middle, long = (unjudged(tokens=tokens) for tokens in (10, 20, 30))
    assert accuracy()([short, unjudged(text=f"{OPEN}\nwithout end", truncated=True)]) == [None, None]
    assert efficiency()([short, long]) == [None, None]
    assert values(length(), short, middle, long) == [0.0, 0.0, -0.5]
    assert values(form(), short, unjudged(None)) == [1.0, 1.0]
    assert values(steps(), unjudged("12 + 7 = 18")) == [-1.0]
    assert "not judged" in steps()([short])[0].note


def test_the_other_rewards_of_what_has_no_grader_are_summed_and_nothing_is_masked_for_it() -> None:
    rewards = Rewards.of("accuracy=1,format=0.5,repetition=0")
    judged, wrong = rewards.score([attempt("hm"), attempt("hm", WRONG)])
    assert (judged.total, wrong.total) == (1.5, 0.5)
    formed, loose = rewards.score([unjudged(), unjudged(text="19", mode=Mode.ON)])
    assert (formed.total, loose.total) == (0.5, 0.0)
    assert set(formed.parts) == {"format", "repetition"}
    assert not formed.notes
    (masked,) = rewards.score([ungraded()])
    assert masked.total is None
    assert masked.parts["accuracy"] is None


def test_where_all_that_is_weighed_needs_a_grader_there_is_no_reward_rather_than_a_zero() -> None:
    for spec in ("accuracy=1", "accuracy=1,efficiency=0.5,format=0"):
        (scored,) = Rewards.of(spec).score([unjudged()])
        assert scored.total is None
    (broken,) = Rewards([("accuracy", 1.0, accuracy()), ("own", 1.0, lambda group: [Part(None)])]).score(
        [unjudged()]
    )
    assert broken.total is None, "a failure of ours still masks"
