"""Runs a recipe in a directory: skips what is done, resumes what is half done, runs the rest.

The directory holds one folder a stage, `manifest.json`, `results.json` and what the stages make. A stage is done when the manifest
says so with the fingerprint it would have now; see `stages.Prepared`.
"""

from __future__ import annotations

import ctypes
import gc
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bethink.core.config import did_you_mean
from bethink.core.console import duration, note
from bethink.core.errors import BethinkError, ConfigError, OutputError
from bethink.core.files import explain_os_errors, only_process
from bethink.recipe.environment import describe
from bethink.recipe.inputs import listed, made_by, missing_inputs
from bethink.recipe.manifest import Manifest, StageRecord, digest, load_manifest, now
from bethink.recipe.results import write_results
from bethink.recipe.schema import LoadedRecipe, Recipe
from bethink.recipe.stages import Prepared, prepare
from bethink.recipe.usage import MemoryWatch, gpu_peak_bytes


def run_recipe(
    loaded: LoadedRecipe,
    run_dir: Path,
    *,
    overrides: Sequence[str] = (),
    redo: bool = False,
    until: str | None = None,
) -> Manifest:
    """Bring every stage of the recipe to done, or those up to the stage `until`.

    redo: replace stages that were made from other settings, and what came after them; without it they are refused. Of a stage of
    which only the filters changed, the answers stay.
    Raises ConfigError for a stage that the recipe has not, OutputError for a directory that is not this recipe's to write, and whatever a stage raises.
    """
    run_dir = run_dir.absolute()
    if until is not None:
        known_stage(loaded.recipe, until)
    stages = prepare(loaded, run_dir)
    with _locked(run_dir):
        manifest = _open_manifest(loaded, run_dir, overrides)
        _settle_stale(manifest, stages, run_dir, redo=redo)
        manifest.stages = [_record_of(one, manifest) for one in stages]
        wanted = _up_to(stages, until)
        _need_inputs(loaded, manifest, wanted)
        if not all(record.state == "done" for record in manifest.stages):
            manifest.finished = None
        manifest.save(run_dir)
        for number, one in enumerate(wanted, 1):
            record = manifest.stages[number - 1]
            head = f"[{number}/{len(stages)}] {one.stage.name}"
            if record.state == "done":
                note(f"{head}: done already ({duration(record.seconds)})")
            else:
                _run_stage(one, record, manifest, run_dir, head)
                write_results(run_dir, stages)
        if manifest.finished is None and all(record.state == "done" for record in manifest.stages):
            manifest.finished = now()
            manifest.save(run_dir)
    return manifest


def known_stage(recipe: Recipe, name: str) -> None:
    """Raise ConfigError for a stage that the recipe has not."""
    names = [stage.name for stage in recipe.stages]
    if name not in names:
        raise ConfigError(f"no stage `{name}`", fix=did_you_mean(name, names, f"stages: {', '.join(names)}"))


def choose_directory(output: Path, recipe: Recipe) -> Path:
    """`output`, or the first of output-2, output-3… that is unused or holds an unfinished run of the same recipe."""
    number = 1
    while True:
        candidate = output if number == 1 else output.with_name(f"{output.name}-{number}")
        if not _occupied(candidate):
            return candidate
        manifest = load_manifest(candidate)
        if manifest and manifest.finished is None and manifest.recipe_hash == recipe_hash(recipe):
            note(f"resuming the unfinished run in {candidate}")
            return candidate
        number += 1


def recipe_hash(recipe: Recipe) -> str:
    """A hash of what the recipe does (not of its words and estimates)."""
    return digest(recipe.model_dump(mode="json", exclude={"description", "assume"}))


def _occupied(directory: Path) -> bool:
    """Whether there is anything of anybody's. A run killed before its manifest was whole, or refused, leaves hidden files alone."""
    if not directory.is_dir():
        return directory.exists()
    return any(not path.name.startswith(".") for path in directory.iterdir())


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    with explain_os_errors(run_dir):
        if run_dir.exists() and not run_dir.is_dir():
            raise OutputError(
                "the output exists and is a file", where=str(run_dir), fix="choose another --output"
            )
        if _occupied(run_dir) and load_manifest(run_dir) is None:
            raise OutputError(
                "the output directory holds something that is no run",
                where=str(run_dir),
                fix="choose another --output",
            )
    with only_process(run_dir):
        yield


