"""A tokenizer loads without transformers, adds nothing of its own, and knows where a turn ends."""

import json
import shutil
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import BethinkError, ModelError, TemplateError
from chat.templates import CHATML, FAMILIES, LLAMA31, QWEN3, R1

ENDS = {
    CHATML.name: "<|im_end|>",
    LLAMA31.name: "<|eot_id|>",
    QWEN3.name: "<|im_end|>",
    R1.name: "<｜end▁of▁sentence｜>",
}


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir):
    return ChatTokenizer.load(tiny_tokenizer_dir)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_end_of_turn_is_the_first_special_token_after_an_answer(make_family_dir, family):
    tokenizer = ChatTokenizer.load(make_family_dir(family))
    end = tokenizer.end_of_turn
    assert end.text == end.token == ENDS[family.name]
    assert tokenizer.decode(end.ids) == end.text
    assert tokenizer.stop_ids[0] == end.ids[-1]


def test_what_a_template_writes_before_its_end_token_belongs_to_the_end(make_tokenizer_dir):
    template = "{% for m in messages %}<|im_start|>{{ m.content }} \n<|im_end|>\n{% endfor %}"
    end = ChatTokenizer.load(make_tokenizer_dir(template)).end_of_turn
    assert (end.text, end.token) == (" \n<|im_end|>", "<|im_end|>")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_never_ends_a_turn_is_refused(make_tokenizer_dir, template):
    with pytest.raises(TemplateError, match="does not end an assistant's turn"):
        _ = ChatTokenizer.load(make_tokenizer_dir(template)).end_of_turn


def test_stop_ids_are_the_end_of_turn_and_every_end_the_files_name(make_family_dir, tmp_path):
    directory = shutil.copytree(make_family_dir(LLAMA31), tmp_path / "model")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 4, 5]}))
    (directory / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    tokenizer = ChatTokenizer.load(directory)
    assert tokenizer.stop_ids == (5, 1, 4, 7)
    assert tokenizer.decode([5]) == "<|eot_id|>"


def test_nothing_is_added_to_a_text(make_family_dir):
    from transformers import AutoTokenizer

    for family in FAMILIES:
        directory = make_family_dir(family)
        ours, theirs = ChatTokenizer.load(directory), AutoTokenizer.from_pretrained(directory)
        text = ours.render([{"role": "user", "content": "Hi 12"}], add_generation_prompt=True)
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.vocab_size == len(theirs)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(), max_size=4))
def test_text_survives_its_tokens_alone_and_in_a_batch(tokenizer, texts):
    batch = tokenizer.encode_batch(texts)
    assert batch == [tokenizer.encode(text) for text in texts]
    assert [tokenizer.decode(ids) for ids in batch] == texts


def test_special_tokens_are_kept_or_skipped_on_demand(tokenizer):
    ids = tokenizer.encode("Yes<|im_end|>")
    assert tokenizer.decode(ids) == "Yes<|im_end|>"
    assert tokenizer.decode_text(ids) == "Yes"


def test_limits_written_into_the_tokenizer_file_do_not_cut_or_pad(tiny_tokenizer_dir, tmp_path):
    from tokenizers import Tokenizer

    directory = shutil.copytree(tiny_tokenizer_dir, tmp_path / "model")
    limited = Tokenizer.from_file(str(directory / "tokenizer.json"))
    limited.enable_truncation(4)
    limited.enable_padding(length=8)
    limited.save(str(directory / "tokenizer.json"))
    tokenizer = ChatTokenizer.load(directory)
    assert len(tokenizer.encode("one two three four five")) > 4
    assert len(tokenizer.encode("a")) == 1


def test_the_hash_follows_the_vocabulary_and_the_template(tiny_tokenizer_dir, tmp_path):
    directory = shutil.copytree(tiny_tokenizer_dir, tmp_path / "model")
    hashes = {ChatTokenizer.load(tiny_tokenizer_dir).hash, ChatTokenizer.load(directory).hash}
    assert len(hashes) == 1
    (directory / "chat_template.jinja").write_text(CHATML.template + " ", encoding="utf-8")
    hashes.add(ChatTokenizer.load(directory).hash)
    (directory / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes() + b"\n")
    hashes.add(ChatTokenizer.load(directory).hash)
    assert len(hashes) == 3


def test_the_hash_follows_the_special_tokens_that_a_template_may_print(make_tokenizer_dir):
    template = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    one, other = (
        ChatTokenizer.load(make_tokenizer_dir(template, bos=bos)) for bos in ("<|im_start|>", "<|im_end|>")
    )
    asked = [{"role": "user", "content": "Hi"}]
    assert one.render(asked, add_generation_prompt=True) != other.render(asked, add_generation_prompt=True)
    assert one.hash != other.hash


def test_a_directory_without_a_tokenizer_is_refused(tmp_path, make_tokenizer_dir):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"no tokenizer\.json"):
            ChatTokenizer.load(directory)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        ChatTokenizer.load(tmp_path)
    with pytest.raises(TemplateError, match="no chat template"):
        ChatTokenizer.load(make_tokenizer_dir(None))


def test_broken_side_files_are_errors_of_ours(tiny_tokenizer_dir, tmp_path):
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        directory = shutil.copytree(tiny_tokenizer_dir, tmp_path / name)
        (directory / name).write_text("{", encoding="utf-8")
        with pytest.raises(BethinkError, match="not valid JSON"):
            _ = ChatTokenizer.load(directory).stop_ids
        (directory / name).write_text("[]", encoding="utf-8")
        with pytest.raises(BethinkError, match="expected an object"):
            _ = ChatTokenizer.load(directory).stop_ids


@pytest.mark.parametrize("eos", ["x", {"id": 1}, [1, "x"], [[1]], 1.5])
def test_an_end_of_text_that_is_no_token_id_is_named(tiny_tokenizer_dir, tmp_path, eos):
    directory = shutil.copytree(tiny_tokenizer_dir, tmp_path / "model")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}), encoding="utf-8")
    with pytest.raises(ModelError, match="eos_token_id") as caught:
        _ = ChatTokenizer.load(directory).stop_ids
    assert caught.value.where == str(directory / "generation_config.json")


def test_loading_needs_neither_torch_nor_transformers(tiny_tokenizer_dir):
    code = (
        "import sys; from pathlib import Path; from bethink.chat.tokenizer import ChatTokenizer; import bethink.chat.render;"
        "ChatTokenizer.load(Path(sys.argv[1])).stop_ids;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pydantic', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_tokenizer_dir)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
