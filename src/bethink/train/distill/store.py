"""What a teacher said of rows when it was asked once: the likeliest tokens of every learned position, on disk.

A teacher too large to stand beside the student in training goes over the rows by itself and is let go of; the student learns from the file,
as many times as one likes. For each learned token, one row after the other, the file holds the ids of the k likeliest tokens (int32), their
log-probabilities and that of all other tokens together (float16; target.py says what that is for): 6k + 2 bytes a token.
Rounding to float16 moves a probability by less than half a percent; what is read is made to add up to 1 again.

A store is whole or absent: what is not yet whole lies in `NAME.part`, from which an interrupted pass goes on.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bethink.core.console import Progress
from bethink.core.errors import OutputError
from bethink.core.files import explain_os_errors, read_json, read_object, sha256_file, write_json
from bethink.train.batch import PackedBatch, packed_batches
from bethink.train.distill.target import Target, TargetOf, coarsened
from bethink.train.distill.teacher import Asked, StoppedError
from bethink.train.memory import chunk_tokens
from bethink.train.token_store import TokenStore

_IDS, _LOGPROBS, _DONE = "token_ids.i32", "logprobs.f16", "done.json"
_STAMP = "fingerprint.json"
_SAID = frozenset({"name", "tokens", "by_layer"})
"""Of the stamp: the teacher's name and a hash of its tokens, for machines without its files; how it was read, as a resumed pass goes on."""
_BLOCK_ROWS = 64
_SAVE_SECONDS = 10.0


class StoredTeacher:
    """A whole store of `tokens` learned tokens, k of the teacher's likeliest each. Memory-mapped: only what is asked for is read."""

    def __init__(self, directory: Path, tokens: int, k: int) -> None:
        self.directory = directory
        self._token_ids = _mapped(directory / _IDS, np.int32, (tokens, k))
        self._logprobs = _mapped(directory / _LOGPROBS, np.float16, (tokens, k + 1))

    def targets(self, batch: PackedBatch, place_N: Tensor) -> TargetOf:
        """See `Told`."""
        found = self.at(place_N.cpu().numpy(), place_N.device)
        token_ids_NK, logprob_NO = found.token_ids_CK, found.logprob_CO
        assert token_ids_NK is not None
        return lambda part: Target(logprob_NO[part], token_ids_NK[part])

    def at(self, place_N: np.ndarray[Any, Any], device: torch.device) -> Target:
        """What the teacher said at these places."""
        token_ids_NK = torch.from_numpy(self._token_ids[place_N]).to(device, torch.int64)
        # float16 has moved the sum away from 1 by a little.
        logprob_NO = torch.from_numpy(self._logprobs[place_N]).to(device, torch.float32).log_softmax(1)
        return Target(logprob_NO, token_ids_NK)


