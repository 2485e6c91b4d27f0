"""One curation run from input to report: plan, work through the blocks, arrange, write, publish.

Everything unfinished lives in OUTPUT/.work and nothing else does; the finished files are moved out of it at the end, report.json
last, so that an output directory with a report is complete and one without is not. A run that was killed continues from the blocks it
finished and writes the bytes it would have written.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import Progress, duration, note
from bethink.core.errors import DataError, OutputError
from bethink.core.files import (
    atomic_path,
    claim_output,
    explain_os_errors,
    only_process,
    read_json,
    write_json,
)
from bethink.curate.block import Order
from bethink.curate.config import CurateConfig
from bethink.curate.filters import LABELS
from bethink.curate.limits import words_per_token
from bethink.curate.local import finish_blocks
from bethink.curate.read import Block, InputFile, find_inputs, plan_blocks
from bethink.curate.report import MEANING, Report, build_report
from bethink.curate.schema import UNREADABLE
from bethink.curate.spill import KEPT, block_path, read_block
from bethink.models.locate import locate

_WORK = ".work"
_SMALLEST_FAIR_BLOCK = 256 << 10
_BYTES_PER_ROW = 8 << 10
_REJECTS_LOOKED_AT = 10_000


def curate(config: CurateConfig) -> Report:
    """`run`, then `check`."""
    report = run(config)
    check(report, config)
    return report


def run(config: CurateConfig) -> Report:
    """Curate and write everything, or with `dry_run` only count.

    A run that is finished already is reported again. Raises DataError for inputs that cannot be used, OutputError for an output
    that exists, cannot be written or is being written by another process, ModelError and TemplateError for the tokenizer.
    """
    files = find_inputs(config.input, config.include, exclude=config.output)
    tokenizer = ChatTokenizer.load(locate(config.tokenizer, weights=False).directory)
    if config.dry_run:
        with tempfile.TemporaryDirectory(prefix="bethink-") as scratch, _explain_disk(Path(scratch)):
            return _curate(config, files, tokenizer, Path(scratch))
    _claim(config, files, tokenizer)
    finished, work = config.output / "report.json", config.output / _WORK
    with only_process(config.output, f"{_WORK}/lock"):
        if finished.exists():
            note(f"this run is finished already: {finished}")
            shutil.rmtree(work, ignore_errors=True)
            return Report.model_validate(read_json(finished))
        with _explain_disk(config.output):
            report = _curate(config, files, tokenizer, work)
            _publish(report, work / "out", config.output)
            shutil.rmtree(work)
    return report


def check(report: Report, config: CurateConfig) -> None:
    """Raise DataError for a result nobody should take for a good one: too many unreadable rows, a broken file, nothing left."""
    rejects = None if config.dry_run else str(config.output / "rejects.jsonl")
    if report.unreadable_share > config.max_bad_share:
        named = ", ".join(f"{report.reasons[name]:,} {name}" for name in UNREADABLE if report.reasons[name])
        raise DataError(
            f"{report.unreadable:,} of {report.rows.read:,} rows ({report.unreadable_share:.1%}) cannot be read, "
            f"more than --max-bad-share {config.max_bad_share:g}: {named}",
            where=rejects,
            fix="what could be read has been curated; to accept it, add --resume and a larger --max-bad-share",
        )
    if report.broken_files:
        raise DataError(
            f"{len(report.broken_files)} input file(s) could not be read to the end: {', '.join(report.broken_files[:5])}",
            where=rejects,
            fix="get the files again; what could be read has been curated",
        )
    if report.rows.read == 0:
        raise DataError("the input files hold no rows", where=", ".join(map(str, config.input)))
    if report.rows.kept == 0 and any(source["good"] for source in report.sources):
        raise _no_mix(report, config, rejects)
    if report.rows.kept == 0:
        worst = report.worst
        raise DataError(
            f"no row of {report.rows.read:,} is left; `{worst}` dropped {report.rows.dropped[worst]:,} of them "
            f"({MEANING.get(worst, 'rows that cannot be read')})",
            where=rejects,
            fix=_way_out(worst, _seen(config, worst)),
        )


def _curate(config: CurateConfig, files: Sequence[InputFile], tokenizer: ChatTokenizer, work: Path) -> Report:
    started = time.monotonic()
    plan = _plan(config, files, work)
    order = Order(
        config=config,
        tokenizer=tokenizer.directory,
        words_per_token=words_per_token(tokenizer),
        work=work,
        keep_lines=not config.dry_run,
        epoch=plan["epoch"],
    )
    blocks = _work_through(order, files, plan["block_bytes"])
    report = _arrange_and_write(order, files, blocks, tokenizer.hash)
    rows = report.rows
    note(f"{rows.read:,} rows in {duration(time.monotonic() - started)}, {rows.kept:,} kept")
    return report


def _plan(config: CurateConfig, files: Sequence[InputFile], work: Path) -> dict[str, int]:
    """What the first run in `work` settled and later ones keep to: the size of a block, and what the date is."""
    path = work / "plan.json"
    if not path.exists():
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
        # A small input is cut finer, so that all workers have something to do until the end.
        fair = _size(config, files) // (8 * config.worker_count)
        block_bytes = min(config.block_bytes, max(fair, _SMALLEST_FAIR_BLOCK))
        write_json(path, {"block_bytes": block_bytes, "epoch": epoch})
    plan: dict[str, int] = read_json(path)
    return plan


def _size(config: CurateConfig, files: Sequence[InputFile]) -> int:
    """About how many bytes of input there are to read."""
    size = sum(file.size for file in files)
    return size if config.limit is None else min(size, config.limit * _BYTES_PER_ROW)


def _work_through(order: Order, files: Sequence[InputFile], block_bytes: int) -> int:
    """Have every block of the input finished; returns how many there are. Blocks found finished are not done again."""
    config, work = order.config, order.work
    complete = work / "complete.json"
    if complete.exists():
        return int(read_json(complete)["blocks"])
    columns = [config.difficulty_field] if config.difficulty_field else []
    plan = plan_blocks(files, block_bytes, limit=config.limit, columns=columns)
    before = _Finished.find(work)
    count = 0

    def unfinished() -> Iterator[Block]:
        nonlocal count
        for block in plan:
            count += 1
            if not block_path(work, block.index).exists():
                yield block

    rows, kept, size = before.rows, before.kept, before.size
    total_size, started = _size(config, files), time.monotonic()
    workers = min(config.worker_count, max(1, -(-total_size // block_bytes)))
    try:
        with (
            Progress("curating", config.limit, done=rows) as progress,
            closing(finish_blocks(order, unfinished(), workers)) as finished,
        ):
            for done in finished:
                rows, kept, size = rows + done.rows, kept + done.kept, size + done.size
                rate = (size - before.size) / (time.monotonic() - started)
                eta = {} if config.limit else {"ETA": duration(max(total_size - size, 0) / max(rate, 1))}
                progress.advance(done.rows, kept=f"{kept:,}", dropped=f"{rows - kept:,}", **eta)
    except KeyboardInterrupt:
        if not config.dry_run:
            note(f"stopped; {_Finished.find(work).rows:,} rows are done: continue with --resume")
        raise
    write_json(complete, {"blocks": count})
    return count


class _Finished:
    """What an earlier run left done."""

    def __init__(self) -> None:
        self.rows = self.kept = self.size = 0

    @classmethod
    def find(cls, work: Path) -> _Finished:
        finished = cls()
        for path in (work / "blocks").glob("*/[0-9]*"):
            block = read_block(path)
            finished.rows += block.header.rows
            finished.kept += int((block.keys["verdict"] == KEPT).sum())
            finished.size += block.header.size
        return finished


def _arrange_and_write(order: Order, files: Sequence[InputFile], blocks: int, tokenizer_hash: str) -> Report:
    """Put the finished blocks' rows in order, write shards and rejects to WORK/out, and account for all rows."""
    from bethink.curate.curriculum import Curriculum
    from bethink.curate.gather import STRETCH_BYTES, gather, scatter, write_shards

    config, work, labels = order.config, order.work, [file.label for file in files]
    for leftover in ("keys", "stretches", "out"):  # of a run that was killed while it wrote
        shutil.rmtree(work / leftover, ignore_errors=True)
    with Curriculum(work / "keys") as curriculum:
        for index in range(blocks):
            curriculum.add(index, read_block(block_path(work, index)).keys)
        curriculum.arrange(
            dedup=config.dedup,
            sources=config.sources,
            on_per_off=config.on_per_off,
            max_samples=config.max_samples,
        )
        if config.dry_run:
            tally = scatter(work, blocks, labels, curriculum, rejects=None, cuts=[0])
            return build_report(config, tokenizer_hash, files, tally, curriculum, [])
        cuts = curriculum.cuts(STRETCH_BYTES)
        with (
            atomic_path(work / "out" / "rejects.jsonl") as path,
            open(path, "w", encoding="utf-8", newline="\n") as rejects,
        ):
            tally = scatter(work, blocks, labels, curriculum, rejects=rejects, cuts=cuts)
        kept = tally.kept.total()
        shards = write_shards(
            work / "out",
            gather(work, len(cuts) if kept else 0),
            format=config.format,
            shard_rows=config.shard_rows,
            total=kept,
        )
        return build_report(config, tokenizer_hash, files, tally, curriculum, shards)


