"""Raw post-training rows from problems with worked solutions, in the schema of the Llama-Nemotron Post-Training Dataset.

Every problem gives two rows: one answered after the working (thinking on), one answered at once (off); or one of the two. A share of defective rows is
planted among them, each labelled in `labels.jsonl`, so that a curation run has something to find and its finds can be checked.
Leaves making problems and working them to `tasks`, and the form of a thinking answer to `chat`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Self

from pydantic import Field, model_validator

from bethink.chat.parse import compose
from bethink.chat.toggle import DEFAULT_FORMAT, Mode, apply_toggle
from bethink.core.config import StrictModel
from bethink.core.console import note
from bethink.core.files import atomic_path, dump_line, write_json
from bethink.core.seeds import derive_seed
from bethink.tasks.problem import WORKING, Problem
from bethink.tasks.sources import load_tasks
from bethink.tasks.worked import Worked, broken_off, solve_all


class SynthesizeConfig(StrictModel):
    """output: directory for rows.jsonl, labels.jsonl and summary.json; task: a procedural generator, with options after a colon
    (`chain_sum:min_terms=5,max_terms=8`), or a file of problems with their worked solutions; problems: how many different ones; modes: on,
    off or both; careless: share of the thinking-on rows whose working breaks off, as hurried people write; defects: share of all rows
    that are planted defects.
    """

    output: Path
    task: str = "chain_sum"
    problems: int = Field(default=1000, gt=0)
    modes: tuple[Mode, ...] = Field(default=tuple(Mode), min_length=1)
    careless: float = Field(default=0.0, ge=0, le=1)
    defects: float = Field(default=0.1, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _defects_are_of_both(self) -> Self:
        if self.defects and set(self.modes) != set(Mode):
            raise ValueError("planted defects are of both modes: set defects to 0, or leave modes out")
        return self


@dataclass(frozen=True, slots=True)
class _Line:
    """One line to write: its bytes' text, what the label file says of it, and its place in the shuffle."""

    text: str
    problem: str
    mode: Mode
    defect: str | None
    key: float


def synthesize(config: SynthesizeConfig) -> dict[str, Any]:
    """Write the rows. Returns (and writes as summary.json) the counts. Raises ConfigError when no problem can be worked."""
    problems = load_tasks(config.task, size=config.problems, seed=config.seed, split="train")
    worked = solve_all(problems, config.task)
    random = Random(derive_seed(config.seed, "synthesize", config.task))
    clean = [
        _clean(problem, _hurried(problem, solution, mode, config.careless, random), mode, random)
        for problem, solution in worked
        for mode in config.modes
    ]
    planted = round(len(clean) * config.defects / (1 - config.defects))
    defective = [_plant(kind, worked, clean, random) for kind in _cycle(planted)]
    lines = sorted([*clean, *defective], key=lambda line: line.key)

    with atomic_path(config.output / "labels.jsonl") as path, open(path, "w", encoding="utf-8") as labels:
        for number, line in enumerate(lines, 1):
            labels.write(
                dump_line({"line": number, "problem": line.problem, "mode": line.mode, "defect": line.defect})
            )
    summary = {
        "task": config.task,
        "problems": len(worked),
        "without_working": len(problems) - len(worked),
        "rows": len(lines),
        "clean": len(clean),
        "defects": {kind: sum(line.defect == kind for line in defective) for kind in KINDS_OF_DEFECT},
    }
    write_json(config.output / "summary.json", summary)
    with atomic_path(config.output / "rows.jsonl") as path, open(path, "w", encoding="utf-8") as rows:
        rows.writelines(line.text for line in lines)
    note(
        f"{len(lines):,} rows from {len(worked):,} problems of {config.task}, {planted:,} of them planted defects"
    )
    return summary


def _row(problem: Problem, output: str, mode: Mode) -> dict[str, Any]:
    return {
        "input": list(problem.messages),
        "output": output,
        "category": "math",
        "license": "as its file" if WORKING in problem.meta else "apache-2.0",
        "reasoning": str(mode),
        "generator": f"{problem.task if WORKING in problem.meta else 'bethink'} worked solutions",
        "used_in_training": ["Nano"],
        "version": "1",
        "system_prompt": apply_toggle([], mode)[0]["content"],
    }


def _clean(problem: Problem, solution: Worked, mode: Mode, random: Random) -> _Line:
    output = compose(solution.thinking, solution.answer) if mode is Mode.ON else solution.answer
    return _Line(dump_line(_row(problem, output, mode)), problem.id, mode, None, random.random())


def _hurried(problem: Problem, solution: Worked, mode: Mode, share: float, random: Random) -> Worked:
    """The solution, or in a share of the thinking-on rows one whose working breaks off."""
    hasty = mode is Mode.ON and share > 0 and random.random() < share
    return (broken_off(problem, solution) if hasty else None) or solution


def _cycle(count: int) -> Iterator[str]:
    return (KINDS_OF_DEFECT[index % len(KINDS_OF_DEFECT)] for index in range(count))


