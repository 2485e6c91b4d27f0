"""Which answers are fit to learn from, cheapest check first.

DeepSeek-R1's rejection sampling keeps correct answers and drops those of mixed language, with long paragraphs or with code blocks in
the thinking (arXiv 2501.12948, section 2.3.3). Repetition, form, doubles and pairing are added here.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bethink.chat.parse import Parsed, parse
from bethink.chat.toggle import Mode
from bethink.evaluate.samples import Row
from bethink.sample.config import SampleConfig
from bethink.sample.vote import needs_vote
from bethink.tasks.problem import Problem
from bethink.verify.rewards.consistency import language_of, share_in
from bethink.verify.rewards.repetition import repeated_share
from bethink.verify.verdict import UNCOUNTED, Outcome

REASONS = {
    "ungraded": "no grader could judge it",
    "no_majority": "its problem has no answer, and no vote gave it one",
    "wrong": "the answer is wrong",
    "no_answer": "it committed to no answer",
    "not_judged": "its problem has no grader",
    "truncated": "cut at the token limit",
    "form": "not what the toggle says: one closed think block and an answer, or no tags",
    "paragraph": "a paragraph longer than allowed",
    "code_blocks": "fenced code in the thinking",
    "repetition": "the same phrases again and again",
    "language": "words of another language",
    "duplicate": "the same answer to the same problem",
    "surplus": "more rows of the problem than wanted",
    "unpaired": "the problem has no row in another mode",
}
"""Why an answer is left out, in the order in which it is found."""

_PHRASE = 6
_PARAGRAPHS = re.compile(r"\n\s*\n")
_FENCE = re.compile(r"^\s*(```|~~~)", re.MULTILINE)


class _Fit(NamedTuple):
    """An answer without a fault. place: among all answers; length: in tokens."""

    place: int
    problem: tuple[str, str]
    mode: Mode
    length: int


@dataclass(slots=True)
class Sieve:
    """Says which answers are kept. reasons: of each answer in order, why it is left out; None where it is kept."""

    config: SampleConfig
    reasons: list[str | None] = field(default_factory=list)

    def sift(self, answers: Iterable[tuple[Problem, Row]]) -> None:
        """Take the answers, in the order of their problems; once. Of their texts nothing is kept but hashes."""
        seen: set[bytes] = set()
        fit: list[_Fit] = []
        for place, (problem, row) in enumerate(answers):
            mark = _mark(row["task"], row["id"], row["mode"], *row["output"].split())
            reason = self._fault(problem, row) or ("duplicate" if mark in seen else None)
            seen.add(mark)
            self.reasons.append(reason)
            if reason is None:
                length = int(row["thinking_tokens"] + row["answer_tokens"])
                fit.append(_Fit(place, (problem.task, problem.id), Mode(row["mode"]), length))
        self._pair(self._limit(fit))

    @property
    def counts(self) -> dict[str, int]:
        """How many were left out, by reason."""
        found = Counter(self.reasons)
        return {reason: found[reason] for reason in REASONS if found[reason]}

    def _fault(self, problem: Problem, row: Row) -> str | None:
        config = self.config
        if needs_vote(problem):
            return "no_majority"
        if row["verdict"] == Outcome.GRADER_ERROR:
            return "ungraded"
        if row["finish_reason"] == "length":
            return "truncated"
        if not config.any_verdict and row["verdict"] != Outcome.CORRECT:
            return str(row["verdict"])
        if not row["compliant"]:
            return "form"
        parsed = parse(row["output"], think=config.think, opened=row["opened"])
        if config.paragraph and _longest_paragraph(parsed) > config.paragraph:
            return "paragraph"
        if not config.code_blocks and problem.grader != "code" and _FENCE.search(parsed.thinking or ""):
            return "code_blocks"
        if repeated_share(row["output"], _PHRASE) > config.repetition:
            return "repetition"
        return None if self._speaks_the_language(problem, parsed) else "language"

    def _speaks_the_language(self, problem: Problem, parsed: Parsed) -> bool:
        wanted = self.config.target_language or (self.config.language and language_of(problem.question))
        said = f"{parsed.thinking or ''}\n{parsed.answer}"
        return not (self.config.language and wanted) or share_in(said, wanted) >= self.config.language

    def _limit(self, fit: list[_Fit]) -> list[_Fit]:
        """Those of `fit` that are not too many, in order; the others are left out."""
        if not self.config.keep:
            return fit
        groups: dict[tuple[tuple[str, str], Mode], list[_Fit]] = {}
        for one in fit:
            groups.setdefault((one.problem, one.mode), []).append(one)
        chosen: set[int] = set()
        for group in groups.values():
            if self.config.prefer == "shortest":
                group.sort(key=lambda one: one.length)
            chosen.update(one.place for one in group[: self.config.keep])
        return self._only(fit, lambda one: one.place in chosen, "surplus")

    def _pair(self, fit: list[_Fit]) -> list[_Fit]:
        """Those of `fit` whose problem has an answer in every mode; the others are left out."""
        if not self.config.paired:
            return fit
        modes: dict[tuple[str, str], set[Mode]] = {}
        for one in fit:
            modes.setdefault(one.problem, set()).add(one.mode)
        wanted = set(self.config.modes)
        return self._only(fit, lambda one: modes[one.problem] >= wanted, "unpaired")

    def _only(self, fit: list[_Fit], stays: Callable[[_Fit], bool], reason: str) -> list[_Fit]:
        kept = [one for one in fit if stays(one)]
        left = {one.place for one in fit} - {one.place for one in kept}
        for place in left:
            self.reasons[place] = reason
        return kept


def pass_rates(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One row a problem, in the order of `rows`: the share of its gradable answers that were right, in all modes and in each."""
    found: dict[tuple[str, str], _Rate] = {}
    for row in rows:
        if row["verdict"] not in UNCOUNTED:
            rate = found.setdefault((row["task"], row["id"]), _Rate(row["question"]))
            rate.right.setdefault(row["mode"], []).append(row["verdict"] == Outcome.CORRECT)
    return [rate.row(*key) for key, rate in found.items()]


@dataclass(slots=True)
class _Rate:
    """right: by mode, of each answer."""

    question: str
    right: dict[str, list[bool]] = field(default_factory=dict)

    def row(self, task: str, problem: str) -> dict[str, Any]:
        every = [right for answers in self.right.values() for right in answers]
        return {
            "id": problem,
            "task": task,
            "question": self.question,
            "pass_rate": _share(every),
            **{f"pass_rate_{mode}": _share(self.right[mode]) for mode in sorted(self.right, reverse=True)},
            "samples": len(every),
        }


def _share(right: Sequence[bool]) -> float:
    return round(sum(right) / len(right), 6)


def _mark(*parts: str) -> bytes:
    """What stands for a text among those seen: 16 bytes."""
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()[:16]


def _longest_paragraph(parsed: Parsed) -> int:
    texts = (parsed.thinking or "", parsed.answer)
    return max(len(part) for text in texts for part in _PARAGRAPHS.split(text))