def _publish(report: Report, finished: Path, output: Path) -> None:
    from bethink.curate.plot import draw

    draw(report, finished)
    write_json(finished / "report.json", report.model_dump(mode="json"))
    for path in sorted(finished.iterdir(), key=lambda path: path.name == "report.json"):
        os.replace(path, output / path.name)


def _claim(config: CurateConfig, files: Sequence[InputFile], tokenizer: ChatTokenizer) -> None:
    """Make the output directory this run's own, or refuse: it holds something else, or a run with other settings or inputs."""
    output = config.output
    seen = [(file.label, file.size, file.path.stat().st_mtime_ns) for file in files]
    fingerprint: dict[str, Any] = {
        **config.deciding(),
        "input": [str(path.expanduser().resolve()) for path in config.input],
        "tokenizer": tokenizer.hash,
        "input files": f"{len(files)} files, {sum(file.size for file in files):,} bytes, "
        f"{hashlib.sha256(repr(seen).encode()).hexdigest()[:12]}",
    }
    claim_output(output, resume=config.resume, fingerprint=fingerprint)


@contextmanager
def _explain_disk(output: Path) -> Iterator[None]:
    """Say in one line that the disk is full, or too little memory given, whichever library found out, and that nothing is lost."""
    import duckdb

    from bethink.curate.curriculum import MEMORY_LIMIT

    resume = "free some space, then continue with --resume"
    try:
        with explain_os_errors(output):
            yield
    except OutputError as error:
        full = "full" in error.what or "quota" in error.what
        raise OutputError(error.what, where=error.where, fix=resume if full else error.fix) from error
    except (
        duckdb.IOException,
        duckdb.TransactionException,
        duckdb.FatalException,
        duckdb.OutOfMemoryException,
    ) as error:
        said = str(error).splitlines()[0]
        # DuckDB also calls it out of memory when the disk has no room for what it moves there.
        full = os.strerror(errno.ENOSPC) in said or "temp_directory_size" in str(error)
        if isinstance(error, duckdb.OutOfMemoryException) and not full:
            raise OutputError(
                f"cannot sort so many rows in the {MEMORY_LIMIT} that are set aside for it: {said}",
                where=str(output),
                fix="curate fewer rows at a time: part of the files (--include) or the first ones (--limit), each into a new --output",
            ) from error
        what = "cannot write: the disk is full" if full else f"cannot sort: {said}"
        raise OutputError(what, where=str(output), fix=resume) from error


