"""Comparing two evaluations: pairing, tests, flips, and refusals where the problems are not the same."""

import json

import pytest

from bethink.core.errors import DataError
from bethink.evaluate.compare import CompareConfig, run_compare
from bethink.evaluate.compare_table import comparison_view
from bethink.evaluate.statistics import mcnemar, paired_difference


def evaluation(directory, verdicts, *, name="m", mode="on", task="sums", question="{} + 1?"):
    """An output directory of `bethink eval` with these verdicts: {problem id: [verdict of each sample]}."""
    directory.mkdir(exist_ok=True)
    rows = [
        {
            "id": problem,
            "task": task,
            "mode": mode,
            "sample": sample,
            "question": question.format(problem),
            "answer": "7",
            "output": f"{name} says {verdict} on {problem} ({sample})",
            "verdict": verdict,
        }
        for problem, outcomes in verdicts.items()
        for sample, verdict in enumerate(outcomes)
    ]
    with open(directory / "samples.jsonl", "a", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
    (directory / "results.json").write_text(json.dumps({"model": name, "rows": []}), encoding="utf-8")
    return directory


def singles(right, total, start=0):
    return {f"p{n}": ["correct" if start <= n < start + right else "wrong"] for n in range(total)}


def config(a, b, **options):
    return CompareConfig(a=a, b=b, **options)


def compare(options):
    return run_compare(options).comparisons


def test_one_sample_each_is_the_exact_mcnemar_test(tmp_path):
    a = evaluation(tmp_path / "a", singles(20, 60), name="base")
    b = evaluation(tmp_path / "b", singles(30, 60, start=5), name="trained")
    (one,) = compare(config(a, b))
    assert (one.problems, len(one.fixed), len(one.broken)) == (60, 15, 5)
    assert (one.accuracy_a, one.accuracy_b) == pytest.approx((20 / 60, 30 / 60))
    assert one.p_value == mcnemar(5, 15)
    assert (one.difference, one.low, one.high) == paired_difference(5, 15, 60)
    assert one.fixed[0].id == "p20"
    assert one.fixed[0].output_a == "base says wrong on p20 (0)"
    assert one.fixed[0].output_b == "trained says correct on p20 (0)"


def test_no_difference_shows_none(tmp_path):
    a = evaluation(tmp_path / "a", singles(20, 60))
    (one,) = compare(config(a, a))
    assert (one.difference, one.p_value, one.fixed, one.broken) == (0.0, 1.0, [], [])
    assert one.low < 0 < one.high


def test_several_samples_are_compared_by_problem(tmp_path):
    def outcomes(right):
        return ["correct"] * right + ["wrong"] * (4 - right)

    a = evaluation(tmp_path / "a", {f"p{n}": outcomes(n % 3) for n in range(60)})
    b = evaluation(tmp_path / "b", {f"p{n}": outcomes(n % 3 + 1) for n in range(60)})
    (one,) = compare(config(a, b))
    assert one.difference == pytest.approx(0.25)
    assert one.low < 0.25 < one.high, "sixty equal differences are not certainty"
    assert one.low > 0.1
    assert one.p_value < 0.01
    assert {flip.id for flip in one.fixed} == {f"p{n}" for n in range(60) if n % 3 == 2}
    assert one.broken == []
    assert compare(config(a, b)) == [one], "the bootstrap has a seed"


def test_a_graders_failure_leaves_the_pair_out(tmp_path):
    a = evaluation(tmp_path / "a", singles(20, 60) | {"p0": ["grader_error"]})
    b = evaluation(tmp_path / "b", singles(20, 60) | {"p1": ["grader_error"]})
    (one,) = compare(config(a, b))
    assert (one.problems, one.skipped) == (58, 2)
    assert one.fixed == one.broken == []


def test_different_problems_are_refused_with_their_number(tmp_path):
    a = evaluation(tmp_path / "a", singles(5, 30))
    b = evaluation(tmp_path / "b", singles(5, 20))
    with pytest.raises(DataError, match="A has 30, B has 20, 20 are shared") as caught:
        compare(config(a, b))
    assert "--shared" in str(caught.value)
    (one,) = compare(config(a, b, shared=True))
    assert one.problems == 20


def test_equal_ids_with_other_questions_are_not_the_same_problem(tmp_path):
    a = evaluation(tmp_path / "a", singles(5, 30))
    b = evaluation(tmp_path / "b", singles(5, 30), question="{} + 2?")
    with pytest.raises(DataError, match="0 are shared"):
        compare(config(a, b, shared=True))


def test_each_mode_and_task_has_its_row_and_all_tasks_one(tmp_path):
    for name, right in (("a", 10), ("b", 15)):
        for mode in ("on", "off"):
            for task in ("sums", "products"):
                evaluation(tmp_path / name, singles(right, 20), mode=mode, task=task)
    found = compare(config(tmp_path / "a", tmp_path / "b"))
    assert [(one.mode_a, one.task, one.problems) for one in found] == [
        (mode, task, n) for mode in ("on", "off") for task, n in (("sums", 20), ("products", 20), ("all", 40))
    ]
    assert {one.mode_a for one in compare(config(tmp_path / "a", tmp_path / "b", mode="off"))} == {"off"}


def test_thinking_on_is_compared_with_off_in_one_evaluation(tmp_path):
    evaluation(tmp_path / "a", singles(30, 40), mode="on")
    evaluation(tmp_path / "a", singles(10, 40), mode="off")
    (one,) = compare(config(tmp_path / "a", tmp_path / "a", mode="off", against="on"))
    assert (one.accuracy_a, one.accuracy_b) == (0.25, 0.75)
    assert len(one.fixed) == 20


def test_what_is_missing_is_said(tmp_path):
    a = evaluation(tmp_path / "a", singles(5, 30))
    with pytest.raises(DataError, match=r"no finished evaluation \(results.json is missing\)"):
        compare(config(a, tmp_path / "nothing"))
    with pytest.raises(DataError, match="no completions with thinking off; its modes: on"):
        compare(config(a, a, mode="off"))


def test_a_mode_that_neither_side_has_is_not_compared_with_nothing(tmp_path):
    a = evaluation(tmp_path / "a", singles(5, 30), mode="off")
    with pytest.raises(DataError, match="no completions with thinking on; its modes: off"):
        compare(config(a, a, against="on"))
    b = evaluation(tmp_path / "b", singles(5, 30), mode="on")
    with pytest.raises(DataError, match="no completions with thinking off; its modes: on"):
        compare(config(a, b))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("samples.jsonl", '{"task": "t", "id": "p1"}\n', "no text `mode`"),
        ("samples.jsonl", "{}\n", "samples.jsonl:1"),
        ("samples.jsonl", "", "holds no completions"),
        ("samples.jsonl", "[1]\n", "expected an object"),
        ("results.json", "{}", "names no `model`"),
        ("results.json", "[]", "names no `model`"),
        ("results.json", "{", "not valid JSON"),
    ],
)
def test_what_is_no_evaluation_is_said_with_its_place(tmp_path, file, content, said):
    a = evaluation(tmp_path / "a", singles(5, 30))
    b = evaluation(tmp_path / "b", singles(5, 30))
    (b / file).write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        compare(config(a, b))
    assert said in str(caught.value)
    assert str(b / file) in str(caught.value)


