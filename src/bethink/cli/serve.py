"""`bethink serve`: an OpenAI-compatible server."""

from __future__ import annotations

from typing import Annotated

import typer

from bethink.cli.options import Device, Dtype, ThinkClose, ThinkOpen, Toggle, read_mode, read_style, read_tags


def serve(
    model: Annotated[
        str, typer.Option(help="Directory, hub id, GGUF file, built-in name, or MODEL+ADAPTER_DIR.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="--model")
    ] = None,
    thinking: Annotated[str, typer.Option(help="on or off, for requests that do not say.")] = "on",
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Of a completion whose request sets no limit.")
    ] = 4096,
    slots: Annotated[int, typer.Option(min=1, help="Sequences decoded together; more requests wait.")] = 64,
    toggle: Toggle = "system",
    think_open: ThinkOpen = None,
    think_close: ThinkClose = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Serve a model at /v1/chat/completions. Thinking comes apart from the answer, as `reasoning` and `reasoning_content`."""
    from bethink.core.console import note
    from bethink.engine.dialogue import open_dialogue
    from bethink.serve import server
    from bethink.serve.app import create_app
    from bethink.serve.service import ServeOptions

    mode, style, think = read_mode(thinking), read_style(toggle), read_tags(think_open, think_close)
    listener = server.listen(host, port)
    dialogue = open_dialogue(model, None, slots=slots, dtype=dtype, device=device, think=think, style=style)
    options = ServeOptions(name=name or model, mode=mode, max_tokens=max_tokens, slots=slots)
    app = create_app(dialogue, options)
    note(f"serving {options.name} at {server.address(listener)}")
    server.run(app, listener)
