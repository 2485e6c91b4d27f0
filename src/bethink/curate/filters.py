"""The rules a readable row must pass, cheapest first; each is a pure function of one `Sample` with a name to count by.

A rule returns None to keep the row, or a detail that says what it saw. A rule that needs metadata names it in `needs`: where a row
lacks that, the rule is skipped and the skip is counted, so that a user's own rows, which have no such field, pass.

Source: the published order of NVIDIA's curation tutorial for the Llama-Nemotron set, with its known faults mended: the boxed rule looks
at the answer only and wants something in the box, white space in a think block counts as empty, tags must be exactly one pair.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bethink.chat.parse import Status, count_blocks
from bethink.chat.toggle import Mode
from bethink.curate.config import CurateConfig
from bethink.curate.schema import Drop, Sample
from bethink.verify.language import CERTAIN, Language

Judge = Callable[[str], Language | None]


@dataclass(frozen=True, slots=True)
class Filter:
    """A named rule. test: None keeps the row, text drops it; needs: the label without which the rule is skipped."""

    name: str
    test: Callable[[Sample], str | None]
    needs: str | None = None


SAMPLE_FILTERS = {
    "trained_by": "not used to train the model asked for",
    "category": "another category",
    "license": "another license",
    "generator": "another generator",
    "version": "another version",
    "mode_mismatch": "the system prompt says another mode than `reasoning`",
    "think_pair": "not exactly one think pair with thinking on, or a tag with thinking off",
    "empty_thinking": "nothing but white space in the think block",
    "boxed": "a math answer without a filled \\boxed{}",
    "empty_answer": "no answer",
    "no_difficulty": "no number in the field the curriculum is ordered by",
    "language": "another language",
}
"""What the rules below drop, in the order they are asked."""

LABELS = ("trained_by", "category", "license", "generator", "version")
"""The rules that ask for one of the values of an option."""

BLOCK_FILTERS = {
    "duplicate": "prompt and output of an earlier row",
    "template": "the chat template does not reproduce the row",
    "max_tokens": "more tokens than allowed",
    "max_completion_tokens": "more completion tokens than allowed",
}
"""What is dropped afterwards, by what knows more than one row or has a tokenizer."""

SELECTION = {
    "mix": "beyond the share of their source in the mix",
    "on_off_ratio": "beyond the on:off ratio asked for",
    "max_samples": "beyond the number of samples asked for",
}
"""Good rows that were not taken."""


def build_filters(config: CurateConfig, judge: Judge) -> list[Filter]:
    """The rules `config` turns on, in their order. judge: tells the language of a text."""
    rules: list[Filter] = []

    def has(name: str, label: str, wanted: tuple[str, ...]) -> None:
        if wanted:
            rules.append(Filter(name, lambda sample: lacks(sample, label, wanted), needs=label))

    has("trained_by", "used_in_training", config.trained_by)
    has("category", "category", config.category)
    has("license", "license", config.license)
    has("generator", "generator", config.generator)
    has("version", "version", config.version)
    rules += [
        Filter("mode_mismatch", disagreeing_mode),
        Filter("think_pair", wrong_think_pair),
        Filter("empty_thinking", empty_thinking),
    ]
    if config.boxed == "math":
        rules.append(Filter("boxed", unboxed_math, needs="category"))
    rules.append(Filter("empty_answer", empty_answer))
    if config.difficulty_field:
        rules.append(Filter("no_difficulty", without_difficulty))
    if config.language:
        rules.append(Filter("language", lambda sample: foreign(sample, config.language, judge)))
    return rules


def first_drop(sample: Sample, rules: list[Filter], skipped: dict[str, int]) -> Drop | None:
    """The first rule that drops `sample`, if any. Rules skipped for want of a label are added to `skipped`."""
    for rule in rules:
        if rule.needs is not None and rule.needs not in sample.labels:
            skipped[rule.name] = skipped.get(rule.name, 0) + 1
        elif (detail := rule.test(sample)) is not None:
            return Drop(rule.name, detail)
    return None


def lacks(sample: Sample, label: str, wanted: tuple[str, ...]) -> str | None:
    """A label none of whose names is wanted; upper and lower case are alike."""
    found = sample.labels[label]
    folded = {name.casefold() for name in wanted}
    return None if any(name.casefold() in folded for name in found) else ", ".join(found)[:200]


def disagreeing_mode(sample: Sample) -> str | None:
    """A system prompt or message that names another mode than the row's own field."""
    other = next((mode for mode in sample.said if mode is not sample.mode), None)
    return f"`reasoning` is {sample.mode}, the prompt says {other}" if other else None


def wrong_think_pair(sample: Sample) -> str | None:
    """On: anything but one opening tag with one closing tag after it. Off: any tag."""
    opens, closes = count_blocks(sample.output, sample.think)
    if sample.mode is Mode.OFF:
        fine = opens == closes == 0
    else:
        fine = opens == closes == 1 and sample.parsed.status is Status.CLOSED
    return None if fine else f"thinking {sample.mode}: {opens} opening, {closes} closing tags"


def empty_thinking(sample: Sample) -> str | None:
    """A think block that holds white space only."""
    return "" if sample.mode is Mode.ON and not sample.parsed.thinking else None


def unboxed_math(sample: Sample) -> str | None:
    """A math row whose answer, thinking aside, has no \\boxed{} with balanced braces and something between them."""
    if "math" not in {name.casefold() for name in sample.labels["category"]}:
        return None
    return None if has_filled_box(sample.answer) else sample.answer[-80:]


def empty_answer(sample: Sample) -> str | None:
    """No text after the thinking."""
    return None if sample.answer.strip() else ""


def without_difficulty(sample: Sample) -> str | None:
    """No number to order the curriculum by."""
    return "" if sample.difficulty is None else None


def foreign(sample: Sample, wanted: tuple[str, ...], judge: Judge) -> str | None:
    """A question or an output that is, with certainty, in a language not wanted."""
    for name, text in (("input", sample.messages[-1]["content"]), ("output", sample.output)):
        language = judge(text)
        if language and language.score >= CERTAIN and language.code not in wanted:
            return f"{name}: {language.code} {language.score:.2f}"
    return None


_BRACE = re.compile(r"(\\boxed\s*\{)|\\.|[{}]", re.DOTALL)


def has_filled_box(text: str) -> bool:
    """Whether some \\boxed{...} in `text` is closed and not blank. Escaped braces are text."""
    open_braces: list[int] = []  # where each one's content begins; negative for a brace that is no box's
    for brace in _BRACE.finditer(text):
        if brace[1]:
            open_braces.append(brace.end())
        elif brace[0] == "{":
            open_braces.append(-1)
        elif brace[0] == "}" and open_braces:
            start = open_braces.pop()
            if start >= 0 and text[start : brace.start()].strip():
                return True
    return False
