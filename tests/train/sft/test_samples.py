"""The question is found again in a templated prompt, whatever the style of the toggle."""

from pathlib import Path

import pytest

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode, ToggleStyle
from bethink.chat.tokenizer import ChatTokenizer
from bethink.train.unwrap import Unwrapper


@pytest.mark.parametrize("style", list(ToggleStyle))
@pytest.mark.parametrize("mode", list(Mode))
def test_the_question_and_the_style_are_found(
    tiny_tokenizer_dir: Path, style: ToggleStyle, mode: Mode
) -> None:
    tokenizer = ChatTokenizer.load(tiny_tokenizer_dir)
    question = "How many boxes\nare there, think about it?"
    prompt = Renderer(tokenizer, style=style).prompt([{"role": "user", "content": question}], mode)
    assert Unwrapper(tokenizer).find(prompt.text, mode) == (question, style)


def test_a_prompt_of_several_turns_has_no_question(tiny_tokenizer_dir: Path) -> None:
    tokenizer = ChatTokenizer.load(tiny_tokenizer_dir)
    assert Unwrapper(tokenizer).find("<|im_start|>assistant\nHi<|im_end|>\n", Mode.ON) is None
