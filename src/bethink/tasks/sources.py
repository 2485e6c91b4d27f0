"""One line of text → problems: how a user names a task.

chain_sum                                   a procedural generator
chain_sum:min_terms=5,max_terms=8           with its options (`level=N` sets its difficulty)
path/to/test.jsonl:gsm8k                    a file (or directory) and what its columns mean
rows.parquet:question=problem,answer=gold,grader=math
mine.jsonl:plain,held_out=0.1               a file in two parts: the split `test` holds a tenth of its questions, any run's the same ones
hub:openai/gsm8k/main:gsm8k                 a data set on the hub
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from bethink.core.config import nearest, parse_yaml
from bethink.core.errors import ConfigError
from bethink.core.packed import SUFFIXES, known_formats
from bethink.core.seeds import derive_seed
from bethink.tasks.files import load_problems
from bethink.tasks.hub import load_hub
from bethink.tasks.layouts.known import LAYOUTS
from bethink.tasks.problem import Problem, ProblemSet, in_split, question_key
from bethink.tasks.procedural import generate

_FILE = re.compile(
    rf"(?P<path>.+(?:{'|'.join(re.escape(s) for s in SUFFIXES)}))(?::(?P<mapping>.*))?", re.DOTALL
)
_OPTION = re.compile(r"\s*\w+\s*=")
_HELD_OUT = "held_out="


def split_specs(text: str) -> list[str]:
    """Task names separated by commas; a comma before `key=` or inside brackets belongs to the task before it."""
    specs: list[str] = []
    for part in _split_commas(text):
        if specs and _OPTION.match(part):
            specs[-1] += f",{part}"
        elif part.strip():
            specs.append(part.strip())
    return specs


def task_specs(given: object) -> tuple[str, ...]:
    """The task names in an option: one text or several, each of one or several names."""
    texts = given if isinstance(given, list | tuple) else [given]
    return tuple(spec for text in texts for spec in split_specs(str(text)))


def load_tasks(
    spec: str,
    *,
    size: int | None,
    seed: int,
    split: str,
    exclude: Collection[str] = (),
    asked: Collection[str] | None = None,
    skip_bad: bool = False,
) -> ProblemSet:
    """The problems a task name stands for.

    size: how many; of a file or hub data set a seeded sample in its own order, None for all. split: which part of a generator's seeds
    or of a hub data set (a file is its own split, unless a part of it is held out). exclude: question texts that must not appear. asked: keys of
    questions (`question_key`) that other tasks ask; these and what stands twice are then left out as duplicates, and there may be no
    problem left. None: a file's questions are taken as often as they stand there.
    Raises ConfigError, DataError.
    """
    if spec.startswith("hub:"):
        identity, _, mapping = spec.removeprefix("hub:").partition(":")
        _need_mapping(mapping, spec)
        if _held_out(mapping, spec, split)[1] is not None:
            raise ConfigError(
                "a data set on the hub has splits of its own: nothing of it is held out",
                where=spec,
                fix="leave `held_out` out and name a split (--split)",
            )
        return _sampled(
            load_hub(identity, mapping, split=split, skip_bad=skip_bad), size, seed, exclude, asked
        )
    if file := _file(spec):
        return _sampled(_of_file(*file, spec, split, skip_bad), size, seed, exclude, asked)
    name, _, rest = spec.partition(":")
    if Path(name).suffix:
        raise ConfigError(
            f"`{name}` is neither a generator nor a file of rows",
            fix=f"known kinds of file: {known_formats()}",
        )
    if size is None:
        raise ConfigError(f"`{name}` makes as many problems as it is asked for", fix="say how many (--size)")
    rest, share = _held_out(rest, spec, split)
    config = parse_options(rest, spec)
    excluded = {*exclude, *(asked or ())}
    return generate(name, size, seed=seed, split=split, config=config, exclude=excluded, held_out=share)


def load_each(
    specs: Iterable[str],
    *,
    size: int | None,
    seed: int,
    split: str,
    exclude: Collection[str] = (),
    skip_bad: bool = False,
    once: bool = False,
) -> list[ProblemSet]:
    """`load_tasks` of each name. once: each question but once, however often it stands in all of them."""
    asked: set[str] | None = set() if once else None
    sets = []
    for spec in specs:
        found = load_tasks(
            spec, size=size, seed=seed, split=split, exclude=exclude, asked=asked, skip_bad=skip_bad
        )
        if asked is not None:
            asked.update(question_key(problem.question) for problem in found)
        sets.append(found)
    return sets


def file_of(spec: str) -> str | None:
    """The file or directory that a task name stands for; None for a generator and for a data set on the hub."""
    file = None if spec.startswith("hub:") else _file(spec)
    return file and file[0]


def _file(spec: str) -> tuple[str, str] | None:
    """The path in a task name that has one, and what its columns mean."""
    if found := _FILE.fullmatch(spec):
        return found["path"], found["mapping"] or ""
    name, _, mapping = spec.partition(":")
    return (name, mapping) if "/" in name or Path(name).is_dir() else None


def _of_file(path: str, mapping: str, spec: str, split: str, skip_bad: bool) -> ProblemSet:
    mapping, share = _held_out(mapping, spec, split)
    _need_mapping(mapping, spec)
    found = load_problems(Path(path), mapping, skip_bad=skip_bad)
    return found if share is None else _part(found, share, split, spec)


def _held_out(mapping: str, spec: str, split: str) -> tuple[str, float | None]:
    """The mapping without its `held_out=SHARE`, and the share. Raises ConfigError for one that leaves a part empty, and for a split that
    is neither of the two parts."""
    parts = mapping.split(",")
    told = [part.partition("=")[2] for part in parts if part.strip().startswith(_HELD_OUT)]
    if not told:
        return mapping, None
    try:
        share = float(told[-1])
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ConfigError(
            f"`{_HELD_OUT}{told[-1]}` is no share", where=spec, fix=f"write {_HELD_OUT}0.1 for a tenth"
        )
    if split not in ("train", "test"):
        raise ConfigError(
            f"a task with `{_HELD_OUT}…` has the splits train and test, not `{split}`", where=spec
        )
    return ",".join(part for part in parts if not part.strip().startswith(_HELD_OUT)), share


def _part(found: ProblemSet, share: float, split: str, spec: str) -> ProblemSet:
    """One of a file's two parts. A question's part is decided by a hash of its text alone, so that it is the same in every run and in
    every file that holds the question."""
    kept = [problem for problem in found if in_split(problem.question, split, share)]
    if not kept:
        raise ConfigError(
            f"none of its {len(found):,} problems is in the split `{split}`",
            where=spec,
            fix="hold out another share",
        )
    return ProblemSet(
        found.name, tuple(kept), {**found.dropped, "in the other split": len(found) - len(kept)}
    )


def parse_options(text: str, where: str) -> dict[str, Any]:
    """`a=1,b=[+,-]` as a dict, values read as YAML. Raises ConfigError."""
    options: dict[str, Any] = {}
    for part in _split_commas(text):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise ConfigError(
                f"`{part}` is not an option", where=where, fix="write key=value, separated by commas"
            )
        try:
            options[key.strip()], _ = parse_yaml(value, where)
        except ConfigError as error:
            raise ConfigError(f"cannot read the value of `{key}`: {value[:200]!r}", where=where) from error
    return options


def _split_commas(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _need_mapping(mapping: str | None, spec: str) -> None:
    if not mapping:
        guess = nearest(Path(spec).name.partition(".")[0], list(LAYOUTS))
        raise ConfigError(
            "it is not said what the columns mean",
            where=spec,
            fix=f"name a layout, as in `{spec}:{guess or 'gsm8k'}`; known: {', '.join(LAYOUTS)}",
        )


def _sampled(
    found: ProblemSet, size: int | None, seed: int, exclude: Collection[str], asked: Collection[str] | None
) -> ProblemSet:
    """Without what is excluded and, where `asked` is given, without duplicates; `size` of the rest chosen by a hash of seed and id, so that a larger sample holds a smaller one."""
    excluded = {question_key(text) for text in exclude}
    kept = [problem for problem in found if question_key(problem.question) not in excluded]
    dropped = {**found.dropped, "excluded": len(found) - len(kept)}
    if not kept:
        raise ConfigError(f"no problem left: all {len(found):,} are excluded", where=found.name)
    if asked is not None:
        once: dict[str, Problem] = {}
        for problem in kept:
            once.setdefault(question_key(problem.question), problem)
        new = [problem for key, problem in once.items() if key not in asked]
        dropped["duplicate"] = len(kept) - len(new)
        kept = new
    if size is not None and size < len(kept):

        def rank(problem: Problem) -> int:
            return derive_seed(seed, "sample", problem.id)

        chosen = {problem.id for problem in sorted(kept, key=rank)[:size]}
        kept = [problem for problem in kept if problem.id in chosen]
    return ProblemSet(found.name, tuple(kept), dropped)
