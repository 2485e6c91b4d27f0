r"""Reference answers as the MATH data set writes them: each equals itself, and no two different ones are equal."""

from itertools import permutations

import pytest

from bethink.verify import math, symbolic
from bethink.verify.verdict import Outcome

# One line, one value; a value is written once, so that any two lines differ.
GOLDS = r"""
0
-3
17.5
\frac{7}{12}
\dfrac{13}{40}
\tfrac 94
-\frac 32
1{,}008{,}016
12,\!441,\!600
3\frac{1}{7}
.039
\$0.25
\$23{,}500
64\%
237.5\%
81^\circ
72.5^{\circ}
29\text{ cm}
480 + 480\sqrt{3}\text{ feet}
2401 \mbox{ cm}^2
382 \text{ dollars}
\approx 8.24 \text{ mph}
5^{12}
2^{27} - 2^{11}
\frac{1}{2^{98}}
20\sqrt{13}
\frac{\sqrt{6} - \sqrt{2}}{4}
\frac{-1 + \sqrt{5}}{2}
1 + \sqrt[3]{2}
\sqrt[4]{8}
12^{1/7}
10 + \frac{15}{2}\pi
\frac{9}{\pi^2}(\sqrt{3}+3)
100\pi
7 - 9i
\frac{2}{25} - \frac{14}{25}i
\cos(6^\circ)\sin(12^\circ)\csc(18^\circ)
\log\left(\frac{2007}{2006}\right)
\sin^2 y
2 \sin b \cos a
\cot x
2x - 20
(2x+3)(x-3)
x^2 + 33x - 33
\frac{2ab}{a^2 + b^2}
a^2 + b^2 + c^2 - 4R^2
30p \sqrt{p}
3^x - 2^x
2^{n - 1}
f(4 - x)
y = -\frac{5}{2} x - \frac{29}{4}
2x + z - 5 = 0
84a^2 + 100b^2 - 168a - 441 = 0
\tan \theta = 2\theta
s^2 \le 8r^2
k = \frac{-33}{2}
(-2,6)
\left( \frac{3}{16}, \frac{11}{16} \right)
(5,\pi,-8)
\left( 2, \frac{8 \pi}{7}, \frac{7 \pi}{9} \right)
(100,101)
1,-1,i,-i
-12 \text{ or } -30
2, 3, \text{ and } 4
\{4,5,7\}
\pm 11
(-4, 27);(2, 15)
(0,\infty)
[-2,2]
[5.8,6)
\left( -\infty, -\frac{7}{4} \right) \cup \left( -\frac{3}{2}, \infty \right)
-80\leq g(x)\leq 82
\begin{pmatrix} 7 & -2 \\ -5 & 4 \end{pmatrix}
\begin{pmatrix} 2 \sqrt{2} \\ -\frac{1}{\sqrt{2}} \\ -\frac{1}{\sqrt{2}} \end{pmatrix}
1061_{9}
2516_8
\text{A5}_{11}
19:60
4\!:\!51\!:\!06 \text{ p.m.}
\text{Wednesday}
\text{(E)}
\text{B,C}
\text{October 30}
\text{Softball, Kickball, Picnic}
\text{even}
\frac{1}{7}\triangle ABC
AB=12+12\sqrt{3}
AB=9, CD=4
""".strip().splitlines()


def test_the_list_is_varied() -> None:
    assert len(set(GOLDS)) == len(GOLDS) >= 80


@pytest.mark.parametrize("gold", GOLDS)
def test_a_reference_answer_equals_itself(gold: str) -> None:
    verdict = math.decide(gold, gold)
    assert verdict is not None
    assert verdict.outcome is Outcome.CORRECT


def test_two_different_reference_answers_are_never_exactly_equal() -> None:
    equal = []
    for gold, other in permutations(GOLDS, 2):
        verdict = math.decide(gold, other)
        if verdict is not None and verdict.correct:
            equal.append((gold, other))
    assert equal == []


def test_two_different_reference_answers_are_not_equal_to_sympy_either() -> None:
    hard = [
        gold
        for gold in GOLDS
        if any(mark in gold for mark in (r"\sin", r"\cos", "^x", "sqrt[", r"\log", "^{n", "f(4"))
    ]
    pairs = [pair for pair in permutations(hard, 2) if math.decide(*pair) is None]
    assert len(pairs) > 40
    assert [pair for pair in pairs if symbolic.judge(*pair) == symbolic.EQUAL] == []
