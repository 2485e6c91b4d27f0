"""Our rendering of a chat template is transformers' own, letter for letter, wherever the template stands."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bethink.chat.template import ChatTemplate
from bethink.core.errors import TemplateError
from chat.templates import FAMILIES

TURNS = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is <b>4</b>."},
    {"role": "user", "content": "  And “3 + 3”?\n"},
    {"role": "assistant", "content": "<think>\n\n</think>\n\n6"},
]
SYSTEM = {"role": "system", "content": "detailed thinking on\n\nBe brief. "}
CONVERSATIONS = [
    TURNS[:1],
    TURNS[:2],
    TURNS[:3],
    TURNS,
    [SYSTEM, *TURNS[:1]],
    [SYSTEM, *TURNS[:3]],
    [SYSTEM, *TURNS],
]
KWARGS = [{}, {"enable_thinking": True, "thinking": True}, {"enable_thinking": False, "thinking": False}]

EVERY_FEATURE = """\
{%- macro shout(text) %}{{ text | upper }}!{% endmacro %}
{{ bos_token }}{{ missing_token }}
{%- set ns = namespace(count=0) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {% if loop.index0 == 3 %}{% break %}{% endif %}
    {% if message.role == 'assistant' %}
        {% generation %}
[{{ loop.index }}]{{ message.content | trim }}{{ eos_token }}
        {% endgeneration %}
    {% else %}
{{ shout(message.role) }}{{ message | tojson }}{{ message | tojson(indent=2) }}{{ message.content.split('+')[0] }}
    {% endif %}
{%- endfor %}
{{ ns.count }}{{ strftime_now('%Y') }}{{ tools is none }}{{ documents is none }}
{%- if add_generation_prompt %}>{% endif %}
"""


@pytest.fixture(scope="module")
def pairs(make_family_dir, make_tokenizer_dir):
    """(our template, transformers' tokenizer) for every family and for one template that uses every documented feature."""
    from transformers import AutoTokenizer

    directories = [make_family_dir(family) for family in FAMILIES]
    directories.append(make_tokenizer_dir(EVERY_FEATURE, bos="<|im_start|>"))
    return [
        (ChatTemplate.load(directory), AutoTokenizer.from_pretrained(directory)) for directory in directories
    ]


def theirs(tokenizer, messages, add_generation_prompt, kwargs):
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt, **kwargs
    )


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize("kwargs", KWARGS)
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_rendering_equals_transformers(pairs, messages, kwargs, add_generation_prompt):
    for template, tokenizer in pairs:
        ours = template.render(messages, add_generation_prompt=add_generation_prompt, **kwargs)
        assert ours == theirs(tokenizer, messages, add_generation_prompt, kwargs)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.text(), min_size=1, max_size=4), st.booleans())
def test_any_text_renders_as_transformers_renders_it(pairs, texts, add_generation_prompt):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    for template, tokenizer in pairs:
        ours = template.render(messages, add_generation_prompt=add_generation_prompt)
        assert ours == theirs(tokenizer, messages, add_generation_prompt, {})


def write_config(directory, **config):
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def test_a_template_is_found_in_the_tokenizer_config(tmp_path):
    write_config(
        tmp_path,
        chat_template="{{ bos_token }}{{ eos_token }}",
        bos_token={"content": "<s>"},
        eos_token="</s>",
    )
    assert ChatTemplate.load(tmp_path).render([], add_generation_prompt=False) == "<s></s>"


def test_the_default_among_named_templates_is_taken(tmp_path):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    write_config(tmp_path, chat_template=named)
    assert ChatTemplate.load(tmp_path).render([], add_generation_prompt=False) == "plain"
    write_config(tmp_path, chat_template=named[:1])
    with pytest.raises(TemplateError, match="tool_use"):
        ChatTemplate.load(tmp_path)


def test_a_template_file_comes_before_the_config(tmp_path):
    write_config(tmp_path, chat_template="config")
    (tmp_path / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert ChatTemplate.load(tmp_path).render([], add_generation_prompt=False) == "file"


def test_special_tokens_of_an_older_layout_are_known(tmp_path):
    write_config(tmp_path, chat_template="{{ bos_token }}", bos_token=None)
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}}', encoding="utf-8")
    assert ChatTemplate.load(tmp_path).render([], add_generation_prompt=False) == "<s>"


def test_a_model_without_template_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(TemplateError, match="no chat template") as caught:
        ChatTemplate.load(tmp_path)
    assert "chat_template.jinja" in str(caught.value)


def test_a_broken_template_is_named_with_its_line():
    with pytest.raises(TemplateError, match="not valid Jinja") as caught:
        ChatTemplate("{{ 1 }}\n{% if %}", {}, "model/chat_template.jinja")
    assert caught.value.where == "model/chat_template.jinja:2"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[0]['content'] + 1 }}", "str"),
        ("{{ messages[7]['content'] }}", "no element 7"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "__class__"),
        ("{{ messages[0].content.index('zzz') }}", "substring not found"),
        ("{{ 1 / (messages | length - 4) }}", "division by zero"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
    ],
)
def test_a_template_that_refuses_or_misbehaves_is_an_error_of_ours(source, said):
    with pytest.raises(TemplateError, match=said):
        ChatTemplate(source, {}, "t").render(TURNS, add_generation_prompt=True)


@pytest.mark.parametrize("source", ["{{ " + "(" * 20_000 + " }}", "{{ " + "1" * 5000 + " }}"])
def test_a_template_that_cannot_be_compiled_is_an_error_of_ours(source):
    with pytest.raises(TemplateError, match=r"cannot be compiled|not valid Jinja"):
        ChatTemplate(source, {}, "t")


def test_a_template_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TemplateError, match="not valid UTF-8") as caught:
        ChatTemplate.load(tmp_path)
    assert caught.value.where == str(tmp_path / "chat_template.jinja")


@pytest.mark.parametrize(
    "named", [[], [5], [{"name": "default"}], [{"template": "a"}], [{"name": ["default"]}]]
)
def test_named_templates_without_a_default_text_are_refused(tmp_path, named):
    with pytest.raises(TemplateError, match="none of the chat templates"):
        ChatTemplate.load(write_config(tmp_path, chat_template=named))


def test_the_date_can_be_set_and_does_not_change_under_way(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", {}, "t")
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert template.render([], add_generation_prompt=False) == "01 Jan 1970"
