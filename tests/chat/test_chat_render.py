"""Prompt and completion are the template's own rendering, thinking included, or the template is refused."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bethink.chat.parse import Status, compliant, compose, parse
from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode, ThinkFormat, ToggleStyle
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import TemplateError
from chat.templates import CHATML, FAMILIES, LLAMA31, QWEN3

ASKED = [{"role": "user", "content": "What is 17 + 25?"}]
THINKING = "17 + 20 = 37,\n37 + 5 = 42."
ANSWER = "The final answer is \\boxed{42}."
ON_OUTPUT = compose(THINKING, ANSWER)
OUTPUTS = {Mode.ON: ON_OUTPUT, Mode.OFF: ANSWER}
EARLIER = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHi, how can I help?"},
]


@pytest.fixture(scope="module")
def renderer_of(make_family_dir):
    return lambda family, **options: Renderer(ChatTokenizer.load(make_family_dir(family)), **options)


@pytest.fixture(scope="module")
def renderers(renderer_of):
    return {family.name: renderer_of(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def renderer_for_template(make_tokenizer_dir):
    return lambda template, **options: Renderer(ChatTokenizer.load(make_tokenizer_dir(template)), **options)


def written_by(renderer, sample):
    """The completion's text as a parser gets it: decoded, without the end of turn."""
    end = len(renderer.end_of_turn_ids)
    assert tuple(sample.completion_ids[-end:]) == renderer.end_of_turn_ids
    return renderer.tokenizer.decode(sample.completion_ids[:-end])


def names(families):
    return [family.name for family in families]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("earlier", [[], EARLIER, [{"role": "system", "content": "Be brief."}, *EARLIER]])
@pytest.mark.parametrize("family", FAMILIES, ids=names(FAMILIES))
def test_ids_are_those_of_the_joint_text_and_everything_survives(renderers, family, earlier, mode):
    renderer = renderers[family.name]
    messages = [*earlier, *ASKED]
    sample = renderer.render(messages, OUTPUTS[mode], mode)
    prompt = renderer.prompt(messages, mode)

    assert (sample.prompt_text, sample.prompt_ids) == (prompt.text, prompt.ids)
    assert sample.token_ids == renderer.tokenizer.encode(sample.prompt_text + sample.completion_text)
    assert sample.loss_mask == [False] * len(sample.prompt_ids) + [True] * len(sample.completion_ids)
    assert sample.completion_text.endswith(renderer.end_of_turn)
    assert sample.completion_ids[-1] in renderer.tokenizer.stop_ids
    assert sample.completion_text.count(renderer.end_of_turn) == 1

    written = written_by(renderer, sample)
    assert written + renderer.end_of_turn == sample.completion_text
    parsed = parse(written, opened=prompt.opened)
    assert parsed.answer == ANSWER
    assert parsed.thinking == (THINKING if mode is Mode.ON else None)
    assert compliant(written, mode, opened=prompt.opened)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("family", [CHATML, LLAMA31, QWEN3], ids=names([CHATML, LLAMA31, QWEN3]))
def test_prompt_and_completion_are_the_templates_own_rendering(renderers, family, mode):
    renderer = renderers[family.name]
    sample = renderer.render(ASKED, OUTPUTS[mode], mode)
    conversation = [
        {"role": "system", "content": f"detailed thinking {mode}"},
        *ASKED,
        {"role": "assistant", "content": OUTPUTS[mode]},
    ]
    full = renderer.tokenizer.render(conversation, add_generation_prompt=False)
    after = full.removeprefix(sample.prompt_text + sample.completion_text)
    assert after in ("", "\n"), "only what follows the end of turn is left out"


def test_what_a_template_writes_after_the_end_of_turn_is_not_trained_on(renderers):
    sample = renderers["chatml"].render(ASKED, ANSWER, Mode.OFF)
    assert sample.completion_text == ANSWER + "<|im_end|>"
    assert sample.prompt_text.endswith("<|im_start|>assistant\n")


