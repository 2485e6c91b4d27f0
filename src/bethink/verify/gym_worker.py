"""reasoning-gym's scorers, as jobs for a worker process (the library takes seconds to import, and some scorers may hang or crash).

Some of them give the answer to `eval` or to SymPy's `parse_expr`, which is `eval` as well. What a model wrote is never evaluated here:
importing this module puts readers (`gym_readers`) in their place, and something that refuses into every other module of reasoning-gym;
while a scorer runs, SymPy makes names and numbers of texts and nothing else. The process can score, but not make every generator's
problems any more.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

import sympy
from reasoning_gym.factory import DATASETS, create_dataset
from sympy.parsing import sympy_parser

from bethink.verify import gym_readers as readers

_SYMPY = ModuleType("sympy")
_SYMPY.__dict__.update({**vars(sympy), "parse_expr": readers.expression})

READERS: dict[str, dict[str, Any]] = {
    "algorithmic.binary_matrix": {"eval": readers.literal},
    "algorithmic.number_sorting": {"eval": readers.literal},
    "algorithmic.spiral_matrix": {"eval": readers.literal},
    "algorithmic.string_insertion": {"eval": readers.literal},
    "games.n_queens": {"eval": readers.literal},
    "arithmetic.bitwise_arithmetic": {"eval": readers.whole_number},
    "games.countdown": {"parse_expr": readers.arithmetic},
    "games.puzzle24": {"parse_expr": readers.arithmetic},
    "algebra.intermediate_integration": {"sympy": _SYMPY},
    "algebra.polynomial_multiplication": {"sp": _SYMPY},
    "algebra.simple_integration": {"sympy": _SYMPY},
}
"""Module of reasoning-gym → the names in it that its scorer evaluates texts with, and what they are here."""

_EVALUATORS = ("eval", "exec", "compile", "__import__")


def _seal() -> None:
    """Leave no module of reasoning-gym a way to evaluate a text. A name of a module goes before the builtin one."""
    for name, module in list(sys.modules.items()):
        package, _, path = name.partition(".")
        if package == "reasoning_gym":
            refused = {
                evaluator: readers.refuse for evaluator in _EVALUATORS if evaluator not in vars(module)
            }
            vars(module).update({**refused, **READERS.get(path, {})})


_seal()

_TAME = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.Constant),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.UAdd, ast.USub),
)
_MAKERS = ("Symbol", "Integer", "Float", "Rational")


@contextmanager
def _tame_sympy() -> Iterator[None]:
    """Let SymPy meanwhile make no more of texts than names, numbers and their sums, products and quotients.

    `sympify` and all that call it evaluate texts. SymPy does so itself, with texts such as "3/2".
    """
    usual = sympy_parser.eval_expr

    def tame(code: str, *scopes: dict[str, Any]) -> Any:
        for node in ast.walk(ast.parse(code.strip(), mode="eval")):
            made = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MAKERS
            if not made and not isinstance(node, _TAME):
                readers.refuse()
        return usual(code, *scopes)

    sympy_parser.eval_expr = tame
    try:
        yield
    finally:
        sympy_parser.eval_expr = usual


@lru_cache(maxsize=256)
def _scorer(name: str, config: str) -> Any:
    return create_dataset(name, **json.loads(config)).score_answer


def score(
    name: str, config: Mapping[str, Any] | None, entry: dict[str, Any], spellings: Sequence[str]
) -> float | str:
    """The best score any spelling of the answer gets. config: the generator's options.

    Where the scorer crashes on every spelling and not on the reference answer, it is the answer that cannot be read: then the error as
    text. Raises what the scorer raises when it crashes on the reference answer as well, or there is none.
    """
    scorer = _scorer(name, json.dumps(config or {}, sort_keys=True))
    with _tame_sympy():
        return _best(scorer, entry, spellings)


def _best(scorer: Any, entry: dict[str, Any], spellings: Sequence[str]) -> float | str:
    best, failure = -1.0, None
    for spelling in spellings:
        try:
            best = max(best, float(scorer(spelling, entry)))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  a scorer raises whatever its parsing of the answer does
            failure = error
        if best >= 1.0:
            break
    if failure is None or best >= 0.0:
        return best
    if entry.get("answer") is None:
        raise failure
    scorer(entry["answer"], entry)
    return f"{type(failure).__name__}: {failure}"


def names() -> list[str]:
    """Every generator there is."""
    return sorted(DATASETS)
