"""What a training set asks is found in every form its rows take."""

import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from bethink.chat.toggle import Mode, ToggleStyle, apply_toggle
from bethink.core.errors import DataError
from bethink.evaluate.contamination import training_questions
from bethink.tasks.problem import question_key

QUESTION = "State the final answer to the following arithmetic problem: 3 + 4 - 5 ="

TEMPLATED = {
    "chatml": f"<|im_start|>system\ndetailed thinking on<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\ndetailed thinking off<|eot_id|>"
    f"<|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama2": f"<s>[INST] {QUESTION} [/INST]",
    "gemma": f"<start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
    "deepseek": f"<｜begin▁of▁sentence｜><｜User｜>{QUESTION}<｜Assistant｜>",
    "chatml, slash": f"<|im_start|>user\n{QUESTION} /no_think<|im_end|>\n<|im_start|>assistant\n",
    "gemma, toggle": f"<start_of_turn>user\ndetailed thinking on\n\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
    "gemma, toggle and system": "<start_of_turn>user\ndetailed thinking off\n\nYou are kind.\n\nAnd short.\n\n"
    f"{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
    "mistral, toggle": f"<s>[INST] detailed thinking on\n\n{QUESTION} [/INST]",
    "mistral, system": f"<s>[SYSTEM_PROMPT]detailed thinking on[/SYSTEM_PROMPT][INST]{QUESTION} /think[/INST]",
    "llama2, system": f"<s>[INST] <<SYS>>\ndetailed thinking on\n\nYou are kind.\n<</SYS>>\n\n{QUESTION} [/INST]",
    "alpaca": f"Below is an instruction.\n\n### Instruction:\n{QUESTION}\n\n### Response:\n",
}


@pytest.mark.parametrize(
    "row",
    [
        {"input": [{"role": "user", "content": QUESTION}], "output": "2"},
        {"input": QUESTION, "output": "2"},
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "2"}]},
        {"question": f"  {QUESTION.upper()} ", "answer": "2"},
        {"problem": QUESTION},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]},
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "2"}]},
        {"input": f"{QUESTION} /think", "output": "2"},
        {"input": [{"role": "user", "content": f"{QUESTION} /no_think"}], "output": "2"},
        {"instruction": QUESTION, "input": "", "output": "2"},
        {"instruction": QUESTION, "input": "Think of it as money.", "output": "2"},
        {"instruction": "Be short.", "input": QUESTION, "output": "2"},
        {
            "instruction": QUESTION.partition(": ")[0] + ":",
            "input": QUESTION.partition(": ")[2],
            "output": "2",
        },
        {"prompt": "Be short.", "question": QUESTION},
        *({"input": text, "output": "2"} for text in TEMPLATED.values()),
    ],
)
def test_the_question_is_found(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert question_key(QUESTION) in training_questions([path])


@pytest.mark.parametrize("style", ToggleStyle)
@pytest.mark.parametrize("mode", Mode)
def test_no_style_of_toggle_hides_a_question(tmp_path, style, mode):
    messages = apply_toggle([{"role": "user", "content": QUESTION}], mode, style)
    with_system = {"input": messages}
    without_system = {"input": "\n\n".join(message["content"] for message in messages)}
    for number, row in enumerate((with_system, without_system)):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        assert question_key(QUESTION) in training_questions([path])


def test_another_question_is_not_found(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"input": TEMPLATED["chatml"].replace("3 +", "13 +")}) + "\n", encoding="utf-8"
    )
    assert question_key(QUESTION) not in training_questions([path])


def test_lines_that_cannot_be_read_are_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"input": QUESTION})
    deep = b"[" * 100_000
    path.write_bytes(
        b'{"input": "cut\n["' + b"\xff\xfe\n[1]\nnull\n{}\n" + deep + b"\n" + good.encode() + b"\n"
    )
    assert question_key(QUESTION) in training_questions([path])


def test_a_directory_means_its_training_shards(tmp_path):
    (tmp_path / "train-00000.jsonl").write_text(json.dumps({"input": QUESTION}) + "\n", encoding="utf-8")
    (tmp_path / "rejects.jsonl").write_text(json.dumps({"question": "rejected?"}) + "\n", encoding="utf-8")
    found = training_questions([tmp_path])
    assert question_key(QUESTION) in found
    assert "rejected?" not in found
    pq.write_table(pa.Table.from_pylist([{"input": "from parquet"}]), tmp_path / "train-00001.parquet")
    assert "from parquet" in training_questions([tmp_path])


def test_every_file_that_is_named_must_ask_something(tmp_path):
    good, other = tmp_path / "good.jsonl", tmp_path / "other.jsonl"
    good.write_text(json.dumps({"input": QUESTION}) + "\n", encoding="utf-8")
    other.write_text(json.dumps({"text": "nothing asked"}) + "\n", encoding="utf-8")
    for paths in ([good, other], [other, good]):
        with pytest.raises(DataError, match="no row here holds a question") as caught:
            training_questions(paths)
        assert "other.jsonl" in str(caught.value)


def test_a_file_of_a_directory_that_asks_nothing_is_warned_of(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"input": QUESTION}) + "\n", encoding="utf-8")
    (tmp_path / "labels.jsonl").write_text(json.dumps({"label": "good"}) + "\n", encoding="utf-8")
    assert question_key(QUESTION) in training_questions([tmp_path])
    assert "labels.jsonl: no row here holds a question" in " ".join(capsys.readouterr().err.split())


def test_packed_files_are_read(tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text('{"input": "another"}\n', encoding="utf-8")
    line = json.dumps({"input": QUESTION}).encode()
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(line))
    (tmp_path / "train.jsonl.zst").write_bytes(zstandard.compress(line))
    for name in ("train.jsonl.gz", "train.jsonl.zst"):
        assert question_key(QUESTION) in training_questions([good, tmp_path / name])
    assert question_key(QUESTION) in training_questions([tmp_path])


@pytest.mark.parametrize("name", ["train.jsonl.gz", "train.jsonl.zst", "train.parquet"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"neither packed nor Parquet")
    with pytest.raises(DataError) as caught:
        training_questions([tmp_path / name])
    assert name in str(caught.value)


def test_only_the_columns_that_ask_are_read(tmp_path):
    path, rows = tmp_path / "train.parquet", 1000
    ids = pa.array([list(range(2500))] * rows, pa.list_(pa.int32()))
    pq.write_table(pa.table({"input": [f"{n}?" for n in range(rows)], "token_ids": ids}), path)
    tracemalloc.start()
    found = training_questions([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == rows
    assert peak < 5_000_000, "the ids alone are 20 million bytes as a list of integers"


def test_nothing_to_exclude_is_an_error_not_a_pass(tmp_path):
    with pytest.raises(DataError, match="no training rows"):
        training_questions([tmp_path / "missing.jsonl"])
    path = tmp_path / "other.jsonl"
    path.write_text('{"text": "nothing asked"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no row here holds a question"):
        training_questions([path])
