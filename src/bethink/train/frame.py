"""What every training run does around its loop: claims its output, loads what is trained, saves it, says what came out.

A trainer's run.py puts its own parts between these. Knows no method and no data.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.console import note
from bethink.core.errors import ConfigError, DataError, ModelError
from bethink.core.files import claim_output, read_object, sha256_file, write_json
from bethink.models.adapter_files import WEIGHTS, read_adapter_config
from bethink.models.load import lay_out, load_model
from bethink.models.locate import ModelFiles
from bethink.models.lora import LoRAConfig, add_lora, load_adapter, lora_layers, save_adapter
from bethink.models.machine import torch_dtype
from bethink.models.prepacked import Decisions, decide_by, rearrange_frozen
from bethink.models.save import export
from bethink.train.checkpoint import replaced_directory
from bethink.train.config import RunConfig, TrainingConfig
from bethink.train.loop import LoopConfig
from bethink.train.metrics import read_metrics
from bethink.train.optimizer import round_compute_copies


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run left: the adapter's or model's directory, the steps done, and the last line of its metrics."""

    path: Path
    steps: int
    last: dict[str, Any]


@contextmanager
def claimed_output(
    config: RunConfig,
    models: Sequence[ModelFiles],
    files: Mapping[str, Sequence[Path]],
    identities: Sequence[Any] = (),
) -> Iterator[None]:
    """Make the output this run's own, and write config.json; within, what cannot be used leaves it free for the next try.

    models: what the run loads; files: what it reads, by the option that names them; identities: of models that it may use without their
    files (`model_identity`). A resumed run must find the same.
    Raises OutputError.
    """
    settings = config.deciding() | {
        f"{name}_sha256": [sha256_file(path) for path in paths] for name, paths in files.items()
    }
    loaded = [identity for located in models for identity in model_identity(located)]
    settings["model_files"] = [*loaded, *identities]
    claim_output(config.output, resume=config.resume, fingerprint=settings)
    try:
        if not config.product.exists():
            write_json(config.output / "config.json", config.model_dump(mode="json", exclude={"resume"}))
        yield
    except (ConfigError, DataError, ModelError):
        if not config.resume and not config.begun:
            shutil.rmtree(config.output)
        raise


def model_identity(located: ModelFiles) -> Iterator[list[Any]]:
    """Names and sizes of a model's weights, the content of its adapter's."""
    for path in sorted(located.directory.glob("*.safetensors")):
        yield [path.name, path.stat().st_size]
    if located.adapter is not None:
        yield [WEIGHTS, sha256_file(located.adapter / WEIGHTS)]


def finished(config: RunConfig) -> TrainResult | None:
    """What an earlier process of the run left, if it came to the end."""
    if not config.product.exists():
        return None
    note(f"this run is finished: {config.product}")
    return result(config)


def result(config: RunConfig) -> TrainResult:
    """What the run left."""
    last = read_metrics(config.output / "metrics.jsonl")[-1]
    return TrainResult(config.product, last["step"], last)


@dataclass(frozen=True, slots=True)
class Trained:
    """A model with what is trained marked so.

    masters: float32 masters of parameters that compute in a narrower format. lora: its adapter's settings; None where all is trained.
    base: what the adapter belongs to, as the user named it.
    """

    model: PreTrainedModel
    masters: Mapping[str, Tensor]
    lora: LoRAConfig | None
    located: ModelFiles
    base: str

    def save(self, config: RunConfig) -> None:
        """Write the adapter, or the model, whole or not at all."""
        with replaced_directory(config.product) as part:
            if self.lora is None:
                export(self.model, self.located.directory, part)
            else:
                save_adapter(self.model, self.lora, part, self.base)


def load_whole(config: RunConfig, located: ModelFiles, device: torch.device) -> Trained:
    """A model of which all weights are trained; an adapter that came with it is merged."""
    model: PreTrainedModel = load_model(located, dtype=torch.float32, device=str(device), merge=True)
    model.requires_grad_(True)
    _decide_copies(config, model)
    masters = round_compute_copies(model, torch_dtype(config.dtype, str(device)))
    return Trained(model, masters, None, located, located.name)


def load_on(config: TrainingConfig, located: ModelFiles, device: torch.device) -> Trained:
    """What the options name: all weights, an adapter merged into them; else the adapter that came with the model, or a new one."""
    if config.full:
        return load_whole(config, located, device)
    dtype = torch_dtype(config.dtype, str(device))
    model: PreTrainedModel = load_model(located, dtype=dtype, device=str(device))
    base, lora = located.name, config.lora
    if located.adapter is None:
        add_lora(model, lora, config.seed)
    else:
        base = base.rpartition("+")[0]
        dropout = config.lora.dropout  # this run's, not that of the run it comes from
        settings = read_adapter_config(located.adapter).lora(lora_layers(model))
        lora = settings.model_copy(update={"dropout": dropout})
        for layer in lora_layers(model).values():
            layer.dropout = dropout
    _decide_copies(config, model)
    rearrange_frozen(model)
    return Trained(model, {}, lora, located, base)


def lay_out_on(config: TrainingConfig, located: ModelFiles, device: torch.device) -> PreTrainedModel:
    """The model of `load_on` without its weights, for what can be known before they are read."""
    model = lay_out(located, torch_dtype(config.dtype, str(device)))
    if config.full:
        model.requires_grad_(True)
        return model
    with torch.device("meta"):
        if located.adapter is None:
            add_lora(model, config.lora, config.seed)
        else:
            load_adapter(model, located.adapter)
    return model


def _decide_copies(config: RunConfig, model: PreTrainedModel) -> None:
    """Have the model's further copies decided once in a run: the decisions stay in the output for the processes that resume it."""
    kept = config.output / ".copies.json"
    made = read_object(kept) if config.begun and kept.exists() else {}
    decide_by(model, Decisions(made, keep=lambda decisions: write_json(kept, dict(decisions))))


def loop_config(config: RunConfig, steps: int, eval_every: int = 0) -> LoopConfig:
    """The loop's part of the options."""
    shared = config.model_dump(include=set(LoopConfig.model_fields) - {"steps", "eval_every"})
    return LoopConfig(steps=steps, eval_every=eval_every, **shared)


def capacity_of(config: RunConfig, device: torch.device) -> int:
    """Tokens in a packed row."""
    return config.tokens_per_microbatch or default_capacity(device)


def default_capacity(device: torch.device) -> int:
    """Tokens in a packed row unless told: enough to keep the device busy, little enough to fit."""
    return 16_384 if device.type == "cuda" else 1_024
