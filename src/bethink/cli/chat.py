"""`bethink chat`: talk to a model in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from bethink.cli.options import Device, Dtype, ThinkClose, ThinkOpen, Toggle, read_mode, read_style, read_tags


def chat(
    model: Annotated[
        str | None, typer.Option(help="Directory, hub id, GGUF file, built-in name, or MODEL+ADAPTER_DIR.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible endpoint instead; --model is then its name there."),
    ] = None,
    thinking: Annotated[str, typer.Option(help="on or off, at first.")] = "on",
    system: Annotated[str, typer.Option(help="The system prompt.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a reply, thinking included.")] = 2048,
    max_thinking_tokens: Annotated[
        int | None, typer.Option(min=1, help="Close the thinking after so many tokens.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 is greedy.", show_default="0.6 with thinking on, 0 off")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, show_default="0.95 with thinking on, 1 off")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed, the same conversation.", show_default="random")
    ] = None,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the endpoint's key.")
    ] = "OPENAI_API_KEY",
    toggle: Toggle = "system",
    think_open: ThinkOpen = None,
    think_close: ThinkClose = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Talk to a model. Answers are streamed to stdout, thinking (dimmed) to stderr. /help lists the commands.

    With input from a pipe each line is a turn.
    """
    from bethink.chat.toggle import ToggleStyle
    from bethink.engine.dialogue import open_dialogue
    from bethink.serve.terminal import Chat, ChatOptions

    if top_p == 0:
        raise typer.BadParameter(
            "0 leaves no token to draw; say more than 0, at most 1", param_hint="--top-p"
        )
    mode, style, think = read_mode(thinking), read_style(toggle), read_tags(think_open, think_close)
    options = ChatOptions(
        mode=mode,
        system=system,
        max_tokens=max_tokens,
        max_thinking_tokens=max_thinking_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    dialogue = open_dialogue(
        model,
        endpoint,
        slots=1,
        dtype=dtype,
        device=device,
        think=think,
        style=style,
        api_key_env=api_key_env,
        chat_template_kwargs=style is ToggleStyle.KWARGS,
    )
    conversation = Chat(dialogue, options)
    conversation.run()
    if conversation.failures:
        raise typer.Exit(1)
