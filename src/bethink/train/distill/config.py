"""The options of distillation. Imports no torch, so that what cannot be is said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat, ToggleStyle
from bethink.core.errors import ModelError
from bethink.models.locate import ModelFiles, locate
from bethink.tasks.sources import task_specs
from bethink.train.rows import data_files
from bethink.train.sft.config import SFTConfig

DivergenceName = Literal["forward", "reverse", "jsd"]


PARTS = ("train", "held_out")
"""What the teacher said of rows to learn from, and of those only looked at: directories of its store, each whole or absent."""


class DistillConfig(SFTConfig):
    """Everything that decides a run: fine-tuning's options, a teacher's, and where completions come from (docs/distill.md).

    model is the student. data: rows to learn from, or None where the student answers `tasks` alone. on_policy: the share of a step's
    samples that the student writes itself, None being what follows from data and tasks.
    """

    free: ClassVar[frozenset[str]] = SFTConfig.free | {"teacher_store", "store_only"}

    teacher: str
    data: Path | None = None  # type: ignore[assignment]

    divergence: DivergenceName = "forward"
    beta: float = Field(0.5, gt=0, lt=1)
    temperature: float = Field(1.0, gt=0)
    cross_entropy: float = Field(0.0, ge=0, lt=1)

    on_policy: float | None = Field(None, ge=0, le=1)
    completion_tokens: int = Field(512, ge=1)
    tasks: tuple[str, ...] = ()
    problems: int | None = Field(None, ge=1)
    split: str = "train"
    thinking: Literal["on", "off", "both"] = "both"
    toggle: ToggleStyle = ToggleStyle.SYSTEM
    think_open: str = Field(default=DEFAULT_FORMAT.open, min_length=1)
    think_close: str = Field(default=DEFAULT_FORMAT.close, min_length=1)
    slots: int = Field(64, ge=1)

    store_teacher: int | None = Field(None, ge=1)
    teacher_store: Path | None = None
    store_only: bool = False
    layer_by_layer: bool | None = None

    batch_size: int = Field(64, ge=1)

    @field_validator("tasks", mode="before")
    @classmethod
    def _split_tasks(cls, value: Any) -> Any:
        return task_specs(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.data is None and not self.tasks:
            raise ValueError("there is nothing to learn from: give --data, --tasks, or both")
        if self.data is None and self.own_share < 1:
            raise ValueError(f"--on-policy {self.own_share:g} leaves samples to rows: give --data")
        if self.data is None and self.steps is None:
            raise ValueError("--tasks alone have no end: say how many --steps")
        if self.data is not None and self.tasks and self.own_share in (0, 1):
            raise ValueError(
                "say by --on-policy which share of a step (between 0 and 1) is the student's answers to --tasks"
            )
        if self.data is not None and self.tasks and self.batch_size < 2:
            raise ValueError("--batch-size must be at least 2: rows and answers to --tasks both need a place")
        if self.cross_entropy and self.own_share == 1:
            raise ValueError("--cross-entropy is of rows, and --on-policy 1 takes none")
        if self.store_teacher is not None and self.own_share:
            raise ValueError(
                "--store-teacher asks the teacher beforehand, when it cannot know what the student will write: "
                "leave --on-policy and --tasks out"
            )
        if self.teacher_store is not None and self.store_teacher is None:
            raise ValueError(
                "--teacher-store is where --store-teacher keeps what the teacher says: give both"
            )
        if self.store_only and self.store_teacher is None:
            raise ValueError(
                "--store-only ends when --store-teacher has kept what the teacher says: give both"
            )
        if self.layer_by_layer is not None and self.store_teacher is None:
            raise ValueError(
                "--layer-by-layer is how a teacher that is asked beforehand is read: give --store-teacher"
            )
        return self

    @property
    def product(self) -> Path:
        """Where what is trained will be; of a run that only asks, the store."""
        return self.store if self.store_only else super().product

    @property
    def own_share(self) -> float:
        """The share of a step's samples that the student writes itself."""
        if self.on_policy is not None:
            return self.on_policy
        return 1.0 if self.data is None else 0.0

    @property
    def think(self) -> ThinkFormat:
        """How the models mark their thinking."""
        return ThinkFormat(self.think_open, self.think_close)

    @property
    def store(self) -> Path:
        """Where what the teacher says is kept."""
        return self.teacher_store or self.output / "teacher"

    @property
    def differing(self) -> Path:
        """Where tokens that differ are listed: beside the output, which is left free for the next try."""
        return self.output.with_name(f"{self.output.name}.differing-tokens.jsonl")

    @property
    def store_whole(self) -> bool:
        """Whether the teacher has been asked all it is to be asked."""
        return self.store_teacher is not None and all((self.store / part).is_dir() for part in PARTS)

    @property
    def begun(self) -> bool:
        """Whether the output holds steps, or something that the teacher said."""
        return super().begun or any(path.is_dir() for path in (self.output / "teacher").glob("*"))

    def inputs(self) -> tuple[list[Path], ModelFiles]:
        """The files with the rows, and the student's. Raises DataError or ModelError for what is not there."""
        return [] if self.data is None else data_files(self.data), self.located()

    def located_teacher(self) -> ModelFiles | None:
        """The teacher's files; None where its store is whole and they are not on this machine. Raises ModelError for what is needed and not there."""
        if not self.store_whole:
            return locate(self.teacher)
        try:
            return locate(self.teacher, fetch=False)
        except ModelError:
            return None
