"""`bethink sample`: a model's own answers, graded and filtered, as training rows."""

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

_ASK, _KEEP, _WHO = "What is asked", "What is kept", "Who answers"


def sample(
    tasks: Annotated[
        list[str],
        typer.Option(
            help="What to ask: a generator (chain_sum:max_terms=5), FILE:LAYOUT, hub:OWNER/NAME:LAYOUT. Repeat, or separate by commas."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Directory for rows.jsonl, pass_rates.jsonl and the answers.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Directory, hub id, GGUF file, built-in name, or MODEL+ADAPTER_DIR.", rich_help_panel=_WHO
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter directory for the model.", rich_help_panel=_WHO)
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="URL of an OpenAI-compatible server, instead of --model.", rich_help_panel=_WHO),
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option(help="What the endpoint calls the model.", rich_help_panel=_WHO)
    ] = None,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable with the endpoint's key.", rich_help_panel=_WHO)
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[
        int, typer.Option(help="Requests to the endpoint under way at once.", rich_help_panel=_WHO)
    ] = 16,
    price_in: Annotated[
        float, typer.Option(help="The endpoint's price of a million prompt tokens.", rich_help_panel=_WHO)
    ] = 0.0,
    price_out: Annotated[
        float, typer.Option(help="And of a million answer tokens.", rich_help_panel=_WHO)
    ] = 0.0,
    name: Annotated[
        str | None, typer.Option(help="What the rows call the model.", rich_help_panel=_WHO)
    ] = None,
    modes: Annotated[str, typer.Option(help="Thinking on, off, or both.", rich_help_panel=_ASK)] = "on,off",
    size: Annotated[
        int,
        typer.Option("--size", "-n", help="Problems of each task; 0: all of a file's.", rich_help_panel=_ASK),
    ] = 0,
    samples: Annotated[
        int, typer.Option(help="Answers to each problem in each mode.", rich_help_panel=_ASK)
    ] = 4,
    seed: Annotated[int, typer.Option(help="Of the problems and of the sampling.", rich_help_panel=_ASK)] = 0,
    split: Annotated[
        str, typer.Option(help="Which split of a generator or hub data set.", rich_help_panel=_ASK)
    ] = "train",
    max_tokens: Annotated[int, typer.Option(help="Of a whole answer.", rich_help_panel=_ASK)] = 4096,
    temperature: Annotated[float, typer.Option(help="For every mode.", rich_help_panel=_ASK)] = 0.6,
    top_p: Annotated[float, typer.Option(help="For every mode.", rich_help_panel=_ASK)] = 0.95,
    prompted: Prompted = False,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="Rows whose questions are not asked. Repeatable.", rich_help_panel=_ASK),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", help="Leave out rows of task files that are no problems.", rich_help_panel=_ASK
        ),
    ] = False,
    keep: Annotated[
        int, typer.Option(help="Rows of each problem and mode; 0: all.", rich_help_panel=_KEEP)
    ] = 1,
    prefer: Annotated[
        str, typer.Option(help="Which of them: first (drawn) or shortest.", rich_help_panel=_KEEP)
    ] = "first",
    paired: Annotated[
        bool,
        typer.Option(
            "--paired", help="Only problems with a row in every mode asked for.", rich_help_panel=_KEEP
        ),
    ] = False,
    majority: Annotated[
        float,
        typer.Option(
            help="Of problems without an answer: what at least this share of the answers agree on is right; 0: no vote.",
            rich_help_panel=_KEEP,
        ),
    ] = 0.0,
    any_verdict: Annotated[
        bool, typer.Option("--any-verdict", help="Keep wrong answers too.", rich_help_panel=_KEEP)
    ] = False,
    language: Annotated[
        float,
        typer.Option(help="Least share of words in the question's language; 0: off.", rich_help_panel=_KEEP),
    ] = 0.9,
    target_language: Annotated[
        str, typer.Option(help="Or in this one (an ISO 639 code).", rich_help_panel=_KEEP)
    ] = "",
    paragraph: Annotated[
        int, typer.Option(help="Longest paragraph in characters; 0: off.", rich_help_panel=_KEEP)
    ] = 4000,
    repetition: Annotated[
        float, typer.Option(help="Largest share of repeated phrases of 6 words.", rich_help_panel=_KEEP)
    ] = 0.3,
    code_blocks: Annotated[
        bool, typer.Option("--code-blocks", help="Allow code blocks in the thinking.", rich_help_panel=_KEEP)
    ] = False,
    category: Annotated[str, typer.Option(help="Of the rows.", rich_help_panel=_KEEP)] = "math",
    license: Annotated[str, typer.Option(help="Of the rows.", rich_help_panel=_KEEP)] = "unknown",
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
    """Sample answers, grade them, and keep those fit to learn from: rejection sampling.

    Writes OUTPUT/rows.jsonl (for `bethink curate`), pass_rates.jsonl (for `bethink grpo --curriculum progressive`), rejects.jsonl,
    summary.json and answers/.
    """
    options = dict(locals())
    from bethink.core.config import validate
    from bethink.core.console import note, out
    from bethink.sample.config import SampleConfig
    from bethink.sample.filters import REASONS
    from bethink.sample.run import run_sample

    drawn = {"temperature": options.pop("temperature"), "top_p": options.pop("top_p")}
    options |= {"on": drawn, "off": drawn, "size": size or None, "exclude": exclude or []}
    given = {key: value for key, value in options.items() if value is not None or key == "size"}
    summary = run_sample(validate(SampleConfig, given, name="bethink sample", flags=True))
    for reason, count in summary["left_out"].items():
        note(f"left out {count:,}: {REASONS[reason]}")
    if "voted" in summary:
        note(f"{summary['voted']:,} problems have their answer from a majority vote")
    rows = ", ".join(f"{count:,} {mode}" for mode, count in summary["rows"].items())
    cost = f", cost {summary['cost']:.2f}" if summary["cost"] else ""
    out.print(
        f"{output / 'rows.jsonl'}  {rows} of {summary['answers']:,} answers; "
        f"{summary['answer_tokens']:,} tokens{cost}",
        highlight=False,
        soft_wrap=True,
    )
