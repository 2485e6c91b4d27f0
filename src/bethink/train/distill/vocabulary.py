"""What two models' tokenizers must have in common for their logits to be compared: every id must mean the same token.

Reads tokenizer.json alone, so that it is known before any weights are read. A model may have more rows of embeddings than there are tokens
(padding to a round number); those are left out of every comparison.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer

from bethink.core.errors import ModelError
from bethink.core.files import dump_line, write_text
from bethink.models.locate import ModelFiles

_SHOWN = 4


def shared_vocabulary(teacher: ModelFiles, student: ModelFiles, listing: Path | None = None) -> int:
    """How many token ids both models know.

    Raises ModelError for tokenizers that differ, naming some of the ids; listing: a file to write all of them to, a line of JSON each, with
    None for what a model has not.
    """
    theirs = _tokens(teacher)
    ours = theirs if student.directory == teacher.directory else _tokens(student)
    differing = sorted(i for i in theirs.keys() | ours.keys() if theirs.get(i) != ours.get(i))
    if differing:
        shown = "; ".join(
            f"{i}: {_said(theirs.get(i))} for the teacher, {_said(ours.get(i))} for the student"
            for i in differing[:_SHOWN]
        )
        if listing is not None:
            rows = ({"id": i, "teacher": theirs.get(i), "student": ours.get(i)} for i in differing)
            write_text(listing, "".join(dump_line(row) for row in rows))
        raise ModelError(
            f"the teacher's tokenizer is not the student's: {len(differing):,} ids mean something else ({shown}"
            f"{'; …' if len(differing) > _SHOWN else ''}{f'; all of them are in {listing}' if listing else ''}); the teacher has {len(theirs):,} tokens, the student {len(ours):,}",
            where=f"{teacher.name}, {student.name}",
            fix="choose a teacher of the student's family; any teacher can teach by its answers: `bethink sample`, then `bethink sft`",
        )
    return max(ours) + 1


def tokens_fingerprint(files: ModelFiles) -> str:
    """A hash of which id means which token."""
    return hashlib.sha256(json.dumps(sorted(_tokens(files).items())).encode()).hexdigest()


def _tokens(files: ModelFiles) -> dict[int, str]:
    file = files.directory / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise ModelError(f"tokenizer.json cannot be read: {error}", where=str(file)) from error
    return {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}


def _said(token: str | None) -> str:
    return "nothing" if token is None else repr(token)
