"""The options of pretraining. Imports no torch, so that what cannot be is said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from bethink.train.config import RunConfig


class PretrainConfig(RunConfig):
    """Everything that decides a run (docs/pretrain.md). Shares are in [0, 1]; None means chosen from the data or the machine.

    model: an architecture's name (`llama`), or a config.json or a directory with one; shape: keys of config.json that replace its own.
    beta2: of AdamW, shorter than fine-tuning's as is usual from random weights (GPT-3, Brown et al. 2020, appendix B; LLaMA, Touvron et al. 2023,
    section 2.3).
    """

    data: tuple[Path, ...] = Field(min_length=1)
    model: str = "llama"
    shape: dict[str, Any] = Field(default_factory=dict)
    tokenizer: str | None = None
    vocabulary: int | None = Field(None, ge=1)
    field: str = "text"

    epochs: float = Field(1.0, gt=0)
    steps: int | None = Field(None, ge=1)
    tokens_per_step: int = Field(65_536, ge=1)
    context: int = Field(1024, ge=2)
    lr: float = Field(6e-4, gt=0)
    warmup: float = Field(0.02, ge=0, le=1)
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    weight_decay: float = Field(0.1, ge=0)
    beta2: float = Field(0.95, ge=0, lt=1)

    held_out: float = Field(0.01, ge=0, lt=1)
    max_held_out: int = Field(512, ge=0)
    eval_every: int | None = Field(None, ge=0)

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else [value]

    @field_validator("shape", mode="before")
    @classmethod
    def _read_shape(cls, value: Any) -> Any:
        """A mapping, or `hidden_size=128,num_hidden_layers=4`."""
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if bad := next((key for key, sign, _ in pairs if not sign), None):
            raise ValueError(f"`{bad}` has no value (as in hidden_size=128,num_hidden_layers=4)")
        return {key.strip(): _typed(text.strip()) for key, _, text in pairs}

    @model_validator(mode="after")
    def _one_tokenizer(self) -> Self:
        if (self.tokenizer is None) == (self.vocabulary is None):
            raise ValueError(
                "give --tokenizer (a model's) or --vocabulary (the size of a new one), not both or none"
            )
        return self


def _typed(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
