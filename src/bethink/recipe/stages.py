"""The kinds of stage, and what the runner must know of each: its config model, how to start it, and what it makes.

The options of a stage are the room's own config model; nothing is described twice. The runner gives `output`, and `seed`,
`name` (the stage's) and `resume` where the room has them. Rooms are imported when a stage is first looked at.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bethink.core.config import StrictModel, validate
from bethink.core.errors import ConfigError
from bethink.core.files import CLAIM
from bethink.recipe.manifest import digest, input_hashes
from bethink.recipe.schema import LoadedRecipe, Stage, references, resolve

GIVEN = ("output", "resume")
"""Options that only the runner sets."""


def _all(config: StrictModel) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=set(GIVEN))


@dataclass(frozen=True)
class StageKind:
    """config: the room's model (imported on demand); run: does the work; product: what a later stage's `${stages.NAME}` means;
    reads: the options that name files; deciding: those that decide its bytes, as the room sees it, as JSON values. claim: the file the
    room marks its output with before anything else. filters: the deciding options that leave the answers it asked for as they are:
    where only they changed, a redo resumes from those answers."""

    config: Callable[[], type[StrictModel]]
    run: Callable[[Any], object]
    product: Callable[[Path, Any], Path]
    reads: tuple[str, ...] = ()
    deciding: Callable[[Any], dict[str, Any]] = _all
    claim: str = CLAIM
    filters: Callable[[], Collection[str]] = frozenset


class ReportConfig(StrictModel):
    """examples: how many questions are shown with outputs side by side; every: each evaluated model's, not the first's and last's alone."""

    output: Path
    examples: int = 4
    every: bool = False


def _filters() -> Collection[str]:
    filters: frozenset[str] = importlib.import_module("bethink.sample.config").FILTERS
    return filters


def _config(module: str, name: str) -> Callable[[], type[StrictModel]]:
    def load() -> type[StrictModel]:
        model: type[StrictModel] = getattr(importlib.import_module(f"bethink.{module}"), name)
        return model

    return load


def _run(module: str, name: str) -> Callable[[Any], object]:
    def run(config: Any) -> object:
        return getattr(importlib.import_module(f"bethink.{module}"), name)(config)

    return run


def _all_but(module: str, name: str) -> Callable[[Any], dict[str, Any]]:
    def deciding(config: StrictModel) -> dict[str, Any]:
        free = getattr(importlib.import_module(f"bethink.{module}"), name)
        return config.model_dump(mode="json", exclude={*GIVEN, *free})

    return deciding


def _report(config: ReportConfig) -> None:
    from bethink.recipe.report import write_report

    write_report(config.output.parent, examples=config.examples, every=config.every)


def _trainer(room: str, config: str, run: str, *reads: str) -> StageKind:
    """A stage that trains: its options are a `train.config.TrainingConfig`, and `reads` those of them that name files."""
    return StageKind(
        config=_config(f"train.{room}.config", config),
        run=_run(f"train.{room}.run", run),
        product=lambda _, config: config.product,
        reads=("model", *reads),
        deciding=lambda config: config.deciding(),
    )


KINDS: dict[str, StageKind] = {
    "synthesize": StageKind(
        config=_config("curate.synthesize", "SynthesizeConfig"),
        run=_run("curate.synthesize", "synthesize"),
        product=lambda folder, _: folder / "rows.jsonl",
        reads=("task",),
    ),
    "corpus": StageKind(
        config=_config("curate.corpus", "CorpusConfig"),
        run=_run("curate.corpus", "write_corpus"),
        product=lambda folder, _: folder / "texts.jsonl",
        reads=("task",),
    ),
    "curate": StageKind(
        config=_config("curate.config", "CurateConfig"),
        run=_run("curate.pipeline", "curate"),
        product=lambda folder, _: folder,
        reads=("input", "tokenizer"),
        deciding=lambda config: config.deciding(),
    ),
    "sft": _trainer("sft", "SFTConfig", "run_sft", "data", "eval_data"),
    "pretrain": _trainer("pretrain", "PretrainConfig", "run_pretrain", "data", "tokenizer"),
    "distill": _trainer("distill", "DistillConfig", "run_distill", "teacher", "data", "tasks", "eval_data"),
    "prefer": _trainer("prefer", "PreferConfig", "run_prefer", "adapter", "data", "answers", "eval_data"),
    "grpo": _trainer("rl", "GRPOConfig", "run_grpo", "adapter", "tasks", "eval_tasks", "pass_rates"),
    "sample": StageKind(
        config=_config("sample.config", "SampleConfig"),
        run=_run("sample.run", "run_sample"),
        product=lambda folder, _: folder,
        reads=("model", "adapter", "tasks", "exclude"),
        deciding=_all_but("evaluate.runner", "FREE"),
        claim=f"answers/{CLAIM}",
        filters=_filters,
    ),
    "eval": StageKind(
        config=_config("evaluate.config", "EvalConfig"),
        run=_run("evaluate.runner", "run_eval"),
        product=lambda folder, _: folder,
        reads=("model", "adapter", "tasks", "exclude"),
        deciding=_all_but("evaluate.runner", "FREE"),
    ),
    "compare": StageKind(
        config=_config("evaluate.compare", "CompareConfig"),
        run=_run("evaluate.compare", "run_compare"),
        product=lambda folder, _: folder,
        reads=("a", "b"),
    ),
    "report": StageKind(
        config=lambda: ReportConfig,
        run=_report,
        product=lambda folder, _: folder.parent / "report.html",
    ),
}


