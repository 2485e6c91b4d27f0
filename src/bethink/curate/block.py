"""From a block of rows to a finished block on disk: what a worker does, and all that it does.

Knows the order of the steps for one row: read, the rules of `filters`, repeats within the block, the chat template, the token limits.
Leaves to `curriculum` what needs all rows: repeats across blocks, the selection, the order. Imports neither torch nor transformers,
so that a worker is small and starts at once.
"""

from __future__ import annotations

import hashlib
import re
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path

from bethink.chat.render import Rendered, Renderer
from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat, template_kwargs
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import TemplateError
from bethink.core.files import dump_line
from bethink.curate.config import CurateConfig
from bethink.curate.filters import build_filters, first_drop
from bethink.curate.limits import TokenLimits
from bethink.curate.mix import ANY, by_input
from bethink.curate.read import Block, Row, read_rows
from bethink.curate.schema import Drop, Sample, read_line, read_row
from bethink.curate.spill import KEPT, MODES, REASONS, Header, Key, block_path, write_block
from bethink.verify.language import LanguageJudge


@dataclass(frozen=True, slots=True)
class Order:
    """Everything a worker needs to know.

    keep_lines: False counts only (a dry run). epoch: the moment (Unix seconds) a template that prints the date takes for now, so that
    all workers, and a resumed run on another day, print the same.
    """

    config: CurateConfig
    tokenizer: Path
    words_per_token: int
    work: Path
    keep_lines: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class Done:
    """A finished block, for the progress line. size: bytes of input."""

    rows: int
    kept: int
    size: int


@dataclass(frozen=True, slots=True)
class _Survivor:
    line: bytes
    difficulty: float
    tokens: int
    completion_tokens: int


