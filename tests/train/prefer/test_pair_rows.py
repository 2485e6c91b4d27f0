"""Pairs in every form they are published in, the messages for what is none, and pairs made of graded answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode, ToggleStyle
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import DataError
from bethink.train.prefer.config import answers_file, pair_files
from bethink.train.prefer.pairs import PairRenderer, read_pairs
from bethink.train.prefer.verdicts import Fault, pairs_of, read_answers
from train.prefer.conftest import write_pairs


@pytest.fixture
def renderer(tiny_tokenizer_dir: Path) -> Renderer:
    return Renderer(ChatTokenizer.load(tiny_tokenizer_dir))


USER = {"role": "user", "content": "Hi"}
ANSWERS = {"chosen": "Hello.", "rejected": "Go away."}


def said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_every_published_form_of_a_row_is_the_same_pair(tmp_path: Path, renderer: Renderer) -> None:
    forms: list[dict[str, Any]] = [
        {"prompt": "Hi", **ANSWERS},
        {"prompt": [USER], **ANSWERS},
        {"prompt": [USER], "chosen": [said("Hello.")], "rejected": [said("Go away.")]},
        {"prompt": "Hi", "chosen": [USER, said("Hello.")], "rejected": [USER, said("Go away.")]},
        {"chosen": [USER, said("Hello.")], "rejected": [USER, said("Go away.")]},
    ]
    rows = [{**form, "mode": "off"} for form in forms]
    path = write_pairs(tmp_path / "forms.jsonl", rows)
    rendered = PairRenderer(renderer)
    pairs = list(read_pairs([path], None))
    prompt, chosen, rejected = rendered.texts(pairs[0])
    assert prompt == renderer.prompt([USER], Mode.OFF).text
    assert (chosen, rejected) == ("Hello." + renderer.end_of_turn, "Go away." + renderer.end_of_turn)
    assert all(rendered.texts(pair) == (prompt, chosen, rejected) for pair in pairs)

    # As text with its template, and as token ids, which are taken as they are.
    templated = {"input": prompt, "chosen": chosen, "rejected": rejected, "mode": "off"}
    ids = {"prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [8, 9]}
    path = write_pairs(tmp_path / "templated.jsonl", [templated, {**templated, **ids}])
    first, second = (rendered.ids(pair) for pair in read_pairs([path], None))
    assert first is not None
    assert second is not None
    assert first == rendered.ids(pairs[0])
    assert (second.prompt_ids, second.chosen_ids, second.rejected_ids) == ([5, 6], [7], [8, 9])


def test_the_toggle_is_said_as_the_run_says_it(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    path = write_pairs(tmp_path / "rows.jsonl", [{"prompt": "Hi /think", **ANSWERS}])
    slash = Renderer(ChatTokenizer.load(tiny_tokenizer_dir), style=ToggleStyle.SLASH)
    for mode in Mode:
        (pair,) = read_pairs([path], mode)
        assert PairRenderer(slash).texts(pair)[0] == slash.prompt([USER], mode).text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi", "chosen": "a", "mode": "off"}, "no `rejected`"),
        ({"chosen": "a", "rejected": "b", "mode": "off"}, "no `prompt`"),
        ({"prompt": "Hi", **ANSWERS}, "--mode on|off"),
        ({"prompt": "Hi", **ANSWERS, "mode": "maybe"}, "must be on or off"),
        ({"prompt": [{"role": "robot", "content": "x"}], **ANSWERS, "mode": "on"}, "no message"),
        ({"prompt": "Hi", "chosen": [USER], "rejected": "b", "mode": "on"}, "does not end with an assistant"),
        (
            {"chosen": [USER, said("a")], "rejected": [{**USER, "content": "Ho"}, said("b")], "mode": "on"},
            "different conversations",
        ),
        ({"input": "", **ANSWERS, "mode": "on"}, "`input` is empty"),
        ({"input": 3, **ANSWERS, "mode": "on"}, "must be text"),
        (["Hi", "a", "b"], "expected an object"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_place(tmp_path: Path, row: Any, message: str) -> None:
    good = {"prompt": "Hi", **ANSWERS, "mode": "off"}
    path = write_pairs(tmp_path / "rows.jsonl", [good, row])
    with pytest.raises(DataError) as error:
        list(read_pairs([path], None))
    assert message in str(error.value)
    assert f"{path}:2" in str(error.value)


def test_a_broken_line_and_a_prompt_of_another_model_are_refused(tmp_path: Path, renderer: Renderer) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Hi", "cho\n')
    with pytest.raises(DataError, match=f"{path}:1"):
        list(read_pairs([path], Mode.ON))
    other = {"input": "<s>[INST] Hi [/INST]", **ANSWERS, "mode": "on"}
    (pair,) = read_pairs([write_pairs(path, [other])], None)
    with pytest.raises(DataError, match="templated for another model"):
        PairRenderer(renderer).ids(pair)


def answer(problem: str, output: str, verdict: str = "correct", **changes: Any) -> dict[str, Any]:
    return {
        "id": problem, "task": "sums", "mode": "off", "prompt": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "output": output, "opened": False, "verdict": verdict, "compliant": True, "thinking_tokens": 0,
        "answer_tokens": 10, "finish_reason": "stop", **changes,
    }  # fmt: skip


def made(rows: list[dict[str, Any]], renderer: Renderer, **changes: Any) -> Any:
    settings = {"longer": 1.5, "most": 4, "seed": 0, **changes}
    pairs, count = pairs_of(rows, renderer, **settings)
    end = renderer.end_of_turn
    return [(p["chosen"].removesuffix(end), p["rejected"].removesuffix(end), p["why"]) for p in pairs], count


def test_right_and_short_is_preferred_to_wrong_or_long(renderer: Renderer) -> None:
    rows = [
        answer("1", "right"),
        answer("1", "right, at length", thinking_tokens=5),
        answer("1", "wrong", "wrong"),
        answer("1", "ungraded", "grader_error"),
        answer("1", "unjudged", "not_judged"),
        answer("2", "right", compliant=False),
        answer("2", "good"),
        answer("2", "hardly longer", answer_tokens=14),
        answer("3", "cut", "truncated", finish_reason="length"),
        answer("3", "good"),
        answer("4", "alone"),
        answer("5", "wrong", "wrong"),
        answer("5", "another mode", mode="on"),
    ]
    pairs, count = made(rows, renderer)
    assert sorted(pairs) == [
        ("good", "cut", "truncated"),
        ("good", "right", "form"),
        ("hardly longer", "right", "form"),
        ("right", "right, at length", "long"),
        ("right", "wrong", "wrong"),
        ("right, at length", "wrong", "wrong"),
    ]
    assert (count.answers, count.ungraded, count.problems, count.with_pairs) == (13, 2, 6, 3)
    assert count.pairs == {"wrong": 2, "long": 1, "form": 2, "truncated": 1}
    assert len(made(rows, renderer, longer=1.3)[0]) == 7


def test_a_cut_answer_has_no_end_of_turn(renderer: Renderer) -> None:
    rows = [answer("1", "good"), answer("1", "cut", "truncated", finish_reason="length")]
    (pair,), _ = pairs_of(rows, renderer, longer=1.5, most=1, seed=0)
    assert pair["chosen"].endswith(renderer.end_of_turn)
    assert pair["rejected"] == "cut"


def test_few_pairs_use_many_answers_and_the_seed_decides(renderer: Renderer) -> None:
    rows = [answer("1", f"right {i}") for i in range(6)] + [
        answer("1", f"wrong {i}", "wrong") for i in range(6)
    ]
    pairs, _ = made(rows, renderer, most=6)
    assert len({chosen for chosen, _, _ in pairs}) == len({rejected for _, rejected, _ in pairs}) == 6
    assert made(rows, renderer, most=6)[0] == pairs
    assert any(made(rows, renderer, most=6, seed=seed)[0] != pairs for seed in (1, 2, 3))
    long = [answer("1", f"long {i}", answer_tokens=90) for i in range(3)]
    reasons = [why for _, _, why in made([*rows, *long], renderer, most=40)[0]]
    assert reasons == sorted(reasons, key=lambda why: why == Fault.LONG)
    assert made([*rows, *rows], renderer, most=99)[0] == made(rows, renderer, most=99)[0], "doubles are one"


def test_an_endpoints_answers_are_rendered_for_the_model_in_training(renderer: Renderer) -> None:
    told = [{"role": "system", "content": "detailed thinking off"}, USER]
    rows = [answer("1", "good", prompt=told), answer("1", "bad", "wrong", prompt=told)]
    rows.append(answer("1", "cut", "truncated", prompt=told, finish_reason="length"))
    (pair,), count = pairs_of(rows, renderer, longer=1.5, most=9, seed=0)
    assert pair["input"] == renderer.prompt([USER], Mode.OFF).text
    assert pair["rejected"] == "bad" + renderer.end_of_turn
    assert count.unrendered == 1


def test_files_are_found_where_the_verbs_leave_them(tmp_path: Path) -> None:
    sampled = tmp_path / "sampled"
    (sampled / "answers").mkdir(parents=True)
    with pytest.raises(DataError, match="bethink sample"):
        answers_file(sampled)
    rows = sampled / "answers" / "samples.jsonl"
    rows.write_text(json.dumps({"id": "1"}) + "\n")
    assert answers_file(sampled) == answers_file(sampled / "answers") == answers_file(rows) == rows
    with pytest.raises(DataError, match=r"no `task`(.|\n)*samples.jsonl:1"):
        read_answers(rows)
    with pytest.raises(DataError, match="no such file"):
        pair_files(tmp_path / "none")
    file = write_pairs(tmp_path / "pairs.jsonl", [])
    assert pair_files(tmp_path) == pair_files(file) == [file]