@dataclass(frozen=True)
class Prepared:
    """A stage ready to run.

    fingerprint: hash of everything that decides its bytes: its options, its outside inputs, and the fingerprints of the stages it
    reads. asked: hash of what of that decides the answers it asks for; empty where it keeps none apart from what it makes of them.
    inputs: hashes of the files outside the run that it reads.
    """

    stage: Stage
    folder: Path
    config: StrictModel
    product: Path
    fingerprint: str
    asked: str
    inputs: dict[str, str]

    @property
    def kind(self) -> StageKind:
        return KINDS[self.stage.uses]

    def with_resume(self) -> StrictModel:
        """The config that continues what is already in the folder."""
        if "resume" not in type(self.config).model_fields:
            return self.config
        return self.config.model_copy(update={"resume": True})


def prepare(loaded: LoadedRecipe, run_dir: Path) -> list[Prepared]:
    """Check every stage's options against its room and fix where everything will be. Touches no file of the run.

    Raises ConfigError with the line of the fault.
    """
    ready: dict[str, Prepared] = {}
    for stage in loaded.recipe.stages:
        ready[stage.name] = _prepare_stage(loaded, stage, run_dir, ready)
    return list(ready.values())


def _prepare_stage(
    loaded: LoadedRecipe, stage: Stage, run_dir: Path, earlier: dict[str, Prepared]
) -> Prepared:
    at = loaded.at(stage)
    folder = run_dir / stage.name
    kind = KINDS[stage.uses]
    model = kind.config()
    for key in GIVEN:
        if key in stage.options:
            raise ConfigError(
                f"stage `{stage.name}`: `{key}` is set by the run", where=loaded.where((*at, key))
            )

    def path_of(name: str) -> Any:
        space, _, key = name.partition(".")
        return loaded.recipe.vars[key] if space == "vars" else str(earlier[key].product)

    def identity_of(name: str) -> Any:
        space, _, key = name.partition(".")
        return loaded.recipe.vars[key] if space == "vars" else f"${{{earlier[key].fingerprint}}}"

    options = resolve(stage.options, path_of)
    given: dict[str, Any] = {"output": str(folder)}
    if "seed" in model.model_fields:
        given["seed"] = loaded.recipe.seed
    if "name" in model.model_fields:
        given["name"] = stage.name
    config = validate(model, {**given, **options}, name=loaded.source, lines=dict(loaded.lines), at=at)

    # What another stage makes is known by that stage's fingerprint, and is no file of the outside.
    identity = kind.deciding(config)
    referring = {str(path[0]) for path, name in references(stage.options) if name.startswith("stages.")}
    identity |= {key: resolve(stage.options[key], identity_of) for key in referring & identity.keys()}
    inputs = input_hashes([identity[key] for key in kind.reads])
    filters = kind.filters()
    asked = {key: value for key, value in identity.items() if key not in filters}
    before = [one.fingerprint for one in earlier.values()] if stage.uses == "report" else []
    return Prepared(
        stage=stage,
        folder=folder,
        config=config,
        product=kind.product(folder, config),
        fingerprint=digest([stage.uses, identity, inputs, before]),
        asked=digest([stage.uses, asked, inputs]) if filters else "",
        inputs=inputs,
    )
