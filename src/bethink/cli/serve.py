"""`bethink serve`: an OpenAI-compatible server."""

from __future__ import annotations

from typing import Annotated

import typer

from bethink.cli.options import Device, Dtype, ThinkClose, ThinkOpen, Toggle


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
    from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat, ToggleStyle
    from bethink.core.console import note
    from bethink.engine.dialogue import open_dialogue
    from bethink.serve import server
    from bethink.serve.app import create_app
    from bethink.serve.service import ServeOptions

    if thinking not in list(Mode):
        raise typer.BadParameter("say on or off", param_hint="--thinking")
    if toggle not in list(ToggleStyle):
        raise typer.BadParameter("say system, kwargs or slash", param_hint="--toggle")
    style = ToggleStyle(toggle)
    think = ThinkFormat(think_open or DEFAULT_FORMAT.open, think_close or DEFAULT_FORMAT.close)
    listener = server.listen(host, port)
    note(f"loading {model}")
    dialogue = open_dialogue(model, None, slots=slots, dtype=dtype, device=device, think=think, style=style)
    options = ServeOptions(name=name or model, mode=Mode(thinking), max_tokens=max_tokens, slots=slots)
    app = create_app(dialogue, options)
    note(f"serving {options.name} at {server.address(listener)}")
    server.run(app, listener)
