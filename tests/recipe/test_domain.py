"""Recipe `domain` from a file of questions to its report: asked of an endpoint, mixed, trained on, measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bethink.core.files import read_json, read_jsonl
from bethink.recipe.run import run_recipe
from bethink.recipe.schema import load_recipe
from curate.rows import row
from evaluate.test_eval_endpoint import Server


class Teacher(Server):
    """Answers German sums, after thinking when told to; wrongly where apples are red."""

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        question = body["messages"][-1]["content"]
        have, more = (int(number) for number in re.findall(r"\d+", question)[:2])
        value = have + more + ("rote" in question)
        message = {
            "role": "assistant",
            "content": f"Zusammen sind es so viele Äpfel, wie man sieht: \\boxed{{{value}}}.",
        }
        if "detailed thinking on" in body["messages"][0]["content"]:
            message["reasoning_content"] = (
                f"Am Anfang liegen {have} Äpfel in dem Korb, dann kommen noch {more} Äpfel dazu."
            )
        usage = {"prompt_tokens": 20, "completion_tokens": 30}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    server = Teacher()
    yield server
    server.close()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def test_from_questions_of_ones_own_to_a_measured_model(
    teacher: Teacher, tiny_model_dir: Path, tmp_path: Path
) -> None:
    questions = []
    for number in range(24):
        kind = "rote" if number % 6 == 0 else "grüne"
        text = f"In dem Korb liegen {number} {kind} Äpfel, und ich lege noch {number + 3} Äpfel dazu. Wie viele Äpfel sind es?"
        # Some have no answer of their own: the teacher's vote gives them one.
        questions.append({"question": text, "answer": "" if number % 4 == 1 else str(2 * number + 3)})
    asked = write(tmp_path / "questions.jsonl", questions)
    general = write(tmp_path / "general.jsonl", [row(number) for number in range(200)])
    run_dir = tmp_path / "run"
    changes = [
        f"vars.model={tiny_model_dir}",
        f"vars.questions={asked}:question=question,answer=answer?,grader=math,held_out=0.2",
        f"vars.general={general}",
        f"vars.teacher={teacher.url}",
        "answers.samples=3",
        "curated.workers=1",
        "sft.steps=2",
        "sft.batch_size=4",
        "sft.rank=2",
        *(f"{stage}.{change}" for stage in ("base", "base_prompted", "trained") for change in ("max_tokens=4", "device=cpu")),
        "sft.device=cpu",
    ]  # fmt: skip
    manifest = run_recipe(load_recipe("domain", changes), run_dir)
    assert all(stage.state == "done" for stage in manifest.stages)

    answered = list(read_jsonl(run_dir / "answers" / "rows.jsonl"))
    assert {one["reasoning"] for one in answered} == {"on", "off"}
    assert all(one["category"] == "domain" for one in answered)
    report = read_json(run_dir / "curated" / "report.json")
    own, mixed_in = report["sources"]
    assert own["kept"] == own["good"] == len(answered), "German rows, every one of them"
    assert mixed_in["kept"] == min(3 * own["kept"], mixed_in["good"])
    sources = [
        one["source"].partition(":")[0] for one in read_jsonl(run_dir / "curated" / "train-00000.jsonl")
    ]
    assert sources.count("rows.jsonl") == own["kept"]

    # Held-out questions are measured, and never asked of the teacher.
    measured = [one["question"] for one in read_jsonl(run_dir / "trained" / "samples.jsonl")]
    taught = [body["messages"][-1]["content"] for body, _ in teacher.seen]

    def among(texts: list[str]) -> set[str]:
        return {one["question"] for one in questions if any(one["question"] in text for text in texts)}

    assert among(measured)
    assert not among(measured) & among(taught)
    assert among(taught) | among(measured) >= {one["question"] for one in questions if one["answer"]}
    assert (run_dir / "report.html").exists()
