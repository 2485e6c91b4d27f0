"""The options of supervised fine-tuning. Imports no torch, so that what cannot be is said at once."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from bethink.core.config import StrictModel
from bethink.models.locate import ModelFiles, locate
from bethink.models.lora_config import ALL_LINEAR, LoRAConfig
from bethink.models.machine import DtypeName
from bethink.train.rows import data_files


class SFTConfig(StrictModel):
    """Everything that decides a run. Shares are in [0, 1]; None means chosen from the data or the machine (see docs/sft.md)."""

    model: str
    data: Path
    output: Path

    epochs: float = Field(1.0, gt=0)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(256, ge=1)
    tokens_per_microbatch: int | None = Field(None, ge=16)
    max_tokens: int | None = Field(None, ge=2)

    lr: float = Field(1e-4, gt=0)
    warmup: float = Field(0.05, ge=0, le=1)
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.001, ge=0)
    clip: float = Field(1.0, ge=0)
    seed: int = 0

    full: bool = False
    rank: int = Field(64, ge=1)
    alpha: float | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = ALL_LINEAR

    dtype: DtypeName = None
    device: str | None = None
    gradient_checkpointing: bool | None = None

    checkpoint_every: int = Field(50, ge=0)
    keep: int = Field(2, ge=1)
    eval_data: Path | None = None
    held_out: float = Field(0.01, ge=0, lt=1)
    max_held_out: int = Field(64, ge=0)
    eval_every: int | None = Field(None, ge=0)
    sample_question: str | None = None
    sample_tokens: int = Field(256, ge=0)

    allow_dropped: float = Field(0.05, ge=0, le=1)
    allow_empty: float = Field(0.0, ge=0, le=1)
    allow_template_failures: float = Field(0.0, ge=0, le=1)
    allow_memory: bool = False
    resume: bool = False

    @field_validator("dtype")
    @classmethod
    def _trainable(cls, dtype: str | None) -> str | None:
        if dtype == "float16":
            raise ValueError("float16 loses small gradients: use bfloat16 or float32")
        return dtype

    @property
    def lora(self) -> LoRAConfig:
        """The adapter's settings; alpha is twice the rank unless given."""
        alpha = self.alpha if self.alpha is not None else 2.0 * self.rank
        return LoRAConfig(rank=self.rank, alpha=alpha, dropout=self.dropout, targets=self.targets)

    def inputs(self) -> tuple[list[Path], ModelFiles]:
        """The files with the rows, and the model's. Raises DataError or ModelError for what is not there."""
        return data_files(self.data), locate(self.model)


# Settings that do not decide what is trained, so that a resumed run may change them.
FREE = frozenset({"output", "resume", "keep", "checkpoint_every"}) | {
    name for name in SFTConfig.model_fields if name.startswith("allow_")
}
