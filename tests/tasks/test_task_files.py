"""Problems from files: every public layout is understood, every bad row is named with its line and key."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bethink.core.errors import ConfigError, DataError
from bethink.tasks.files import load_problems
from bethink.tasks.layouts.columns import ColumnMapping
from bethink.tasks.layouts.known import LAYOUTS
from bethink.tasks.prompted import prompted

GPQA = {
    "Question": "Which particle carries the strong force?",
    "Correct Answer": "gluon",
    "Incorrect Answer 1": "photon",
    "Incorrect Answer 2": "pion",
    "Incorrect Answer 3": "W boson",
    "Record ID": "rec7",
    "High-level domain": "Physics",
}

EXAMPLES = [
    ("plain", {"question": "2 + 2?", "answer": 4, "grader": "numeric"}, "2 + 2?", "4", "numeric"),
    (
        "gsm8k",
        {"question": "How many?", "answer": "3 * 4 = <<3*4=12>>12\n#### 1,200"},
        "How many?",
        "1200",
        "math",
    ),
    ("gsm8k", {"question": "How much?", "answer": "…\n#### -5"}, "How much?", "-5", "math"),
    (
        "math500",
        {"problem": "Find $x$.", "solution": "…", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 3},
        "Find $x$.",
        "\\frac{1}{2}",
        "math",
    ),
    (
        "math500",
        {
            "problem": "Find $x$.",
            "solution": "First \\boxed{1}, no: \\boxed{\\frac{3}{4}}.",
            "type": "Algebra",
        },
        "Find $x$.",
        "\\frac{3}{4}",
        "math",
    ),
    (
        "mmlu",
        {"question": "Which?", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 2},
        "Which?\n\nA. a\nB. b\nC. c\nD. d",
        "C",
        "choice",
    ),
    (
        "mmlu",
        {"question": "Which?", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": "B"},
        "Which?\n\nA. a\nB. b\nC. c\nD. d",
        "B",
        "choice",
    ),
    (
        "mmlu",
        {
            "question_id": 70,
            "question": "Which?",
            "options": list("pqrstuvwxy"),
            "answer": "J",
            "answer_index": 9,
        },
        "Which?\n\n" + "\n".join(f"{a}. {b}" for a, b in zip("ABCDEFGHIJ", "pqrstuvwxy", strict=True)),
        "J",
        "choice",
    ),
    (
        "openbookqa",
        {
            "id": "8-1",
            "question_stem": "Ice is",
            "choices": {"text": ["hot", "cold"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        "Ice is\n\nA. hot\nB. cold",
        "B",
        "choice",
    ),
    (
        "openbookqa",
        {
            "id": "8-2",
            "question": {
                "stem": "Ice is",
                "choices": [{"text": "hot", "label": "A"}, {"text": "cold", "label": "B"}],
            },
            "answerKey": "A",
        },
        "Ice is\n\nA. hot\nB. cold",
        "A",
        "choice",
    ),
    (
        "openbookqa",
        {
            "instruction": "Please choose the correct answer to the question: Ice is\n\nAnswer1: hot Answer2: very cold "
            "Answer3: dry\n\nAnswer format: answer1/answer2/answer3",
            "input": "",
            "output": "the correct answer is answer2",
            "answer": "answer2",
        },
        "Ice is\n\nA. hot\nB. very cold\nC. dry",
        "B",
        "choice",
    ),
    (
        "arc",
        {
            "id": "M_1",
            "question": "Rubbing hands makes",
            "choices": {"text": ["heat", "ice", "air"], "label": ["1", "2", "3"]},
            "answerKey": "3",
        },
        "Rubbing hands makes\n\nA. heat\nB. ice\nC. air",
        "C",
        "choice",
    ),
    ("aime", {"ID": "2024-I-1", "Problem": "Find $n$.", "Answer": "025"}, "Find $n$.", "25", "math"),
    ("aime", {"problem": "Find $n$.", "answer": 204}, "Find $n$.", "204", "math"),
    (
        "humaneval",
        {
            "task_id": "HumanEval/0",
            "prompt": "def f(x):\n",
            "canonical_solution": "    return x\n",
            "test": "def check(f): …",
            "entry_point": "f",
        },
        "def f(x):\n",
        "    return x\n",
        "code",
    ),
    (
        "mbpp",
        {
            "task_id": 11,
            "text": "Write f.",
            "code": "def f(): …",
            "test_list": ["assert f() == 1"],
            "test_setup_code": "",
        },
        "Write f.\n\nThe code must pass these tests:\n\nassert f() == 1",
        "def f(): …",
        "code",
    ),
    (
        "leetcode",
        {
            "task_id": "two-sum",
            "prompt": "from typing import *",
            "query": "Find two.",
            "starter_code": "class Solution:\n    def twoSum(self, nums): ",
            "entry_point": "Solution().twoSum",
            "test": "def check(candidate): …",
            "completion": "class Solution: …",
        },
        "Find two.\n\nBegin with this code:\n\n```python\nclass Solution:\n    def twoSum(self, nums):\n```",
        "class Solution: …",
        "code",
    ),
    (
        "leetcode",
        {
            "problem_description": "Find one.",
            "entry_point": "one",
            "input_output": [{"input": "x = 1", "output": "1"}],
        },
        "Find one.",
        "",
        "code",
    ),
    (
        "apps",
        {
            "problem_id": 1,
            "question": "Add.\n",
            "solutions": '["print(1)"]',
            "input_output": '{"inputs": ["1"], "outputs": ["1"]}',
            "starter_code": "",
        },
        "Add.\n\nWrite a program that reads standard input and writes standard output.",
        "print(1)",
        "code",
    ),
    (
        "taco",
        {
            "question": "Add.",
            "input_output": '{"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}',
            "starter_code": "def add(a, b):\n\t",
        },
        "Add.\n\nBegin with this code:\n\n```python\ndef add(a, b):\n```",
        "",
        "code",
    ),
    (
        "codecontests",
        {
            "name": "1_A",
            "description": "Echo.",
            "public_tests": {"input": ["a"], "output": ["a"]},
            "private_tests": {"input": ["b"], "output": ["b"]},
        },
        "Echo.\n\nWrite a program that reads standard input and writes standard output.",
        "",
        "code",
    ),
]

BAD_CODE_ROWS = [
    ("leetcode", {"query": "x", "entry_point": "Solution().f().g", "test": "…"}, "entry_point"),
    ("leetcode", {"query": "x", "entry_point": "f"}, "input_output"),
    ("leetcode", {"query": "x", "entry_point": "f", "input_output": "[1"}, "not valid JSON"),
    ("apps", {"question": "x", "input_output": ""}, "not valid JSON"),
    ("apps", {"question": "x", "input_output": '{"inputs": ["1"], "outputs": []}'}, "as many outputs"),
    ("codecontests", {"description": "x"}, "as many outputs"),
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("layout", "row", "question", "answer", "grader"), EXAMPLES)
def test_public_layouts_are_understood(tmp_path, layout, row, question, answer, grader):
    (problem,) = load_problems(write(tmp_path / "rows.jsonl", [row]), layout)
    assert problem.question == question
    assert problem.answer == answer
    assert problem.grader == grader
    assert problem.task == ("rows" if layout == "plain" else layout)


@pytest.mark.parametrize(("layout", "row", "question", "answer", "grader"), EXAMPLES)
def test_parquet_says_the_same_as_json_lines(tmp_path, layout, row, question, answer, grader):
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert (
        load_problems(tmp_path / "rows.parquet", layout).problems
        == load_problems(write(tmp_path / "rows.jsonl", [row]), layout).problems
    )


def test_every_named_layout_is_covered_here():
    assert set(LAYOUTS) == {layout for layout, *_ in EXAMPLES} | {"gpqa"}


@pytest.mark.parametrize(("layout", "row", "message"), BAD_CODE_ROWS)
def test_a_coding_problem_without_tests_is_named(tmp_path, layout, row, message):
    with pytest.raises(DataError, match=message):
        load_problems(write(tmp_path / "rows.jsonl", [row]), layout)


def test_gpqa_shuffles_by_the_question_alone(tmp_path):
    rows = [GPQA | {"Question": f"{GPQA['Question']} ({n})", "Record ID": f"rec{n}"} for n in range(60)]
    problems = load_problems(write(tmp_path / "gpqa.jsonl", rows), "gpqa")
    again = load_problems(write(tmp_path / "gpqa.jsonl", rows[::-1]), "gpqa")
    assert {p.id: p for p in problems} == {p.id: p for p in again}
    assert {p.answer for p in problems} == set("ABCD")
    for problem in problems:
        assert f"{problem.answer}. gluon" in problem.question
        assert sorted(problem.meta["choices"]) == ["W boson", "gluon", "photon", "pion"]


def test_columns_of_ones_own(tmp_path):
    path = write(tmp_path / "own.jsonl", [{"frage": "2 + 2?", "antwort": "4", "nr": 9}])
    (problem,) = load_problems(path, "question=frage,answer=antwort,grader=numeric,id=nr")
    assert (problem.question, problem.answer, problem.grader, problem.id, problem.task) == (
        "2 + 2?",
        "4",
        "numeric",
        "9",
        "own",
    )
    choices = write(tmp_path / "c.jsonl", [{"q": "Which?", "o": ["x", "y"], "a": "y"}])
    (problem,) = load_problems(choices, ColumnMapping(question="q", answer="a", choices="o"))
    assert problem.answer == "B"


def test_a_file_may_be_packed_or_a_directory(tmp_path):
    rows = [{"question": f"{n}?", "answer": "1", "grader": "exact", "id": f"p{n}"} for n in range(4)]
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows[2:])
    write(tmp_path / "a.jsonl", rows[:2])
    assert [p.id for p in load_problems(tmp_path, "plain")] == ["p0", "p1", "p2", "p3"]
    with gzip.open(tmp_path / "c.parquet.gz", "wb") as handle:
        pq.write_table(pa.Table.from_pylist([rows[0] | {"id": "p9"}]), handle)
    assert [p.id for p in load_problems(tmp_path, "plain")] == ["p0", "p1", "p2", "p3", "p9"]


def test_an_id_is_unique_over_all_files(tmp_path):
    for name in ("a", "b"):
        write(
            tmp_path / f"{name}.jsonl", [{"question": f"{n} {name}?", "answer": "#### 1"} for n in range(3)]
        )
    assert [p.id for p in load_problems(tmp_path, "gsm8k")] == [f"row-{n}" for n in range(1, 7)]
    own = {"question": "1?", "answer": "1", "grader": "exact", "id": "same"}
    paths = [write(tmp_path / f"{name}.jsonl", [own]) for name in ("c", "d")]
    with pytest.raises(DataError, match="stands twice"):
        load_problems(paths, "plain")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"answer": None, "solution": "So \\boxed{7}."}, "7"),
        ({"solution": "So $\\boxed 5$."}, "5"),
        ({"solution": "So \\(\\boxed 12\\%\\), as \\$3 is."}, "12\\%"),
        ({"solution": "So \\boxed 5 or rather \\boxed{6}."}, "6"),
        ({"solution": "So \\fbox{5}."}, "5"),
        ({"solution": "So \\boxed {5}."}, "5"),
        ({"solution": "So \\boxed{\\{1, 2\\}}."}, "\\{1, 2\\}"),
        ({"solution": "So \\boxed{x\\}y}, not \\{."}, "x\\}y"),
        ({"solution": "So \\boxed{\\frac{1}{2}}, not \\{2."}, "\\frac{1}{2}"),
    ],
)
def test_the_box_of_a_solution_is_found_however_it_is_written(tmp_path, row, answer):
    (problem,) = load_problems(write(tmp_path / "rows.jsonl", [{"problem": "?", **row}]), "math500")
    assert problem.answer == answer


@pytest.mark.parametrize(
    ("number", "written"),
    [
        ("0.00001", "0.00001"),
        ("1e-7", "0.0000001"),
        ("-2.5e-9", "-0.0000000025"),
        ("1e22", "10000000000000000000000"),
        ("4.0", "4.0"),
        ("0.1", "0.1"),
        ("12", "12"),
    ],
)
def test_numbers_are_written_in_plain_decimals(tmp_path, number, written):
    path = tmp_path / "n.jsonl"
    path.write_text(f'{{"question": "?", "answer": {number}, "grader": "numeric"}}', encoding="utf-8")
    (problem,) = load_problems(path, "plain")
    assert problem.answer == written
    path.write_text(f'{{"question": "?", "choices": [{number}, 77], "answer": "A"}}', encoding="utf-8")
    (problem,) = load_problems(path, "question=question,answer=answer,choices=choices")
    assert problem.meta["choices"] == [written, "77"]


GOOD = json.dumps({"question": "1?", "answer": "#### 1"})


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"question": "2?", "answer"', "not valid JSON"),
        ('["2?", "#### 2"]', "is not an object"),
        ('{"question": "2?"}', "has no `answer`"),
        ('{"question": null, "answer": "#### 2"}', "`question` is null"),
        ('{"question": " ", "answer": "#### 2"}', "`question` is empty"),
        ('{"question": ["2?"], "answer": "#### 2"}', "`question` must be a text, not list"),
        ('{"question": "2?", "answer": "two"}', "does not end in `#### NUMBER`"),
        ('{"question": "2?", "answer": NaN}', "nan is no number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"question": ' + "2" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_key(tmp_path, bad, said):
    path = tmp_path / "g.jsonl"
    path.write_text(f"{GOOD}\n\n{bad}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_problems(path, "gsm8k")
    assert said in str(caught.value)
    assert f"{path}:3" in str(caught.value)
    skipped = load_problems(path, "gsm8k", skip_bad=True)
    assert len(skipped) == 2
    assert skipped.dropped == {"bad": 1}


def test_bytes_that_are_no_text_are_a_bad_row(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"question": "\xff", "answer": "#### 1"}\n')
    with pytest.raises(DataError, match=r"layout `gsm8k`: not valid JSON"):
        load_problems(path, "gsm8k")


@pytest.mark.parametrize(
    ("layout", "row", "said"),
    [
        ("mmlu", {"question": "?", "choices": ["a", "b"], "answer": 5}, "not one of the 2 choices"),
        ("mmlu", {"question": "?", "choices": ["a"], "answer": 0}, "list of 2 to 26"),
        ("mmlu", {"question": "?", "choices": "ab", "answer": 0}, "list of 2 to 26"),
        (
            "arc",
            {"question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "E"},
            "`answerKey`",
        ),
        ("arc", {"question": "?", "answerKey": "A"}, "`choices` with `text` and `label`"),
        ("aime", {"problem": "?", "answer": "1234"}, "from 0 to 999"),
        ("gpqa", {k: v for k, v in GPQA.items() if k != "Incorrect Answer 3"}, "has no `Incorrect Answer 3`"),
        ("math500", {"problem": "?", "solution": "no box"}, "holds no \\boxed{}"),
        ("mbpp", {"text": "?", "test_list": []}, "`test_list`"),
        ("humaneval", {"prompt": "?", "test": "t"}, "`entry_point`"),
        ("openbookqa", {"instruction": "Answer1: a", "answer": "answer1"}, "`instruction`"),
    ],
)
def test_what_a_layout_needs_is_said(tmp_path, layout, row, said):
    with pytest.raises(DataError) as caught:
        load_problems(write(tmp_path / "rows.jsonl", [row]), layout)
    assert said in str(caught.value)


def test_the_same_id_twice_is_refused(tmp_path):
    rows = [{"question": f"{n}?", "answer": "1", "grader": "exact", "id": "same"} for n in range(2)]
    with pytest.raises(DataError, match="stands twice") as caught:
        load_problems(write(tmp_path / "x.jsonl", rows), "plain")
    assert "x.jsonl:1" in str(caught.value)
    assert "x.jsonl:2" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "notes.txt", "empty.jsonl", "broken.parquet", "broken.jsonl.gz"]
)
def test_files_that_cannot_be_read_are_named(tmp_path, name):
    if name != "missing.jsonl":
        (tmp_path / name).write_text("" if name == "empty.jsonl" else "no problems\n", encoding="utf-8")
    with pytest.raises(DataError, match=".") as caught:
        load_problems(tmp_path / name, "gsm8k")
    assert name in str(caught.value)


def test_a_damaged_packed_file_is_named(tmp_path):
    lines = "".join(json.dumps({"question": f"{n}?", "answer": f"#### {n}"}) + "\n" for n in range(5000))
    packed = bytearray(gzip.compress(lines.encode()))
    packed[200:203] = b"\xff\xff\xff"
    (tmp_path / "damaged.jsonl.gz").write_bytes(packed)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-100])
    (tmp_path / "damaged.jsonl.zst").write_bytes(b"no zstd")
    for name in ("damaged.jsonl.gz", "cut.jsonl.gz", "damaged.jsonl.zst"):
        with pytest.raises(DataError, match="cannot be read after line") as caught:
            load_problems(tmp_path / name, "gsm8k")
        assert name in str(caught.value)


def test_where_every_row_is_bad_the_first_fault_is_said(tmp_path):
    path = write(tmp_path / "bad.jsonl", [{"q": 1}] * 3)
    with pytest.raises(DataError, match="3 bad rows, the first .*bad.jsonl:1: has no `answer`"):
        load_problems(path, "gsm8k", skip_bad=True)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [("gsm8", "did you mean `gsm8k`"), ("qestion=a", "did you mean `question=…`"), ("zzz", "known: plain")],
)
def test_an_unknown_mapping_names_the_nearest(tmp_path, mapping, said):
    with pytest.raises(ConfigError) as caught:
        load_problems(tmp_path / "x.jsonl", mapping)
    assert said in str(caught.value)


def test_the_prompted_variant_asks_for_work_and_changes_nothing_else(tmp_path):
    row = {"question": "Which?", "choices": ["x", "y"], "answer": 1}
    (problem,) = load_problems(write(tmp_path / "m.jsonl", [row]), "mmlu")
    asked = prompted(problem)
    assert asked.question.startswith(problem.question)
    assert "letter" in asked.question
    assert "\\boxed{" in asked.question
    assert (asked.id, asked.answer, asked.grader) == (problem.id, problem.answer, problem.grader)
    assert "\\boxed" not in problem.question


def test_questions_alone_are_problems_without_a_grader(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Write a poem."}\n{"prompt": "And another.", "answer": ["no text"]}\n')
    problems = load_problems(path, "question=prompt,grader=none").problems
    assert [(p.question, p.answer, p.grader, p.judged) for p in problems] == [
        ("Write a poem.", "", "none", False),
        ("And another.", "", "none", False),
    ]
    assert [prompted(p) for p in problems] == list(problems), "nobody looks for an answer in a box"

    path.write_text(
        '{"question": "2 + 2?", "answer": 4, "grader": "numeric"}\n{"question": "Why?", "grader": "none"}\n'
    )
    assert [p.judged for p in load_problems(path, "plain")] == [True, False]
    path.write_text('{"question": "Which?", "choices": ["x", "y"]}\n')
    (which,) = load_problems(path, "question=question,choices=choices,grader=none")
    assert (which.judged, which.question) == (False, "Which?\n\nA. x\nB. y")
    path.write_text('{"question": "Why?"}\n')
    with pytest.raises(DataError, match="answer"):
        load_problems(path, "question=question,grader=exact")
