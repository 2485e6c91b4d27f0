"""The toggle is written in one style and read in all of them; a user's own words stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bethink.chat.toggle import Mode, ThinkFormat, ToggleStyle, apply_toggle, read_toggle, template_kwargs
from bethink.core.errors import ConfigError

USER = {"role": "user", "content": "What is 2 + 2?"}


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def test_the_system_toggle_stands_alone_where_the_user_set_no_system_text():
    assert apply_toggle([USER], Mode.ON) == [system("detailed thinking on"), USER]
    assert apply_toggle([USER], Mode.OFF) == [system("detailed thinking off"), USER]


def test_the_users_own_system_text_is_kept_below_the_toggle():
    toggled = apply_toggle([system("Answer in French.\nBe brief."), USER], Mode.ON)
    assert toggled == [system("detailed thinking on\n\nAnswer in French.\nBe brief."), USER]


def test_applying_does_not_touch_the_given_messages():
    messages = [system("Be brief."), dict(USER)]
    for style in ToggleStyle:
        apply_toggle(messages, Mode.OFF, style)
    assert messages == [system("Be brief."), USER]


def test_the_slash_command_ends_the_last_user_message():
    messages = [USER, {"role": "assistant", "content": "4"}, user("Sure?")]
    assert apply_toggle(messages, Mode.OFF, ToggleStyle.SLASH)[-1] == user("Sure? /no_think")
    assert apply_toggle(messages, Mode.ON, ToggleStyle.SLASH)[0] == USER
    assert apply_toggle([system("Hi")], Mode.ON, ToggleStyle.SLASH) == [system("Hi /think")]


def test_words_name_the_tags_and_stand_where_the_toggle_line_stands():
    (said, asked) = apply_toggle([USER], Mode.ON, ToggleStyle.WORDS)
    assert asked == USER
    assert "<think>" in said["content"]
    assert "</think>" in said["content"]
    other = ThinkFormat(open="[reason]", close="[/reason]")
    own = apply_toggle([system("Be brief."), USER], Mode.ON, ToggleStyle.WORDS, other)
    assert own[0]["content"].endswith("\n\nBe brief.")
    assert "[reason] and [/reason]" in own[0]["content"]
    assert apply_toggle(own, Mode.OFF)[0] == system("detailed thinking off\n\nBe brief.")
    assert read_toggle(own) == (Mode.ON, [system("Be brief."), USER])
    off = apply_toggle(own, Mode.OFF, ToggleStyle.WORDS, other)
    assert "reason]" not in off[0]["content"]


def test_kwargs_style_leaves_the_messages():
    assert apply_toggle([USER], Mode.ON, ToggleStyle.KWARGS) == [USER]


def test_template_kwargs_name_both_conventions():
    assert template_kwargs(Mode.ON) == {"enable_thinking": True, "thinking": True}
    assert template_kwargs(Mode.OFF) == {"enable_thinking": False, "thinking": False}


texts = st.text(alphabet=st.sampled_from("abc /.\n"), max_size=20)
conversations = st.builds(
    lambda own, turns: ([system(own)] if own is not None else []) + [user(turn) for turn in turns],
    st.none() | texts,
    st.lists(texts, min_size=1, max_size=3),
)
modes = st.sampled_from(Mode)
styles = st.sampled_from(ToggleStyle)


@given(conversations, modes, modes, styles)
def test_the_last_toggle_applied_is_the_only_one(messages, first, second, style):
    once = apply_toggle(messages, second, style)
    assert apply_toggle(apply_toggle(messages, first, style), second, style) == once


@given(conversations, modes, st.sampled_from([ToggleStyle.SYSTEM, ToggleStyle.WORDS, ToggleStyle.SLASH]))
def test_what_is_applied_is_read_back(messages, mode, style):
    read, rest = read_toggle(apply_toggle(messages, mode, style))
    assert read is mode
    assert read_toggle(rest) == (None, rest)


@pytest.mark.parametrize(
    ("messages", "mode", "rest"),
    [
        ([USER], None, [USER]),
        ([system("detailed thinking on"), USER], Mode.ON, [USER]),
        ([system("Detailed Thinking OFF."), USER], Mode.OFF, [USER]),
        ([system("detailed thinking off\n\nBe brief."), USER], Mode.OFF, [system("Be brief."), USER]),
        ([system("Be brief.\ndetailed thinking on"), USER], Mode.ON, [system("Be brief."), USER]),
        ([system("detailed thinking off\ndetailed thinking on"), USER], Mode.ON, [USER]),
        ([system("I like detailed thinking on Sundays."), USER], None, None),
        ([system("/no_think"), USER], Mode.OFF, [USER]),
        ([system("Be brief. /think"), USER], Mode.ON, [system("Be brief."), USER]),
        ([system("/think\ndetailed thinking off"), USER], Mode.OFF, [USER]),
        ([user("Hi /no_think")], Mode.OFF, [user("Hi")]),
        ([user("/think Hi there")], Mode.ON, [user("Hi there")]),
        ([user("Hi /nothink")], Mode.OFF, [user("Hi")]),
        ([user("/think Hi /no_think")], Mode.OFF, [user("Hi")]),
        ([user("/no_think Hi /think")], Mode.ON, [user("Hi")]),
        ([user("one /think two")], Mode.ON, [user("one two")]),
        ([user("ls /think/now and /no_thinking and a/think")], None, None),
        ([user("/no_think")], Mode.OFF, [user("")]),
        ([system("detailed thinking on"), user("Hi /no_think")], Mode.OFF, [user("Hi")]),
        ([user("Hi /think"), {"role": "assistant", "content": "/think"}, user("Yes")], None, None),
    ],
)
def test_the_mode_said_in_messages_is_read_and_removed(messages, mode, rest):
    if rest is None:  # nothing is said, or said in a place that no longer counts
        assert read_toggle(messages)[0] is mode
    else:
        assert read_toggle(messages) == (mode, rest)


def test_a_command_in_an_earlier_user_message_is_removed_but_does_not_count():
    messages = [user("Hi /think"), {"role": "assistant", "content": "Hello /think"}, user("Yes")]
    assert read_toggle(messages) == (
        None,
        [user("Hi"), {"role": "assistant", "content": "Hello /think"}, user("Yes")],
    )


@pytest.mark.parametrize(
    ("effort", "mode"),
    [("none", "off"), ("minimal", "off"), ("low", "on"), ("medium", "on"), ("high", "on"), ("xhigh", "on")],
)
def test_effort_is_a_mode(effort, mode):
    assert read_toggle([USER], reasoning_effort=effort) == (Mode(mode), [USER])


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
@pytest.mark.parametrize("value", [True, False])
def test_template_kwargs_are_a_mode(name, value):
    assert read_toggle([USER], template_kwargs={name: value, "other": 3})[0] is (
        Mode.ON if value else Mode.OFF
    )


ON_SYSTEM, OFF_SYSTEM = system("detailed thinking on"), system("detailed thinking off")


@pytest.mark.parametrize(
    ("messages", "kwargs", "effort", "mode"),
    [
        # A parameter that turns thinking off is final,
        ([ON_SYSTEM, user("Hi /think")], {"enable_thinking": False}, "high", Mode.OFF),
        ([ON_SYSTEM, user("Hi /think")], {"enable_thinking": True}, "none", Mode.OFF),
        ([USER], {"enable_thinking": True, "thinking": False}, None, Mode.OFF),
        # then the last user message,
        ([ON_SYSTEM, user("Hi /no_think")], {"enable_thinking": True}, "high", Mode.OFF),
        ([OFF_SYSTEM, user("Hi /think")], {}, None, Mode.ON),
        # then a parameter that turns it on,
        ([OFF_SYSTEM, USER], {"enable_thinking": True}, None, Mode.ON),
        ([OFF_SYSTEM, USER], None, "low", Mode.ON),
        # then the system message.
        ([OFF_SYSTEM, USER], {"enable_thinking": None}, None, Mode.OFF),
    ],
)
def test_conflicts_have_an_order(messages, kwargs, effort, mode):
    assert read_toggle(messages, template_kwargs=kwargs, reasoning_effort=effort)[0] is mode


def test_a_parameter_without_meaning_is_an_error():
    with pytest.raises(ConfigError, match="reasoning_effort"):
        read_toggle([USER], reasoning_effort="extreme")
    with pytest.raises(ConfigError, match="enable_thinking"):
        read_toggle([USER], template_kwargs={"enable_thinking": "yes"})
