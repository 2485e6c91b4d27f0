"""What a run leaves behind, and what it refuses."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from bethink.chat.tokenizer import ChatTokenizer
from bethink.cli.sft import sft
from bethink.core.errors import BethinkError, DataError, PreflightError
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.train.metrics import read_metrics
from bethink.train.plot import epoch_ends
from bethink.train.resume import resume_command
from bethink.train.schedule import Schedule
from bethink.train.sft.config import SFTConfig
from bethink.train.sft.run import run_sft
from train.conftest import sum_rows, write_rows

Make = Callable[..., SFTConfig]


def test_the_adapter_computes_the_same_in_peft(make_config: Make, tiny_model_dir: Path) -> None:
    result = run_sft(make_config(lr=0.05))
    ids = torch.arange(20)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, result.path)(input_ids=ids).logits
    ours = load_model(locate(f"{tiny_model_dir}+{result.path}"), dtype=torch.float32, device="cpu")(
        ids
    ).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)(input_ids=ids).logits
    assert (plain - theirs).abs().max() > 1e-2


def test_an_adapter_that_comes_with_the_model_is_trained_on(
    make_config: Make, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """It stays one of the plain model's, of its own rank; its dropout is this run's."""
    first = run_sft(make_config(lr=0.05, dropout=0.5))
    adapted = f"{tiny_model_dir}+{first.path}"
    second = run_sft(make_config(model=adapted, rank=99, lr=1e-9, output=tmp_path / "again"))
    settings = [json.loads((path / "adapter_config.json").read_text()) for path in (first.path, second.path)]
    assert [one["r"] for one in settings] == [4, 4]
    assert [one["lora_dropout"] for one in settings] == [0.5, 0.0]
    assert settings[1]["base_model_name_or_path"] == str(tiny_model_dir)
    ids = torch.arange(20)[None]
    before, after = (
        load_model(locate(f"{tiny_model_dir}+{path}"), dtype=torch.float32, device="cpu")(ids).logits
        for path in (first.path, second.path)
    )
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
    assert second.last["loss"] < first.last["loss"]
    further = run_sft(make_config(model=adapted, lr=0.05, output=tmp_path / "further"))
    assert further.last["loss"] < second.last["loss"]


def test_metrics_say_loss_of_both_modes_rate_and_how_far_the_run_is(make_config: Make) -> None:
    config = make_config(steps=None, epochs=1.5, batch_size=20, eval_data=make_config().data, eval_every=3)
    run_sft(config)
    rows = read_metrics(config.output / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["samples"] for row in rows] == [20, 40, 60, 80, 96]
    assert rows[-1]["epoch"] == 1.5
    assert epoch_ends(rows) == [4]
    for row in rows:
        assert row["loss_on"] > 0
        assert row["loss_off"] > 0
        assert row["tokens"] > row["completion_tokens"]
        assert row["grad_norm"] > 0
        assert row["tokens_per_second"] > 0
        assert 0 < row["floor_share"] < 1
        assert row["peak_rss_gb"] > 0
    assert [row["step"] for row in rows if "eval_loss" in row] == [3, 5]
    for name in ("loss.svg", "loss.png", "config.json", "preflight.json"):
        assert (config.output / name).stat().st_size > 0


def test_the_same_settings_give_the_same_bytes_whatever_the_packing_of_files(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(output=tmp_path / "one")
    rows = [json.loads(line) for line in config.data.read_text().splitlines()]
    shards = tmp_path / "shards"
    shards.mkdir()
    write_rows(shards / "train-00000.jsonl", rows[:40])
    write_rows(shards / "train-00001.jsonl", rows[40:])
    tokenizer = ChatTokenizer.load(Path(config.model))
    columnar = tmp_path / "columnar"
    columnar.mkdir()
    for row in rows:
        row["prompt_ids"], row["completion_ids"] = (
            tokenizer.encode(row["input"]),
            tokenizer.encode(row["output"]),
        )
    pq.write_table(pa.Table.from_pylist(rows), columnar / "train-00000.parquet")
    first = run_sft(config)
    for data in (shards, columnar):
        other = run_sft(make_config(data=data, output=tmp_path / f"out-{data.name}"))
        name = "adapter_model.safetensors"
        assert (other.path / name).read_bytes() == (first.path / name).read_bytes()


def test_held_out_rows_are_not_trained_on_and_both_modes_of_a_question_stay_together(
    make_config: Make, tiny_model_dir: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "many.jsonl", sum_rows(tiny_model_dir, 260))
    config = make_config(data=data, steps=None, held_out=0.2, max_held_out=100, eval_every=100)
    run_sft(config)
    found = json.loads((config.output / "preflight.json").read_text())
    assert found["rows"] + found["held_out_rows"] == 260
    assert 10 <= found["held_out_rows"] <= 110
    # The sums repeat after 130 rows, so a question stands there twice: both are held out, or none.
    assert found["held_out_rows"] % 2 == 0


def test_the_pair_of_outputs_is_written_at_each_evaluation(make_config: Make) -> None:
    config = make_config(eval_every=2, sample_tokens=5)
    run_sft(config)
    text = (config.output / "samples.md").read_text()
    assert text.count("**thinking on**") == text.count("**thinking off**") == 2
    assert "plus" in text


def test_a_batch_never_holds_a_row_twice_and_order_is_kept() -> None:
    by_steps = Schedule.plan(rows=5, batch_size=8, steps=3, epochs=1.0)
    assert [by_steps.of(step) for step in range(3)] == [[0, 1, 2, 3, 4]] * 3
    part_of_a_pass = Schedule.plan(rows=6, batch_size=3, steps=2, epochs=1.0, pass_rows=60)
    assert part_of_a_pass.seen(2) / part_of_a_pass.pass_rows == 0.1
    by_epochs = Schedule.plan(rows=5, batch_size=3, steps=None, epochs=2.0)
    assert [by_epochs.of(step) for step in range(by_epochs.steps)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4]]


def _broken(rows: list[dict[str, Any]], index: int, **changes: Any) -> list[dict[str, Any]]:
    row = {**rows[index], **changes}
    rows[index] = {name: value for name, value in row.items() if value is not ...}
    return rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": ...}, r"no column `mode`(.|\n)*rows.jsonl:3"),
        ({"mode": "maybe"}, r"on or off(.|\n)*rows.jsonl:3"),
        ({"input": [{"role": "user"}]}, r"`input` must be text(.|\n)*rows.jsonl:3"),
        ({"output": None}, r"`output` must be text(.|\n)*rows.jsonl:3"),
        ({"input": ""}, r"`input` is empty(.|\n)*rows.jsonl:3"),
        ({"output": ""}, r"1 rows have an empty completion(.|\n)*rows.jsonl:3(.|\n)*--allow-empty"),
        (
            {"output": "no end"},
            r"1 of the first 64 rows(.|\n)*rows.jsonl:3: (.|\n)*--allow-template-failures",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_line(
    make_config: Make, tiny_model_dir: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_rows(tmp_path / "rows.jsonl", _broken(sum_rows(tiny_model_dir, 64), 2, **changes))
    with pytest.raises(BethinkError) as raised:
        run_sft(make_config())
    assert re.search(message, str(raised.value))


def test_rows_too_long_stop_the_run_until_allowed_and_are_never_cut(make_config: Make) -> None:
    with pytest.raises(PreflightError, match="longer than the limit") as raised:
        run_sft(make_config(max_tokens=45))
    assert "--allow-dropped" in str(raised.value)
    config = make_config(max_tokens=45, allow_dropped=1.0, resume=True)
    result = run_sft(config)
    found = json.loads((config.output / "preflight.json").read_text())
    assert 0 < found["dropped"] < 64
    assert found["longest"] <= 45
    assert result.last["step"] == 4


@pytest.mark.parametrize("content", ["", "\n".join(["{}"] * 2)])
def test_data_without_rows_or_columns_is_refused(make_config: Make, content: str, tmp_path: Path) -> None:
    make_config()
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(DataError):
        run_sft(make_config())


def test_a_broken_parquet_file_is_named(make_config: Make, tmp_path: Path) -> None:
    broken = tmp_path / "rows.parquet"
    broken.write_bytes(b"PAR1 but nothing else")
    with pytest.raises(DataError, match=r"parquet(.|\n)*rows.parquet"):
        run_sft(make_config(data=broken))


def test_missing_data_is_named(make_config: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        run_sft(make_config(data=tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no train-"):
        run_sft(make_config(data=tmp_path))


def test_a_model_that_does_not_fit_is_refused_before_training(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bethink.train.fit.free_memory", lambda: 1000)
    with pytest.raises(PreflightError, match="GB are free") as raised:
        run_sft(make_config())
    assert "--allow-memory" in str(raised.value)
    assert run_sft(make_config(resume=True, allow_memory=True)).steps == 4


def test_recomputing_layers_changes_nothing_but_memory(make_config: Make, tmp_path: Path) -> None:
    plain = run_sft(make_config(gradient_checkpointing=False))
    frugal = run_sft(make_config(gradient_checkpointing=True, output=tmp_path / "frugal"))
    assert frugal.last["loss"] == pytest.approx(plain.last["loss"], abs=1e-6)


def test_the_resume_command_says_what_differs_from_the_defaults(tmp_path: Path) -> None:
    config = SFTConfig(
        model="m", data=tmp_path / "a b", output=Path("out"), rank=8, full=True, targets=("q_proj", "v_proj")
    )
    command = resume_command("sft", config)
    assert command.endswith("--resume")
    for part in ("--rank 8", "--full", "--targets q_proj,v_proj", f"'{tmp_path / 'a b'}'"):
        assert part in command
    assert "--lr" not in command


def test_the_command_lines_defaults_are_the_configs() -> None:
    options = inspect.signature(sft).parameters
    assert set(options) == set(SFTConfig.model_fields)
    for name, option in options.items():
        if not SFTConfig.model_fields[name].is_required():
            assert option.default == SFTConfig.model_fields[name].default, name
