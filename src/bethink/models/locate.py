"""From what a user calls a model to files on disk.

A model is a local directory in Hugging Face layout, a GGUF file, a built-in name or a hub id; `MODEL+ADAPTER_DIR` adds an adapter.
Checks what can be checked without loading: that it is a decoder, that its weights are safetensors and whole, that it has a tokenizer.
Imports neither torch nor transformers, so that the command line and worker processes stay quick.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bethink.core.config import nearest
from bethink.core.errors import DataError, ModelError
from bethink.core.files import read_json
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


def locate(spec: str, *, weights: bool = True) -> ModelFiles:
    """The files of the model that `spec` means, fetched or converted first where that is needed.

    weights: False asks for the tokenizer only: a directory without weights will do, and a hub download fetches none.
    Raises ModelError that says what is wrong with the spec and what to pass instead.
    """
    spec = spec.strip()
    base, adapter = _split_adapter(spec)
    return ModelFiles(directory=_find(base, weights), adapter=adapter, name=spec)


def _split_adapter(spec: str) -> tuple[str, Path | None]:
    if "+" not in spec or Path(spec).expanduser().exists():
        return spec, None
    base, _, adapter = spec.rpartition("+")
    directory = Path(adapter).expanduser()
    if not base or not adapter:
        raise ModelError(f"`{spec}` is not a model", fix="write MODEL+ADAPTER_DIR, or the model alone")
    if not directory.is_dir():
        raise ModelError(
            "the adapter directory does not exist",
            where=str(directory),
            fix="name the directory that holds adapter_config.json",
        )
    read_adapter_config(directory)
    return base, directory


def _find(spec: str, weights: bool) -> Path:
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        check_directory(path, weights=weights)
        return path
    if path.is_file():
        return _from_file(path)
    if spec in builtin.BUILTIN:
        return builtin.pull(spec)
    looks_local = (
        spec.startswith(("/", ".", "~")) or spec.endswith((".gguf", ".safetensors")) or spec.count("/") > 1
    )
    if _HUB_ID.fullmatch(spec) and not looks_local and not path.parent.is_dir():
        directory = _from_hub(spec, weights)
        check_directory(directory, weights=weights)
        return directory
    names = list(builtin.BUILTIN)
    guess = nearest(spec, names)
    raise ModelError(
        f"there is no model `{spec}`: no such directory or file, no built-in of that name",
        fix=f"did you mean `{guess}`?"
        if guess
        else f"pass a directory, a GGUF file, a hub id (owner/name) or a built-in: {', '.join(names)}",
    )


def _from_file(path: Path) -> Path:
    with open(path, "rb") as handle:
        magic = handle.read(4)
    if magic == b"GGUF":
        from bethink.models.conversion import converted

        return converted(path)
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
        config = read_json(path)
    except DataError as error:
        raise ModelError(error.what, where=error.where, fix="download the model again") from error
    if not isinstance(config, dict):
        raise ModelError("config.json does not hold an object", where=str(path))
    architecture = (config.get("architectures") or [""])[0]
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
    if (directory / ADAPTER_CONFIG).is_file():
        base = read_json(directory / ADAPTER_CONFIG).get("base_model_name_or_path") or "MODEL"
        return f"it is an adapter: pass {base}+{directory}"
    if (directory / "adapter" / ADAPTER_CONFIG).is_file():
        base = read_json(directory / "adapter" / ADAPTER_CONFIG).get("base_model_name_or_path") or "MODEL"
        return f"pass {base}+{directory / 'adapter'}"
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


def _from_hub(repository: str, weights: bool) -> Path:
    """Download (or find in the hub's own cache) the safetensors and text files of a hub repository; nothing else is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    local = f"pass a local model directory, or a built-in: {', '.join(builtin.BUILTIN)}"
    try:
        return Path(
            snapshot_download(repository, allow_patterns=[*_HUB_TEXT, *(_HUB_WEIGHTS if weights else [])])
        )
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
