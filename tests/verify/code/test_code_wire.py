"""Values travel with their exact types, and what is read is trusted in nothing."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bethink.verify.code.compare import Same, same
from bethink.verify.code.wire import MAX_CELLS, Reader, UnsendableError, WireError, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62, max_value=2**80)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(HASHABLE, max_size=3)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.lists(inner, max_size=3).map(deque)
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def travel(value: object, **options: Any) -> Reader:
    return Reader(json.loads(json.dumps(encode(value))), **options)


def typed(value: Any) -> str:
    """Types and values, all the way down."""
    if isinstance(value, dict):
        return f"{type(value).__name__}{[(typed(key), typed(item)) for key, item in value.items()]}"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}{sorted(typed(item) for item in value)}"
    if isinstance(value, list | tuple | deque):
        return f"{type(value).__name__}{[typed(item) for item in value]}"
    return f"{type(value).__name__} {value!r}"


@RELAXED
@given(VALUES)
def test_a_value_arrives_as_it_was(value: object) -> None:
    assert typed(travel(value).value()) == typed(value)
    assert all(same(value, travel(value), how) for how in Same)


@RELAXED
@given(VALUES, VALUES)
def test_exactly_what_is_the_same_is_the_same(one: object, other: object) -> None:
    assert same(one, travel(other)) == (typed_unordered(one) == typed_unordered(other))


def typed_unordered(value: Any) -> str:
    """Like `typed`, with dicts in any order and -0.0 as 0.0."""
    if isinstance(value, dict):
        return f"{type(value).__name__}{sorted((typed_unordered(k), typed_unordered(v)) for k, v in value.items())}"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}{sorted(typed_unordered(item) for item in value)}"
    if isinstance(value, list | tuple | deque):
        return f"{type(value).__name__}{[typed_unordered(item) for item in value]}"
    if isinstance(value, float | complex):
        return f"{type(value).__name__} {value + 0!r}"
    return f"{type(value).__name__} {value!r}"


@RELAXED
@given(
    JSON,
    st.lists(
        st.tuples(st.sampled_from(["list", "dict", "set", "int", "object", "complex", "range", "kept"]), JSON)
    ),
)
def test_no_message_breaks_the_reader(root: object, table: list[Any]) -> None:
    for wire in (
        {"root": root, "table": table},
        root,
        {"root": [0], "table": [list(entry) for entry in table]},
    ):
        with contextlib.suppress(WireError):
            Reader(wire).value()
        assert same([1], Reader({"root": [0], "table": [list(entry) for entry in table]})) in (True, False)


@pytest.mark.parametrize(
    "wire",
    [
        {"root": [0], "table": [["list", [[0]]]]},
        {"root": [1], "table": [["list", [1]], ["tuple", [[0], [0]]]]},
        {"root": [0], "table": [["tuple", [[n + 1]]] for n in range(200)] + [["tuple", []]]},
        {"root": [0], "table": [["set", [[1]]], ["list", []]]},
        {"root": [0], "table": [["dict", [1]]]},
        {"root": [0], "table": [["object", ["Reader", []]]]},
        {"root": [0], "table": [["__import__", ["os"]]]},
        {"root": [-1], "table": [["list", []]]},
        {"root": [True], "table": [["list", []], ["list", []]]},
        {"root": [0], "table": [["int", "nine"]]},
        {"root": [0], "table": [["kept", 0]]},
    ],
)
def test_what_encode_would_not_write_is_refused(wire: object) -> None:
    with pytest.raises(WireError):
        Reader(wire).value()
    assert not any(same(value, Reader(wire)) for value in ([], (), {}, set(), 0, "", None))


def test_what_cannot_travel_is_said() -> None:
    class Own(int):
        pass

    ring: list[Any] = []
    ring.append(ring)
    for value in (object(), Own(1), [Own(1)], {1: print}, Own):
        with pytest.raises(UnsendableError, match="cannot be sent"):
            encode(value)
    with pytest.raises(WireError, match="deep"):
        encode(ring)
    with pytest.raises(WireError, match="parts"):
        encode(range(1) and [0] * (MAX_CELLS + 1))


class Node:
    def __init__(self, value: int, after: Node | None = None) -> None:
        self.value = value
        self.after = after


def test_pythons_own_types_are_values() -> None:
    assert travel([int, str, dict]).value() == [int, str, dict]
    assert not same(["int"], travel([int]))


def test_instances_travel_with_rings_and_shared_tails() -> None:
    tail = Node(9)
    first, second = Node(1, tail), Node(2, tail)
    tail.after = tail
    classes = {"Node": Node}
    wire = json.loads(json.dumps(encode([first, second], classes=classes)))
    one, other = Reader(wire, classes=classes).value()
    assert (one.value, other.value) == (1, 2)
    assert one.after is other.after
    assert one.after.after is one.after
    long = None
    for n in range(20_000):
        long = Node(n, long)
    found, length = Reader(encode(long, classes=classes), classes=classes).value(), 0
    while found:
        found, length = found.after, length + 1
    assert length == 20_000


@pytest.mark.parametrize(
    ("expected", "found", "agreeing"),
    [
        (240, 240.0, {Same.PYTHON, Same.JSON}),
        (True, 1, {Same.PYTHON}),
        ([1, 2], (1, 2), {Same.JSON}),
        ({"a": 2}, Counter("aa"), {Same.PYTHON}),
        ({"a": 2}, defaultdict(int, a=2), {Same.PYTHON}),
        ({1: [2]}, OrderedDict([(1, [2.0])]), {Same.PYTHON}),
        ({1}, frozenset([1]), {Same.PYTHON}),
        ({(1, 2)}, {(1, 2)}, set(Same)),
        ({(1, 2)}, {(1, 2.0)}, {Same.PYTHON}),
        (float("nan"), float("nan"), {Same.EXACT, Same.JSON}),
        (0.1 + 0.2, 0.3, set()),
        ("1", 1, set()),
        (None, 0, set()),
        (10**30, 10**30, set(Same)),
        (1e30, 10**30, set()),
    ],
)
def test_what_counts_as_the_same_is_the_tasks_to_say(
    expected: object, found: object, agreeing: set[Same]
) -> None:
    assert {how for how in Same if same(expected, travel(found), how)} == agreeing


def test_floats_are_close_only_where_the_task_says_so() -> None:
    assert same([0.1 + 0.2], travel([0.3]), tolerance=1e-9)
    assert not same([0.31], travel([0.3]), tolerance=1e-9)
    assert not same([1], travel([2]), tolerance=5)
