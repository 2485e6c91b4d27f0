"""Problems from a data set on the Hugging Face hub, where one is reachable.

Downloads the split's Parquet or JSON Lines files with huggingface_hub, into its cache, and reads them like any others. Data set scripts are never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bethink.core.errors import ConfigError, DataError
from bethink.core.packed import SUFFIXES
from bethink.tasks.files import load_problems, task_name
from bethink.tasks.layouts.columns import MappingFunction
from bethink.tasks.problem import ProblemSet

_CONVERTED = "refs/convert/parquet"
"""Where the hub keeps a Parquet copy of data sets that are stored in another form."""


def load_hub(
    id: str,
    mapping: MappingFunction | str,
    *,
    split: str = "test",
    skip_bad: bool = False,
    endpoint: str | None = None,
) -> ProblemSet:
    """The problems of `owner/name`, `owner/name/config` or either with `@revision`.

    endpoint: another hub's address ($HF_ENDPOINT by default). Raises DataError when the hub cannot be reached, has no such data set,
    or the data set has no such split; ConfigError for an id of another form.
    """
    identity, _, revision = id.partition("@")
    parts = identity.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise ConfigError(f"`{id}` is not a data set id", fix="write owner/name, or owner/name/config")
    repo, config = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    name = task_name(mapping) or parts[1]
    paths = _download(repo, config, split, revision or None, endpoint)
    return load_problems(paths, mapping, name=name, skip_bad=skip_bad)


def choose_files(files: Sequence[str], split: str, config: str | None) -> list[str]:
    """Of a repository's files those that hold `split` (of `config`), Parquet before JSON Lines; [] when none does.

    A file holds the split when its name, or a folder it is in, is the split's name, alone or before "-", "." or "_".
    """
    for suffix in sorted(SUFFIXES, key=lambda s: s != ".parquet"):
        found = sorted(f for f in files if f.endswith(suffix) and _is_of_split(f, split, config))
        if found:
            return found
    return []


def _is_of_split(file: str, split: str, config: str | None) -> bool:
    parts = file.split("/")
    if config is not None and config not in parts[:-1]:
        return False
    starts = [f"{split}{mark}" for mark in "-._"]
    return split in parts[:-1] or parts[-1].startswith(tuple(starts))


def _download(
    repo: str, config: str | None, split: str, revision: str | None, endpoint: str | None
) -> list[Path]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    where = f"hub data set {repo}"
    _knock(endpoint or ENDPOINT, where)
    try:
        api = HfApi(endpoint=endpoint)
        for reference in [revision] if revision else [None, _CONVERTED]:
            files = _listing(api, repo, reference)
            chosen = choose_files(files, split, config)
            if chosen:
                return [
                    Path(
                        hf_hub_download(
                            repo, file, repo_type="dataset", revision=reference, endpoint=endpoint
                        )
                    )
                    for file in chosen
                ]
    except HfHubHTTPError as error:
        raise DataError(
            f"the hub refuses it: {str(error).splitlines()[0]}",
            where=where,
            fix="check the id; for a gated data set accept its terms and set HF_TOKEN",
        ) from error
    except (HTTPError, OSError) as error:
        raise _unreachable(error, where) from error
    of_config = f" of `{config}`" if config else ""
    raise DataError(
        f"it has no file of the split `{split}`{of_config}",
        where=where,
        fix="choose another split; several configs are told apart as owner/name/config",
    )


def _knock(endpoint: str, where: str) -> None:
    """Fail in seconds where there is no network; huggingface_hub would go on trying for half a minute. Raises DataError."""
    import httpx

    try:
        httpx.head(endpoint, timeout=5.0)
    except httpx.HTTPError as error:
        raise _unreachable(error, where) from error


def _unreachable(error: Exception, where: str) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"the hub cannot be reached: {reason}",
        where=where,
        fix="download its files elsewhere and name them: path/to/file.parquet:MAPPING",
    )


def _listing(api: Any, repo: str, revision: str | None) -> list[str]:
    """The repository's files; none when it has no such revision."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return list(api.list_repo_files(repo, repo_type="dataset", revision=revision))
    except RevisionNotFoundError:
        return []
