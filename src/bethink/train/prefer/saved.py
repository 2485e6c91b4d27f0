"""A reward model on disk: what was trained of the decoder, the value head, and the scale of its values.

An adapter's two files (or, of a model trained as a whole, a model's), value_head.safetensors and reward_model.json, which names the model
the adapter belongs to, and the mean and standard deviation of the values over pairs of the training run: values are given in these units,
so that the weight of such a reward means the same for every reward model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bethink.core.errors import ModelError
from bethink.core.files import write_json
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.models.lora import save_adapter
from bethink.models.save import export
from bethink.train.checkpoint import replaced_directory
from bethink.train.frame import Trained
from bethink.train.prefer.settings import SETTINGS, RewardSettings, read_settings
from bethink.train.prefer.value import RewardModel

HEAD = "value_head.safetensors"


def save_reward_model(
    trained: Trained, model: RewardModel, settings: RewardSettings, directory: Path
) -> None:
    """Write the directory, whole or not at all."""
    with replaced_directory(directory) as part:
        if trained.lora is None:
            export(trained.model, trained.located.directory, part)
        else:
            save_adapter(trained.model, trained.lora, part, trained.base)
        save_file({"value": model.value.detach().cpu().float().contiguous()}, part / HEAD)
        write_json(part / SETTINGS, settings.model_dump(mode="json"))


def load_reward_model(
    directory: Path, *, device: str | None = None, dtype: torch.dtype | None = None
) -> RewardModel:
    """The reward model in evaluation mode, its adapter merged. Raises ModelError for what is missing or does not fit together."""
    settings = read_settings(directory)
    located = locate(str(directory) if settings.base is None else f"{settings.base}+{directory}")
    model = RewardModel(load_model(located, dtype=dtype, device=device, merge=True))
    try:
        value = load_file(directory / HEAD)["value"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"the value head cannot be read: {error}", where=str(directory / HEAD)) from error
    if value.shape != model.value.shape:
        raise ModelError(
            f"the value head is for a model of width {value.shape[-1]}, not {model.value.shape[-1]}",
            where=str(directory),
            fix="train it again on this model",
        )
    model.value.data.copy_(value)
    return model.requires_grad_(False).eval()
