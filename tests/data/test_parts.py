"""Rounds are put into parts by their lengths."""

from hypothesis import given
from hypothesis import strategies as st

from fastchat.data.parts import Lengths, Part, plan_parts


def lengths(rounds: list[int], *, head: int = 0, slack: int = 0, error: int = 0) -> Lengths:
    """Lengths whose truth is `error` above their estimate."""
    return Lengths(
        head=head,
        rounds=rounds,
        slack=lambda n_rounds: slack,
        true_length=lambda a, b: head + sum(rounds[a:b]) + error,
    )


def part(start: int, stop: int, context: int | None = None) -> Part:
    return Part(context=start if context is None else context, start=start, stop=stop)


def test_rounds_are_put_together_as_long_as_they_fit() -> None:
    assert plan_parts(lengths([3, 3, 3, 3]), limit=12) == [part(0, 4)]
    assert plan_parts(lengths([3, 3, 3, 3]), limit=7) == [part(0, 2), part(2, 4)]
    assert plan_parts(lengths([3, 3, 3, 3], head=2), limit=7) == [part(i, i + 1) for i in range(4)]
    assert plan_parts(lengths([]), limit=7) == []


def test_a_last_round_that_overflows_is_a_part_of_its_own() -> None:
    assert plan_parts(lengths([3, 3, 7]), limit=7) == [part(0, 2), part(2, 3)]


def test_a_round_that_is_too_long_alone_parts_its_neighbours() -> None:
    middle = Part(context=1, start=1, stop=2, is_overlong=True)
    assert plan_parts(lengths([3, 9, 3]), limit=7) == [part(0, 1), middle, part(2, 3)]


def test_earlier_rounds_are_repeated_where_they_leave_room_for_a_new_one() -> None:
    assert plan_parts(lengths([3, 3, 3, 3]), limit=7, overlap=1) == [
        part(0, 2),
        part(2, 3, context=1),
        part(3, 4, context=2),
    ]
    assert plan_parts(lengths([3, 3, 6]), limit=7, overlap=1) == [part(0, 2), part(2, 3)]


def test_near_the_limit_the_true_length_decides() -> None:
    assert plan_parts(lengths([3, 4], slack=2, error=1), limit=7) == [part(0, 1), part(1, 2)]
    assert plan_parts(lengths([3, 4], slack=2, error=0), limit=7) == [part(0, 2)]
    # One round alone is measured even where its estimate is far above the limit.
    assert plan_parts(lengths([30], slack=2, error=-23), limit=7) == [part(0, 1)]


@given(
    rounds=st.lists(st.integers(1, 20), max_size=12),
    head=st.integers(0, 5),
    limit=st.integers(5, 40),
    overlap=st.integers(0, 3),
)
def test_no_round_is_lost_and_no_part_is_too_long(
    rounds: list[int], head: int, limit: int, overlap: int
) -> None:
    parts = plan_parts(lengths(rounds, head=head), limit=limit, overlap=overlap)
    assert [i for p in parts for i in range(p.start, p.stop)] == list(range(len(rounds)))
    for p in parts:
        n_tokens = head + sum(rounds[p.context : p.stop])
        assert (n_tokens > limit) == p.is_overlong
        assert not p.is_overlong or p.stop - p.start == 1
