"""llama.cpp's OpenAI-compatible server for serving.py, run in its own environment: serving_llamacpp.py MODEL.gguf PORT STREAMS CONTEXT."""

from __future__ import annotations

import os
import signal
import sys

import xllamacpp


def main() -> None:
    model, port, streams, context = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = model, {"model"}
    params.hostnames, params.port = ["127.0.0.1"], int(port)
    params.n_parallel, params.n_ctx = int(streams), int(streams) * int(context)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    server = xllamacpp.Server(params)
    print(f"serving at {server.listening_address}", file=sys.stderr)
    signal.pause()


if __name__ == "__main__":
    main()
