"""`bethink compare A B`: two evaluations, problem by problem.

Pairs completions by (task, problem), so that the difference is not drowned by how hard the problems are. One sample each: exact McNemar
test and Tango's interval of the difference; several: sign-flip test and a bootstrap over problems (`statistics.bootstrap_difference`). Shows which problems flipped.
A problem that a grader failed on, on either side, is left out and counted; one without a grader takes no part.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from bethink.chat.toggle import Mode
from bethink.core.config import StrictModel
from bethink.core.errors import DataError
from bethink.core.files import claim_output, read_json, read_jsonl, write_json
from bethink.core.seeds import derive_seed
from bethink.evaluate.results import ALL
from bethink.evaluate.samples import Row
from bethink.evaluate.statistics import bootstrap_difference, mcnemar, paired_difference, sign_flip_test
from bethink.verify.verdict import Outcome

Problem = tuple[str, str]
"""(task, problem id)."""


class CompareConfig(StrictModel):
    """a, b: output directories of `bethink eval`. mode: compare only this one; against: B's mode where it is another than A's (so
    that a == b compares thinking on with off). shared: compare the problems both have, instead of refusing when they differ.
    seed: of the bootstrap. output: where comparison.json goes, if anywhere.
    """

    a: Path
    b: Path
    mode: Mode | None = None
    against: Mode | None = None
    shared: bool = False
    seed: int = 0
    output: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Flip:
    """A problem that one side solves and the other does not (of several samples: in more than half of them)."""

    task: str
    id: str
    question: str
    answer: str
    output_a: str
    output_b: str


@dataclass(frozen=True)
class Comparison:
    """One mode of one task (or all tasks).

    problems: pairs compared; skipped: pairs left out for a grader's failure; accuracy_a, accuracy_b; difference: B minus A with its 95 %
    interval low, high; p_value: two-sided; test: which one; fixed: wrong in A and right in B; broken: the other way.
    """

    task: str
    mode_a: str
    mode_b: str
    problems: int
    skipped: int
    samples_a: int
    samples_b: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    fixed: list[Flip]
    broken: list[Flip]


@dataclass(frozen=True)
class CompareResult:
    """a, b: the models' names; comparisons: one a mode and task, and one over all tasks a mode where there are several."""

    a: str
    b: str
    comparisons: list[Comparison]


@dataclass(frozen=True)
class Side:
    """One evaluation: the model's name and its completions by mode and problem."""

    name: str
    path: Path
    rows: dict[str, dict[Problem, list[Row]]]


def run_compare(config: CompareConfig) -> CompareResult:
    """Compare; write comparison.json when the config has an output.

    Raises DataError for a directory that holds no finished evaluation, modes that one side lacks, or problems that differ.
    """
    a = read_side(config.a)
    b = a if config.b == config.a else read_side(config.b)
    result = CompareResult(a.name, b.name, _comparisons(a, b, config))
    if config.output is not None:
        options = config.model_dump(mode="json", exclude={"output", "resume"})
        claim_output(config.output, resume=config.resume, fingerprint=options)
        write_json(config.output / "comparison.json", asdict(result))
    return result


def _comparisons(a: Side, b: Side, config: CompareConfig) -> list[Comparison]:
    found = []
    for mode_a, mode_b in _mode_pairs(a, b, config):
        pairs, skipped = _pairs(a, b, mode_a, mode_b, shared=config.shared)
        tasks = list(dict.fromkeys(task for task, _ in [*pairs, *skipped]))
        for task in [*tasks, ALL] if len(tasks) > 1 else tasks:
            chosen = {key: pair for key, pair in pairs.items() if task in (key[0], ALL)}
            left_out = sum(task in (key[0], ALL) for key in skipped)
            if not chosen:
                raise DataError(
                    f"no problem of `{task}` could be graded on both sides", where=f"{a.path}, {b.path}"
                )
            found.append(_comparison(task, mode_a, mode_b, chosen, left_out, config.seed))
    return found


def read_side(directory: Path) -> Side:
    """A finished evaluation. Raises DataError."""
    for file in ("results.json", "samples.jsonl"):
        if not (directory / file).is_file():
            raise DataError(
                f"holds no finished evaluation ({file} is missing)",
                where=str(directory),
                fix="name the --output of a `bethink eval`; finish an unfinished one with --resume",
            )
    results = read_json(directory / "results.json")
    if not isinstance(results, dict) or not isinstance(results.get("model"), str):
        raise DataError(
            "names no `model`: no results of an evaluation", where=str(directory / "results.json")
        )
    rows: dict[str, dict[Problem, list[Row]]] = defaultdict(lambda: defaultdict(list))
    samples = directory / "samples.jsonl"
    for number, row in enumerate(read_jsonl(samples), 1):
        _check_row(row, f"{samples}:{number}")
        if row["verdict"] != Outcome.NOT_JUDGED:
            rows[row["mode"]][row["task"], row["id"]].append(row)
    if not rows:
        raise DataError("holds no completions of problems with a grader", where=str(samples))
    return Side(results["model"], directory, rows)


