"""What a reward model says of itself, beside its weights. Imports no torch, so that a plan can read it."""

from __future__ import annotations

from pathlib import Path

from bethink.core.config import StrictModel, validate
from bethink.core.errors import ConfigError, DataError, ModelError
from bethink.core.files import read_object

REWARD = "preference"
"""The reward that a reward model gives: `preference=0.5:model=DIR`."""

SETTINGS = "reward_model.json"


class RewardSettings(StrictModel):
    """reward_model.json.

    base: the model that the adapter belongs to; None where the directory holds the whole model. mean, std: of the values. tokenizer: the
    hash of the tokenizer and template it was trained with (`ChatTokenizer.hash`). accuracy: the share of held-out pairs it orders right.
    """

    base: str | None
    mean: float
    std: float
    tokenizer: str
    accuracy: float | None = None


def read_settings(directory: Path) -> RewardSettings:
    """What a reward model says of itself. Raises ModelError for a directory that holds none."""
    path = directory / SETTINGS
    if not path.is_file():
        nested = directory / "reward_model"
        fix = (
            f"pass {nested}" if (nested / SETTINGS).is_file() else "train one: bethink prefer --reward-model"
        )
        raise ModelError(f"not a reward model: there is no {SETTINGS}", where=str(directory), fix=fix)
    try:
        return validate(RewardSettings, read_object(path), name=str(path))
    except (ConfigError, DataError) as error:
        raise ModelError(error.what, where=error.where, fix="train it again") from error


def base_of(directory: Path) -> str:
    """The model that a reward model's weights are, or are an adapter of. Raises as `read_settings` does."""
    return read_settings(directory).base or str(directory)
