"""Several sets of examples as one, in exact proportions.

Source i takes its turn k at the time (k + 1/2) / weight i, and the turns are sorted by time. So
at any point of the mixture the share of a source is off by less than one record, and nothing is
left to chance.
"""

from collections.abc import Iterator, Sequence
from heapq import heapify, heapreplace
from typing import Literal

import numpy as np
import numpy.typing as npt

from fastchat.errors import UsageError
from fastchat.train.examples import Example
from fastchat.train.packing import ExampleSet

MixUntil = Literal["first_exhausted", "all_exhausted"]
"""Whether a mixture ends with its first source that ends, or goes on, beginning those anew that
have ended, until every record was there once."""


class Mixture:
    """Examples of several sets, or some of one, in a given order."""

    def __init__(
        self,
        parts: Sequence[ExampleSet],
        part_of: npt.NDArray[np.int64],
        index_in: npt.NDArray[np.int64],
    ) -> None:
        self.parts = parts
        self.part_of = part_of
        self.index_in = index_in

    def __len__(self) -> int:
        return len(self.part_of)

    def __getitem__(self, index: int) -> Example:
        return self.parts[int(self.part_of[index])][int(self.index_in[index])]

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every example."""
        result = np.zeros(len(self), dtype=np.int64)
        for i, part in enumerate(self.parts):
            mine = self.part_of == i
            result[mine] = part.lengths()[self.index_in[mine]]
        return result


def some_of(part: ExampleSet, indices: npt.NDArray[np.int64]) -> Mixture:
    """The examples of a set with these numbers."""
    return Mixture([part], np.zeros(len(indices), dtype=np.int64), indices)


def joined(parts: Sequence[ExampleSet]) -> Mixture:
    """All examples, one set after the other."""
    sizes = [len(part) for part in parts]
    return Mixture(
        parts,
        np.repeat(np.arange(len(parts)), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
    )


def mixed(
    parts: Sequence[ExampleSet], weights: Sequence[float], *, until: MixUntil, seed: int
) -> Mixture:
    """The sets in the proportions of the weights; each in a random order, anew every time round."""
    times: list[npt.NDArray[np.float64]] = []
    ends = [
        (len(part) + (0.5 if until == "first_exhausted" else -0.5)) / weight
        for part, weight in zip(parts, weights, strict=True)
    ]
    end = min(ends) if until == "first_exhausted" else max(ends)
    for weight in weights:
        turns = np.arange(int(end * weight) + 2)
        at: npt.NDArray[np.float64] = np.asarray((turns + 0.5) / weight, dtype=np.float64)
        times.append(at[at < end] if until == "first_exhausted" else at[at <= end])
    part_of = np.repeat(np.arange(len(parts)), [len(at) for at in times])
    index_in = np.concatenate(
        [
            _rounds(len(part), len(at), rng=np.random.default_rng([seed, i]))
            for i, (part, at) in enumerate(zip(parts, times, strict=True))
        ]
    )
    order = np.argsort(np.concatenate(times), kind="stable")
    return Mixture(parts, part_of[order], index_in[order])


def turns(weights: Sequence[float]) -> Iterator[int]:
    """Whose turn it is, without end, for sets whose sizes nobody knows."""
    queue = [(0.5 / weight, i, 0) for i, weight in enumerate(weights)]
    heapify(queue)
    while True:
        _, i, k = queue[0]
        yield i
        heapreplace(queue, ((k + 1.5) / weights[i], i, k + 1))


def parse_weights(text: str, n: int) -> list[float]:
    """The weights of `--data_mix` for `n` sources.

    Raises:
        UsageError: not as many positive numbers as there are sources.
    """
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"--data_mix {text} must be numbers, such as 0.7,0.3.") from None
    if len(weights) != n or not all(0 < weight < float("inf") for weight in weights):
        raise UsageError(
            f"--data_mix {text} must give a positive number for each of the {n} values of "
            "--data_path."
        )
    return weights


def _rounds(size: int, n: int, *, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`n` numbers below `size`, every round of them in an order of its own."""
    rounds = [rng.permutation(size) for _ in range(-(-n // size))] if size else []
    return np.concatenate([*rounds, np.zeros(0, dtype=np.int64)])[:n].astype(np.int64)
