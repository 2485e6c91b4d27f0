"""The options of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat, ToggleStyle
from bethink.core.config import StrictModel
from bethink.engine.api import THINKING_TEMPERATURE, THINKING_TOP_P
from bethink.models.machine import DtypeName
from bethink.tasks.sources import split_specs
from bethink.verify.code.options import CodeOptions


class SamplingOptions(StrictModel):
    """How completions are drawn. temperature 0 is greedy; top_p 1, top_k 0 and min_p 0 are off."""

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class EvalConfig(CodeOptions):
    """One model, some tasks, thinking on and off.

    model:       directory, hub id, GGUF file or built-in name, or MODEL+ADAPTER_DIR; adapter: the latter, said apart.
    endpoint:    URL of an OpenAI-compatible server instead of a model; endpoint_model: what it calls the model (needed where it
                 serves several); api_key_env: the environment variable that holds its key; concurrency: requests under way at once;
                 price_in, price_out: what it asks for a million tokens of prompts and of answers, for the cost shown.
    name:        what the results call the model (by default: the model's own name).
    tasks:       as `bethink.tasks.sources` reads them; size: problems of each (None: all of a file's); seed, split: which.
    samples:     completions of each problem (one where sampling is greedy: they would all be the same).
    on, off:     sampling by mode. max_tokens: of a whole completion; max_thinking_tokens: when to close the think block.
    prompted:    ask for step-by-step work and an answer in \\boxed{} in the question itself.
    exclude:     files of training rows; problems whose question is in them are left out and counted.
    skip_bad:    leave out rows of task files that are no problems (counted) instead of stopping.
    toggle:      how the model is told the mode; think_open, think_close: the tags of its think block.
    slots:       completions that the native engine decodes at once; dtype, device: of the model on this machine (by default what suits
                 the machine); workers: grading processes (None: one a core).

    `CodeOptions` are of how programs that a model wrote are run.
    """

    output: Path
    tasks: tuple[str, ...]
    model: str | None = None
    adapter: Path | None = None
    endpoint: str | None = None
    endpoint_model: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = Field(default=16, ge=1)
    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)
    name: str | None = None
    size: int | None = Field(default=200, ge=1)
    seed: int = Field(default=0, ge=0)
    split: str = "test"
    modes: tuple[Mode, ...] = Field(default=(Mode.ON, Mode.OFF), min_length=1)
    samples: int = Field(default=1, ge=1)
    on: SamplingOptions = SamplingOptions(temperature=THINKING_TEMPERATURE, top_p=THINKING_TOP_P)
    off: SamplingOptions = SamplingOptions()
    max_tokens: int = Field(default=4096, ge=1)
    max_thinking_tokens: int | None = Field(default=None, ge=1)
    prompted: bool = False
    exclude: tuple[Path, ...] = ()
    skip_bad: bool = False
    toggle: ToggleStyle = ToggleStyle.SYSTEM
    think_open: str = Field(default=DEFAULT_FORMAT.open, min_length=1)
    think_close: str = Field(default=DEFAULT_FORMAT.close, min_length=1)
    slots: int = Field(default=64, ge=1)
    dtype: DtypeName = None
    device: str | None = None
    workers: int | None = Field(default=None, ge=1)
    resume: bool = False

    @field_validator("tasks", mode="before")
    @classmethod
    def _split_tasks(cls, value: Any) -> Any:
        given = value if isinstance(value, list | tuple) else [value]
        for text in given:
            if not isinstance(text, str):
                raise ValueError(
                    f"a task is a line of text, not {text!r} (options go after a colon: chain_sum:min_terms=3,max_terms=5)"
                )
        specs = tuple(spec for text in given for spec in split_specs(text))
        if not specs:
            raise ValueError(
                "no task is named (as in chain_sum:min_terms=3,max_terms=5, or test.jsonl:gsm8k)"
            )
        return specs

    @field_validator("modes", mode="before")
    @classmethod
    def _read_modes(cls, value: Any) -> Any:
        given = value.split(",") if isinstance(value, str) else [value] if isinstance(value, bool) else value
        if not isinstance(given, list | tuple):
            return value
        words = {True: "on", False: "off"}  # a recipe may say true and false
        return tuple(dict.fromkeys(words[m] if isinstance(m, bool) else str(m).strip() for m in given))

    @field_validator("exclude", mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("give a model or an endpoint, one of them (--model, --endpoint)")
        if self.adapter is not None and self.model is None:
            raise ValueError("an adapter needs a model")
        if self.max_thinking_tokens is not None and self.max_thinking_tokens >= self.max_tokens:
            raise ValueError("max_thinking_tokens must be less than max_tokens, to leave room for the answer")
        if self.max_thinking_tokens is not None and self.endpoint is not None:
            raise ValueError(
                "an endpoint offers no thinking budget: leave max_thinking_tokens out, or use a model"
            )
        return self

    @property
    def priced(self) -> bool:
        """Whether there is a price to count with."""
        return bool(self.price_in or self.price_out)

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        """What so many tokens cost, in the prices' currency."""
        return (prompt_tokens * self.price_in + answer_tokens * self.price_out) / 1e6

    @property
    def model_spec(self) -> str | None:
        """The model with its adapter, in one word."""
        return f"{self.model}+{self.adapter}" if self.adapter is not None else self.model

    @property
    def think(self) -> ThinkFormat:
        """How the model marks its thinking."""
        return ThinkFormat(self.think_open, self.think_close)

    def sampling(self, mode: Mode) -> SamplingOptions:
        """How completions of a mode are drawn."""
        return self.on if mode is Mode.ON else self.off

    def samples_of(self, mode: Mode) -> int:
        """Completions of each problem in a mode."""
        return 1 if self.sampling(mode).greedy else self.samples
