"""What distillation refuses, and that it says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bethink.core.config import validate
from bethink.core.errors import ConfigError, DataError, ModelError
from bethink.models.locate import locate
from bethink.train.distill.config import DistillConfig
from bethink.train.distill.run import run_distill
from bethink.train.distill.vocabulary import shared_vocabulary

Make = Callable[..., DistillConfig]


def _retokenized(directory: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The model with its tokenizer.json changed."""
    shutil.copytree(directory, target)
    file = target / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")
    return target


def _swap(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]


def _add(content: dict[str, Any]) -> None:
    number = max(content["model"]["vocab"].values()) + 1
    content["added_tokens"].append(
        {"id": number, "content": "<more>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    )  # fmt: skip


def test_a_teacher_with_other_tokens_is_refused_naming_them(
    make_distill: Make, teacher_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    swapped = _retokenized(teacher_dir, tmp_path / "swapped", _swap)
    with pytest.raises(ModelError) as raised:
        run_distill(make_distill(teacher=str(swapped)))
    said = str(raised.value)
    number = json.loads((tiny_model_dir / "tokenizer.json").read_text())["model"]["vocab"]["A"]
    assert f"{number}: 'B' for the teacher, 'A' for the student" in said
    assert "2 ids" in said
    assert "bethink sample" in said
    assert not make_distill().output.exists()

    longer = _retokenized(teacher_dir, tmp_path / "longer", _add)
    with pytest.raises(ModelError, match="'<more>' for the teacher, nothing for the student"):
        run_distill(make_distill(teacher=str(longer)))


def test_all_tokens_that_differ_are_listed_in_a_file(
    make_distill: Make, teacher_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    def reverse(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        letters = [letter for letter in "ABCDEFGHIJK" if letter in vocabulary]
        numbers = [vocabulary[letter] for letter in letters]
        vocabulary.update(zip(letters, numbers[1:] + numbers[:1], strict=True))

    teacher = _retokenized(teacher_dir, tmp_path / "reversed", reverse)
    config = make_distill(teacher=str(teacher), output=tmp_path / "new folder" / "run")
    with pytest.raises(ModelError) as raised:
        run_distill(config)
    listed = tmp_path / "new folder" / "run.differing-tokens.jsonl"
    assert f"all of them are in {listed}" in str(raised.value)
    assert not config.output.exists(), "it is free for the next try"
    ours, theirs = (
        {
            number: token
            for token, number in json.loads((d / "tokenizer.json").read_text())["model"]["vocab"].items()
        }
        for d in (tiny_model_dir, teacher)
    )
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len(rows) == 11
    assert rows == [
        {"id": number, "teacher": theirs[number], "student": ours[number]}
        for number in sorted(ours)
        if ours[number] != theirs[number]
    ]


def test_the_shared_vocabulary_is_the_tokenizers_not_the_padding(
    teacher_dir: Path, tiny_model_dir: Path
) -> None:
    teacher, student = locate(str(teacher_dir)), locate(str(tiny_model_dir))
    rows = json.loads((tiny_model_dir / "config.json").read_text())["vocab_size"]
    assert shared_vocabulary(teacher, student) == rows
    assert json.loads((teacher_dir / "config.json").read_text())["vocab_size"] > rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "nothing to learn from"),
        ({"data": None, "on_policy": 0.5, "tasks": "chain_sum"}, "give --data"),
        ({"data": None, "tasks": "chain_sum", "steps": None}, "how many --steps"),
        ({"tasks": "chain_sum"}, "say by --on-policy"),
        ({"tasks": "chain_sum", "on_policy": 1.0}, "say by --on-policy"),
        ({"cross_entropy": 0.1, "on_policy": 1.0}, "takes none"),
        ({"store_teacher": 8, "on_policy": 0.5}, "leave --on-policy"),
        ({"teacher_store": "somewhere"}, "give both"),
        ({"store_only": True}, "give both"),
        ({"layer_by_layer": True}, "give --store-teacher"),
        ({"divergence": "backward"}, "forward"),
        ({"beta": 1.0}, "less than 1"),
        ({"temperature": 0.0}, "greater than 0"),
    ],
)
def test_options_that_do_not_fit_together(make_distill: Make, changes: dict[str, Any], message: str) -> None:
    options = {**make_distill().model_dump(mode="json"), **changes}
    with pytest.raises(ConfigError, match=message):
        validate(
            DistillConfig, {k: v for k, v in options.items() if v is not None}, name="distill", flags=True
        )


def test_missing_rows_and_teachers_are_named(make_distill: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        run_distill(make_distill(data=tmp_path / "nowhere"))
    with pytest.raises(ModelError):
        run_distill(make_distill(teacher=str(tmp_path / "nobody")))
    assert not make_distill().output.exists()


def test_a_refused_run_can_be_repeated_with_mended_rows(make_distill: Make, data_file: Path) -> None:
    good = data_file.read_text(encoding="utf-8")
    data_file.write_text('{"input": "only"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no column"):
        run_distill(make_distill())
    assert not make_distill().output.exists()
    data_file.write_text(good, encoding="utf-8")
    assert run_distill(make_distill(steps=1)).steps == 1
