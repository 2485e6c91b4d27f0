"""A tokenizer for a model that begins from nothing: byte-level BPE learned from texts, and a plain chat template.

The template writes a conversation as a text would: an optional first line from the system, then `User:` and `Assistant:`, each answer
closed by the one special token, which ends texts too. A base model therefore meets conversations in the form it has read them in, as
DeepSeek-R1-Zero did (arXiv 2501.12948, table 1). Digits are tokens of their own, so that numbers are written digit by digit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat
from bethink.core.errors import ConfigError
from bethink.core.files import write_json, write_text

END = "<|endoftext|>"
_LEAST = 256 + 3
_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'user' -%}{{ 'User: ' + message.content + '\\n\\n' }}
{%- elif message.role == 'assistant' -%}{{ 'Assistant: ' + message.content + eos_token }}
{%- else -%}{{ raise_exception('this template knows system, user and assistant') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant: ' }}{%- endif -%}
"""


def new_tokenizer(
    texts: Iterable[str], vocabulary: int, directory: Path, *, think: ThinkFormat = DEFAULT_FORMAT
) -> None:
    """Learn a tokenizer of at most `vocabulary` tokens from `texts` and write its files into `directory`, which exists.

    The tags of `think` are tokens. The same texts give the same tokenizer. Raises ConfigError for a vocabulary that cannot hold every byte.
    """
    if vocabulary < _LEAST:
        raise ConfigError(
            f"a vocabulary of {vocabulary} tokens is too small",
            fix=f"it needs {_LEAST}: all bytes, {END} and the think tags",
        )
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\d"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tags = [AddedToken(tag, special=False, normalized=False) for tag in (think.open, think.close)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(tags),
        special_tokens=[AddedToken(END, special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(tags)
    write_text(directory / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_text(directory / "chat_template.jinja", _TEMPLATE)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
    }
    write_json(directory / "tokenizer_config.json", settings)
