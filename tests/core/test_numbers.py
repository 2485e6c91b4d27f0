"""Numbers are written in the digits they mean."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from bethink.core.numbers import decimal_text


def test_no_exponent_is_ever_written() -> None:
    assert [decimal_text(number) for number in (0.00001, 5, -2.5, 18.0, 1e22, 10**30)] == [
        "0.00001", "5", "-2.5", "18.0", "1" + 22 * "0", "1" + 30 * "0",
    ]  # fmt: skip


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_is_the_number(number: float) -> None:
    text = decimal_text(number)
    assert float(text) == number
    assert "e" not in text.lower()
    assert Fraction(text) == Fraction(repr(number))
