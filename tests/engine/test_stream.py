"""Streamed text is the decoded whole, cut before the first stop string."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.engine.stream import TextStream, cut

STOP_TOKEN = 256


def decode(ids: list[int]) -> str:
    """A byte a token, as the worst of byte-level tokenizers would."""
    return bytes(ids).decode(errors="replace")


@settings(deadline=None)
@given(
    st.text(alphabet="ab</é漢😀 \n", max_size=40),
    st.lists(st.text(alphabet="ab</", min_size=1, max_size=4), max_size=2),
    st.booleans(),
)
def test_the_pieces_make_up_the_text(text: str, stops: list[str], stopped: bool) -> None:
    stream = TextStream(decode, (STOP_TOKEN,), stops)
    ids = [*text.encode(), *([STOP_TOKEN] if stopped else [])]
    pieces = [stream.push(token) for token in ids] + [stream.finish()]
    # A row ends as soon as one of its stop strings is whole, even where a longer one began before it.
    end = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=len(text))
    assert "".join(pieces) == cut(text[:end], stops)
    assert not any("�" in piece for piece in pieces)


def test_text_comes_as_soon_as_it_is_certain() -> None:
    stream = TextStream(decode, (), ("END",))
    assert [stream.push(token) for token in b"aEb"] == ["a", "", "Eb"]
    assert [stream.push(token) for token in "é".encode()] == ["", "é"]


def test_bytes_that_never_become_a_character_are_not_waited_for() -> None:
    stream = TextStream(decode, (), ())
    given = "".join(stream.push(token) for token in [0xFF, 0xFF, 0xFF, 0xFF, *b"abcd"])
    assert given.endswith("abcd")
