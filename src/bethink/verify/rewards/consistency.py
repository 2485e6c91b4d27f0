"""The reward of language consistency: is the thinking in the language of the problem.

Source: DeepSeek-R1 (arXiv 2501.12948), section 2.3.2: the proportion of words of the target language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from bethink.core.errors import ConfigError
from bethink.verify.language import CERTAIN, PREFIX_CHARACTERS, LanguageJudge, words_of
from bethink.verify.rewards.attempt import Attempt, Part, Reward

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")
_CODE = re.compile(r"[a-z]{2,3}")
_SCRIPTS = {
    script: tuple(codes.split())
    for script, codes in {
        "CJK": "zh ja yue wuu",
        "HANGUL": "ko",
        "CYRILLIC": "ru uk be bg mk sr kk ky mn tg",
        "ARABIC": "ar fa ur ps ug",
        "DEVANAGARI": "hi mr ne sa",
        "HEBREW": "he yi",
        "GREEK": "el",
        "THAI": "th",
        "BENGALI": "bn as",
        "TAMIL": "ta",
        "TELUGU": "te",
        "GEORGIAN": "ka",
        "ARMENIAN": "hy",
    }.items()
}
"""Which languages are not written in Latin letters. The rest are."""
_SAME_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "FULLWIDTH": "LATIN"}
_LONG = frozenset(("CJK", "THAI"))
"""Scripts without spaces: each letter counts as a word."""


def language(*, target: str = "") -> Reward:
    """The share of the words of thinking and answer that are of the target language, from 0 to 1.

    target: its ISO 639 code; by default the language of the problem itself. Judged sentence by sentence and script by script; formulas,
    numbers and sentences too short to tell count for nothing. 1 where there is nothing to count, or where the problem has no language.
    """
    if target and not _CODE.fullmatch(target):
        raise ConfigError(
            f"`target` of the reward `language` is {target!r}", fix='use an ISO 639 code such as "en"'
        )

    def judge(group: Sequence[Attempt]) -> list[Part]:
        wanted = target or (language_of(group[0].problem.question) if group else None)
        return [Part(1.0 if wanted is None else share_in(_said(attempt), wanted)) for attempt in group]

    return judge


def share_in(text: str, target: str) -> float:
    """The share of the words of `text` that stand in sentences of the language `target`; 1.0 where no word can be judged."""
    right = total = 0
    for script, words in _pieces(text):
        count = sum(map(len, words)) if script in _LONG else len(words)
        found = language_of(" ".join(words))
        if found is None:
            # Too short to tell; but what is in other letters than the target's is not of it.
            if script == _script_of_language(target):
                continue
            found = ""
        total += count
        right += count if found == target else 0
    return right / total if total else 1.0


def _said(attempt: Attempt) -> str:
    return f"{attempt.parsed.thinking or ''}\n{attempt.parsed.answer}"


def _pieces(text: str) -> Iterator[tuple[str, list[str]]]:
    """The words of each sentence by script, in stretches short enough to be judged whole."""
    for sentence in _SENTENCE.split(text):
        for start in range(0, len(sentence), PREFIX_CHARACTERS):
            by_script: dict[str, list[str]] = {}
            for word in words_of(sentence[start : start + PREFIX_CHARACTERS]).split():
                by_script.setdefault(_script(word[0]), []).append(word)
            yield from by_script.items()


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "LATIN").split(" ")[0]
    return _SAME_SCRIPT.get(name, name)


def _script_of_language(code: str) -> str:
    return next((script for script, codes in _SCRIPTS.items() if code in codes), "LATIN")


def language_of(text: str) -> str | None:
    """The ISO 639 code of the language of `text`; None where it is too short or too mixed to tell."""
    found = _judge().judge(text)
    return found.code if found and found.score >= CERTAIN else None


@lru_cache(maxsize=1)
def _judge() -> LanguageJudge:
    """The language model, loaded when it is first needed."""
    return LanguageJudge()
