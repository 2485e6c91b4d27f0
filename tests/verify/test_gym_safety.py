"""What a model wrote is never evaluated by reasoning-gym's scorers, and right answers are still right."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import reasoning_gym
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.tasks.problem import Problem
from bethink.tasks.procedural import generate, generators
from bethink.verify import gym_readers as readers
from bethink.verify.grade import GradeItem, as_item, grade, grade_item, grade_many
from bethink.verify.pool import WorkerPool
from bethink.verify.verdict import Outcome, Verdict

SEED = random.randrange(2**31)


EVALUATING = {
    "binary_matrix": "algorithmic.binary_matrix",
    "number_sorting": "algorithmic.number_sorting",
    "spiral_matrix": "algorithmic.spiral_matrix",
    "string_insertion": "algorithmic.string_insertion",
    "n_queens": "games.n_queens",
    "bitwise_arithmetic": "arithmetic.bitwise_arithmetic",
    "countdown": "games.countdown",
    "puzzle24": "games.puzzle24",
    "intermediate_integration": "algebra.intermediate_integration",
    "polynomial_multiplication": "algebra.polynomial_multiplication",
    "simple_integration": "algebra.simple_integration",
}
"""Generator → its module, for those whose scorers evaluate texts."""

HARMLESS = {
    ("algebra.polynomial_equations", "sympy"): "makes problems; the scorer reads floats",
    ("algebra.simple_equations", "sympy"): "makes problems; the scorer compares texts",
    ("geometry.advanced_geometry", "sympy"): "makes problems; the scorer reads floats",
    ("arithmetic.basic_arithmetic", "eval"): "makes problems",
    ("arithmetic.gsm_symbolic.generators_00_49", "eval"): "makes problems",
    ("arithmetic.gsm_symbolic.generators_50_99", "eval"): "makes problems",
    ("code.codeio", "exec"): "makes problems, of programs that the library brings along",
    ("code.contrib.bfit.BF-it", "os"): "a command of its own",
    ("code.contrib.bfit.Interpreter", "sys"): "writes",
    ("logic.propositional_logic", "parse_expr"): "its own function, which evaluates nothing",
    ("coaching.curriculum_config", "yaml"): "safe_load of a file of the user's",
    ("composite", "yaml"): "safe_load of a file of the user's",
    ("data", "importlib"): "where the data files are",
}
"""(module, what the scan finds) → why no text of a model's is evaluated by it."""

NAMES = {
    "eval", "exec", "compile", "__import__", "__builtins__", "parse_expr", "sympify", "parse_latex", "parse_mathematica",
    "parse_maxima", "eval_expr", "lambdify", "nsimplify", "system", "popen", "Popen", "import_module", "literal_eval",
    "attrgetter", "methodcaller",
}  # fmt: skip
MODULES = {
    "sympy", "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "jsonpickle",
    "subprocess", "multiprocessing", "importlib", "runpy", "imp", "code", "codeop", "pty", "ctypes", "builtins", "inspect",
    "types", "os", "sys", "shutil", "socket", "numexpr", "asteval", "simpleeval", "jinja2", "pandas", "mpmath",
}  # fmt: skip


def in_library() -> Iterator[tuple[str, str]]:
    """Every (module, name) of reasoning-gym's that may run a text: such calls, and imports of what has them."""
    root = Path(reasoning_gym.__file__).parent
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    used = {part.name.split(".")[0] for part in names} & MODULES
                case ast.ImportFrom(module=str(source), level=0):
                    used = {source.split(".")[0]} & MODULES
                case ast.Name(id=name):
                    used = {name} & NAMES
                case ast.Attribute(attr=name):
                    used = {name} & NAMES - {"compile"}  # of regular expressions; the builtin one is a name
                case _:
                    continue
            yield from ((module, name) for name in used)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as workers:
        yield workers


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    """One problem of every generator."""
    return {
        name: generate(name, 1, seed=SEED, split="test").problems[0]
        for name in generators()
        if name != "composite"
    }


def several(name: str, count: int = 8) -> list[Problem]:
    return list(generate(name, count, seed=SEED, split="test").problems)


def verdict_on(problem: Problem, answer: str, pool: WorkerPool) -> Verdict:
    verdict = grade(problem, f"<answer>{answer}</answer>", pool=pool)
    assert verdict.extracted == answer.strip(), f"seed {SEED}"
    return verdict


