"""Which answers are fit to learn from, cheapest check first.

DeepSeek-R1's rejection sampling keeps correct answers and drops those of mixed language, with long paragraphs or with code blocks in
the thinking (arXiv 2501.12948, section 2.3.3). Repetition, form, doubles and pairing are added here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bethink.chat.parse import Parsed, parse
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


@dataclass(slots=True)
class Sieve:
    """Sorts answers into kept and left out. counts: by reason."""

    config: SampleConfig
    kept: list[tuple[Problem, Row]] = field(default_factory=list)
    left_out: list[tuple[Row, str]] = field(default_factory=list)

    def sift(self, answers: Iterable[tuple[Problem, Row]]) -> None:
        """Take the answers, in the order of their problems; once."""
        seen: set[tuple[str, str, str, str]] = set()
        fit: list[tuple[Problem, Row]] = []
        for problem, row in answers:
            key = row["task"], row["id"], row["mode"], " ".join(row["output"].split())
            reason = self._fault(problem, row) or ("duplicate" if key in seen else None)
            seen.add(key)
            if reason:
                self.left_out.append((row, reason))
            else:
                fit.append((problem, row))
        self.kept = self._paired(self._limited(fit))

    @property
    def counts(self) -> dict[str, int]:
        """How many were left out, by reason."""
        reasons = [reason for _, reason in self.left_out]
        return {reason: reasons.count(reason) for reason in REASONS if reason in reasons}

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

    def _limited(self, fit: list[tuple[Problem, Row]]) -> list[tuple[Problem, Row]]:
        if not self.config.keep:
            return fit
        by_problem: dict[tuple[str, str, str], list[Row]] = {}
        for _, row in fit:
            by_problem.setdefault((row["task"], row["id"], row["mode"]), []).append(row)
        if self.config.prefer == "shortest":
            for rows in by_problem.values():
                rows.sort(key=_length)
        chosen = {id(row) for rows in by_problem.values() for row in rows[: self.config.keep]}
        self.left_out += [(row, "surplus") for _, row in fit if id(row) not in chosen]
        return [(problem, row) for problem, row in fit if id(row) in chosen]

    def _paired(self, fit: list[tuple[Problem, Row]]) -> list[tuple[Problem, Row]]:
        if not self.config.paired:
            return fit
        modes: dict[tuple[str, str], set[str]] = {}
        for _, row in fit:
            modes.setdefault((row["task"], row["id"]), set()).add(row["mode"])
        wanted = {str(mode) for mode in self.config.modes}
        whole = {key for key, found in modes.items() if found >= wanted}
        self.left_out += [(row, "unpaired") for _, row in fit if (row["task"], row["id"]) not in whole]
        return [(problem, row) for problem, row in fit if (row["task"], row["id"]) in whole]


def pass_rates(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One row a problem, in the order of `rows`: the share of its gradable answers that were right, in all modes and in each."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["verdict"] not in UNCOUNTED:
            found.setdefault((row["task"], row["id"]), []).append(row)
    return [_rate(answers) for answers in found.values()]


def _rate(answers: Sequence[Row]) -> dict[str, Any]:
    first = answers[0]
    modes = sorted({row["mode"] for row in answers}, reverse=True)
    return {
        "id": first["id"],
        "task": first["task"],
        "question": first["question"],
        "pass_rate": _share(answers),
        **{f"pass_rate_{mode}": _share([row for row in answers if row["mode"] == mode]) for mode in modes},
        "samples": len(answers),
    }


def _share(answers: Sequence[Row]) -> float:
    right = [row["verdict"] == Outcome.CORRECT for row in answers]
    share: float = sum(right) / len(right)
    return round(share, 6)


def _length(row: Row) -> int:
    return int(row["thinking_tokens"] + row["answer_tokens"])


def _longest_paragraph(parsed: Parsed) -> int:
    texts = (parsed.thinking or "", parsed.answer)
    return max(len(part) for text in texts for part in _PARAGRAPHS.split(text))
