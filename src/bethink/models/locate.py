"""From what a user calls a model to files on disk.

A model is a local directory in Hugging Face layout, a GGUF file, a built-in name or a hub id; `MODEL+ADAPTER_DIR` adds an adapter.
Checks what can be checked without loading: that it is a decoder, that its weights are safetensors and whole, that it has a tokenizer.
Imports neither torch nor transformers, so that the command line and worker processes stay quick.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bethink.core.config import did_you_mean
from bethink.core.errors import DataError, ModelError
from bethink.core.files import read_object
from bethink.models import builtin
from bethink.models.adapter_files import CONFIG as ADAPTER_CONFIG
from bethink.models.adapter_files import read_adapter_config
from bethink.models.weights import read_header, weight_files

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_WEIGHTS = ["model*.safetensors", "model.safetensors.index.json"]
_HUB_TEXT = [
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "chat_template.*",
    "added_tokens.json",
]
_FORMS = f"a directory, a GGUF file, a hub id (owner/name) or a built-in: {', '.join(builtin.BUILTIN)}"
_ENCODERS = {
    "albert", "bert", "big_bird", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "mpnet", "modernbert",
    "nomic_bert", "roberta", "xlm-roberta",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk.

    directory: holds config.json, tokenizer.json and model*.safetensors; adapter: PEFT-format adapter to apply, if any;
    name: what the user called it.
    """

    directory: Path
    adapter: Path | None
    name: str


def locate(spec: str, *, weights: bool = True, fetch: bool = True) -> ModelFiles:
    """The files of the model that `spec` means, fetched or converted first where that is needed.

    weights: False asks for the tokenizer only: a directory without weights will do, and a hub download fetches none. fetch: False takes only
    what is on this machine already. Raises ModelError that says what is wrong with the spec and what to pass instead, OutputError when the cache cannot be written.
    """
    spec = spec.strip()
    try:
        base, adapter = _split_adapter(spec)
        return ModelFiles(directory=_find(base, weights, fetch), adapter=adapter, name=spec)
    except OSError as error:
        raise ModelError(
            f"the model cannot be read: {error.strerror or error}",
            where=str(error.filename or spec),
            fix=f"pass {_FORMS}",
        ) from error


def _split_adapter(spec: str) -> tuple[str, Path | None]:
    if "+" not in spec or _path(spec).exists():
        return spec, None
    base, _, adapter = spec.rpartition("+")
    directory = _path(adapter)
    if not base or not adapter:
        raise ModelError(f"`{spec}` is not a model", fix="write MODEL+ADAPTER_DIR, or the model alone")
    if not directory.is_dir():
        raise ModelError(
            "the adapter directory does not exist",
            where=str(directory),
            fix="name the directory that holds adapter_config.json after `+`",
        )
    read_adapter_config(directory)
    return base, directory


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ModelError(
            f"`{text}` begins with the home of a user who is not known here", fix=f"pass {_FORMS}"
        ) from error


def _find(spec: str, weights: bool, fetch: bool) -> Path:
    path = _path(spec)
    if spec and path.is_dir():
        check_directory(path, weights=weights)
        return path
    if path.is_file():
        return _from_file(path)
    if spec in builtin.BUILTIN:
        if not fetch and not builtin.cached(spec):
            raise ModelError(f"`{spec}` is not on this machine", fix=f"`bethink models pull {spec}`")
        return _sound(builtin.pull(spec))
    if _may_be_hub_id(spec):
        return _from_hub(spec, weights, fetch)
    raise ModelError(
        f"there is no model `{spec}`: no such directory or file, no built-in of that name",
        fix=did_you_mean(spec, builtin.BUILTIN, f"pass {_FORMS}"),
    )


def _may_be_hub_id(spec: str) -> bool:
    looks_local = spec.startswith(("/", ".", "~")) or spec.endswith((".gguf", ".safetensors"))
    return bool(_HUB_ID.fullmatch(spec)) and not looks_local and not _path(spec).parent.is_dir()


def missing_parts(spec: str) -> list[str]:
    """What a model's name needs on this machine and is not there: files or directories, as the name has them.

    A built-in model needs nothing, nor does what may be a model's id on a hub; neither is fetched to find out.
    """
    if _there(spec):
        return []
    base, _, adapter = spec.rpartition("+")
    needed = [base, adapter] if base else [spec]
    free = [name for name in needed[:1] if name in builtin.BUILTIN or _may_be_hub_id(name)]
    return [name for name in needed if name not in free and not _there(name)]


def _there(text: str) -> bool:
    return os.path.exists(os.path.expanduser(text))