def test_whatever_of_the_library_may_run_a_text_is_known_and_replaced(pool: WorkerPool) -> None:
    """Fails with a version of reasoning-gym that evaluates something new: read how its scorer comes to it, then give it a reader in
    `gym_worker.READERS`, or say in HARMLESS why it needs none."""
    used = set(in_library())
    known = {*HARMLESS} | {(module, name) for module in EVALUATING.values() for name in (*NAMES, "sympy")}
    assert sorted(used - known) == []
    assert sorted({*HARMLESS} - used) == []
    done = pool.submit("pool_jobs:evaluators_of_reasoning_gym").result()
    assert done.error is None
    assert len(done.value) > 100
    ours = "bethink.verify.gym_readers"
    for module, name in used - {*HARMLESS}:
        if name != "sympy":
            assert done.value[module][name] == ours, (module, name)
    for module, names in done.value.items():
        for name in ("eval", "exec"):
            assert names[name] == ours, (module, name)


PAYLOADS = {
    "write": "[open({path!r}, 'w').write('1')]",
    "write and be right": "(open({path!r}, 'w').write('1'), {gold!r})[1]",
    "shell": "__import__('os').system('touch {path}')",
    "shell in a list": "[__import__('os').system('touch {path}')]",
    "import": "__import__('pathlib').Path({path!r}).touch()",
    "walk": "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Path']",
    "walk to a file": "[c for c in ().__class__.__mro__[1].__subclasses__() if c.__name__ == '_wrap_close'][0]"
    ".__init__.__globals__['system']('touch {path}')",
    "text in a text": "eval('open({path!r}, \"w\")')",
    "by a name of SymPy's": "sympify('open({path!r}, \"w\")')",
    "by a lambda": "(lambda: open({path!r}, 'w'))()",
    "format": "f'{{open({path!r}, 'w')}}'",
    "patch the scorer": "setattr(__import__('reasoning_gym').dataset.ProceduralDataset, 'score_answer', lambda *a: 1.0)",
    "patch every scorer": "[setattr(d[0], 'score_answer', lambda *a: 1.0) for d in "
    "__import__('reasoning_gym.factory').factory.DATASETS.values()]",
    "patch the worker": "[setattr(__import__('bethink.verify.gym_worker').verify.gym_worker, '_best', lambda *a: 1.0)]",
    "patch the names": "globals().update(abs=lambda x: 0, isinstance=lambda *a: True)",
    "a power": "9**9**9",
    "a power of powers": "((9**999)**999)**999",
    "a power in a function": "exp(10**12*log(7))",
    "a power of a root": "sqrt(2)**(2*10**9)",
    "a power of a sum": "(a + b + c + d + x)**999",
    "a root": "(9**999999)**(1/3)",
    "floats": "exp(exp(exp(1e9)))",
    "a shift": "1 << 10**12",
    "a long text": "'a' * 10**10",
    "a long list": "[0] * 10**10",
    "a range": "list(range(10**10))",
    "factorial": "factorial(10**9)",
    "parentheses": "(" * 90_000 + "1" + ")" * 90_000,
    "brackets": "[" * 90 + "]" * 90,
    "signs": "-" * 90_000 + "1",
    "signs and more": "not " * 20_000 + "1",
    "powers": "1**" * 30_000 + "1",
    "calls": "sin(" * 150 + "x" + ")" * 150,
    "many calls": "f" + "()" * 30_000,
    "attributes": "x" + ".a" * 30_000,
    "a long sum": "+".join(f"a{n}" for n in range(20_000)),
    "a long product": "*".join(f"a{n}" for n in range(2_500)),
    "a long number": "9" * 90_000,
    "a comment": "1 # 2",
    "nothing": "()",
}


@pytest.mark.parametrize("name", EVALUATING)
def test_a_text_that_would_do_something_does_nothing_and_is_wrong(
    name: str, problems: dict[str, Problem], pool: WorkerPool, tmp_path: Path
) -> None:
    problem, path = problems[name], tmp_path / "written"
    for what, payload in PAYLOADS.items():
        text = payload.format(path=str(path), gold=problem.answer) if "path" in payload else payload
        verdict = verdict_on(problem, text, pool)
        assert verdict.outcome is Outcome.WRONG, (what, verdict, SEED)
        assert not path.exists(), what
    assert verdict_on(problem, problem.answer, pool).correct, "the worker is as it was"
    for other in problems.values():
        assert verdict_on(other, "not it", pool).score < 1.0 or other.task == "game_of_life_halting"