def _no_mix(report: Report, config: CurateConfig, rejects: str | None) -> DataError:
    """There are good rows and not one was taken: a source has none, or none of a mode that the ratio asks of it."""
    nothing = next((one["source"] for one in report.sources if one["share"] and not one["good"]), None)
    if nothing is not None:
        what = f"`{nothing}` has a share in the mix and not one good row, so nothing can be mixed"
        fix = (
            "read more: --limit takes the first rows of all inputs together"
            if config.limit
            else "look at the rejects, which say why its rows were dropped; or leave it out of --mix"
        )
    else:
        what = "no rows have both the shares of --mix and the ratio of --on-off-ratio: sources with a share lack one of the modes"
        fix = "leave one of the two out, or change it"
    return DataError(what, where=rejects, fix=fix)


def _seen(config: CurateConfig, name: str) -> str:
    """What the rows dropped by a filter had instead, the most frequent first, as far as the head of rejects.jsonl tells."""
    if config.dry_run:
        return ""
    with open(config.output / "rejects.jsonl", encoding="utf-8") as lines:
        rejects = (json.loads(line) for line in itertools.islice(lines, _REJECTS_LOOKED_AT))
        details = Counter(reject["detail"] for reject in rejects if reject["reason"] == name)
    return ", ".join(f"{detail} ({count:,})" for detail, count in details.most_common(5))


def _way_out(worst: str, seen: str) -> str:
    if worst in LABELS:
        flag = "--" + worst.replace("_", "-")
        return (
            f"choose {flag} from what the rows have"
            + (f": {seen}" if seen else "")
            + f"; `{flag} any` turns that filter off"
        )
    options = {
        "language": "--language any",
        "boxed": "--boxed any",
        "max_tokens": "--max-tokens any",
        "max_completion_tokens": "--max-completion-tokens any",
    }
    if worst in options:
        return f"look at the rejects; `{options[worst]}` turns that filter off"
    return "look at the rejects, which say for each row what was seen"
