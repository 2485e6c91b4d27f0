"""The options every trainer has. Imports no torch, so that what cannot be is said at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from bethink.core.config import StrictModel
from bethink.models.locate import ModelFiles, locate
from bethink.models.lora_config import ALL_LINEAR, LoRAConfig
from bethink.models.machine import DtypeName


class RunConfig(StrictModel):
    """How steps are taken, on what, and what is kept. None means chosen from the data or the machine.

    free: options that do not decide what is trained, so that a resumed run may change them; those called allow_… are, too.
    """

    free: ClassVar[frozenset[str]] = frozenset({"output", "resume", "keep", "checkpoint_every"})

    output: Path

    lr: float = Field(1e-4, gt=0)
    warmup: float = Field(0.05, ge=0, le=1)
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, ge=0)
    seed: int = 0

    dtype: DtypeName = None
    device: str | None = None
    tokens_per_microbatch: int | None = Field(None, ge=16)
    gradient_checkpointing: bool | None = None

    checkpoint_every: int = Field(50, ge=0)
    keep: int = Field(2, ge=1)
    resume: bool = False
    allow_memory: bool = False

    @field_validator("dtype")
    @classmethod
    def _trainable(cls, dtype: str | None) -> str | None:
        if dtype == "float16":
            raise ValueError("float16 loses small gradients: use bfloat16 or float32")
        return dtype

    @property
    def product(self) -> Path:
        """Where what is trained will be."""
        return self.output / "model"

    @property
    def begun(self) -> bool:
        """Whether the output holds work that is not to be thrown away when a run fails."""
        return (self.output / "metrics.jsonl").exists()

    def deciding(self) -> dict[str, Any]:
        """The options that decide what is trained, as JSON values."""
        free = {name for name in type(self).model_fields if name in self.free or name.startswith("allow_")}
        return self.model_dump(mode="json", exclude=free)


class TrainingConfig(RunConfig):
    """The same for a model that is there already: which one, and what of it is trained."""

    model: str

    full: bool = False
    rank: int = Field(64, ge=1)
    alpha: float | None = Field(None, gt=0)
    targets: str | tuple[str, ...] = ALL_LINEAR

    @field_validator("targets", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        """Names with commas are names; any other text is `all-linear` or a regular expression."""
        if isinstance(value, str) and value != ALL_LINEAR and re.fullmatch(r"[\w.]+(,[\w.]+)*", value):
            return tuple(value.split(","))
        return value

    @property
    def lora(self) -> LoRAConfig:
        """A new adapter's settings; alpha is twice the rank unless given."""
        alpha = self.alpha if self.alpha is not None else 2.0 * self.rank
        return LoRAConfig(rank=self.rank, alpha=alpha, dropout=0.0, targets=self.targets)

    @property
    def model_spec(self) -> str:
        """The model with what is put on it, in one word."""
        return self.model

    @property
    def product(self) -> Path:
        """Where what is trained will be."""
        return self.output / ("model" if self.full else "adapter")

    def located(self) -> ModelFiles:
        """The model's files. Raises ModelError for what is not there."""
        return locate(self.model_spec)
