"""The options of learning from preferences. Imports no torch, so that what cannot be is said at once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat, ToggleStyle
from bethink.core.config import did_you_mean
from bethink.core.errors import DataError
from bethink.evaluate.samples import SAMPLES, VOTED
from bethink.train.config import TrainingConfig
from bethink.train.prefer.choices import ALGORITHMS, BRADLEY_TERRY, Comparison, Length, Objective
from bethink.train.rows import data_files

PAIRS = "pairs.jsonl"
_CHOICES = ("comparison", "reference", "length", "beta", "margin", "label_smoothing", "sft")
_OF_A_REWARD_MODEL = ("margin", "label_smoothing")


class PreferConfig(TrainingConfig):
    """Everything that decides a run. Shares are in [0, 1]; None means chosen by the algorithm, the data or the machine (docs/prefer.md)."""

    free: ClassVar[frozenset[str]] = TrainingConfig.free

    data: Path | None = None
    answers: Path | None = None
    adapter: Path | None = None
    reward_model: bool = False

    epochs: float = Field(1.0, gt=0)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    max_tokens: int | None = Field(None, ge=2)
    lr: float = Field(5e-5, gt=0)
    warmup: float = Field(0.1, ge=0, le=1)

    algorithm: str = "dpo"
    comparison: Comparison | None = None
    reference: bool | None = None
    length: Length | None = None
    beta: float | None = Field(None, gt=0)
    margin: float | None = Field(None, ge=0)
    label_smoothing: float | None = Field(None, ge=0, lt=0.5)
    sft: float | None = Field(None, ge=0)

    longer: float = Field(1.5, gt=1)
    pairs_per_problem: int = Field(4, ge=1)

    mode: Mode | None = None
    toggle: ToggleStyle = ToggleStyle.SYSTEM
    think_open: str = Field(default=DEFAULT_FORMAT.open, min_length=1)
    think_close: str = Field(default=DEFAULT_FORMAT.close, min_length=1)

    eval_data: Path | None = None
    held_out: float = Field(0.05, ge=0, lt=1)
    max_held_out: int = Field(256, ge=0)
    eval_every: int | None = Field(None, ge=0)

    allow_dropped: float = Field(0.05, ge=0, le=1)

    @field_validator("algorithm")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ALGORITHMS:
            raise ValueError(f"there is no algorithm `{name}`; {did_you_mean(name, ALGORITHMS)}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.data is None) == (self.answers is None):
            raise ValueError("give either --data (pairs) or --answers (a `bethink sample` directory)")
        if self.adapter is not None and "+" in self.model:
            raise ValueError("the adapter is named twice: after `+` and by --adapter")
        if self.full and (self.adapter is not None or "+" in self.model):
            raise ValueError("--full trains all weights and an adapter is given: leave one of them out")
        if self.reward_model:
            given = [name for name in _CHOICES if getattr(self, name) is not None]
            if self.algorithm != "dpo" or set(given) - set(_OF_A_REWARD_MODEL):
                raise ValueError(
                    "a reward model is trained by Bradley and Terry's loss: of the loss's choices only --margin and "
                    "--label-smoothing are its own"
                )
        return self

    @property
    def objective(self) -> Objective:
        """The algorithm's choices, with those the user made instead."""
        named = BRADLEY_TERRY if self.reward_model else ALGORITHMS[self.algorithm]
        return named.replaced(
            {name: value for name in _CHOICES if (value := getattr(self, name)) is not None}
        )

    @property
    def model_spec(self) -> str:
        """The model with its adapter, in one word."""
        return f"{self.model}+{self.adapter}" if self.adapter is not None else self.model

    @property
    def think(self) -> ThinkFormat:
        """How the model marks its thinking."""
        return ThinkFormat(self.think_open, self.think_close)

    @property
    def product(self) -> Path:
        """Where what is trained will be."""
        return self.output / "reward_model" if self.reward_model else super().product

    def files(self) -> dict[str, list[Path]]:
        """The files that are read, by the option that names them. Raises DataError for what is not there."""
        found = {"answers": [answers_file(self.answers)]} if self.answers is not None else {}
        if self.data is not None:
            found["data"] = pair_files(self.data)
        if self.eval_data is not None:
            found["eval_data"] = pair_files(self.eval_data)
        return found


def pair_files(data: Path) -> list[Path]:
    """The files with the pairs: one that is named, or those of a directory. Raises DataError when there are none."""
    return [data / PAIRS] if (data / PAIRS).is_file() else data_files(data)


def answers_file(directory: Path) -> Path:
    """The file with graded answers in the output of `bethink sample` (as a vote judged them, where there was one) or `bethink eval`. Raises DataError when there is none."""
    places = (directory, directory / VOTED, directory / SAMPLES, directory / "answers" / SAMPLES)
    if found := next((path for path in places if path.is_file()), None):
        return found
    raise DataError(
        f"no {SAMPLES} there",
        where=str(directory),
        fix="give --answers the output directory of `bethink sample` or `bethink eval`",
    )
