"""The options of supervised fine-tuning. Imports no torch, so that what cannot be is said at once."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bethink.models.locate import ModelFiles
from bethink.models.lora_config import LoRAConfig
from bethink.train.config import TrainingConfig
from bethink.train.rows import data_files


class SFTConfig(TrainingConfig):
    """Everything that decides a run. Shares are in [0, 1]; None means chosen from the data or the machine (see docs/sft.md)."""

    data: Path

    epochs: float = Field(1.0, gt=0)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(256, ge=1)
    max_tokens: int | None = Field(None, ge=2)
    weight_decay: float = Field(0.001, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)

    eval_data: Path | None = None
    held_out: float = Field(0.01, ge=0, lt=1)
    max_held_out: int = Field(64, ge=0)
    eval_every: int | None = Field(None, ge=0)
    sample_question: str | None = None
    sample_tokens: int = Field(256, ge=0)

    allow_dropped: float = Field(0.05, ge=0, le=1)
    allow_empty: float = Field(0.0, ge=0, le=1)
    allow_template_failures: float = Field(0.0, ge=0, le=1)

    @property
    def lora(self) -> LoRAConfig:
        """A new adapter's settings; alpha is twice the rank unless given."""
        return super().lora.model_copy(update={"dropout": self.dropout})

    def inputs(self) -> tuple[list[Path], ModelFiles]:
        """The files with the rows, and the model's. Raises DataError or ModelError for what is not there."""
        return data_files(self.data), self.located()
