"""The command line that continues a run."""

from __future__ import annotations

import shlex
from typing import Any

from bethink.core.config import StrictModel


def resume_command(verb: str, config: StrictModel) -> str:
    """`bethink VERB` with the config's options that are not the defaults, and --resume."""
    words = ["bethink", verb]
    for name, value in config.model_dump(mode="json", exclude_defaults=True, exclude={"resume"}).items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is False:
            words.append(flag.replace("--", "--no-", 1))
        else:
            words += [flag, _said(value)]
    return shlex.join([*words, "--resume"])


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={share:g}" for key, share in value.items())
    return ",".join(value) if isinstance(value, list) else str(value)
