"""Tokenized rows on disk.

The token ids of all rows lie in one flat memory-mapped file, so that memory stays flat however many rows there are and any sample is
one slice. Rows that bring their token ids are not tokenized again. Reading the rows is rows.py's.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import Progress
from bethink.core.errors import TemplateError
from bethink.core.files import explain_os_errors, read_json, write_json
from bethink.models.machine import cores
from bethink.train.rows import Row, count_rows, read_rows

_BLOCK_ROWS = 1024
_MODES = (Mode.OFF, Mode.ON)


@dataclass(frozen=True, slots=True)
class Sample:
    """One tokenized row."""

    prompt_ids: np.ndarray[Any, np.dtype[np.int32]]
    completion_ids: np.ndarray[Any, np.dtype[np.int32]]
    mode: Mode

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(slots=True)
class Census:
    """What happened to the rows on their way in.

    total: rows in the files, of which `read` were looked at before there were enough. longest: tokens of the longest row kept; the
    examples are "file:line" of the first few.
    """

    total: int = 0
    read: int = 0
    kept: int = 0
    held_out: int = 0
    too_long: int = 0
    empty: int = 0
    longest: int = 0
    largest_id: int = -1
    too_long_examples: list[str] = field(default_factory=list)
    empty_examples: list[str] = field(default_factory=list)

    @property
    def pass_rows(self) -> int:
        """Training rows in a whole pass over the data: counted, or estimated from the share kept of those read."""
        return self.kept if self.read == self.total else round(self.total * self.kept / max(self.read, 1))


class TokenStore:
    """Tokenized rows in a memory-mapped file: `store[i]` is a Sample, `lengths` are prompt + completion tokens [rows]."""

    def __init__(self, directory: Path, census: Census) -> None:
        self.directory, self.census = directory, census
        index = np.load(directory / "index.npy")
        self.starts, self.prompt_lengths, self.lengths, self.modes = index
        count = int(self.lengths.sum())
        self._tokens = (
            np.memmap(directory / "tokens.i32", dtype=np.int32, mode="r", shape=(count,))
            if count
            else np.zeros(0, np.int32)
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def largest_id(self) -> int:
        """The largest token id in the store."""
        return self.census.largest_id

    def __getitem__(self, row: int) -> Sample:
        start, split, end = (
            self.starts[row],
            self.starts[row] + self.prompt_lengths[row],
            self.starts[row] + self.lengths[row],
        )
        return Sample(self._tokens[start:split], self._tokens[split:end], _MODES[self.modes[row]])


class StoreWriter:
    """Appends samples to a store that is not yet whole."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self._handle = open(directory / "tokens.i32", "wb")  # noqa: SIM115 - closed in finish()
        self._index: list[tuple[int, int, int, int]] = []
        self._end = 0

    def __len__(self) -> int:
        return len(self._index)

    def add(self, prompt_ids: Sequence[int], completion_ids: Sequence[int], mode: Mode) -> None:
        length = len(prompt_ids) + len(completion_ids)
        self._index.append((self._end, len(prompt_ids), length, _MODES.index(mode)))
        self._handle.write(np.asarray([*prompt_ids, *completion_ids], dtype=np.int32).tobytes())
        self._end += length

    def finish(self) -> None:
        self._handle.close()
        np.save(self.directory / "index.npy", np.asarray(self._index, dtype=np.int64).reshape(-1, 4).T)


def build_stores(
    files: Sequence[Path],
    tokenizer: ChatTokenizer,
    directory: Path,
    *,
    max_tokens: int,
    needed: int | None = None,
    is_held_out: Callable[[Row], bool] = lambda row: False,
) -> tuple[TokenStore, TokenStore]:
    """Tokenize the rows once into `directory` and open them: (training rows, held-out rows).

    Rows of more than `max_tokens` tokens and rows with an empty completion are left out and counted in the census; reading stops
    after `needed` training rows. A store already there is opened as it is. Raises DataError.
    """
    if not directory.exists():
        part = directory.with_name(directory.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        with explain_os_errors(directory):
            census = _fill(files, tokenizer, part, max_tokens, needed, is_held_out)
            write_json(part / "census.json", asdict(census))
            os.replace(part, directory)
    census = Census(**read_json(directory / "census.json"))
    return TokenStore(directory / "train", census), TokenStore(directory / "held_out", census)


def _fill(
    files: Sequence[Path],
    tokenizer: ChatTokenizer,
    part: Path,
    max_tokens: int,
    needed: int | None,
    is_held_out: Callable[[Row], bool],
) -> Census:
    census = Census(total=count_rows(files))
    train, held_out = StoreWriter(part / "train"), StoreWriter(part / "held_out")
    rows = read_rows(files)
    encode = partial(encode_row, renderer=Renderer(tokenizer))
    with (
        Progress("tokenize", census.total if needed is None else None) as progress,
        ThreadPoolExecutor(cores()) as pool,
    ):
        while block := list(itertools.islice(rows, _BLOCK_ROWS)):
            for row, (prompt_ids, completion_ids) in zip(block, pool.map(encode, block), strict=True):
                census.read += 1
                length = len(prompt_ids) + len(completion_ids)
                if not completion_ids:
                    _count(census.empty_examples, row.where)
                    census.empty += 1
                elif length > max_tokens:
                    _count(census.too_long_examples, row.where)
                    census.too_long += 1
                else:
                    census.longest = max(census.longest, length)
                    census.largest_id = max(census.largest_id, *prompt_ids, *completion_ids)
                    (held_out if is_held_out(row) else train).add(prompt_ids, completion_ids, row.mode)
                if needed is not None and len(train) >= needed:
                    break
            progress.advance(len(block))
            if needed is not None and len(train) >= needed:
                break
    train.finish()
    held_out.finish()
    census.kept, census.held_out = len(train), len(held_out)
    return census


def _count(examples: list[str], where: str) -> None:
    if len(examples) < 5:
        examples.append(where)


def encode_row(row: Row, renderer: Renderer) -> tuple[Sequence[int], Sequence[int]]:
    """Token ids of prompt and completion: those the row brings, or those of the joint text cut between the two.

    Where a token spans the cut, each text's own (preflight reports such rows).
    """
    if row.prompt_ids is not None and row.completion_ids is not None:
        return row.prompt_ids, row.completion_ids
    try:
        rendered = renderer.encode(row.input, row.output)
    except TemplateError:
        return renderer.tokenizer.encode(row.input), renderer.tokenizer.encode(row.output)
    return rendered.prompt_ids, rendered.completion_ids


def hash_share(text: str) -> float:
    """A number in [0, 1) that depends on the text only: the rows below a share are that share of all texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