class Workshop:
    """One worker's tools: tokenizer, renderer, language model and rules, loaded once."""

    def __init__(self, order: Order) -> None:
        config = order.config
        self._order, self._config = order, config
        self._tokenizer = ChatTokenizer.load(order.tokenizer)
        self._renderer = Renderer(self._tokenizer, think=config.think, style=config.toggle_style)
        self._rules = build_filters(config, LanguageJudge().judge)
        self._limits = TokenLimits(config, self._tokenizer, order.words_per_token)
        self._control = control_tokens(self._tokenizer, config.think)
        sources = config.sources
        self._by_input = by_input(sources)
        self._sources = {source.name.casefold(): index for index, source in enumerate(sources)}
        self._rest = self._sources.pop(ANY, len(sources) - 1)

    def finish(self, block: Block) -> Done:
        """Work through a block and leave it on disk. Raises OutputError when it cannot be written."""
        header = Header(file=block.file, size=block.size)
        keys: list[Key] = []
        lines: list[bytes] = []
        seen: set[bytes] = set()
        for number, row in enumerate(read_rows(block)):
            header.rows += 1
            sample = self._admit(row, header.skipped)
            if isinstance(sample, Drop):
                header.rejects.append((number, sample.reason, sample.detail))
                continue
            digest = _digest(sample)
            if self._config.dedup and digest in seen:
                found: _Survivor | Drop = Drop("duplicate", "")
            else:
                found = self._survivor(sample, digest)
            seen.add(digest)
            keys.append(_key(number, self._source(sample, block), sample.mode, digest, found))
            if isinstance(found, Drop):
                header.details[str(number)] = found.detail
            else:
                lines.append(found.line)
        write_block(block_path(self._order.work, block.index), header, keys, lines)
        return Done(header.rows, sum(key.verdict == KEPT for key in keys), block.size)

    def _admit(self, row: Row, skipped: dict[str, int]) -> Sample | Drop:
        """A row that can be read and passes the rules."""
        record = read_line(row) if isinstance(row, bytes) else row
        if isinstance(record, Drop):
            return record
        sample = read_row(record, self._config.difficulty_field, self._config.think)
        if isinstance(sample, Drop):
            return sample
        return first_drop(sample, self._rules, skipped) or sample

    def _source(self, sample: Sample, block: Block) -> int:
        """The index of the row's source in the mix: that of its input, or the first that its categories name."""
        if self._by_input:
            names = [str(block.input + 1)]
        else:
            names = [name.casefold() for name in sample.labels.get("category", ())]
        found = (self._sources[name] for name in names if name in self._sources)
        return min(found, default=self._rest)

    def _survivor(self, sample: Sample, digest: bytes) -> _Survivor | Drop:
        """The row rendered and tokenized, or the reason why it is dropped after all."""
        texts = [sample.output, *(message["content"] for message in sample.messages)]
        if self._control and (found := next(filter(None, map(self._control.search, texts)), None)):
            return Drop("template", f"the text holds the control token {found[0]}")
        try:
            prompt, completion = self._renderer.texts(sample.messages, sample.output, sample.mode)
            if drop := self._limits.foreseen(prompt, completion):
                return drop
            rendered = self._renderer.encode(prompt, completion)
        except TemplateError as error:
            return Drop("template", error.what)
        if drop := self._limits.exact(len(rendered.prompt_ids), len(rendered.completion_ids)):
            return drop
        return _Survivor(
            line=self._line(sample.mode, rendered) if self._order.keep_lines else b"",
            difficulty=self._difficulty(sample, rendered, digest),
            tokens=len(rendered.prompt_ids) + len(rendered.completion_ids),
            completion_tokens=len(rendered.completion_ids),
        )

    def _difficulty(self, sample: Sample, rendered: Rendered, digest: bytes) -> float:
        """What the row is sorted by: the difficulty asked for, or chance that depends on the seed and the row alone."""
        if self._config.order == "random":
            drawn = hashlib.blake2b(digest, digest_size=6, key=str(self._config.seed).encode()).digest()
            return float(int.from_bytes(drawn, "big"))
        if self._config.difficulty_field:
            return sample.difficulty or 0.0
        total = len(rendered.completion_ids)
        if self._config.difficulty == "completion_tokens":
            return float(total)
        if sample.mode is Mode.OFF:
            return 0.0
        # The answer is short beside the thinking: it is cheaper to tokenize again than to keep track of every token's place.
        answer = rendered.completion_text.partition(self._config.think.close)[2]
        return float(total - len(self._tokenizer.encode(answer)))

    def _line(self, mode: Mode, rendered: Rendered) -> bytes:
        """The output row, but for `source`, which is known when all blocks are: the record of `gather`."""
        line = dump_line(
            {
                "input": rendered.prompt_text,
                "output": rendered.completion_text,
                "mode": str(mode),
                "tokens": len(rendered.token_ids),
                "completion_tokens": len(rendered.completion_ids),
            }
        ).encode()
        if self._config.format == "jsonl":
            return line
        ids = array("i", rendered.token_ids).tobytes()
        return struct.pack("<II", len(rendered.prompt_ids), len(rendered.completion_ids)) + ids + line


def control_tokens(tokenizer: ChatTokenizer, think: ThinkFormat = DEFAULT_FORMAT) -> re.Pattern[str] | None:
    """The special tokens the template marks turns with: in a message's text they would end the turn they stand in."""
    talk = [{"role": role, "content": "text"} for role in ("user", "assistant", "user")]
    shown = "".join(
        tokenizer.render(talk, add_generation_prompt=True, **template_kwargs(mode)) for mode in Mode
    )
    tags = {think.open, think.close}
    texts = {tokenizer.decode([token]) for token in tokenizer.special_ids}
    found = sorted(text for text in texts - tags if text in shown)
    return re.compile("|".join(map(re.escape, found))) if found else None


def _digest(sample: Sample) -> bytes:
    """16 bytes that are the same for the same prompt and output only."""
    digest = hashlib.blake2b(digest_size=16)
    for text in [m[part] for m in sample.messages for part in ("role", "content")] + [sample.output]:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def _key(row: int, source: int, mode: Mode, digest: bytes, found: _Survivor | Drop) -> Key:
    high, low = struct.unpack(">QQ", digest)
    code = MODES.index(mode)
    if isinstance(found, Drop):
        return Key(row, source, code, REASONS.index(found.reason), 0.0, 0, 0, high, low, 0)
    return Key(
        row,
        source,
        code,
        KEPT,
        found.difficulty,
        found.tokens,
        found.completion_tokens,
        high,
        low,
        len(found.line),
    )