def test_the_toggle_stands_in_the_prompt_and_only_where_a_mode_is_given(renderers):
    renderer = renderers["chatml"]
    assert "<|im_start|>system\ndetailed thinking on<|im_end|>" in renderer.prompt(ASKED, Mode.ON).text
    assert "<|im_start|>system\ndetailed thinking off<|im_end|>" in renderer.prompt(ASKED, Mode.OFF).text
    bare = renderer.prompt(ASKED, None)
    assert bare.text == renderer.tokenizer.render(ASKED, add_generation_prompt=True)
    assert "detailed thinking" not in bare.text


def test_the_other_styles_reach_the_prompt(renderer_of):
    slash = renderer_of(CHATML, style=ToggleStyle.SLASH)
    assert "What is 17 + 25? /no_think<|im_end|>" in slash.prompt(ASKED, Mode.OFF).text
    kwargs = renderer_of(QWEN3, style=ToggleStyle.KWARGS)
    assert kwargs.prompt(ASKED, Mode.ON).text == kwargs.prompt(ASKED, None).text
    assert kwargs.prompt(ASKED, Mode.OFF).text != kwargs.prompt(ASKED, None).text


def test_an_empty_block_written_by_the_prompt_is_no_part_of_the_completion(renderers):
    sample = renderers["qwen3"].render(ASKED, ANSWER, Mode.OFF)
    assert sample.prompt_text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert sample.completion_text == ANSWER + "<|im_end|>"


def test_a_block_opened_by_the_prompt_is_continued_by_the_completion(renderers):
    renderer = renderers["r1"]
    prompt = renderer.prompt(ASKED, Mode.ON)
    assert prompt.opened
    assert prompt.text.endswith("<｜Assistant｜><think>\n")
    expected = f"{THINKING}\n</think>\n\n{ANSWER}<｜end▁of▁sentence｜>"
    assert renderer.render(ASKED, ON_OUTPUT, Mode.ON).completion_text == expected
    assert renderer.render(ASKED, ON_OUTPUT.removeprefix("<think>\n"), Mode.ON).completion_text == expected
    assert renderer.render(ASKED, ON_OUTPUT, None).completion_text == expected


def test_with_thinking_off_the_prompt_closes_the_block_it_opened(renderers):
    renderer = renderers["r1"]
    prompt = renderer.prompt(ASKED, Mode.OFF)
    assert not prompt.opened
    assert prompt.text.endswith("<｜Assistant｜><think>\n\n</think>\n\n")
    assert renderer.render(ASKED, ANSWER, Mode.OFF).completion_text == ANSWER + "<｜end▁of▁sentence｜>"


@pytest.mark.parametrize(
    "output", ["No thinking at all.", "<think>\nNever closed.", "<think>a</think>b<think>c</think>d"]
)
def test_a_block_opened_by_the_prompt_needs_an_output_that_closes_it_once(renderers, output):
    with pytest.raises(TemplateError, match="exactly once"):
        renderers["r1"].render(ASKED, output, Mode.ON)


STRIPS_THINKING = CHATML.template.replace("message['content']", "message['content'].split('</think>')[-1]")
KEEPS_AND_PREFILLS = CHATML.template.replace(
    "assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}"
)
ADDS_EMPTY_BLOCK = CHATML.template.replace(
    "'<|im_start|>' + message", "'<think>\n\n</think>\n\n<|im_start|>' + message"
)
CHANGES_WORDS = CHATML.template.replace("message['content']", "message['content'] | replace('42', '43')")
CLOSES_WITHOUT_OPENING = """\
{% for message in messages %}
{%- if message.role == 'assistant' -%}
<|im_start|>assistant</think>{{ message.content.split('</think>')[-1] }}<|im_end|>
{%- else -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant{{ '<think>' if thinking else '</think>' }}{% endif %}"""


def test_a_template_that_loses_the_thinking_is_refused_with_both_renderings(renderer_for_template):
    renderer = renderer_for_template(STRIPS_THINKING)
    assert renderer.render(ASKED, ANSWER, Mode.OFF).completion_text == ANSWER + "<|im_end|>"
    with pytest.raises(TemplateError) as caught:
        renderer.render(ASKED, ON_OUTPUT, Mode.ON)
    message = str(caught.value)
    assert "the template renders:" in message
    assert "prompt and completion:" in message
    assert "assistant\\n<think>\\n17 + 20" in message
    assert "chat_template.jinja" in message


