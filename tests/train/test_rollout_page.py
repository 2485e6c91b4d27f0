"""The page on which people read rollouts."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bethink.chat.parse import compose
from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat
from bethink.core.errors import DataError
from bethink.train.rollout_page import evenly, shortened, write_rollout_page

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\'"&{{ 7 * 7 }}{% raw %}</style></p></details>-->'


def row(**changes: Any) -> dict[str, Any]:
    """A row as the trainer writes it."""
    return {
        "step": 3,
        "problem": "chain_sum-ab12",
        "task": "chain_sum",
        "mode": "on",
        "index": 0,
        "question": "What is 17 + 25?",
        "answer": "42",
        "text": compose("17 and 25 make 42", "The final answer is 42."),
        "outcome": "correct",
        "extracted": "42",
        "reward": 1.5,
        "parts": {"accuracy": 1.0, "format": 0.5},
        "advantage": 0.7,
        "tokens": 83,
        "truncated": False,
        "masked": False,
        "notes": ["answer right, step 3 wrong"],
        "mean_logprob": -0.4,
        "trained": True,
        **changes,
    }


def rows_of_a_run(steps: int, problems: int, rollouts: int) -> list[dict[str, Any]]:
    return [
        row(
            step=step,
            problem=f"p{step}-{number}",
            index=index,
            mode=mode,
            reward=float(index),
            outcome=outcome,
        )
        for step in range(steps)
        for number in range(problems)
        for mode in ("on", "off")
        for index, outcome in zip(range(rollouts), ["correct", "wrong"] * rollouts, strict=False)
    ]


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.shown = ""
        self.folded = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags are nested"
        if tag == "details":
            self.folded += "\n"

    def handle_data(self, data: str) -> None:
        if "details" in self.open and "summary" not in self.open:
            self.folded += data
        elif not {"style", "script"} & set(self.open):
            self.shown += data

    def having(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]


def make(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Page:
    source = folder / "rollouts.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    page = Page(write_rollout_page(source, folder / "rollouts.html", **options).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_what_a_rollout_was_and_earned_is_shown(tmp_path: Path) -> None:
    page = make(tmp_path, [row()])
    for words in (
        "What is 17 + 25?",
        "Reference answer: 42",
        "The final answer is 42.",
        "1.5",
        "+0.70",
        "−0.40",
        "83",
    ):
        assert words in page.shown
    assert "answer right, step 3 wrong" in page.shown
    assert "1 of 1 right" in page.shown


def test_thinking_is_folded_and_apart_from_the_answer(tmp_path: Path) -> None:
    page = make(tmp_path, [row()])
    assert page.folded.strip() == "17 and 25 make 42"
    assert all("open" not in attrs for tag, attrs in page.tags if tag == "details")
    assert DEFAULT_FORMAT.open not in page.shown


def test_other_tags_and_a_block_opened_by_the_prompt_are_understood(tmp_path: Path) -> None:
    think = ThinkFormat(open="[THINK]", close="[/THINK]")
    texts = [compose("first thought", "one", think), f"second thought\n{think.close}\n\ntwo"]
    page = make(tmp_path, [row(text=text, index=i) for i, text in enumerate(texts)], think=think)
    assert page.folded.split() == ["first", "thought", "second", "thought"]
    assert "THINK" not in page.shown
    cut = make(tmp_path, [row(text="third thought", opened=True, truncated=True)])
    assert cut.folded.strip() == "third thought"
    assert "never ended" in cut.shown
    assert "no answer was given" in cut.shown
    assert "cut off" in cut.shown


def test_whatever_was_written_is_shown_as_text(tmp_path: Path) -> None:
    hostile = row(
        **dict.fromkeys(("problem", "task", "mode", "question", "answer", "outcome", "extracted"), HOSTILE),
        text=compose(HOSTILE, HOSTILE),
        parts={HOSTILE: 1.0},
        notes=[HOSTILE],
    )
    page = make(tmp_path, [hostile], title=HOSTILE)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert page.shown.count("alert(1)") >= 10
    assert HOSTILE in page.folded
    assert "{{ 7 * 7 }}" in page.shown


def test_half_a_character_does_not_stop_the_page(tmp_path: Path) -> None:
    source = tmp_path / "rollouts.jsonl"
    source.write_text(json.dumps(row(text="half \ud83d of one \x00")) + "\n")
    text = write_rollout_page(source, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "half ? of one" in text


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = make(tmp_path, rows_of_a_run(3, 2, 2))
    assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if {"src", "href", "srcset", "action"} & set(attrs)]
    assert not re.findall(r"url\(|@import|https?:", page.source)
    assert "default-src 'none'" in page.source
    assert "prefers-color-scheme: dark" in page.source


def test_the_rollouts_of_a_problem_stand_together(tmp_path: Path) -> None:
    rows = rows_of_a_run(2, 3, 4)
    random.SystemRandom().shuffle(rows)
    page = make(tmp_path, rows)
    assert len(page.having("group")) == 6
    assert len(page.having("rollout")) == len(rows)
    marks = [attrs for _, attrs in page.tags if (attrs.get("class") or "") in ("group", "rollout")]
    modes = "".join("G" if "data-step" in attrs else str(attrs["data-mode"])[1] for attrs in marks)
    assert modes == ("G" + "n" * 4 + "f" * 4) * 6


def test_every_rollout_says_what_the_filters_ask_for(tmp_path: Path) -> None:
    page = make(
        tmp_path, [row(reward=-0.25, outcome="wrong", mode="off"), row(reward=None, outcome="grader_error")]
    )
    found = [(a["data-mode"], a["data-outcome"], a["data-reward"]) for a in page.having("rollout")]
    assert found == [("on", "grader_error", ""), ("off", "wrong", "-0.25")]
    names = {attrs.get("name") for tag, attrs in page.tags if tag in ("select", "input")}
    assert names == {"step", "mode", "outcome", "low", "high", "words"}
    options = {attrs.get("value") for tag, attrs in page.tags if tag == "option"}
    assert {"", "3", "on", "off", "wrong", "grader_error"} == options


def test_everything_can_be_reached_by_keyboard(tmp_path: Path) -> None:
    page = make(tmp_path, rows_of_a_run(2, 1, 1))
    # What scrolls can be focused, what is clicked is a button or a summary, each with a name.
    assert all(attrs.get("tabindex") == "0" for name in ("text", "question") for attrs in page.having(name))
    moves = [attrs for tag, attrs in page.tags if tag == "button" and "data-move" in attrs]
    assert [attrs["aria-label"] for attrs in moves] == ["previous step", "next step"]
    assert not [tag for tag, attrs in page.tags if "onclick" in attrs or int(attrs.get("tabindex") or 0) > 0]
    controls = [tag for tag, _ in page.tags if tag in ("select", "input")]
    assert len(controls) == sum(tag == "label" for tag, _ in page.tags)


def test_without_a_script_all_of_it_can_be_read(tmp_path: Path) -> None:
    page = make(tmp_path, rows_of_a_run(3, 2, 2))
    assert [tag for tag, attrs in page.tags if "hidden" in attrs] == ["form"]


def test_a_long_run_fits_on_a_page_and_the_page_says_so(tmp_path: Path) -> None:
    rows = rows_of_a_run(50, 10, 2)
    page = make(tmp_path, rows, steps=5, groups=3)
    steps = [attrs["data-step"] for attrs in page.having("group")]
    assert len(steps) == 15
    assert set(steps) == {"0", "12", "24", "37", "49"}
    assert len(page.having("rollout")) == 60
    assert "60 of 2,000 rollouts: 5 of 50 steps" in page.shown
    # The figures of a step are those of all its rollouts.
    assert "49 · reward 0.5 · 50 % right" in page.shown


def test_a_large_group_and_long_texts_are_bounded(tmp_path: Path) -> None:
    text = compose("so " * 4_000, "word " * 2_000)
    rows = [row(index=index, step=step, text=text) for step in range(26) for index in range(50)]
    page = make(tmp_path, rows)
    assert len(page.having("rollout")) == 24 * 32
    assert "18 more rollouts are not on the page" in page.shown
    assert "characters not shown" in page.shown
    assert len(page.source) < 9_000_000


def test_all_of_a_short_run_is_on_the_page(tmp_path: Path) -> None:
    page = make(tmp_path, rows_of_a_run(3, 2, 2))
    assert "All 24 rollouts of 3 steps." in page.shown


def test_a_run_at_work_has_a_page(tmp_path: Path) -> None:
    source = tmp_path / "rollouts.jsonl"
    source.write_text(json.dumps(row()) + "\n" + json.dumps(row(index=1))[:-20])
    page = Page(write_rollout_page(source, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(page.having("rollout")) == 1
    source.write_text("")
    assert (
        "No rollouts have been written yet." in write_rollout_page(source, tmp_path / "page.html").read_text()
    )


def test_a_row_of_little_is_enough(tmp_path: Path) -> None:
    page = make(
        tmp_path,
        [{"step": 0, "problem": "p", "text": "only this", "notes": None, "parts": None, "reward": "?"}],
    )
    assert "only this" in page.shown


@pytest.mark.parametrize("changes", [{"step": "3"}, {"step": True}, {"text": None}, {"problem": 7}])
def test_a_row_that_is_no_rollout_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        make(tmp_path, [row(), row(**changes)])
    assert str(caught.value.where).endswith("rollouts.jsonl:2")


def test_what_is_chosen_is_even_and_holds_both_ends() -> None:
    for size in range(1, 60):
        for count in range(2, 12):
            chosen = evenly(range(size), count)
            assert len(set(chosen)) == len(chosen) == min(size, count)
            assert (chosen[0], chosen[-1]) == (0, size - 1)
            gaps = {b - a for a, b in pairwise(chosen)}
            assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_text_cut_in_the_middle_says_how_much_is_missing() -> None:
    text = "".join(map(str, range(1000)))
    cut = shortened(text, 100)
    assert cut.startswith(text[:50])
    assert cut.endswith(text[-50:])
    assert f"{len(text) - 100:,} characters not shown" in cut
    assert shortened(text, len(text)) == text


def test_what_is_not_judged_is_in_no_share_of_right_answers(tmp_path: Path) -> None:
    open_one = row(problem="prompt-1", outcome="not_judged", answer="", extracted=None)
    page = make(tmp_path, [row(), row(index=1, outcome="wrong"), open_one])
    assert "1 of 2 right" in page.shown
    assert "not judged, mean reward" in page.shown
    assert "50 % right" in page.shown
    assert page.shown.count("Reference answer") == 1
    alone = make(tmp_path, [open_one])
    assert "right" not in alone.shown.replace("answer right", "")