def test_no_scorer_at_all_does_what_an_answer_says(
    problems: dict[str, Problem], pool: WorkerPool, tmp_path: Path
) -> None:
    """Also a scorer that comes to evaluate a text by ways that no scan of its source sees."""
    path = tmp_path / "written"
    texts = [text.format(path=str(path), gold="1") for text in PAYLOADS.values() if "{path" in text]
    items = [as_item(problem, f"<answer>{text}</answer>") for problem in problems.values() for text in texts]
    assert sum(1 for _ in grade_many(items, pool=pool)) == len(items)
    assert not path.exists()


def test_sympy_makes_names_and_numbers_of_texts_and_nothing_else(pool: WorkerPool, tmp_path: Path) -> None:
    """SymPy needs that much itself, when it loads its own modules."""
    for text, expected in (("3/2", "3/2"), ("yotta", "yotta"), ("x - 2*y", "x - 2*y")):
        assert pool.submit("pool_jobs:sympified_while_scoring", text).result().value == expected
    path = tmp_path / "written"
    for text in (
        *(text for text in PAYLOADS.values() if "{path" in text),
        "9**9**9",
        "x.free_symbols",
        "[1]",
    ):
        done = pool.submit(
            "pool_jobs:sympified_while_scoring", text.format(path=str(path), gold="1")
        ).result()
        assert done.error is not None, text
    assert not path.exists()


def test_a_reference_answer_and_what_belongs_to_it_are_not_evaluated_either(
    problems: dict[str, Problem], pool: WorkerPool, tmp_path: Path
) -> None:
    path = tmp_path / "written"
    text = f"[open({str(path)!r}, 'w').write('1')]"
    for name in EVALUATING:
        entry = problems[name].meta["entry"]
        for changed in (
            {**entry, "answer": text},
            {**entry, "metadata": {**entry["metadata"], "problem": text, "integrand": text}},
        ):
            item = GradeItem(text, "<answer>[1]</answer>", name, {"entry": changed})
            assert not grade_item(item, pool=pool).correct
    assert not path.exists()


INTEGRALS = {
    "without the constant": lambda gold: gold.removesuffix(" + C"),
    "another constant": lambda gold: gold.replace("C", "K"),
    "a constant first": lambda gold: "C + " + gold.removesuffix(" + C"),
    "ln": lambda gold: gold.replace("log(", "ln("),
    "a power of e": lambda gold: gold.replace("exp(x)", "E**x"),
    "Rational": lambda gold: re.sub(r"/3\b", "*Rational(1, 3)", gold),
    "expanded": lambda gold: str(sympy.expand(sympy.parse_expr(gold))),
    "factored": lambda gold: str(sympy.factor(sympy.parse_expr(gold.removesuffix(" + C")))),
}
SUMS = {
    "spaces": lambda gold: f"  ( {gold} )  ".replace("+", "  + "),
    "no spaces": lambda gold: gold.replace(" ", ""),
    "twice negated": lambda gold: f"-(-({gold}))",
}
VARIANTS = {
    "countdown": SUMS,
    "puzzle24": SUMS,
    "simple_integration": SUMS | INTEGRALS | {"decimals": lambda gold: re.sub(r"/2\b", "*0.5", gold)},
    "intermediate_integration": SUMS | INTEGRALS,
    "polynomial_multiplication": SUMS
    | {
        "backwards": lambda gold: " + ".join(f"({part})" for part in reversed(gold.replace("- ", "+ -").split(" + "))),
        "an equation": lambda gold: f"p = {gold}",
    },
    "bitwise_arithmetic": {"decimal": lambda gold: str(int(gold, 16)), "spaces": lambda gold: f" {gold} "},
    "number_sorting": {"numbers": lambda gold: gold.replace("'", ""), "quotes": lambda gold: gold.replace("'", '"')},
}  # fmt: skip


@pytest.mark.parametrize("name", EVALUATING)
def test_right_answers_are_right_however_they_are_written(name: str, pool: WorkerPool) -> None:
    for problem in several(name):
        answers = {"the reference answer": problem.answer}
        answers |= {what: change(problem.answer) for what, change in VARIANTS.get(name, {}).items()}
        for what, answer in answers.items():
            assert verdict_on(problem, answer, pool).correct, (what, answer, SEED)