def _check_row(row: Row, where: str) -> None:
    for name in ("task", "id", "mode", "question", "answer", "output", "verdict"):
        if not isinstance(row.get(name), str):
            raise DataError(
                f"this row has no text `{name}`: it is no completion of an evaluation", where=where
            )
    if row["verdict"] not in list(Outcome):
        raise DataError(
            f"the verdict `{row['verdict']}` is unknown", where=where, fix=f"verdicts: {', '.join(Outcome)}"
        )


def _mode_pairs(a: Side, b: Side, config: CompareConfig) -> list[tuple[str, str]]:
    """A's and B's modes to compare. Raises DataError where there is no such pair."""
    asked = list(a.rows) if config.mode is None else [str(config.mode)]
    pairs = [(mode, str(config.against or mode)) for mode in asked]
    found = [(mode_a, mode_b) for mode_a, mode_b in pairs if mode_a in a.rows and mode_b in b.rows]
    if found:
        return found
    mode_a, mode_b = pairs[0]
    side, mode = (a, mode_a) if mode_a not in a.rows else (b, mode_b)
    raise DataError(
        f"it has no completions with thinking {mode}; its modes: {', '.join(side.rows)}", where=str(side.path)
    )


def _pairs(
    a: Side, b: Side, mode_a: str, mode_b: str, *, shared: bool
) -> tuple[dict[Problem, tuple[list[Row], list[Row]]], list[Problem]]:
    """The pairs to compare, and the problems left out because a grader failed. Raises DataError when the problems differ."""
    rows_a, rows_b = a.rows[mode_a], b.rows[mode_b]
    both = [
        key for key in rows_a if key in rows_b and rows_a[key][0]["question"] == rows_b[key][0]["question"]
    ]
    if not both or (not shared and not len(both) == len(rows_a) == len(rows_b)):
        raise DataError(
            f"the problems differ: A has {len(rows_a):,}, B has {len(rows_b):,}, {len(both):,} are shared",
            where=f"{a.path}, {b.path}",
            fix="evaluate both with the same tasks, size and seed"
            + (", or compare the shared ones with --shared" if both else ""),
        )
    pairs, skipped = {}, []
    for key in both:
        counted = [
            [r for r in side[key] if r["verdict"] != Outcome.GRADER_ERROR] for side in (rows_a, rows_b)
        ]
        if all(counted):
            pairs[key] = (counted[0], counted[1])
        else:
            skipped.append(key)
    return pairs, skipped


def _comparison(
    task: str,
    mode_a: str,
    mode_b: str,
    pairs: dict[Problem, tuple[list[Row], list[Row]]],
    skipped: int,
    seed: int,
) -> Comparison:
    share_a = {key: _accuracy(rows) for key, (rows, _) in pairs.items()}
    share_b = {key: _accuracy(rows) for key, (_, rows) in pairs.items()}
    fixed = [key for key in pairs if share_a[key] <= 0.5 < share_b[key]]
    broken = [key for key in pairs if share_b[key] <= 0.5 < share_a[key]]
    samples_a, samples_b = (max(len(pair[side]) for pair in pairs.values()) for side in (0, 1))
    if samples_a == samples_b == 1:
        interval = paired_difference(len(broken), len(fixed), len(pairs))
        p_value, test = mcnemar(len(broken), len(fixed)), "exact McNemar"
    else:
        difference_P = [share_b[key] - share_a[key] for key in pairs]
        own = derive_seed(seed, "compare", task, mode_a, mode_b)
        interval = bootstrap_difference(difference_P, seed=own)
        p_value, test = sign_flip_test(difference_P, seed=own), "sign flips, bootstrap over problems"
    return Comparison(
        task=task,
        mode_a=mode_a,
        mode_b=mode_b,
        problems=len(pairs),
        skipped=skipped,
        samples_a=samples_a,
        samples_b=samples_b,
        accuracy_a=fmean(share_a.values()),
        accuracy_b=fmean(share_b.values()),
        difference=interval.estimate,
        low=interval.low,
        high=interval.high,
        p_value=p_value,
        test=test,
        fixed=[_flip(key, *pairs[key], right_is_b=True) for key in fixed],
        broken=[_flip(key, *pairs[key], right_is_b=False) for key in broken],
    )


def _accuracy(rows: list[Row]) -> float:
    return fmean(row["verdict"] == Outcome.CORRECT for row in rows)


def _flip(key: Problem, rows_a: list[Row], rows_b: list[Row], *, right_is_b: bool) -> Flip:
    """The problem with an output of each side that shows the flip."""
    shown_a = next(row for row in rows_a if (row["verdict"] == Outcome.CORRECT) != right_is_b)
    shown_b = next(row for row in rows_b if (row["verdict"] == Outcome.CORRECT) == right_is_b)
    return Flip(key[0], key[1], shown_a["question"], shown_a["answer"], shown_a["output"], shown_b["output"])