def test_a_template_that_changes_the_words_is_refused(renderer_for_template):
    with pytest.raises(TemplateError, match="does not survive"):
        renderer_for_template(CHANGES_WORDS).render(ASKED, ANSWER, Mode.OFF)


def test_a_second_block_that_the_template_drops_is_noticed(renderers):
    with pytest.raises(TemplateError, match="does not survive"):
        renderers["qwen3"].render(ASKED, "<think>\na\n</think>\n\nb<think>\nc\n</think>\n\nd", Mode.ON)


def test_a_block_the_template_adds_to_the_completion_is_noticed(renderers):
    # Qwen3's template writes an empty block before an answer without thinking; with thinking on that would be trained.
    with pytest.raises(TemplateError, match="does not survive"):
        renderers["qwen3"].render(ASKED, ANSWER, Mode.ON)


def test_a_prefilled_block_is_seen_where_the_template_keeps_the_thinking(renderer_for_template):
    renderer = renderer_for_template(KEEPS_AND_PREFILLS)
    sample = renderer.render(ASKED, ON_OUTPUT, Mode.ON)
    assert sample.prompt_text.endswith("assistant\n<think>\n")
    assert sample.completion_text == ON_OUTPUT.removeprefix("<think>\n") + "<|im_end|>"
    loose = renderer.render(ASKED, f"<think> {THINKING}</think>{ANSWER}", Mode.ON)
    assert loose.completion_text == f"{THINKING}</think>{ANSWER}<|im_end|>"
    assert renderer.render(ASKED, ANSWER, Mode.OFF).completion_text == ANSWER + "<|im_end|>"


def test_a_lone_closing_tag_is_a_closed_block(renderer_for_template):
    renderer = renderer_for_template(CLOSES_WITHOUT_OPENING)
    off = renderer.render(ASKED, ANSWER, Mode.OFF)
    assert off.prompt_text.endswith("<|im_start|>assistant</think>")
    assert off.completion_text == ANSWER + "<|im_end|>"
    on = renderer.render(ASKED, f"<think>{THINKING}</think>{ANSWER}", Mode.ON)
    assert on.prompt_text.endswith("<|im_start|>assistant<think>")
    assert on.completion_text == f"{THINKING}</think>{ANSWER}<|im_end|>"


def test_a_prompt_that_forbids_thinking_is_refused_with_thinking_on(renderer_for_template):
    always_closed = KEEPS_AND_PREFILLS.replace("<think>\n'", "<think>\n\n</think>\n\n'")
    renderer = renderer_for_template(always_closed)
    assert renderer.prompt(ASKED, Mode.OFF).text.endswith("</think>\n\n")
    with pytest.raises(TemplateError, match="although thinking is on"):
        renderer.prompt(ASKED, Mode.ON)


def test_a_format_can_ask_for_a_prefilled_block(renderer_of):
    renderer = renderer_of(CHATML, think=ThinkFormat(prefilled=True))
    prompt = renderer.prompt(ASKED, Mode.ON)
    assert prompt.opened
    assert prompt.text.endswith("assistant\n<think>\n")
    sample = renderer.render(ASKED, ON_OUTPUT, Mode.ON)
    assert sample.completion_text == ON_OUTPUT.removeprefix("<think>\n") + "<|im_end|>"
    assert not renderer.prompt(ASKED, Mode.OFF).opened
    assert renderer.render(ASKED, ANSWER, Mode.OFF).prompt_text.endswith("assistant\n")


def test_other_tags_need_no_code(renderer_of):
    think = ThinkFormat("[THINK]", "[/THINK]")
    renderer = renderer_of(CHATML, think=think)
    sample = renderer.render(ASKED, compose(THINKING, ANSWER, think), Mode.ON)
    parsed = parse(written_by(renderer, sample), think=think)
    assert (parsed.thinking, parsed.answer, parsed.status) == (THINKING, ANSWER, Status.CLOSED)


def test_an_output_that_holds_the_end_of_turn_is_refused(renderers):
    with pytest.raises(TemplateError, match="end-of-turn token"):
        renderers["chatml"].render(ASKED, "Yes<|im_end|>\n<|im_start|>user\nNo", Mode.OFF)


