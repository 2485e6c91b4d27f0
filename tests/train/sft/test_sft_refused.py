"""A run whose data cannot be used leaves its output free for the next try."""

import json

import pytest

from bethink.core.errors import DataError
from bethink.train.sft.config import SFTConfig
from bethink.train.sft.run import run_sft


def config(tiny_model_dir, data, output, **options):
    settings = {"rank": 4, "batch_size": 2, "steps": 1, "eval_every": 0, "held_out": 0.0, "dtype": "fp32"}
    return SFTConfig(model=str(tiny_model_dir), data=data, output=output, **{**settings, **options})


def test_a_refused_run_can_be_repeated_with_mended_data(tiny_model_dir, tmp_path):
    data, output = tmp_path / "rows.jsonl", tmp_path / "run"
    good = {
        "input": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "output": "Hello.<|im_end|>",
        "mode": "off",
    }
    data.write_text(json.dumps({"input": good["input"]}) + "\n")
    with pytest.raises(DataError):
        run_sft(config(tiny_model_dir, data, output))
    assert not output.exists()
    data.write_text(2 * (json.dumps(good) + "\n"))
    with pytest.raises(DataError):
        run_sft(config(tiny_model_dir, data, output, max_tokens=4))
    assert not output.exists()
    assert run_sft(config(tiny_model_dir, data, output)).steps == 1
