"""What a curation run is asked to do. The defaults are NVIDIA's published recipe; `any` (an empty list inside) turns a filter off."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat, ToggleStyle
from bethink.core.config import StrictModel
from bethink.curate.mix import ANY, WHOLE, Source, by_input, read_sources


def _names(value: Any) -> Any:
    """One name, several, or `any` (no name: the filter is off)."""
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else value
    return () if isinstance(names, tuple) and ANY in names else names


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


def _limit(value: Any) -> Any:
    """A whole number, or `any` for no limit."""
    text = str(value).replace("_", "")
    if text != ANY and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"{value!r} is no limit: say a whole number of tokens, or any")
    return text if text == ANY else int(text)


Limit = Annotated[int | Literal["any"], BeforeValidator(_limit)]


def _paths(value: Any) -> Any:
    """One path or several; an empty one, which would mean the directory one is in, is a mistake."""
    paths = [value] if isinstance(value, str | Path) else value
    if isinstance(paths, list | tuple) and "" in paths:
        raise ValueError("an input is empty: name a file or a directory")
    return paths


def _mix(value: Any) -> Any:
    """Shares by source: a mapping, or text as in `1=3,any=1`."""
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",")]
        names = [name.strip() for name, _, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"a source stands twice in {value!r}")
        value = {name: share for name, (_, _, share) in zip(names, pairs, strict=True)}
    if isinstance(value, dict):
        value = {str(name): str(share).strip() for name, share in value.items()}
        read_sources(value)
    return value


Mix = Annotated[dict[str, str], BeforeValidator(_mix), Field(max_length=250)]


class CurateConfig(StrictModel):
    """One curation run.

    input: files or directories, in the order their rows count as earlier or later.
    include: take only files whose name contains one of these texts.
    trained_by, category, license, generator, version, language: the values a row may have.
    boxed: "math" asks rows of the category math for a filled \\boxed{} in the answer.
    max_tokens, max_completion_tokens: limits after the chat template, end of turn included.
    think_open, think_close: the tags the model marks its thinking with; rows may have these or the usual ones.
    mix: shares by source, {"1": 3, "any": 1}: an input by its number from 1, or a category; `any` is the rest. "up to 3" fills up.
    on_off_ratio: "A:B" keeps A thinking-on rows for every B thinking-off rows.
    max_samples: keep this many, evenly spaced over the curriculum of each mode.
    difficulty: what the curriculum rises by: "completion_tokens", "thinking_tokens" or "field:NAME" (a number in the row).
    limit: read only the first rows of the input.
    block_bytes: the most input a worker takes at a time; changes speed and memory, never the result.
    """

    input: Annotated[tuple[Path, ...], BeforeValidator(_paths)] = Field(min_length=1)
    output: Path
    tokenizer: str
    include: tuple[str, ...] = ()
    trained_by: Names = ("Nano",)
    category: Names = ()
    license: Names = ()
    generator: Names = ()
    version: Names = ()
    language: Names = ("en",)
    boxed: Literal["math", "any"] = "math"
    max_tokens: Limit = 16_384
    max_completion_tokens: Limit = 8_192
    dedup: bool = True
    toggle_style: ToggleStyle = ToggleStyle.SYSTEM
    think_open: str = Field(default=DEFAULT_FORMAT.open, min_length=1)
    think_close: str = Field(default=DEFAULT_FORMAT.close, min_length=1)
    mix: Mix | None = None
    on_off_ratio: str = ANY
    max_samples: Annotated[int, Field(ge=1)] | None = None
    difficulty: str = "completion_tokens"
    order: Literal["curriculum", "random"] = "curriculum"
    seed: int = 0
    format: Literal["jsonl", "parquet"] = "jsonl"
    shard_rows: int = Field(default=100_000, ge=1)
    limit: Annotated[int, Field(ge=1)] | None = None
    max_bad_share: float = Field(default=0.1, ge=0.0, le=1.0)
    workers: Annotated[int, Field(ge=1)] | None = None
    block_bytes: int = Field(default=4 << 20, ge=1)
    dry_run: bool = False
    resume: bool = False

    @field_validator("on_off_ratio")
    @classmethod
    def _is_ratio(cls, value: str) -> str:
        if value != ANY and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", value):
            raise ValueError(f"{value!r} is not a ratio: write on:off as two whole numbers (1:1, 3:2) or any")
        return value

    @field_validator("difficulty")
    @classmethod
    def _is_difficulty(cls, value: str) -> str:
        if value not in {"completion_tokens", "thinking_tokens"} and not re.fullmatch(r"field:.+", value):
            raise ValueError(f"{value!r} is not known: use completion_tokens, thinking_tokens or field:NAME")
        return value

    @model_validator(mode="after")
    def _mix_fits(self) -> Self:
        if self.mix is None:
            return self
        sources = self.sources
        names = [source.name.casefold() for source in sources]
        if len(set(names)) < len(names):
            raise ValueError(f"mix names a source twice: {', '.join(self.mix)}")
        if by_input(sources):
            inputs = [str(number) for number in range(1, len(self.input) + 1)]
            if strange := [name for name in names if name not in (*inputs, ANY)]:
                raise ValueError(
                    f"mix gives input {strange[0]} a share, and there are {len(inputs)} inputs, counted from 1"
                )
            unnamed = [number for number in inputs if number not in names]
            if unnamed and ANY not in names:
                raise ValueError(
                    f"mix gives input {unnamed[0]} no share: name it, or `{ANY}` for all inputs not named"
                )
            if not unnamed and ANY in names:
                raise ValueError(f"mix gives `{ANY}` a share, and every input is named: leave `{ANY}` out")
        if self.on_per_off is not None and any(source.fills for source in sources):
            raise ValueError(
                "on_off_ratio needs a mix of fixed shares: leave it out, or write no `up to` in mix"
            )
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of the mix; without one, all rows as one. Last, where the mix is of named categories alone, the rows of no source."""
        if self.mix is None:
            return WHOLE
        sources = read_sources(self.mix)
        if by_input(sources) or any(source.name == ANY for source in sources):
            return sources
        return (*sources, Source("", Fraction(0)))

    @property
    def think(self) -> ThinkFormat:
        """How the model marks its thinking."""
        return ThinkFormat(self.think_open, self.think_close)

    @property
    def difficulty_field(self) -> str | None:
        """The row's field that holds the difficulty, when one does."""
        return self.difficulty.removeprefix("field:") if self.difficulty.startswith("field:") else None

    @property
    def on_per_off(self) -> Fraction | None:
        """Thinking-on rows for each thinking-off row; None keeps what there is."""
        if self.on_off_ratio == ANY:
            return None
        on, off = self.on_off_ratio.split(":")
        return Fraction(int(on), int(off))

    @property
    def worker_count(self) -> int:
        """The workers asked for, else one for each processor this process may use."""
        if self.workers is None and hasattr(os, "sched_getaffinity"):  # macOS has none
            return len(os.sched_getaffinity(0))
        return self.workers or os.cpu_count() or 1

    def deciding(self) -> dict[str, Any]:
        """The options that decide which rows come out and how, as JSON values: what a resumed run must share with the first."""
        aside = {"output", "workers", "block_bytes", "dry_run", "resume", "max_bad_share"}
        return self.model_dump(mode="json", exclude=aside)
