"""`bethink eval`: accuracy, compliance and tokens with thinking on and off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bethink.cli.options import (
    CodeMemory,
    CodeSeconds,
    Device,
    Dtype,
    Prompted,
    ThinkClose,
    ThinkOpen,
    Toggle,
    UnsafeCode,
)


def eval(
    tasks: Annotated[
        list[str],
        typer.Option(
            help="What to ask: a generator (chain_sum:max_terms=5), FILE:LAYOUT, hub:OWNER/NAME:LAYOUT. Repeat, or separate by commas."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Directory for samples.jsonl and results.json.")],
    model: Annotated[
        str | None, typer.Option(help="Directory, hub id, GGUF file, built-in name, or MODEL+ADAPTER_DIR.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="Adapter directory for the model.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="URL of an OpenAI-compatible server, instead of --model.")
    ] = None,
    endpoint_model: Annotated[str | None, typer.Option(help="What the endpoint calls the model.")] = None,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable with the endpoint's key.")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(help="Requests to the endpoint under way at once.")] = 16,
    price_in: Annotated[
        float, typer.Option(help="The endpoint's price of a million prompt tokens: the cost is shown.")
    ] = 0.0,
    price_out: Annotated[float, typer.Option(help="And of a million answer tokens.")] = 0.0,
    name: Annotated[str | None, typer.Option(help="What the results call the model.")] = None,
    modes: Annotated[str, typer.Option(help="Thinking on, off, or both.")] = "on,off",
    size: Annotated[
        int, typer.Option("--size", "-n", help="Problems of each task; 0: all of a file's.")
    ] = 200,
    samples: Annotated[
        int, typer.Option(help="Completions of each problem (one where sampling is greedy).")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of the problems and of the sampling.")] = 0,
    split: Annotated[str, typer.Option(help="Which split of a generator or hub data set.")] = "test",
    max_tokens: Annotated[int, typer.Option(help="Of a whole completion.")] = 4096,
    max_thinking_tokens: Annotated[
        int | None, typer.Option(help="Close the think block after so many tokens.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="For every mode.", show_default="on 0.6, off 0 (greedy)")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="For every mode.", show_default="on 0.95, off 1")
    ] = None,
    top_k: Annotated[int, typer.Option(help="For every mode; 0 is off.")] = 0,
    min_p: Annotated[float, typer.Option(help="For every mode; 0 is off.")] = 0.0,
    prompted: Prompted = False,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="Training rows: problems whose question is in them are left out. Repeatable."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows of task files that are no problems.")
    ] = False,
    toggle: Toggle = "system",
    think_open: ThinkOpen = None,
    think_close: ThinkClose = None,
    slots: Annotated[int, typer.Option(help="Completions decoded at once on this machine.")] = 64,
    dtype: Dtype = None,
    device: Device = None,
    workers: Annotated[int | None, typer.Option(help="Grading processes.", show_default="one a core")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run in --output.")
    ] = False,
    code_seconds: CodeSeconds = 5.0,
    code_memory: CodeMemory = 1024,
    unsafe_code: UnsafeCode = False,
) -> None:
    """Ask a model problems with thinking on and off, grade its answers, and count what it cost."""
    from bethink.core.config import validate
    from bethink.core.console import note, out
    from bethink.evaluate.config import EvalConfig
    from bethink.evaluate.results import results_table
    from bethink.evaluate.runner import run_eval

    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    chosen = {key: value for key, value in given.items() if value is not None}
    defaults = {mode: EvalConfig.model_fields[mode].default for mode in ("on", "off")}
    sampling = {mode: {**options.model_dump(), **chosen} for mode, options in defaults.items()}
    options = {
        "output": output,
        "tasks": tasks,
        "model": model,
        "adapter": adapter,
        "endpoint": endpoint,
        "endpoint_model": endpoint_model,
        "api_key_env": api_key_env,
        "concurrency": concurrency,
        "price_in": price_in,
        "price_out": price_out,
        "name": name,
        "modes": modes,
        "size": size or None,
        "samples": samples,
        "seed": seed,
        "split": split,
        "max_tokens": max_tokens,
        "max_thinking_tokens": max_thinking_tokens,
        "prompted": prompted,
        "exclude": exclude or [],
        "skip_bad": skip_bad,
        "toggle": toggle,
        "slots": slots,
        "dtype": dtype,
        "device": device,
        "workers": workers,
        "resume": resume,
        "code_seconds": code_seconds,
        "code_memory": code_memory,
        "unsafe_code": unsafe_code,
        **sampling,
    }
    tags = {"think_open": think_open, "think_close": think_close}
    options |= {key: value for key, value in tags.items() if value is not None}
    result = run_eval(validate(EvalConfig, options, name="bethink eval", flags=True))
    out.print(results_table(result.rows))
    note(f"every prompt, output and verdict: {result.samples}\nthe table: {result.results}")
