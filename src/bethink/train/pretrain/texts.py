"""Texts to learn from as they stand in files, and as token ids on disk.

A .txt file is one text; a row of a .jsonl or .parquet file holds one in a field of the user's naming, or a conversation in `messages`,
which is written by the tokenizer's chat template. A text ends with the tokenizer's end token. What is longer than the context is cut
into pieces; each begins with the last token of the one before, so that every token but a text's first is learned once.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import Progress
from bethink.core.errors import DataError
from bethink.core.files import explain_os_errors, read_json, read_jsonl, write_json
from bethink.models.machine import cores
from bethink.tasks.problem import Message
from bethink.train.token_store import Census, StoreWriter, TokenStore, hash_share

_KINDS = (".txt", ".jsonl", ".parquet")
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Text:
    """One text, or one conversation. where: its file, and the line or row."""

    content: str | Sequence[Message]
    where: str

    @property
    def words(self) -> str:
        """What it says, without the form of a conversation."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(message["content"] for message in self.content)


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The files, those of directories in order of their names. Raises DataError when there are none, or one cannot be read."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix in _KINDS) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"no {', '.join(_KINDS)} files in the directory", where=str(path))
        found += inside
    for path in found:
        if not path.is_file():
            raise DataError(
                "no such file or directory", where=str(path), fix="give --data files or directories of texts"
            )
        if path.suffix not in _KINDS:
            raise DataError(
                f"cannot read `{path.suffix}` files", where=str(path), fix=f"give {', '.join(_KINDS)}"
            )
    return found


def read_texts(files: Sequence[Path], field: str) -> Iterator[Text]:
    """The texts in file order, empty ones left out. Raises DataError with file and line for a row that holds none."""
    for path in files:
        for where, content in _contents(path, field):
            text = Text(content, where)
            if text.words.strip():
                yield text


def _contents(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".txt":
        try:
            yield str(path), path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"not valid UTF-8: {error}", where=str(path)) from error
        return
    rows = read_jsonl(path) if path.suffix == ".jsonl" else _parquet_rows(path)
    for number, row in enumerate(rows, 1):
        where = f"{path}:{number}"
        yield where, _conversation(row["messages"], where) if "messages" in row else _text(row, field, where)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=_BLOCK):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"not a readable parquet file: {error}", where=str(path)) from error


def _text(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        said = (
            f"`{field}` is {type(value).__name__}, not text"
            if field in row
            else f"no `{field}` and no `messages`"
        )
        raise DataError(
            f"{said} (the row has: {', '.join(row)})", where=where, fix="name the column with --field"
        )
    return value


def _conversation(value: Any, where: str) -> list[Message]:
    ok = isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in value
    )
    if not ok:
        raise DataError("`messages` is no list of objects with `role` and `content` texts", where=where)
    return [{"role": one["role"], "content": one["content"]} for one in value]


def build_text_stores(
    files: Sequence[Path],
    tokenizer: ChatTokenizer,
    directory: Path,
    *,
    field: str,
    context: int,
    held_out: float,
    max_held_out: int,
) -> tuple[TokenStore, TokenStore]:
    """Tokenize the texts once into `directory` and open them: (to train on, held out).

    held_out: the share of texts held out, by a hash of what they say, until there are `max_held_out`. Stores already there are opened as
    they are. Raises DataError.
    """
    if not directory.exists():
        part = directory.with_name(directory.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        with explain_os_errors(directory):
            census = Census()
            train, kept_back = StoreWriter(part / "train"), StoreWriter(part / "held_out")
            for text, ids in _tokenized(read_texts(files, field), tokenizer):
                census.read += 1
                census.largest_id = max(census.largest_id, *ids)
                back = hash_share(text.words) < held_out and len(kept_back) < max_held_out
                for piece in _pieces(ids, context):
                    census.longest = max(census.longest, len(piece))
                    (kept_back if back else train).add(piece[:1], piece[1:], Mode.OFF)
            train.finish()
            kept_back.finish()
            census.total, census.kept, census.held_out = census.read, len(train), len(kept_back)
            write_json(part / "census.json", asdict(census))
            os.replace(part, directory)
    census = Census(**read_json(directory / "census.json"))
    return TokenStore(directory / "train", census), TokenStore(directory / "held_out", census)


def _tokenized(texts: Iterator[Text], tokenizer: ChatTokenizer) -> Iterator[tuple[Text, list[int]]]:
    end = tokenizer.stop_ids[-1]

    def encode(text: Text) -> list[int]:
        if isinstance(text.content, str):
            return [*tokenizer.encode(text.content), end]
        ids = tokenizer.encode(tokenizer.render(text.content, add_generation_prompt=False))
        return ids if ids[-1] == end else [*ids, end]

    with Progress("tokenize", None, unit="texts") as progress, ThreadPoolExecutor(cores()) as pool:
        while block := list(itertools.islice(texts, _BLOCK)):
            yield from zip(block, pool.map(encode, block), strict=True)
            progress.advance(len(block))


def _pieces(ids: list[int], context: int) -> Iterator[list[int]]:
    for start in range(0, max(len(ids) - 1, 1), context - 1):
        piece = ids[start : start + context]
        if len(piece) > 1:
            yield piece
