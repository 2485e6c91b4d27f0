"""Canonical forms: equal expressions have equal forms, whatever the way they are written, and what has none is left alone."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bethink.verify.algebra import value
from bethink.verify.latex import clean
from bethink.verify.polynomial import letters, rational


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"\frac{1}{\sqrt{3}-1}", r"\frac{\sqrt3+1}{2}"),
        (r"\frac{1}{2+i}", r"\frac{2-i}{5}"),
        (r"(1+i)^4", "-4"),
        (r"\sqrt{-8}", r"2i\sqrt2"),
        (r"\sqrt{8}\cdot\sqrt{18}", "12"),
        (r"(\sqrt2+\sqrt3)^2", r"5+2\sqrt6"),
        (r"(x+y)^3", "x^3+3x^2y+3xy^2+y^3"),
        (r"\frac{x^3}{x}", "x^2"),
        (r"\frac12\pi r^2", r"\frac{\pi r^2}{2}"),
        ("0.1+0.2", "0.3"),
        ("2^{-3}", "0.125"),
        (r"\sqrt{\frac{4}{9}}", r"\frac23"),
        ("1 2/3", r"1\frac23"),
        (r"2\frac{\pi}{3}", r"\frac{2\pi}{3}"),
        ("2**3", "8"),
        (r"\binom{6}{3}", "20"),
    ],
)
def test_equal_expressions_have_the_same_form(left: str, right: str) -> None:
    assert value(clean(left)) is not None
    assert value(clean(left)) == value(clean(right))


@pytest.mark.parametrize(
    "text",
    [
        "", "1/0", "100000!", "2^{10^{10}}", "9^9^9^9", "2^n", r"\sqrt{x}", r"\sqrt{2+\sqrt3}", r"\sqrt[3]{2}", r"\sin x", "3 4",
        "2x(3", "((((", r"\frac{1}", "a" * 1000, "(" * 200 + "1" + ")" * 200, "(x+y+z+w)^{30}", r"\frac{1}{x+y+1}", "x'+1", "|x|", "①",
    ],
)  # fmt: skip
def test_what_has_no_form_here_is_left_to_others(text: str) -> None:
    assert value(clean(text)) is None


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_sums_of_fractions_are_exact(a: Fraction, b: Fraction) -> None:
    def latex(number: Fraction) -> str:
        return rf"({'-' if number < 0 else ''}\frac{{{abs(number.numerator)}}}{{{number.denominator}}})"

    assert rational(value(f"{latex(a)}+{latex(b)}")) == a + b


@given(st.integers(1, 10**8))
def test_a_root_squared_is_what_was_under_it(n: int) -> None:
    assert rational(value(rf"(\sqrt{{{n}}})^2")) == n


def test_letters_are_the_variables_only() -> None:
    polynomial = value(clean(r"\pi r^2 + e + 2i + x_1\theta"))
    assert polynomial is not None
    assert letters(polynomial) == {"r", "x_1", r"\theta"}