def test_large_problems_are_read(pool: WorkerPool) -> None:
    options = {
        "polynomial_multiplication": {"level": 2},
        "bitwise_arithmetic": {"difficulty": 8},
        "spiral_matrix": {"min_n": 40, "max_n": 50},
        "countdown": {"min_numbers": 9, "max_numbers": 12, "max_target": 9999},
        "intermediate_integration": {"max_linear_degree": 9, "max_poly_degree": 6},
    }
    for name, config in options.items():
        for problem in generate(name, 5, seed=SEED, split="test", config=config).problems:
            assert verdict_on(problem, problem.answer, pool).correct, (name, problem.answer, SEED)


@pytest.mark.parametrize(
    ("name", "written", "score"),
    [
        ("spiral_matrix", lambda gold: str([int(part) for part in gold.split()]), 0.1),
        ("string_insertion", lambda gold: str(list(gold)), 0.1),
        ("binary_matrix", lambda gold: str([[int(part) for part in row.split()] for row in gold.split("\n")]), 0.1),
        ("n_queens", lambda gold: str([row.split() for row in gold.split("\n")]), 0.5),
    ],
)  # fmt: skip
def test_a_list_gets_the_part_of_a_point_that_its_scorer_gives(
    name: str, written: Callable[[str], str], score: float, pool: WorkerPool
) -> None:
    for problem in several(name):
        assert verdict_on(problem, written(problem.answer), pool).score == score


def test_numbers_are_those_that_stand_in_the_answer(pool: WorkerPool) -> None:
    """What a scorer that counts the numbers would not see is no number."""
    entry = {"answer": "25*4", "metadata": {"numbers": [25, 4, 3], "target": 100}}
    for answer in ("25*4 # 3", "25*4 + 0*len('3')", "1e2 + 0*(25+4+3)", "0x64 + 0*(25+4+3)", "25*4 + 0*x3"):
        item = GradeItem("25*4", f"<answer>{answer}</answer>", "countdown", {"entry": entry})
        assert grade_item(item, pool=pool).outcome is Outcome.WRONG, answer


def grown(leaves: st.SearchStrategy[str], operators: str, functions: str = "") -> st.SearchStrategy[str]:
    def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pairs = st.builds("({} {} {})".format, inner, st.sampled_from(operators.split()), inner)
        rows = st.builds("{} {} {}".format, inner, st.sampled_from(operators.split()), inner)
        signs = st.builds("-{}".format, inner)
        calls = st.builds("{}({})".format, st.sampled_from(functions.split() or [""]), inner)
        return pairs | rows | signs | calls

    return st.recursive(leaves, wider, max_leaves=6)


SYMBOLIC = grown(
    st.sampled_from(["x", "y", "C", "E", "pi", "1", "2", "3", "7", "0.5", "12"]),
    "+ - * /",
    "sin exp log sqrt atan",
)


@settings(deadline=None, max_examples=150)
@given(text=SYMBOLIC)
def test_an_expression_is_what_sympy_makes_of_it(text: str) -> None:
    expected = sympy.parse_expr(text)
    if expected.has(sympy.zoo, sympy.nan, sympy.oo):
        with pytest.raises(ValueError, match="not in the language"):
            readers.expression(text)
    else:
        assert sympy.simplify(readers.expression(text) - expected) == 0


@settings(deadline=None)
@given(text=grown(st.integers(0, 99).map(str), "+ - *"), power=st.integers(0, 5))
def test_arithmetic_is_what_python_makes_of_it(text: str, power: int) -> None:
    text = f"({text})**{power}"
    assert readers.arithmetic(text) == eval(text)


@settings(deadline=None)
@given(text=grown(st.integers(0, 2**16).map(hex), "+ - * & | ^ >>"), shift=st.integers(0, 9))
def test_whole_numbers_are_what_python_makes_of_them(text: str, shift: int) -> None:
    text = f"(~{text}) << {shift}"
    try:
        expected = eval(text)
    except ValueError:  # a negative shift
        return
    assert readers.whole_number(text) == expected


@settings(deadline=None)
@given(text=st.text() | st.text(alphabet="x10.+-*/()[]{}'\"_,#:=\n \\eEjabif", max_size=30))
def test_whatever_is_read_is_a_value_or_an_error_that_scorers_catch(text: str) -> None:
    for read in (readers.literal, readers.whole_number, readers.arithmetic, readers.expression):
        with suppress(SyntaxError, ValueError, TypeError):
            read(text)
