"""Multiple choice: MMLU, GPQA, OpenBookQA, ARC. The choices are written as lettered lines under the question."""

from __future__ import annotations

import re
from random import Random

from bethink.core.seeds import derive_seed
from bethink.tasks.layouts.columns import (
    LETTERS,
    Mapped,
    Row,
    RowError,
    choice,
    identifier,
    letter_of,
    text,
    texts,
    value,
)


def mmlu(row: Row) -> Mapped:
    """MMLU and MMLU-Pro: choices (or options), and the answer as a letter or an index."""
    options = texts(row, "choices", "options")
    name = next((n for n in ("answer", "answer_letter", "answer_index") if row.get(n) is not None), "answer")
    subject = row.get("subject", row.get("category"))
    return choice(
        text(row, "question"),
        options,
        letter_of(row, name, options),
        id=identifier(row, "question_id", "id"),
        **({"subject": subject} if subject else {}),
    )


def gpqa(row: Row) -> Mapped:
    """Main, Diamond and Extended. The right answer's place is drawn from a hash of the question: the same in every run."""
    question = text(row, "Question", "question")
    right = text(row, "Correct Answer").strip()
    options = [right, *(text(row, f"Incorrect Answer {n}").strip() for n in (1, 2, 3))]
    order = Random(derive_seed("gpqa", question)).sample(range(4), 4)
    subject = row.get("High-level domain", row.get("Subdomain"))
    return choice(
        question,
        [options[i] for i in order],
        LETTERS[order.index(0)],
        id=identifier(row, "Record ID"),
        **({"subject": subject} if subject else {}),
    )


def science_choice(row: Row) -> Mapped:
    """OpenBookQA and ARC: the authors' nested JSON, the hub's columns, or the instruction form."""
    if "instruction" in row:
        return _instruction(row)
    stem, options = value(row, "question_stem", "question"), row.get("choices")
    if isinstance(stem, dict):
        stem, options = value(stem, "stem"), stem.get("choices")
    if isinstance(options, list) and all(isinstance(o, dict) for o in options):
        options = {"text": [o.get("text") for o in options], "label": [o.get("label") for o in options]}
    if not isinstance(stem, str) or not isinstance(options, dict):
        raise RowError("needs a question text and `choices` with `text` and `label`")
    contents = texts(options, "text")
    labels = [str(label) for label in value(options, "label")]
    key = text(row, "answerKey").strip()
    if len(labels) != len(contents) or key not in labels:
        raise RowError(f"`answerKey` is {key!r}, the labels are {', '.join(labels)}")
    return choice(stem, contents, LETTERS[labels.index(key)], id=identifier(row, "id"))


_PREFACE = "Please choose the correct answer to the question:"
_NUMBERED = re.compile(r"\s*\bAnswer(\d):\s*")


def _instruction(row: Row) -> Mapped:
    """Question and choices in one text: "… Answer1: x Answer2: y … Answer format: …", the answer "answer2"."""
    body = text(row, "instruction").strip().removeprefix(_PREFACE).rpartition("Answer format:")[0]
    stem, *rest = _NUMBERED.split(body.strip())
    numbers, contents = rest[::2], [part.strip() for part in rest[1::2]]
    if len(contents) < 2 or numbers != [str(n) for n in range(1, len(contents) + 1)]:
        raise RowError("`instruction` does not hold Answer1: … Answer2: … and `Answer format:`")
    right = re.fullmatch(r"answer(\d)", text(row, "answer").strip())
    if not right or not 1 <= int(right[1]) <= len(contents):
        raise RowError(f"`answer` is {row['answer']!r}: not one of the {len(contents)} choices")
    return choice(stem, contents, LETTERS[int(right[1]) - 1])
