"""The whole road with a tiny real model, and the page about it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bethink.core.errors import DataError
from bethink.core.files import dump_line, read_jsonl
from bethink.recipe.report import write_report
from bethink.recipe.report.examples import choose_examples
from bethink.recipe.run import run_recipe
from bethink.recipe.schema import load_recipe

ROAD = """\
name: tiny-road
description: All stages & a <tiny> model.
vars:
  model: MODEL
  task: "chain_sum:min_terms=2,max_terms=3,min_digits=1,max_digits=1"
stages:
  - {name: rows, uses: synthesize, with: {task: "${vars.task}", problems: 40, defects: 0.2}}
  - name: curated
    uses: curate
    with: {input: ["${stages.rows}"], tokenizer: "${vars.model}", max_bad_share: 0.5, workers: 1}
  - name: shuffled
    uses: curate
    with: {input: ["${stages.rows}"], tokenizer: "${vars.model}", max_bad_share: 0.5, workers: 1, order: random}
  - name: adapter
    uses: sft
    with: {model: "${vars.model}", data: "${stages.curated}", rank: 4, batch_size: 8, steps: 12, sample_tokens: 4}
  - name: base
    uses: eval
    with: &held_out
      {model: "${vars.model}", tasks: "${vars.task}", size: 6, max_tokens: 12, exclude: ["${stages.rows}"], workers: 1}
  - name: trained
    uses: eval
    with: {<<: *held_out, model: "${vars.model}+${stages.adapter}"}
  - {name: gain, uses: compare, with: {a: "${stages.base}", b: "${stages.trained}"}}
  - {name: report, uses: report}
"""


@pytest.fixture(scope="module")
def road(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road")
    recipe = folder / "road.yaml"
    recipe.write_text(ROAD.replace("MODEL", str(tiny_model_dir)), encoding="utf-8")
    run_recipe(load_recipe(str(recipe)), folder / "run")
    return folder / "run"


class Page(HTMLParser):
    """What a browser would fetch, run, and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "xlink:href") and not (value or "").startswith("#"):
                self.fetched.append(f"{tag} {value}")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_a_run_ends_with_results_of_every_model_and_mode(road: Path) -> None:
    rows: list[dict[str, Any]] = json.loads((road / "results.json").read_text())["rows"]
    assert {(row["model"], row["mode"]) for row in rows} == {
        (m, s) for m in ("base", "trained") for s in ("on", "off")
    }
    wanted = [
        "task",
        "n",
        "accuracy",
        "low",
        "high",
        "compliance",
        "truncated",
        "no_answer",
        "thinking_tokens",
        "answer_tokens",
    ]
    assert all(key in row for row in rows for key in wanted)


def test_the_page_needs_nothing_else(road: Path) -> None:
    text = (road / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.fetched == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert len(page.ids) == len(set(page.ids))
    assert all(f'id="{target}"' in text for target in re.findall(r'href="#([^"]+)"', text))


def test_the_page_follows_light_and_dark(road: Path) -> None:
    text = (road / "report.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 7
    assert not re.findall(r"(?:fill|stroke): #(?!000000|ffffff)[0-9a-f]{6}", text[text.index("<body") :])


def test_the_page_tells_the_whole_story(road: Path) -> None:
    shown = Page((road / "report.html").read_text(encoding="utf-8")).shown
    for part in (
        "held-out problems",
        "All stages & a <tiny> model.",
        "missing boxed",
        "exact McNemar",
        "transformers",
    ):
        assert part in shown, part
    for name in ("rows", "curated", "adapter", "base", "trained", "gain"):
        assert f"{name}" in shown


def test_what_a_model_wrote_is_shown_and_not_obeyed(road: Path, tmp_path: Path) -> None:
    evil = "</p><script>alert(1)</script><img src=http://example.com/x>"
    run_dir = tmp_path / "run"
    shutil.copytree(road, run_dir)
    samples = run_dir / "trained" / "samples.jsonl"
    rows = [{**row, "output": evil, "question": evil, "answer": evil} for row in read_jsonl(samples)]
    samples.write_text("".join(dump_line(row) for row in rows), encoding="utf-8")
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert evil in page.shown
    assert page.fetched == []
    assert "script" not in page.tags


def test_the_page_of_a_run_is_the_one_that_is_written_again(road: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(road, run_dir)
    (run_dir / "report.html").unlink()
    assert write_report(run_dir).read_bytes() == (road / "report.html").read_bytes()


def test_the_page_says_that_the_run_is_finished_and_shows_no_stage_at_work(road: Path) -> None:
    shown = Page((road / "report.html").read_text(encoding="utf-8")).shown
    assert "finished 20" in shown
    assert "not finished" not in shown
    assert "running" not in shown


@pytest.mark.parametrize("keep", [0.99, 0.5, 0.01])
def test_files_that_were_being_written_give_a_page(road: Path, tmp_path: Path, keep: float) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(road, run_dir)
    for path in (run_dir / "trained" / "samples.jsonl", run_dir / "adapter" / "metrics.jsonl"):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
    manifest = json.loads((road / "manifest.json").read_text())
    manifest["stages"][5] |= {"state": "running", "finished": None}
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    assert "not finished" in Page(write_report(run_dir).read_text(encoding="utf-8")).shown


def test_where_nothing_was_judged_no_share_is_claimed(road: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(road, run_dir)
    for results in (run_dir / "results.json", *run_dir.glob("*/results.json")):
        found = json.loads(results.read_text())
        found["rows"] = [{**row, "n": 0, "accuracy": None, "low": 0.0, "high": 1.0} for row in found["rows"]]
        results.write_text(json.dumps(found))
    shown = Page(write_report(run_dir).read_text(encoding="utf-8")).shown
    assert "its problems have no grader" in shown
    assert "solves" not in shown
    assert "0.0 % – 100.0 %" not in shown


def test_a_half_finished_run_has_a_page_too(road: Path, tmp_path: Path) -> None:
    manifest = json.loads((road / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    shown = Page(write_report(tmp_path).read_text(encoding="utf-8")).shown
    assert "No evaluation has finished yet" in shown


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest\.json"):
        write_report(tmp_path)


def test_examples_show_what_thinking_repaired_and_what_it_did_not(tmp_path: Path) -> None:
    verdicts = {"a": ("wrong", "wrong", "wrong"), "b": ("wrong", "wrong", "correct"), "c": ("correct",) * 3}

    def write(name: str, mode: str, column: int) -> str:
        rows = (
            {
                "id": key, "task": "t", "mode": mode, "sample": 0, "question": key, "answer": "1", "output": "x",
                "verdict": verdict[column], "thinking_tokens": 0, "answer_tokens": 1,
            }
            for key, verdict in verdicts.items()
        )  # fmt: skip
        return "".join(dump_line(row) for row in rows)

    (tmp_path / "base.jsonl").write_text(write("base", "on", 0))
    (tmp_path / "trained.jsonl").write_text(write("trained", "off", 1) + write("trained", "on", 2))
    evals = {"base": tmp_path / "base.jsonl", "trained": tmp_path / "trained.jsonl"}
    assert [example.question for example in choose_examples(evals, 2)] == ["b", "a"]
    (first, *_) = choose_examples(evals, 1)
    assert [output.word for output in first.outputs] == ["wrong", "wrong", "right"]
    assert choose_examples({}, 3) == choose_examples(evals, 0) == ()
