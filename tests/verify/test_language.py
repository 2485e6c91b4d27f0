"""The language of a text is told by its words; formulas and numbers have none."""

from __future__ import annotations

import pytest

from bethink.verify.language import CERTAIN, LanguageJudge

_judge = LanguageJudge().judge


@pytest.mark.parametrize(
    "text",
    [
        "4+3=7\n7+8=15\n15-6=9",
        "$\\frac{1}{2}x^2 + 3x = \\int_0^1 y\\,dy$",
        "\\boxed{13}",
        "42",
        "",
        "State the final answer to the following arithmetic problem: 4 + 3 + 8 =",
        "Let $ABC$ be a triangle with $AB = 3$ and $BC = 4$. Find the length of the median from $A$.",
        "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of babysitting.",
        "<think>\n4 + 9 is 13, and 13 - 2 is 11.\n</think>\n\nThe final answer is \\boxed{11}.",
    ],
)
def test_no_english_or_wordless_text_is_foreign(text: str) -> None:
    language = _judge(text)
    assert language is None or language.code == "en" or language.score < CERTAIN


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Zuerst müssen wir den Wert von $x$ bestimmen, danach prüfen wir $3x + 5 = 20$.", "de"),
        ("Calculons d'abord la somme des angles, puis vérifions que $a + b = 180$.", "fr"),
        ("首先我们需要求出方程中未知数的值。\n\n然后检查 $x = 3$。", "zh"),
        ("Сначала найдём значение $x$ в уравнении $3x = 12$.", "ru"),
        ("答えは12です。", "ja"),
    ],
)
def test_foreign_text_among_formulas_is_known(text: str, code: str) -> None:
    language = _judge(text)
    assert language is not None
    assert language.code == code
    assert language.score >= CERTAIN


def test_only_the_beginning_is_judged() -> None:
    english = "The farmer counts the boxes in the morning and again in the evening. " * 40
    assert _judge(english) == _judge(english + "Danach prüfen wir die Lösung noch einmal. " * 500)
