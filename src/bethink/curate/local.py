"""Blocks on the processors of this machine.

Workers are fresh processes (spawned, so that nothing of a parent that has loaded torch comes along) which import `tokenizers`, Jinja
and fastText only. They take blocks in order, few at a time, and leave their results on disk; nothing travels back but counts. With
one worker the work is done in the caller's process. A worker whose parent is gone, however it went, ends itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from bethink.core.console import note
from bethink.core.errors import BethinkError
from bethink.curate.block import Done, Order, Workshop
from bethink.curate.read import Block

_BLOCKS_PER_WORKER = 2
_workshop: Workshop | None = None


def finish_blocks(order: Order, blocks: Iterable[Block], workers: int) -> Generator[Done]:
    """Work through `blocks`, each left on disk by a worker; yields as they get done, in any order.

    Raises what a worker raised (OutputError for a full disk), and BethinkError when one died.
    """
    if workers == 1:
        with _date_fixed(order.epoch):
            workshop = Workshop(order)
        for block in blocks:
            yield workshop.finish(block)
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start, initargs=(order,)
    )
    running: set[Future[Done]] = set()
    try:
        for block in blocks:
            running.add(pool.submit(_finish, block))
            if len(running) >= workers * _BLOCKS_PER_WORKER:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise BethinkError(
            "a worker process died; the usual reason is too little memory",
            fix="continue with --resume and fewer --workers (a script of your own needs the `if __name__ == '__main__'` guard)",
        ) from error
    except KeyboardInterrupt:
        note("stopping when the blocks at hand are finished")
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(order: Order) -> None:
    """Begin a worker's life: the terminal's Ctrl-C is for the parent, and a worker does not outlive it."""
    global _workshop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _date_fixed(order.epoch):
        _workshop = Workshop(order)


@contextmanager
def _date_fixed(epoch: int) -> Iterator[None]:
    """While a template is loaded, the date it will print is that of `epoch`."""
    name, before = "SOURCE_DATE_EPOCH", os.environ.get("SOURCE_DATE_EPOCH")
    os.environ[name] = str(epoch)
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _finish(block: Block) -> Done:
    assert _workshop is not None
    return _workshop.finish(block)