def _plant(
    kind: str, worked: Sequence[tuple[Problem, Worked]], clean: Sequence[_Line], random: Random
) -> _Line:
    if kind == "duplicate":
        original = random.choice(clean)
        return replace(original, defect=kind, key=random.uniform(original.key, 1))  # after its original
    problem, solution = random.choice(worked)
    text, mode = _DEFECTS[kind](problem, solution, random)
    return _Line(text, problem.id, mode, kind, random.random())


def _either(problem: Problem, solution: Worked, random: Random) -> tuple[dict[str, Any], Mode]:
    mode = random.choice(list(Mode))
    output = compose(solution.thinking, solution.answer) if mode is Mode.ON else solution.answer
    return _row(problem, output, mode), mode


def _missing_boxed(problem: Problem, solution: Worked, random: Random) -> tuple[str, Mode]:
    answer = f"The final answer is {problem.answer}."
    return dump_line(_row(problem, compose(solution.thinking, answer), Mode.ON)), Mode.ON


def _empty_think(problem: Problem, solution: Worked, random: Random) -> tuple[str, Mode]:
    nothing = random.choice(("", " ", "\n\n"))
    output = f"{DEFAULT_FORMAT.open}\n{nothing}\n{DEFAULT_FORMAT.close}\n\n{solution.answer}"
    return dump_line(_row(problem, output, Mode.ON)), Mode.ON


def _unclosed_think(problem: Problem, solution: Worked, random: Random) -> tuple[str, Mode]:
    output = f"{DEFAULT_FORMAT.open}\n{solution.thinking}\n{solution.answer}"
    return dump_line(_row(problem, output, Mode.ON)), Mode.ON


def _think_in_off(problem: Problem, solution: Worked, random: Random) -> tuple[str, Mode]:
    return dump_line(_row(problem, compose(solution.thinking, solution.answer), Mode.OFF)), Mode.OFF


def _not_nano(problem: Problem, solution: Worked, random: Random) -> tuple[str, Mode]:
    row, mode = _either(problem, solution, random)
    return dump_line(row | {"used_in_training": random.choice((["Ultra"], ["Super", "Ultra"]))}), mode


def _non_english(problem: Problem, solution: Worked, random: Random) -> tuple[str, Mode]:
    question, thinking = random.choice(_FOREIGN)
    foreign = replace(problem, messages=({"role": "user", "content": f"{question} {problem.question}"},))
    output = compose(f"{thinking}\n{solution.thinking}", f"\\boxed{{{problem.answer}}}")
    return dump_line(_row(foreign, output, Mode.ON)), Mode.ON


def _truncated_json(problem: Problem, solution: Worked, random: Random) -> tuple[str, Mode]:
    row, mode = _either(problem, solution, random)
    text = dump_line(row)
    return text[: random.randrange(20, len(text) - 20)] + "\n", mode


def _missing_output(problem: Problem, solution: Worked, random: Random) -> tuple[str, Mode]:
    row, mode = _either(problem, solution, random)
    return dump_line({key: value for key, value in row.items() if key != "output"}), mode


def _not_an_object(problem: Problem, solution: Worked, random: Random) -> tuple[str, Mode]:
    row, mode = _either(problem, solution, random)
    return json.dumps([row], ensure_ascii=False) + "\n", mode


_DEFECTS: dict[str, Callable[[Problem, Worked, Random], tuple[str, Mode]]] = {
    "missing_boxed": _missing_boxed,
    "empty_think": _empty_think,
    "unclosed_think": _unclosed_think,
    "think_in_off": _think_in_off,
    "not_nano": _not_nano,
    "non_english": _non_english,
    "truncated_json": _truncated_json,
    "missing_output": _missing_output,
    "not_an_object": _not_an_object,
}

KINDS_OF_DEFECT = (*_DEFECTS, "duplicate")

_FOREIGN = (
    (
        "Voici un petit exercice de calcul pour la classe de ce matin. Écris chaque étape avant de donner le résultat.",
        (
            "Je commence par la gauche et j'avance pas à pas, sans rien oublier en chemin. À chaque ligne, je garde le total que "
            "j'ai déjà trouvé et j'y ajoute le nombre suivant. Si le signe est négatif, je retire ce nombre au lieu de l'ajouter."
        ),
    ),
    (
        "Hier ist eine kleine Rechenaufgabe für den Unterricht. Schreibe bitte jeden Schritt auf, bevor du das Ergebnis nennst.",
        (
            "Ich fange links an und gehe Schritt für Schritt nach rechts. In jeder Zeile merke ich mir die Summe, die ich schon "
            "gefunden habe, und zähle die nächste Zahl dazu. Steht ein Minus davor, dann ziehe ich die Zahl ab."
        ),
    ),
    (
        "Aquí tienes un pequeño ejercicio de cálculo para la clase de hoy. Escribe cada paso antes de dar el resultado.",
        (
            "Empiezo por la izquierda y avanzo paso a paso, sin saltarme ningún número. En cada línea guardo el total que ya tengo "
            "y le sumo el número siguiente. Cuando el signo es negativo, resto ese número en lugar de sumarlo."
        ),
    ),
)
"""Pairs of (what is put before a question, what is put before its working)."""