def _mapped(path: Path, dtype: Any, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    there, whole = path.stat().st_size if path.exists() else 0, math.prod(shape) * np.dtype(dtype).itemsize
    if there != whole:
        raise OutputError(
            f"the teacher's store is damaged: {there:,} bytes of {whole:,}",
            where=str(path),
            fix="copy it again, or remove it and ask the teacher again",
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=shape) if shape[0] else np.zeros(shape, dtype)


def learned_starts(rows: TokenStore) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each row's completion begins among all learned tokens, and at the end how many there are [rows + 1]."""
    return np.concatenate([[0], np.cumsum(rows.lengths - rows.prompt_lengths)]).astype(np.int64)


def rows_fingerprint(rows: TokenStore) -> list[str]:
    """What decides the tokens of rows and their order."""
    return [sha256_file(rows.directory / name) for name in ("tokens.i32", "index.npy")]


def bytes_needed(tokens: int, k: int) -> int:
    """The size of a store."""
    return tokens * (6 * k + 2)


def read_stamp(directory: Path) -> dict[str, Any]:
    """What a store says it is of; nothing where it says nothing."""
    stamp = directory / _STAMP
    return read_object(stamp) if stamp.exists() else {}


def claim_store(directory: Path, fingerprint: dict[str, Any], said: dict[str, Any] | None = None) -> None:
    """Make `directory` the store of this teacher and these rows, or refuse one that is of others.

    said: what is kept in the stamp beside the fingerprint and may differ another time (`_SAID`). Raises OutputError.
    """
    if before := {k: v for k, v in read_stamp(directory).items() if k not in _SAID}:
        if differing := sorted(k for k in {*before, *fingerprint} if before.get(k) != fingerprint.get(k)):
            raise OutputError(
                f"what the teacher said there was of another kind: {', '.join(differing)} differ",
                where=str(directory),
                fix="choose another --teacher-store, or give the same teacher, --store-teacher and --temperature, and the same rows: "
                "--data, --eval-data, --held-out and --max-tokens decide them, and --steps, --batch-size and --epochs how many are read",
            )
        return
    if directory.exists() and any(not path.name.startswith(".") for path in directory.iterdir()):
        raise OutputError(
            "the teacher's store holds something else",
            where=str(directory),
            fix="choose another --teacher-store",
        )
    add_to_stamp(directory, {**(said or {}), **fingerprint})


def add_to_stamp(directory: Path, entries: dict[str, Any]) -> None:
    """Let the store say more of itself."""
    write_json(directory / _STAMP, read_stamp(directory) | entries)


@dataclass(frozen=True, slots=True)
class Part:
    """One store of several that are filled together: its name in the directory, and the rows."""

    directory: Path
    rows: TokenStore

    @property
    def tokens(self) -> int:
        """Learned tokens in all."""
        return int(learned_starts(self.rows)[-1])

    @property
    def whole(self) -> bool:
        """Whether nothing is left to do."""
        return self.directory.exists()

    @property
    def unfinished(self) -> Path:
        """Where it grows until it is whole."""
        return self.directory.with_name(f"{self.directory.name}.part")

    @property
    def done_rows(self) -> int:
        """Rows that are on disk for certain."""
        if self.whole:
            return len(self.rows)
        done = self.unfinished / _DONE
        return int(read_json(done)["rows"]) if done.exists() else 0

    @property
    def done_tokens(self) -> int:
        """Learned tokens of those."""
        return int(learned_starts(self.rows)[self.done_rows])

    def open(self, k: int) -> StoredTeacher:
        """The whole store."""
        return StoredTeacher(self.directory, self.tokens, k)


def fill(
    part: Part,
    teacher: Asked,
    k: int,
    *,
    capacity: int,
    progress: Progress,
    interrupted: Callable[[], bool],
) -> None:
    """Ask the teacher about every row of `part` that is left.

    capacity: tokens in a packed row; interrupted: asked after each block of rows; when it says yes what is done is kept for the next
    call; so it is when the teacher itself stops in the middle of a block. Going on where an earlier process stopped gives the bytes it would have given. Raises OutputError.
    """
    unfinished, starts = part.unfinished, learned_starts(part.rows)
    with explain_os_errors(unfinished):
        unfinished.mkdir(parents=True, exist_ok=True)
        done = part.done_rows
        with open(unfinished / _IDS, "ab") as ids, open(unfinished / _LOGPROBS, "ab") as logprobs:
            ids.truncate(starts[done] * 4 * k)
            logprobs.truncate(starts[done] * 2 * (k + 1))
            saved = time.monotonic()
            while done < len(part.rows):
                end = _block_end(part.rows, done, teacher.tokens_at_once)
                try:
                    token_ids_MK, logprob_MO = _ask(
                        teacher, part.rows, range(done, end), k, capacity, interrupted
                    )
                except StoppedError:
                    return
                ids.write(token_ids_MK.tobytes())
                logprobs.write(logprob_MO.tobytes())
                progress.advance(len(token_ids_MK))
                done, stop = end, interrupted()
                if stop or done == len(part.rows) or time.monotonic() - saved > _SAVE_SECONDS:
                    for handle in (ids, logprobs):
                        handle.flush()
                        os.fsync(handle.fileno())
                    write_json(unfinished / _DONE, {"rows": done})
                    saved = time.monotonic()
                if stop and done < len(part.rows):
                    return
        os.replace(unfinished, part.directory)


def require_space(directory: Path, needed: int) -> None:
    """Raise OutputError where the disk has too little room for so many more bytes."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OutputError(
            f"what the teacher says takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
            where=str(directory),
            fix="lower --store-teacher, or put --teacher-store on another disk",
        )


def _block_end(rows: TokenStore, start: int, tokens: int) -> int:
    """Where the rows end that are asked about together: whole blocks, more of them while they have no more than so many tokens."""
    end = min(start + _BLOCK_ROWS, len(rows))
    total = int(rows.lengths[start:end].sum())
    while end < len(rows):
        further = min(end + _BLOCK_ROWS, len(rows))
        total += int(rows.lengths[end:further].sum())
        if total > tokens:
            break
        end = further
    return end


def _ask(
    teacher: Asked,
    rows: TokenStore,
    chosen: range,
    k: int,
    capacity: int,
    interrupted: Callable[[], bool],
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The likeliest tokens [M, k] and log-probabilities [M, k + 1] at all learned positions of the chosen rows.

    Rows are packed block by block, so that what is asked about together does not matter.
    """
    batches: list[PackedBatch] = []
    places: list[np.ndarray[Any, Any]] = []
    count = 0
    for start in range(chosen.start, chosen.stop, _BLOCK_ROWS):
        samples = [rows[i] for i in range(start, min(start + _BLOCK_ROWS, chosen.stop))]
        for batch in packed_batches(samples, capacity):
            batches.append(batch)
            places.append(batch.source_N.numpy() + count)
        count += sum(len(sample.completion_ids) for sample in samples)
    token_ids_MK, logprob_MO = np.empty((count, k), np.int32), np.empty((count, k + 1), np.float16)
    chunk = chunk_tokens(teacher.device.type)
    for place_N, hidden_ND in zip(places, teacher.hidden_states(batches, interrupted), strict=True):
        for start in range(0, len(hidden_ND), chunk):
            said = coarsened(teacher.logprobs(hidden_ND[start : start + chunk]), k)
            assert said.token_ids_CK is not None
            place_C = place_N[start : start + chunk]
            token_ids_MK[place_C] = said.token_ids_CK.cpu().numpy()
            logprob_MO[place_C] = said.logprob_CO.cpu().numpy()
    return token_ids_MK, logprob_MO
