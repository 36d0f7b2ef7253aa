"""Mixtures keep their proportions at every point."""

from itertools import islice

import numpy as np
import pytest

from fastchat.errors import UsageError
from fastchat.train.examples import Example
from fastchat.train.mixing import joined, mixed, parse_weights, some_of, turns


class Numbers:
    """`n` examples whose ids are `base` and their number."""

    def __init__(self, base: int, n: int) -> None:
        self.base = base
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Example:
        ids = np.array([self.base, index], dtype=np.int32)
        return Example(input_ids=ids, labels=ids)

    def lengths(self) -> np.ndarray:
        return np.full(self.n, self.base, dtype=np.int64)


WEIGHTS = [0.7, 0.2, 0.1]


def test_a_mixture_ends_with_its_first_source_in_exact_proportions() -> None:
    parts = [Numbers(1, 1000), Numbers(2, 40), Numbers(3, 500)]
    mixture = mixed(parts, WEIGHTS, until="first_exhausted", seed=0)
    sources = np.array([int(mixture[i].input_ids[0]) for i in range(len(mixture))])
    assert [int((sources == s).sum()) for s in (1, 2, 3)] == [142, 40, 20]
    for n in range(1, len(sources) + 1):
        for source, weight in zip((1, 2, 3), WEIGHTS, strict=True):
            assert abs((sources[:n] == source).sum() - n * weight) <= 1
    seen = {tuple(mixture[i].input_ids.tolist()) for i in range(len(mixture))}
    assert len(seen) == len(mixture)


def test_a_mixture_may_go_on_until_every_record_was_there() -> None:
    parts = [Numbers(1, 30), Numbers(2, 40), Numbers(3, 5)]
    mixture = mixed(parts, WEIGHTS, until="all_exhausted", seed=0)
    found = [tuple(mixture[i].input_ids.tolist()) for i in range(len(mixture))]
    for part, weight in zip(parts, WEIGHTS, strict=True):
        mine = [index for source, index in found if source == part.base]
        assert set(mine) == set(range(part.n))
        assert sorted(mine[: part.n]) == list(range(part.n))
        assert abs(len(mine) - weight * len(found)) <= 1
    assert len(mixture) == 198


def test_the_order_depends_on_the_seed_alone() -> None:
    parts = [Numbers(1, 30), Numbers(2, 40)]
    first, again, other = (
        mixed(parts, [1, 1], until="first_exhausted", seed=seed).index_in.tolist()
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_sets_can_be_joined_and_parts_taken() -> None:
    both = joined([Numbers(1, 2), Numbers(2, 3)])
    assert [both[i].input_ids.tolist() for i in range(len(both))] == [
        [1, 0],
        [1, 1],
        [2, 0],
        [2, 1],
        [2, 2],
    ]
    assert both.lengths().tolist() == [1, 1, 2, 2, 2]
    some = some_of(both, np.array([4, 0]))
    assert [some[i].input_ids.tolist() for i in range(2)] == [[2, 2], [1, 0]]


def test_turns_without_end_keep_the_proportions() -> None:
    who = list(islice(turns(WEIGHTS), 1000))
    assert [who.count(i) for i in range(3)] == [700, 200, 100]


@pytest.mark.parametrize("text", ["0.5", "0.5,x", "1,0", "1,-1", "1,inf", ""])
def test_weights_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--data_mix"):
        parse_weights(text, 2)
    assert parse_weights("2, 1", 2) == [2, 1]