def _sound(cached: Path) -> Path:
    """A directory of the cache that is what was written there. Raises ModelError when it was damaged since."""
    try:
        check_directory(cached)
    except ModelError as error:
        raise ModelError(
            error.what, where=error.where, fix=f"remove {cached}, which is made again on the next use"
        ) from error
    return cached


def _from_file(path: Path) -> Path:
    with open(path, "rb") as handle:
        magic = handle.read(4)
    if magic == b"GGUF":
        from bethink.models.conversion import converted

        return _sound(converted(path))
    holder = path.parent if path.suffix in {".safetensors", ".json", ".bin"} else None
    raise ModelError(
        "not a GGUF file",
        where=str(path),
        fix=f"pass its directory, {holder}" if holder else "pass a model directory or a GGUF file",
    )


def check_directory(directory: Path, *, weights: bool = True) -> None:
    """Raise ModelError unless `directory` holds a decoder's config, tokenizer and whole safetensors weights."""
    if weights or (directory / "config.json").is_file():
        _check_config(directory)
    if weights:
        _check_weights(directory)
    if not (directory / "tokenizer.json").is_file():
        raise ModelError(
            "the model directory has no tokenizer.json",
            where=str(directory),
            fix="write it with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        )


def _check_config(directory: Path) -> None:
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError(
            "not a model directory: there is no config.json", where=str(directory), fix=_suggest(directory)
        )
    try:
        config = read_object(path)
    except DataError as error:
        raise ModelError(error.what, where=error.where, fix="download the model again") from error
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    kind = str(config.get("model_type", "unknown"))
    problem = None
    if config.get("is_encoder_decoder"):
        problem = "an encoder-decoder"
    elif kind in _ENCODERS:
        problem = "an encoder: it reads text but writes none"
    elif architecture and not architecture.endswith(("ForCausalLM", "LMHeadModel")):
        problem = f"not a language model that writes text ({architecture})"
    if problem:
        raise ModelError(
            f"this model ({kind}) is {problem}",
            where=str(path),
            fix="choose a decoder-only model such as Llama, Qwen, Mistral or SmolLM",
        )


def _suggest(directory: Path) -> str:
    """What the user probably meant by a directory that is no model."""
    for adapter, lead in ((directory, "it is an adapter: "), (directory / "adapter", "")):
        if (adapter / ADAPTER_CONFIG).is_file():
            base = read_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "MODEL"
            return f"{lead}pass {base}+{adapter}"
    if (directory / "model" / "config.json").is_file():
        return f"pass {directory / 'model'}"
    gguf = sorted(directory.glob("*.gguf"))
    if gguf:
        return f"pass the GGUF file itself: {gguf[0]}"
    return "pass the directory that holds config.json, tokenizer.json and model.safetensors"


def _check_weights(directory: Path) -> None:
    files = weight_files(directory)
    for path in files:
        read_header(path)
    if files:
        return
    pickles = sorted(
        [*directory.glob("pytorch_model*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")]
    )
    if pickles:
        raise ModelError(
            f"the weights are stored as a pickle ({pickles[0].name}), which can run code when opened and is never read",
            where=str(directory),
            fix='if you trust their source, convert them: python -c "from transformers import AutoModelForCausalLM as M; '
            "M.from_pretrained('DIR').save_pretrained('NEW_DIR')\", then copy the tokenizer files",
        )
    raise ModelError(
        "the model directory has no model.safetensors", where=str(directory), fix=_suggest(directory)
    )


def _from_hub(repository: str, weights: bool, fetch: bool) -> Path:
    """The safetensors and text files of a hub repository; nothing else is fetched, and no weights of a model that will not do."""
    directory = _download(repository, _HUB_TEXT, fetch)
    check_directory(directory, weights=False)
    if weights:
        directory = _download(repository, [*_HUB_TEXT, *_HUB_WEIGHTS], fetch)
        check_directory(directory)
    return directory


def _download(repository: str, patterns: list[str], fetch: bool) -> Path:
    """A snapshot of the files of a hub repository whose names match, downloaded if `fetch`, or found in the hub's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    local = f"pass a local model directory, or a built-in: {', '.join(builtin.BUILTIN)}"
    try:
        only_here: dict[str, Any] = {} if fetch else {"local_files_only": True}
        return Path(snapshot_download(repository, allow_patterns=patterns, **only_here))
    except HFValidationError as error:
        raise ModelError(
            f"there is no model `{repository}`: no such directory, and no id of a hub model",
            fix=f"pass {_FORMS}",
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"the hub gives {repository} only to those who accepted its licence",
            fix="accept it on the model's page, then `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"the hub has no model `{repository}` (or it is private)", fix=local) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"the hub cannot be reached, and `{repository}` is not in its cache", fix=local
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"downloading `{repository}` failed: {str(error).splitlines()[0]}", fix=local
        ) from error
