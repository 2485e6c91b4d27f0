"""The options of sampling training rows: an evaluation's, and what is kept of the answers."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bethink.chat.toggle import Mode
from bethink.engine.api import THINKING_TEMPERATURE, THINKING_TOP_P
from bethink.evaluate.config import EvalConfig, SamplingOptions

LEAST_VOTERS = 3
"""Answers without which there is no majority to speak of."""

_DRAWN = SamplingOptions(temperature=THINKING_TEMPERATURE, top_p=THINKING_TOP_P)


class SampleConfig(EvalConfig):
    """`EvalConfig`'s options, with other defaults where rows are made and not measured, and these:

    keep:          rows of each problem and mode at most (0: all). prefer: which, where there are more: those drawn first, or the shortest.
    paired:        keep problems only that have a row in every mode asked for.
    majority:      of problems without an answer, the least share of answers that must agree for theirs to be taken for right (vote.py). 0 is off.
    any_verdict:   keep wrong answers too (not those that could not be graded).
    language:      the least share of words in `target_language` (an ISO 639 code; by default the question's own). 0 is off.
    paragraph:     characters of the longest paragraph allowed. 0 is off.
    repetition:    the largest share of repeated phrases of 6 words.
    code_blocks:   allow fenced code in the thinking of a problem that is not about code.
    category, license: of the rows.
    """

    size: int | None = Field(default=None, ge=1)
    split: str = "train"
    samples: int = Field(default=4, ge=1)
    off: SamplingOptions = _DRAWN
    keep: int = Field(default=1, ge=0)
    prefer: Literal["first", "shortest"] = "first"
    paired: bool = False
    majority: float = Field(default=0.0, ge=0, le=1)
    any_verdict: bool = False
    language: float = Field(default=0.9, ge=0, le=1)
    target_language: str = ""
    paragraph: int = Field(default=4000, ge=0)
    repetition: float = Field(default=0.3, ge=0, le=1)
    code_blocks: bool = False
    category: str = "math"
    license: str = "unknown"

    @model_validator(mode="after")
    def _enough_voters(self) -> Self:
        voters = self.samples_of(Mode.ON if Mode.ON in self.modes else Mode.OFF)
        if self.majority and voters < LEAST_VOTERS:
            raise ValueError(
                f"a vote needs {LEAST_VOTERS} answers to a problem and there is {voters}: raise samples (--samples 16), "
                "and draw them at a temperature"
            )
        return self

    @property
    def asked(self) -> EvalConfig:
        """What is asked, as an evaluation in a directory of its own."""
        options: dict[str, Any] = {name: getattr(self, name) for name in EvalConfig.model_fields}
        return EvalConfig(**{**options, "output": self.output / "answers"})


FILTERS = frozenset(SampleConfig.model_fields) - frozenset(EvalConfig.model_fields)
"""The options that change nothing of what is asked: only what is made of the answers."""