def test_a_verdict_nobody_knows_is_said(tmp_path):
    a = evaluation(tmp_path / "a", {"p1": ["right"]})
    with pytest.raises(DataError, match="the verdict `right` is unknown"):
        compare(config(a, a))


def test_the_comparison_is_written_and_shown(tmp_path, capsys):
    from rich.console import Console

    a = evaluation(tmp_path / "a", singles(20, 60), name="base")
    b = evaluation(tmp_path / "b", singles(30, 60, start=5), name="trained")
    comparisons = compare(config(a, b, output=tmp_path / "out"))
    document = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert (document["a"], document["b"]) == ("base", "trained")
    assert len(document["comparisons"][0]["fixed"]) == 15
    Console(width=120).print(comparison_view(comparisons, "base", "trained", flips=2))
    shown = capsys.readouterr().out
    assert "+16.7" in shown
    assert "exact McNemar" in shown
    assert "trained says correct on p20 (0)" in shown
    assert "and 13 more" in shown


def test_flips_keep_their_lines(tmp_path, capsys):
    from rich.console import Console

    from bethink.evaluate.compare_table import _quoted

    Console(width=60).print(
        _quoted(
            "A:", "<think>\n" + "\n".join(f"1 + {n} = {n + 1}" for n in range(20)) + "\n</think>\n\nIt is 20."
        )
    )
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 8
    assert shown[0].startswith("A: … 1 + ")
    assert shown[-1].strip() == "It is 20."


def test_what_nothing_judged_is_compared_with_nothing(tmp_path):
    a = evaluation(tmp_path / "a", {f"p{n}": ["not_judged"] for n in range(3)})
    with pytest.raises(DataError, match="no completions of problems with a grader"):
        compare(config(a, a))
