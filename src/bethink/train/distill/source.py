"""Who the teacher is: by its files, or by what its store says of it where that is whole and the files are somewhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bethink.core.errors import ModelError
from bethink.models.locate import ModelFiles
from bethink.train.distill.config import DistillConfig
from bethink.train.distill.store import read_stamp
from bethink.train.distill.vocabulary import shared_vocabulary, tokens_fingerprint
from bethink.train.frame import model_identity


@dataclass(frozen=True, slots=True)
class Source:
    """A teacher and what it has in common with the student.

    files: None where only its store is here; identity: names and sizes of its weights, and its adapter's content; vocabulary: how many
    token ids both know; said: what a store keeps of it for machines that have no more of it than that.
    """

    files: ModelFiles | None
    identity: list[Any]
    vocabulary: int
    said: dict[str, Any]


def source_of(config: DistillConfig, student: ModelFiles) -> Source:
    """The teacher of a run. Raises ModelError for one that is not here, has another tokenizer than the student, or is not the store's."""
    files = config.located_teacher()
    said = {"name": config.teacher, "tokens": tokens_fingerprint(student)}
    if files is not None:
        return Source(
            files, list(model_identity(files)), shared_vocabulary(files, student, config.differing), said
        )
    stamp = read_stamp(config.store)
    if (owner := stamp.get("name")) != config.teacher:
        of = f"of `{owner}`" if owner else "of a teacher that is not named"
        raise ModelError(
            f"there is no model `{config.teacher}` on this machine, and what is stored is {of}",
            where=str(config.store),
            fix=f"give --teacher {owner}" if owner else "fill it again, with --store-teacher",
        )
    if stamp.get("tokens") != said["tokens"]:
        raise ModelError(
            f"the tokenizer of the store's teacher, `{config.teacher}`, is not the student's",
            where=f"{config.store}, {student.name}",
            fix="train the student the store was filled for, or one of its family",
        )
    return Source(None, stamp["teacher"], stamp["vocabulary"], said)
