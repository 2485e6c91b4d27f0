"""The first rollouts of a run, judged before anything is learned from them: what would waste the run stops it, with what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bethink.core.console import note
from bethink.core.errors import PreflightError
from bethink.core.files import write_json
from bethink.tasks.problem import Problem
from bethink.train.rl.rollouts import Graders, Group
from bethink.verify.grade import as_item, grade_many
from bethink.verify.verdict import Outcome, Verdict

_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda answer: f"<answer>\n{answer}\n</answer>",
    lambda answer: f"\\boxed{{{answer}}}",
    lambda answer: answer,
)
"""How a completion may commit to an answer: one that can be given at all can be given in one of these ways."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The largest shares: of completions cut at the token limit, of groups without signal, of completions that could not be graded, which is
    also the largest share of problems whose reference answer is not right by their own grader.
    """

    truncated: float
    no_signal: float
    ungraded: float


@dataclass(frozen=True, slots=True)
class Found:
    """Shares of the first step's completions, groups and problems; written to preflight.json. solved: of those that are judged, None without any."""

    completions: int
    groups: int
    truncated: float
    no_signal: float
    solved: float | None
    ungraded: float
    ungraded_example: str
    problems: int
    unusable: float
    unusable_example: str


class FirstBatch:
    """Judges the rollouts of step 0 and says nothing later. graders: those that judge the rollouts."""

    def __init__(self, directory: Path, allowed: Thresholds, graders: Graders) -> None:
        self._directory, self._allowed, self._graders = directory, allowed, graders

    def judge(self, step: int, groups: Sequence[Group]) -> None:
        """Raise PreflightError for the first share past its threshold, naming what to change and the flag that overrides it."""
        if step:
            return
        problems = {group.index: group.problem for group in groups}
        found = survey(groups, unusable(problems.values(), self._graders))
        write_json(self._directory / "preflight.json", asdict(found))
        solved = "none judged" if found.solved is None else f"{found.solved:.0%} correct"
        note(
            f"first rollouts: {solved}, {found.truncated:.0%} cut at the token limit, "
            f"{found.no_signal:.0%} of {found.groups} groups without signal, {found.ungraded:.0%} could not be graded"
        )
        self._check(found)

    def _check(self, found: Found) -> None:
        allowed = self._allowed
        if found.unusable > allowed.ungraded:
            raise PreflightError(
                f"{found.unusable:.0%} of the first {found.problems:,} problems have a reference answer that their own grader does not "
                "count as right, so no completion can be",
                where=found.unusable_example,
                fix="mend these answers, name the grader that reads them, or leave those problems out; --allow-ungraded SHARE with --resume goes on",
            )
        if found.ungraded > allowed.ungraded:
            raise PreflightError(
                f"{found.ungraded:.0%} of the first completions could not be graded, so nothing can be learned from them",
                where=found.ungraded_example,
                fix="mend the tasks' answers or leave those problems out; --allow-ungraded SHARE with --resume goes on",
            )
        if found.truncated > allowed.truncated:
            raise PreflightError(
                f"{found.truncated:.0%} of the first completions were cut at the token limit before they ended",
                fix="raise --max-tokens, or fine-tune the model to end its answers first; --allow-truncated SHARE with --resume goes on",
            )
        if found.no_signal > allowed.no_signal:
            raise PreflightError(
                f"{found.no_signal:.0%} of the first groups have no signal: all completions of a problem earned the same",
                fix=f"{_without_signal(found.solved)}; --allow-no-signal SHARE with --resume goes on",
            )


def _without_signal(solved: float | None) -> str:
    """What to do about groups without signal, by the share that was solved."""
    if solved is None:
        return "the rewards tell no completions apart: add one that does (preference), or raise --temperature"
    if solved > 0.5:
        return "the problems are too easy: take harder ones"
    return "the problems are too hard: take easier ones, a larger --group-size, or a model that solves some of them"


def unusable(problems: Iterable[Problem], graders: Graders) -> list[tuple[Problem, Verdict]]:
    """The problems whose reference answer, given as the answer, is not right, with the verdict on it.

    A model that seldom commits to an answer does not show them: a completion without an answer is never held against the reference.
    Programs are left out, and what a generator judges without a reference answer.
    """
    left = [problem for problem in problems if _has_reference(problem)]
    said: list[Verdict] = []
    for spell in _SPELLINGS:
        items = [as_item(problem, spell(problem.answer)) for problem in left]
        verdicts = list(grade_many(items, pool=graders.pool, sandboxes=graders.sandboxes))
        wrong = [place for place, verdict in enumerate(verdicts) if not verdict.correct]
        # What a grader says of the first spelling tells most: in the others the answer may not be found at all.
        said = [(said or verdicts)[place] for place in wrong]
        left = [left[place] for place in wrong]
    return list(zip(left, said, strict=True))


def _has_reference(problem: Problem) -> bool:
    """Whether the grader compares with the reference answer."""
    if problem.grader in ("math", "choice", "exact", "numeric"):
        return True
    return problem.grader not in ("code", "none") and bool(problem.answer.strip())


def survey(groups: Sequence[Group], bad: Sequence[tuple[Problem, Verdict]]) -> Found:
    """Count everything `FirstBatch` judges. bad: see `unusable`."""
    attempts = [rollout.attempt for group in groups for rollout in group.rollouts]
    ungraded = [attempt for attempt in attempts if attempt.verdict.outcome is Outcome.GRADER_ERROR]
    judged = [attempt for attempt in attempts if attempt.verdict.judged]
    count = max(len(attempts), 1)
    example = ungraded[0] if ungraded else None
    problems = len({group.index for group in groups})
    return Found(
        completions=len(attempts),
        groups=len(groups),
        truncated=sum(attempt.truncated for attempt in attempts) / count,
        no_signal=sum(not group.has_signal for group in groups) / max(len(groups), 1),
        solved=sum(attempt.verdict.correct for attempt in judged) / len(judged) if judged else None,
        ungraded=len(ungraded) / count,
        ungraded_example=f"{example.problem.id}: {example.verdict.detail}" if example else "",
        problems=problems,
        unusable=len(bad) / max(problems, 1),
        unusable_example=_shown(*bad[0]) if bad else "",
    )


def _shown(problem: Problem, verdict: Verdict) -> str:
    return f"{problem.task}, {problem.id}: answer {problem.answer[:60]!r}, grader {problem.grader}: {verdict.detail}"