def _open_manifest(loaded: LoadedRecipe, run_dir: Path, overrides: Sequence[str]) -> Manifest:
    before = load_manifest(run_dir)
    return Manifest(
        recipe=loaded.recipe.model_dump(mode="json", by_alias=True),
        recipe_hash=recipe_hash(loaded.recipe),
        source=loaded.source,
        overrides=list(overrides),
        seed=loaded.recipe.seed,
        environment=describe(),
        started=before.started if before else now(),
        finished=before.finished if before else None,
        stages=before.stages if before else [],
    )


def _settle_stale(manifest: Manifest, stages: list[Prepared], run_dir: Path, *, redo: bool) -> None:
    """Refuse, or with `redo` remove, what stages with other settings left in the directory; answers that would be asked for again just
    so are kept, and the stage goes on from them."""
    stale = []
    for one in stages:
        record = manifest.record(one.stage.name)
        if record and record.state != "pending" and record.fingerprint != one.fingerprint:
            stale.append((one, record))
    # A report is a view of the rest and costs nothing to write again.
    costly = [one.stage.name for one, _ in stale if one.stage.uses != "report"]
    refiltered = [one.stage.name for one, record in stale if one.asked and one.asked == record.asked]
    if costly and not redo:
        kept = (
            f" (the answers of {', '.join(refiltered)} are kept: only filters changed)" if refiltered else ""
        )
        raise OutputError(
            f"made from other settings or inputs: {', '.join(costly)}",
            where=str(run_dir),
            fix=f"choose another --output, or replace these stages with --redo{kept}",
        )
    for one, record in stale:
        if one.stage.name in refiltered:
            record.state = "running"
            continue
        if one.folder.is_dir():
            shutil.rmtree(one.folder)
        manifest.stages.remove(record)


def _up_to(stages: list[Prepared], until: str | None) -> list[Prepared]:
    names = [one.stage.name for one in stages]
    return stages if until is None else stages[: names.index(until) + 1]


def _need_inputs(loaded: LoadedRecipe, manifest: Manifest, stages: list[Prepared]) -> None:
    """Raise ConfigError where a stage that is still to be run would not find what it reads: before the first, not hours after."""
    done = {record.name for record in manifest.stages if record.state == "done"}
    missing = missing_inputs([one for one in stages if one.stage.name not in done])
    if not missing:
        return
    first = missing[0]
    makers = dict.fromkeys(maker for one in missing if (maker := made_by(one.path)))
    raise ConfigError(
        f"not there, and stages read it: {listed(missing)}",
        where=loaded.where((*loaded.at(loaded.recipe.stage(first.stage)), first.option)),
        fix="".join(f"`{maker}` makes it; or " for maker in makers)
        + f"name what is there: --set {first.stage}.{first.option}=…, or --set vars.NAME=… where it comes from a variable",
    )


def _record_of(one: Prepared, manifest: Manifest) -> StageRecord:
    record = manifest.record(one.stage.name) or StageRecord(name=one.stage.name, uses=one.stage.uses)
    if record.state == "done" and not one.product.exists():
        record.state = "pending"
    record.fingerprint, record.asked = one.fingerprint, one.asked
    record.options = one.config.model_dump(mode="json")
    record.inputs = one.inputs
    record.product = str(one.product)
    return record


def _run_stage(one: Prepared, record: StageRecord, manifest: Manifest, run_dir: Path, head: str) -> None:
    # A room marks its output before anything else; without the mark there is nothing in it to go on from.
    half_done = record.state == "running" and (one.folder / one.kind.claim).exists()
    if not half_done and one.folder.is_dir():
        shutil.rmtree(one.folder)
    note(f"{head}: {'resuming' if half_done else one.stage.uses}")
    record.state = "running"
    record.attempts += 1
    manifest.save(run_dir)
    gpu_peak_bytes(reset=True)
    started = time.monotonic()
    before = record.seconds
    try:
        with MemoryWatch() as watch:
            one.kind.run(one.with_resume() if half_done else one.config)
        record.state = "done"
        record.finished = now()
    except BethinkError as error:
        if error.fix and "--" in error.fix:
            error.fix += (
                f"; in this run an option is --set {one.stage.name}.OPTION=VALUE, and it resumes by itself"
            )
        raise
    finally:
        record.seconds = round(before + time.monotonic() - started, 3)
        record.peak_memory_bytes = max(record.peak_memory_bytes, watch.peak_bytes)
        record.peak_gpu_bytes = max(record.peak_gpu_bytes, gpu_peak_bytes())
        manifest.save(run_dir)
        _release_memory()


def _release_memory() -> None:
    """A stage's model must be gone, and its memory back with the system, before the next one loads its own."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what is freed unless it is told
    if trim is not None:
        trim(0)