def test_the_training_side_of_a_template_may_fail_while_its_prompts_work(renderer_for_template):
    renderer = renderer_for_template(STRIPS_THINKING)
    assert renderer.prompt(ASKED, Mode.ON).text.endswith("assistant\n")
    assert renderer.tokenizer.decode(renderer.close_ids) == "\n</think>\n\n"


@pytest.mark.parametrize("family", FAMILIES, ids=names(FAMILIES))
def test_the_closing_ids_are_those_the_template_writes(renderers, family):
    renderer = renderers[family.name]
    assert renderer.tokenizer.decode(renderer.close_ids) == "\n</think>\n\n"
    written = renderer.render(ASKED, ON_OUTPUT, Mode.ON).completion_ids
    close = list(renderer.close_ids)
    assert any(written[i : i + len(close)] == close for i in range(len(written)))


words = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(names(FAMILIES)), words, words, words)
def test_any_words_are_proved_or_refused(renderers, name, question, thinking, answer):
    renderer = renderers[name]
    messages = [{"role": "user", "content": question}]
    for mode, output in ((Mode.ON, compose(thinking, answer)), (Mode.OFF, answer)):
        try:
            sample = renderer.render(messages, output, mode)
        except TemplateError:
            continue
        assert sample.token_ids == renderer.tokenizer.encode(sample.prompt_text + sample.completion_text)
        opened = renderer.prompt(messages, mode).opened
        ours = parse(written_by(renderer, sample), opened=opened)
        assert ours.answer.strip() == answer.strip()
        assert (ours.thinking or "") == (thinking.strip() if mode is Mode.ON else "")


@pytest.mark.parametrize("output", ["\n\nYes", " \nYes"])
def test_a_border_that_the_tokenizer_merges_across_is_refused(renderers, output):
    renderer = renderers["chatml"]
    prompt, completion = renderer.texts(ASKED, output, Mode.OFF)
    tokenizer = renderer.tokenizer
    if tokenizer.encode(prompt) == tokenizer.encode(prompt + completion)[: len(tokenizer.encode(prompt))]:
        assert renderer.encode(prompt, completion).token_ids == tokenizer.encode(prompt + completion)
    else:
        with pytest.raises(TemplateError, match="merges"):
            renderer.encode(prompt, completion)


def test_a_tokenizer_that_marks_the_beginning_of_a_text_is_encoded_jointly(make_tokenizer_dir, tmp_path):
    """SentencePiece-style tokenizers put a space mark before a text, which a completion tokenized apart would wrongly get."""
    import shutil

    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    directory = shutil.copytree(make_tokenizer_dir(CHATML.template), tmp_path / "model")
    marking = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    marking.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", behavior="isolated"), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    marking.decoder = decoders.Metaspace(prepend_scheme="first")
    special = [
        AddedToken(token, special=True, normalized=False) for token in ("<unk>", *CHATML.special_tokens)
    ]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    marking.train_from_iterator([ON_OUTPUT, "system user assistant", ASKED[0]["content"]] * 3, trainer)
    marking.save(str(directory / "tokenizer.json"))

    renderer = Renderer(ChatTokenizer.load(directory))
    sample = renderer.render(ASKED, ON_OUTPUT, Mode.ON)
    apart = renderer.tokenizer.encode(sample.completion_text)
    assert sample.token_ids == renderer.tokenizer.encode(sample.prompt_text + sample.completion_text)
    assert sample.completion_ids != apart


def test_a_prompt_without_special_tokens_is_encoded_jointly_as_a_whole(renderer_for_template):
    turns = (
        "{% for m in messages %}{{ m.role + ':' + m.content }}"
        "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    )
    renderer = renderer_for_template(turns + "{% if add_generation_prompt %}assistant:{% endif %}")
    sample = renderer.render(ASKED, ANSWER, Mode.OFF)
    assert sample.token_ids == renderer.tokenizer.encode(sample.prompt_text + sample.completion_text)

    spaced = turns.replace("':'", "': '") + "{% if add_generation_prompt %}assistant: {% endif %}"
    with pytest.raises(TemplateError, match="merges"):  # GPT-2's rules give a space to the word behind it
        renderer_for_template(spaced).render(ASKED, ANSWER, Mode.OFF)
