"""Bookkeeping: every request is served once, within slots and memory, prompt by prompt."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.engine.api import FinishReason, Request, SamplingParams
from bethink.engine.kv_cache import STEP
from bethink.engine.scheduler import Row, Scheduler, row_counts


def row(id_: int, prompt: int, limit: int) -> Row:
    return Row.of(Request(str(id_), (prompt,) * (prompt + 1), SamplingParams(limit)), None, limit, None)


@settings(deadline=None)
@given(st.integers(1, 300))
def test_row_counts_are_few_multiples_of_four_that_reach_all_slots(slots: int) -> None:
    counts = row_counts(slots)
    assert all(count % 4 == 0 for count in counts)
    assert list(counts) == sorted(set(counts))
    assert counts[-1] >= slots
    assert len(counts) <= 16


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 90)), max_size=60),
    st.one_of(st.none(), st.integers(4 * 128, 4000)),
)
def test_every_row_is_seated_once_and_leaves(
    slots: int, wanted: list[tuple[int, int]], max_tokens: int | None
) -> None:
    scheduler = Scheduler(slots, max_tokens)
    rows = [row(n, prompt, limit) for n, (prompt, limit) in enumerate(wanted)]
    for each in rows:
        scheduler.add(each)
    seated: list[Row] = []
    holds: dict[int, tuple[int, ...]] = {}
    fetched: list[tuple[int, ...]] = []
    while scheduler.waiting or scheduler.active:
        for admission in scheduler.admit():
            seated += [each for _, each in admission.rows]
            if admission.known:
                assert holds[admission.holder] == admission.prompt_ids
            else:
                fetched.append(admission.prompt_ids)
            for slot in (admission.holder, *admission.copies):
                holds[slot] = admission.prompt_ids
            for slot, each in admission.rows:
                assert holds[slot] == each.request.prompt_ids
        for source, target in scheduler.compact():
            holds[target] = holds[source]
        active = dict(scheduler.rows())
        assert 0 < len(active) <= slots
        assert max(active) < scheduler.width
        if max_tokens is not None and len(active) > 1:
            most = max(each.need for each in active.values())
            assert scheduler.width * scheduler.capacity_for(most) <= max_tokens
        for slot, each in active.items():
            each.accept(1, 0.0)
            if each.finish is FinishReason.LENGTH:
                scheduler.release(slot)
    assert sorted(map(id, seated)) == sorted(map(id, rows))
    assert all(len(each.token_ids) == each.limit for each in rows)
    if max_tokens is None:
        assert len(fetched) == len(set(fetched))


def test_dropped_rows_leave_wherever_they_were() -> None:
    scheduler = Scheduler(4, None)
    rows = [row(n, n % 2, 5) for n in range(10)]
    for each in rows:
        scheduler.add(each)
    scheduler.admit()
    dropped = scheduler.drop(lambda each: int(each.request.id) % 3 == 0)
    assert sorted(int(each.request.id) for each in dropped) == [0, 3, 6, 9]
    assert scheduler.active + scheduler.waiting == 6
    scheduler.drop(lambda _: True)
    assert scheduler.active == scheduler.waiting == 0
    assert scheduler.admit() == []


def test_new_prompts_are_begun_together_and_known_ones_at_once() -> None:
    scheduler = Scheduler(64, None)
    rows = [row(n, prompt=n + 1, limit=9) for n in range(80)]
    for each in rows:
        scheduler.add(each)
    assert sum(len(admission.rows) for admission in scheduler.admit()) == 64
    for slot in range(7):
        scheduler.release(slot)
        assert not scheduler.admit(), "fewer than an eighth are free, and more wait"
    scheduler.release(7)
    assert sum(len(admission.rows) for admission in scheduler.admit()) == 8
    for slot in range(10, 18):
        scheduler.release(slot)
    assert sum(len(admission.rows) for admission in scheduler.admit()) == 8
    late = row(99, prompt=99, limit=9)
    scheduler.release(20)
    scheduler.add(late)
    assert [each for admission in scheduler.admit() for _, each in admission.rows] == [late], (
        "nobody else waits"
    )
    scheduler.release(20)
    scheduler.add(row(100, prompt=99, limit=9))
    scheduler.add(row(101, prompt=101, limit=9))
    assert [admission.known for admission in scheduler.admit()] == [True]


def test_a_long_row_grows_in_few_steps_and_takes_at_most_an_eighth_more_than_it_needs() -> None:
    capacities = [Scheduler.capacity_for(need) for need in range(1, 8192)]
    assert all(
        need < capacity <= max(need + STEP, need * 9 / 8 + 1) for need, capacity in enumerate(capacities, 1)
    )
    assert capacities == sorted(capacities)
    assert len(set(capacities)) <= 40, "and not 128"
