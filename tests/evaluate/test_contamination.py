"""What a training set asks is found in every form its rows take."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
}


@pytest.mark.parametrize(
    "row",
    [
        {"input": [{"role": "user", "content": QUESTION}], "output": "2"},
        {"input": QUESTION, "output": "2"},
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "2"}]},
        {"question": f"  {QUESTION.upper()} ", "answer": "2"},
        {"problem": QUESTION},
        *({"input": text, "output": "2"} for text in TEMPLATED.values()),
    ],
)
def test_the_question_is_found(tmp_path, row):
    path = tmp_path / "rows.jsonl"
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
    path.write_bytes(b'{"input": "cut\n["' + b"\xff\xfe\n[1]\nnull\n{}\n" + good.encode() + b"\n")
    assert question_key(QUESTION) in training_questions([path])


def test_a_directory_means_its_training_shards(tmp_path):
    (tmp_path / "train-00000.jsonl").write_text(json.dumps({"input": QUESTION}) + "\n", encoding="utf-8")
    (tmp_path / "rejects.jsonl").write_text(json.dumps({"question": "rejected?"}) + "\n", encoding="utf-8")
    found = training_questions([tmp_path])
    assert question_key(QUESTION) in found
    assert "rejected?" not in found
    pq.write_table(pa.Table.from_pylist([{"input": "from parquet"}]), tmp_path / "train-00001.parquet")
    assert "from parquet" in training_questions([tmp_path])


def test_nothing_to_exclude_is_an_error_not_a_pass(tmp_path):
    with pytest.raises(DataError, match="no training rows"):
        training_questions([tmp_path / "missing.jsonl"])
    path = tmp_path / "other.jsonl"
    path.write_text('{"text": "nothing asked"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no row here holds a question"):
        training_questions([path])
