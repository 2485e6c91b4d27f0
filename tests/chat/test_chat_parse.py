"""A completion is taken apart the same way whole and in pieces, and only finished thinking leaves an answer."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bethink.chat.parse import Parsed, Status, StreamParser, compliant, compose, count_blocks, parse
from bethink.chat.toggle import Mode, ThinkFormat

OTHER = ThinkFormat("[THINK]", "[/THINK]")


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "answer", "status"),
    [
        ("", False, None, "", "absent"),
        ("Just an answer.", False, None, "Just an answer.", "absent"),
        ("\n\n  Indented\n", False, None, "  Indented\n", "absent"),
        (" \n ", False, None, "", "absent"),
        ("<think>\nhm\n</think>\n\nYes", False, "hm", "Yes", "closed"),
        ("<think>hm</think>Yes", False, "hm", "Yes", "closed"),
        ("<think></think>Yes", False, "", "Yes", "closed"),
        ("<think>\n \n</think>\n\n", False, "", "", "closed"),
        ("\n<think>a\n\nb</think>\n \n\n    code", False, "a\n\nb", "    code", "closed"),
        ("<think>\nThe final answer is 3", False, "The final answer is 3", "", "unclosed"),
        ("<think>", False, "", "", "unclosed"),
        ("Well. <think>a</think> Yes", False, "a", "Well.  Yes", "closed"),
        ("Well. <think>a", False, "a", "", "unclosed"),
        ("<think>a<think>b</think>c", False, "a<think>b", "c", "closed"),
        ("<think>a</think>b<think>c</think>d", False, "a", "b<think>c</think>d", "closed"),
        ("<think>a</think>b</think>c", False, "a", "b</think>c", "closed"),
        ("a</think>b", False, None, "a</think>b", "absent"),
        ("<Think>a</Think>b", False, None, "<Think>a</Think>b", "absent"),
        ("<think >a</think >b", False, None, "<think >a</think >b", "absent"),
        ("hm\n</think>\n\nYes", True, "hm", "Yes", "closed"),
        ("</think>Yes", True, "", "Yes", "closed"),
        ("still thinking", True, "still thinking", "", "unclosed"),
        ("", True, "", "", "unclosed"),
    ],
)
def test_a_completion_is_taken_apart(text, opened, thinking, answer, status):
    assert parse(text, opened=opened) == Parsed(thinking, answer, Status(status))


def test_the_tags_are_data():
    assert parse("[THINK]a[/THINK]b <think>", think=OTHER) == Parsed("a", "b <think>", Status.CLOSED)
    assert compose("a", "b", OTHER) == "[THINK]\na\n[/THINK]\n\nb"


@given(st.text(), st.text())
def test_composed_text_parses_back(thinking, answer):
    thinking = thinking.replace("</think>", "").strip()
    answer = "".join(answer.split())
    assert parse(compose(thinking, answer)) == Parsed(thinking, answer, Status.CLOSED)
    assert parse(compose(thinking, answer).removeprefix("<think>\n"), opened=True).thinking == thinking


tag_like = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<",
        "</",
        "<thi",
        "</thin",
        "think>",
        "<<think>",
        "\n",
        "\n\n",
        "  ",
        " \n",
        "a",
        "b c",
        "é",
        "\u2003",
    ]
)
completions = st.lists(tag_like, max_size=14).map("".join)


@st.composite
def chunked(draw):
    text = draw(completions)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(chunked(), st.booleans())
@example(["<thi", "nk>a</", "think", ">\n\n", "b"], False)
@example(list("<think>\na \n</think>\n\n  b\n"), False)
def test_a_stream_gives_what_the_whole_gives(chunks, opened):
    parser = StreamParser(opened=opened)
    pieces = [piece for chunk in chunks for piece in parser.feed(chunk)] + parser.finish()
    assert all(piece.text for piece in pieces)
    got = {kind: "".join(p.text for p in pieces if p.kind == kind) for kind in ("thinking", "answer")}
    whole = parse("".join(chunks), opened=opened)
    assert got["thinking"] == (whole.thinking or "")
    if whole.status is not Status.UNCLOSED:
        assert got["answer"] == whole.answer


def test_what_may_become_a_tag_is_held_back_and_released():
    parser = StreamParser()
    assert parser.feed("x <thi") == [*StreamParser().feed("x ")]
    assert [p.text for p in parser.feed("s")] == ["<this"]
    assert parser.feed("<think") == []
    assert [(p.kind, p.text) for p in parser.finish()] == [("answer", "<think")]


def test_text_that_can_be_no_tag_is_given_out_at_once():
    parser = StreamParser()
    assert [p.text for p in parser.feed("<think>one")] == ["one"]
    assert [p.text for p in parser.feed(" two")] == [" two"]
    assert [(p.kind, p.text) for p in parser.feed("</think>three")] == [("answer", "three")]
    assert [p.text for p in parser.feed(" <")] == [" <"]


def test_tags_are_counted():
    assert count_blocks("<think>a</think>b<think>") == (2, 1)
    assert count_blocks("[THINK]a", OTHER) == (1, 0)


@pytest.mark.parametrize(
    ("text", "mode", "opened", "expected"),
    [
        ("<think>a</think>b", "on", False, True),
        ("<think></think>b", "on", False, True),
        ("<think>a</think> \n", "on", False, False),
        ("<think>a", "on", False, False),
        ("b", "on", False, False),
        ("a</think>b", "on", False, False),
        ("</think>a<think>b", "on", False, False),
        ("<think>a</think>b<think>c</think>d", "on", False, False),
        ("<think>a</think>b</think>", "on", False, False),
        ("a</think>b", "on", True, True),
        ("<think>a</think>b", "on", True, False),
        ("a", "on", True, False),
        ("b", "off", False, True),
        ("", "off", False, True),
        ("<think></think>b", "off", False, False),
        ("b</think>", "off", False, False),
        ("a <think>", "off", False, False),
        ("b", "off", True, False),
    ],
)
def test_compliance_is_one_closed_block_or_no_tag_at_all(text, mode, opened, expected):
    assert compliant(text, Mode(mode), opened=opened) is expected
