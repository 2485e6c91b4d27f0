"""Tokenized pairs on disk, and what the policy said of them before training.

A pair is two rows of a token store (token_store.py), the chosen completion's and the rejected one's, so that memory stays flat however
many there are. The reference's log-probabilities are two numbers a pair, computed once before the first step and kept beside them: the
reference itself is never needed again.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bethink.chat.toggle import Mode
from bethink.core.console import Progress
from bethink.core.files import atomic_path, explain_os_errors, read_json, write_json
from bethink.models.machine import cores
from bethink.train.prefer.pairs import PairRenderer, PairRow
from bethink.train.prefer.scores import Pair
from bethink.train.token_store import Census, StoreWriter, TokenStore

_BLOCK_PAIRS = 512
_EXAMPLES = 5


@dataclass(slots=True)
class PairCensus:
    """What happened to the pairs on their way in.

    dropped: by reason (`same`: both completions are one; `empty`: one has no token; `too_long`: one is longer than allowed, prompt
    included; `unrendered`: an answer does not survive the template); examples: where the first few of them stand. tokens: of the pairs
    kept, prompts counted once; longest: tokens of the longest pair. on, chosen_longer: pairs that think, pairs whose chosen completion is
    the longer one.
    """

    read: int = 0
    kept: int = 0
    held_out: int = 0
    tokens: int = 0
    longest: int = 0
    largest_id: int = -1
    on: int = 0
    chosen_longer: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


class PairStore:
    """Tokenized pairs in a memory-mapped file: `store[i]` is (chosen, rejected), two samples with one prompt."""

    def __init__(self, directory: Path) -> None:
        self._rows = TokenStore(directory, Census())
        self.directory = directory

    def __len__(self) -> int:
        return len(self._rows) // 2

    def __getitem__(self, pair: int) -> Pair:
        return self._rows[2 * pair], self._rows[2 * pair + 1]


def build_pairs(
    rows: Callable[[], Iterable[PairRow]],
    renderer: PairRenderer,
    directory: Path,
    *,
    max_tokens: int,
    is_held_out: Callable[[PairRow], bool] = lambda row: False,
) -> tuple[PairStore, PairStore, PairCensus]:
    """Tokenize the pairs that `rows` reads once into `directory` and open them: (training pairs, held-out pairs, census).

    Pairs that cannot be learned from are left out and counted. A store already there is opened as it is. Raises DataError.
    """
    if not directory.exists():
        part = directory.with_name(directory.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        with explain_os_errors(directory):
            census = _fill(rows(), renderer, part, max_tokens, is_held_out)
            write_json(part / "census.json", asdict(census))
            os.replace(part, directory)
    census = PairCensus(**read_json(directory / "census.json"))
    return PairStore(directory / "train"), PairStore(directory / "held_out"), census


def _fill(
    rows: Iterable[PairRow],
    renderer: PairRenderer,
    part: Path,
    max_tokens: int,
    is_held_out: Callable[[PairRow], bool],
) -> PairCensus:
    census, dropped = PairCensus(), Counter[str]()
    train, held_out = StoreWriter(part / "train"), StoreWriter(part / "held_out")
    left = iter(rows)
    with Progress("tokenize", None, unit="pairs") as progress, ThreadPoolExecutor(cores()) as pool:
        while block := list(itertools.islice(left, _BLOCK_PAIRS)):
            for row, pair in zip(block, pool.map(renderer.ids, block), strict=True):
                census.read += 1
                reason = "unrendered" if pair is None else pair.fault(max_tokens)
                if pair is None or reason is not None:
                    dropped[str(reason)] += 1
                    if len(census.examples) < _EXAMPLES:
                        census.examples.append(row.where)
                    continue
                chosen, rejected = pair.chosen_ids, pair.rejected_ids
                census.tokens += len(pair)
                census.longest = max(census.longest, len(pair))
                census.largest_id = max(census.largest_id, *pair.prompt_ids, *chosen, *rejected)
                census.on += row.mode is Mode.ON
                census.chosen_longer += len(chosen) > len(rejected)
                target = held_out if is_held_out(row) else train
                for completion in (chosen, rejected):
                    target.add(pair.prompt_ids, completion, row.mode)
            progress.advance(len(block))
    train.finish()
    held_out.finish()
    census.kept, census.held_out = len(train) // 2, len(held_out) // 2
    census.dropped = dict(sorted(dropped.items()))
    return census


def kept_scores(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """The scores [P, 2] that `compute` gives, computed once: written whole to `path`, and read from there by a resumed run."""
    if not path.exists():
        found_P2 = compute().numpy().astype(np.float32)
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, found_P2)
    return torch.from_numpy(np.load(path))
