"""The options of reinforcement learning. Imports no torch, so that what cannot be is said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat, ToggleStyle
from bethink.core.config import did_you_mean
from bethink.tasks.sources import task_specs
from bethink.train.config import TrainingConfig
from bethink.train.curricula.mastery import Mastery
from bethink.train.curricula.progressive import Progressive
from bethink.train.prefer.settings import REWARD
from bethink.train.rl.choices import (
    ALGORITHMS,
    Advantage,
    Aggregation,
    Clipping,
    KLEstimator,
    KLPlace,
    Objective,
    Ratio,
)
from bethink.verify.code.options import CodeOptions
from bethink.verify.rewards.compose import read_spec

ModeShares = dict[Literal["on", "off", "both"], float]
_CHOICES = (
    "advantage",
    "ratio",
    "clipping",
    "aggregation",
    "clip_low",
    "clip_high",
    "kl",
    "kl_estimator",
    "kl_place",
)


class GRPOConfig(TrainingConfig, CodeOptions):
    """Everything that decides a run. Shares are in [0, 1]; None means chosen by the algorithm, the data or the machine (docs/grpo.md)."""

    free: ClassVar[frozenset[str]] = TrainingConfig.free | {"workers", "unsafe_code"}

    tasks: tuple[str, ...]
    adapter: Path | None = None

    steps: int = Field(100, ge=1)
    problems_per_step: int = Field(16, ge=1)
    group_size: int = Field(8, ge=1)
    updates_per_step: int = Field(1, ge=1)
    problems: int | None = Field(None, ge=1)
    split: str = "train"
    modes: ModeShares = Field(default={"on": 1.0}, min_length=1)
    prompted: bool = False
    max_tokens: int = Field(1024, ge=1)
    temperature: float = Field(1.0, gt=0)
    rewards: str = "accuracy=1,format=0.5"

    algorithm: str = "grpo"
    advantage: Advantage | None = None
    ratio: Ratio | None = None
    clipping: Clipping | None = None
    aggregation: Aggregation | None = None
    clip_low: float | None = Field(None, ge=0)
    clip_high: float | None = Field(None, ge=0)
    kl: float | None = Field(None, ge=0)
    kl_estimator: KLEstimator | None = None
    kl_place: KLPlace | None = None
    reference: Literal["start", "base"] = "start"
    reference_every: int = Field(0, ge=0)
    importance_cap: float = Field(2.0, ge=0)
    overlong: Literal["score", "mask"] = "score"
    refills: int = Field(0, ge=0)

    curriculum: Literal["shuffled", "progressive", "mastery"] = "shuffled"
    pass_rates: Path | None = None
    progressive_start: float | None = Field(None, ge=0, le=1)
    progressive_end: float | None = Field(None, ge=0, le=1)
    progressive_width: float | None = Field(None, gt=0, allow_inf_nan=False)
    progressive_drop: float | None = Field(None, gt=0, le=1)
    mastery_threshold: float | None = Field(None, gt=0, le=1)
    mastery_fall_back: float | None = Field(None, ge=0, lt=1)
    mastery_window: int | None = Field(None, ge=1)
    mastery_rehearsal: float | None = Field(None, ge=0, lt=1)

    lr: float = Field(1e-5, gt=0)
    warmup: float = Field(0.03, ge=0, le=1)
    min_lr_ratio: float = Field(1.0, ge=0, le=1)

    toggle: ToggleStyle = ToggleStyle.SYSTEM
    think_open: str = Field(default=DEFAULT_FORMAT.open, min_length=1)
    think_close: str = Field(default=DEFAULT_FORMAT.close, min_length=1)

    eval_every: int = Field(0, ge=0)
    eval_tasks: tuple[str, ...] = ()
    eval_size: int = Field(100, ge=1)

    slots: int = Field(64, ge=1)
    workers: int | None = Field(None, ge=1)
    checkpoint_every: int = Field(10, ge=0)

    allow_truncated: float = Field(0.5, ge=0, le=1)
    allow_no_signal: float = Field(0.9, ge=0, le=1)
    allow_ungraded: float = Field(0.05, ge=0, le=1)

    @field_validator("tasks", "eval_tasks", mode="before")
    @classmethod
    def _split_tasks(cls, value: Any) -> Any:
        return task_specs(value)

    @field_validator("tasks")
    @classmethod
    def _some(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        if not specs:
            raise ValueError("no task is named (as in chain_sum:min_terms=3,max_terms=5)")
        return specs

    @field_validator("modes", mode="before")
    @classmethod
    def _read_modes(cls, value: Any) -> Any:
        """`on`, `both`, or shares as in `on=0.75,off=0.25`."""
        if not isinstance(value, str):
            return value
        shares: dict[str, float] = {}
        for part in value.split(","):
            name, sign, share = part.partition("=")
            try:
                shares[name.strip()] = float(share) if sign else 1.0
            except ValueError as error:
                raise ValueError(f"`{share}` is no share (as in on=0.75,off=0.25)") from error
        return shares

    @field_validator("modes")
    @classmethod
    def _whole(cls, shares: ModeShares) -> ModeShares:
        if any(share < 0 for share in shares.values()) or not sum(shares.values()) > 0:
            raise ValueError("the shares of on, off and both must be positive (as in on=0.75,off=0.25)")
        total = sum(shares.values())
        return {mode: share / total for mode, share in shares.items()}

    @field_validator("algorithm")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ALGORITHMS:
            raise ValueError(f"there is no algorithm `{name}`; {did_you_mean(name, ALGORITHMS)}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.adapter is not None and "+" in self.model:
            raise ValueError("the adapter is named twice: after `+` and by --adapter")
        if self.full and self.has_adapter:
            raise ValueError("--full trains all weights and an adapter is given: leave one of them out")
        if self.reference == "base" and self.full:
            raise ValueError("--full leaves no base below what is trained: the reference can only be `start`")
        if self.reference == "base" and self.reference_every:
            raise ValueError("the reference is `base`, which stays: leave --reference-every out")
        self._check_curriculum()
        if self.eval_tasks and not self.eval_every:
            raise ValueError("eval_tasks are never asked without eval_every (as in --eval-every 10)")
        if self.group_size < 2 and self.objective.advantage is not None:
            raise ValueError("group_size must be at least 2: advantages are relative to the group")
        return self

    def _check_curriculum(self) -> None:
        for other in ("progressive", "mastery"):
            if other == self.curriculum:
                continue
            given = [f"--{other}-{name.replace('_', '-')}" for name in self.curriculum_options(other)]
            if other == "progressive" and self.pass_rates is not None:
                given.append("--pass-rates")
            if given:
                raise ValueError(
                    f"{given[0]} is an option of the {other} curriculum, and this one is {self.curriculum}: leave it out, or say "
                    f"--curriculum {other}"
                )
        if self.curriculum == "progressive":
            if self.pass_rates is None:
                raise ValueError(
                    "the progressive curriculum needs --pass-rates (written by `bethink sample`)"
                )
            # With a problem that any plan can draw: whether the numbers fit together is said before the problems are read.
            Progressive([0.0], 1, 1, self.seed, **self.curriculum_options("progressive"))
        if self.curriculum == "mastery":
            if len(self.tasks) < 2:
                raise ValueError(
                    "mastery gating needs several tasks, from the easiest to the hardest (one a level)"
                )
            Mastery([0], self.seed, **self.curriculum_options("mastery"))

    def curriculum_options(self, curriculum: str) -> dict[str, Any]:
        """The options of a curriculum that were given, as its constructor calls them."""
        prefix = f"{curriculum}_"
        return {
            name.removeprefix(prefix): value
            for name in type(self).model_fields
            if name.startswith(prefix) and (value := getattr(self, name)) is not None
        }

    @property
    def objective(self) -> Objective:
        """The algorithm's choices, with those the user made instead."""
        return ALGORITHMS[self.algorithm].replaced(
            {name: value for name in _CHOICES if (value := getattr(self, name)) is not None}
        )

    @property
    def has_adapter(self) -> bool:
        """Whether the model comes with an adapter, which is trained on."""
        return self.adapter is not None or "+" in self.model

    @property
    def reference_is_base(self) -> bool:
        """Whether a KL term's reference is the model below its adapter, so that no copy is kept: a fresh adapter starts as the base."""
        return self.reference == "base" or not (self.full or self.has_adapter or self.reference_every)

    @property
    def batch_size(self) -> int:
        """Completions of a step, as many groups of them as the modes ask for."""
        groups = sum(share * (2 if mode == "both" else 1) for mode, share in self.modes.items())
        return round(self.problems_per_step * groups * self.group_size)

    @property
    def reward_model(self) -> Path | None:
        """The reward model that the rewards ask for. Raises ConfigError for rewards that cannot be read."""
        _, options = read_spec(self.rewards)
        given = options.get(REWARD, {}).get("model")
        return Path(given).expanduser() if given else None

    @property
    def model_spec(self) -> str:
        """The model with its adapter, in one word."""
        return f"{self.model}+{self.adapter}" if self.adapter is not None else self.model

    @property
    def think(self) -> ThinkFormat:
        """How the model marks its thinking."""
        return ThinkFormat(self.think_open, self.think_close)
