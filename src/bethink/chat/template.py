"""A model's chat template: found in its files, compiled once, rendered as `transformers` renders it.

Knows Jinja and the files a template can stand in; leaves tokens to `tokenizer.py` and what a rendering must prove to `render.py`.
Templates come from strangers, so they run in Jinja's immutable sandbox. The environment is the one documented for chat templates
in transformers ("Templates for chat models"): trimmed blocks, loop controls, `tojson` that leaves HTML and Unicode alone,
`raise_exception`, `strftime_now`, the special tokens as variables, and the `generation` tag (which renders as its body).

One departure: the date is read when the template is loaded, not at every rendering, so that a prompt and the full conversation
cannot fall on two sides of midnight. SOURCE_DATE_EPOCH sets it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from bethink.core.errors import TemplateError
from bethink.core.files import read_object
from bethink.tasks.problem import Message

_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplate:
    """A compiled chat template.

    source: the Jinja text; special_tokens: the variables it may print (bos_token, eos_token, ...); name: what errors call it.
    Raises TemplateError for a source that is not valid Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], name: str) -> None:
        self.source = source
        self.special_tokens = dict(special_tokens)
        self.name = name
        try:
            self._compiled = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is not valid Jinja: {error.message}", where=f"{name}:{error.lineno}"
            ) from error
        except Exception as error:  # nested too deeply, or a number of thousands of digits
            raise TemplateError(f"the chat template cannot be compiled: {error}", where=name) from error

    @classmethod
    def load(cls, directory: Path) -> ChatTemplate:
        """The template of the model in `directory`: chat_template.jinja, else `chat_template` in tokenizer_config.json.

        Raises TemplateError when there is none that can be read, DataError for another file that cannot be.
        """
        config_file, template_file = directory / "tokenizer_config.json", directory / "chat_template.jinja"
        config = read_object(config_file) if config_file.exists() else {}
        legacy_file = directory / "special_tokens_map.json"
        legacy = read_object(legacy_file) if legacy_file.exists() else {}
        if template_file.exists():
            source, name = _text(template_file), str(template_file)
        else:
            source, name = _default_template(config.get("chat_template"), config_file), str(config_file)
        return cls(source, _special_tokens({**config, **legacy}), name)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool, **kwargs: Any) -> str:
        """The conversation as text. kwargs reach the template.

        Raises TemplateError when the template refuses the messages, or fails on them: it is a program, and may raise anything.
        """
        variables = {"tools": None, "documents": None, **self.special_tokens, **kwargs}
        try:
            return self._compiled.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **variables
            )
        except Exception as error:
            raise TemplateError(
                f"the chat template refuses these messages: {error}",
                where=self.name,
                fix=f"roles given: {', '.join(str(m.get('role')) for m in messages) or 'none'}",
            ) from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TemplateError(f"the chat template is not valid UTF-8: {error}", where=str(file)) from error


def _default_template(value: Any, file: Path) -> str:
    """The default among what tokenizer_config.json may hold: a string, or a list of named templates."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict)]
        named = {str(entry.get("name")): entry.get("template") for entry in entries}
        if isinstance(default := named.get("default"), str):
            return default
        raise TemplateError(f"none of the chat templates {sorted(named)} is named `default`", where=str(file))
    raise TemplateError(
        "the model has no chat template",
        where=str(file.parent),
        fix="use an instruction-tuned model, or put a chat_template.jinja beside its tokenizer.json",
    )


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens a config names, as text; each may be a string or an object with `content`."""
    extra = config.get("extra_special_tokens")
    named = {name: config.get(name) for name in _TOKEN_NAMES} | (extra if isinstance(extra, dict) else {})
    texts = {
        name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    now = _now()
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = now.strftime
    environment.globals["namespace"] = _PublicNamespace
    return environment


def _now() -> datetime:
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return datetime.fromtimestamp(int(epoch), tz=UTC)
    return datetime.now()


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's words for mask builders; here it renders as its body."""

    tags = {"generation"}  # noqa: RUF012 - the name and type Jinja asks for

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _PublicNamespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, through which a template could reach Python's internals."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template may not set `{name}`")
        super().__setitem__(name, value)
