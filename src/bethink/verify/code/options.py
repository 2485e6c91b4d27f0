"""What a user can say of how programs are run: the options that every command has that runs them."""

from __future__ import annotations

from pydantic import Field

from bethink.core.config import StrictModel
from bethink.verify.code.sandbox import Limits

_LIMITS = Limits()
_MEBIBYTE = 2**20


class CodeOptions(StrictModel):
    """How programs that a model wrote are run.

    code_seconds: of processor time that a program may take for one case (`Limits`); code_memory: MiB of memory it may have; unsafe_code:
    run programs even where there is no sandbox for them.
    """

    code_seconds: float = Field(default=_LIMITS.seconds, ge=0.1, le=3600)
    code_memory: int = Field(default=_LIMITS.memory // _MEBIBYTE, ge=64, le=2**20)
    unsafe_code: bool = False

    @property
    def code_limits(self) -> Limits:
        """The limits of one program."""
        return Limits(seconds=self.code_seconds, memory=self.code_memory * _MEBIBYTE)


USUAL = CodeOptions()
"""What there is without a word."""
