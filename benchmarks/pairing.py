"""How many votes chosen pairs save, beside the fewest that any choice of pairs could need.

    python benchmarks/pairing.py

Thirty models of known strength battle until their 95 % intervals are 60 points wide on average. The
pairs are drawn evenly from all, or by `fastchat.arena.active` from the votes so far, 50 at once (10
where few are needed): drawn by their gains, as the page does, or the best one after the other.
Models that join are also shown as the published arena does it, boosted fivefold. The least is that
of `optimal_pairing.py`, which knows the true ratings. Nothing is timed.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optimal_pairing import Arena, fewest_votes, information_of, laplacian
from processes import ROOT, TOOLS, table

sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

from voting import real_votes  # pyright: ignore[reportMissingImports]

from fastchat.arena.active import choose_pairs, pair_chances
from fastchat.arena.counts import Counts, counts_of, fold
from fastchat.arena.pairing import Rules, draw_pair
from fastchat.arena.rating import POINTS, Z95, fit

WIDTH = 60.0
"""Mean width of the intervals, in points, at which ways of pairing are compared."""
TIES = 0.3
"""Part of the votes on equal models that are ties."""
SEEDS = 10
LIMIT = """The last column is the limit of any way to choose pairs. A vote on a pair tells
p (1 - p), which is much the same for all pairs of models of near strength: where all models are new
there is little to choose between, where some are known there is much."""

Pairs = Sequence[tuple[int, int]]


class Votes:
    """Models of known strength that battle as they are told; the first `m` are there."""

    def __init__(self, theta: Any, *, seed: int, m: int) -> None:
        self.theta, self.m, self.n = theta, m, 0
        self.rng = np.random.default_rng(seed)
        self.random = random.Random(seed)
        self._wins, self._ties = np.zeros((len(theta),) * 2), np.zeros((len(theta),) * 2)

    @property
    def counts(self) -> Counts:
        m = self.m
        return counts_of([f"m{i}" for i in range(m)], self._wins[:m, :m], self._ties[:m, :m])

    def play(self, pairs: Pairs) -> None:
        """Counts a battle of each pair; ties are taken from wins and losses alike."""
        for a, b in pairs:
            p = 1.0 / (1.0 + np.exp(self.theta[b] - self.theta[a]))
            tie = TIES * 2.0 * min(p, 1.0 - p)
            u = self.rng.random()
            if u < p - tie / 2:
                self._wins[a, b] += 1
            elif u < p + tie / 2:
                self._ties[[a, b], [b, a]] += 1
            else:
                self._wins[b, a] += 1
        self.n += len(pairs)

    def width(self) -> float:
        """Mean width of the intervals in points; infinite where votes do not bound them."""
        found = fit(self.counts)
        bounded = len(found.models) == self.m and found.ridge is None
        return float(np.mean(found.upper - found.lower)) if bounded else float("inf")

    def least(self) -> float:
        """Votes that the best shares of pairs need from here."""
        information = information_of(self.theta, TIES)
        before = laplacian(self.counts.battles, information)
        arena = Arena(m=self.m, information=information, before=before)
        return fewest_votes(arena, WIDTH / (2.0 * Z95 * POINTS))


Way = Callable[[Votes, int], Pairs]


def evenly(votes: Votes, n: int) -> Pairs:
    """n pairs, each drawn from all with the same chance."""
    first = votes.rng.integers(0, votes.m, n)
    second = (first + votes.rng.integers(1, votes.m, n)) % votes.m
    return list(zip(first.tolist(), second.tolist(), strict=True))


def chosen(votes: Votes, n: int) -> Pairs:
    return choose_pairs(votes.counts, n, rng=votes.rng)


def drawn(votes: Votes, n: int) -> Pairs:
    """As the page draws with `active = 1`: by chance, those that tell most the likeliest."""
    chances = np.triu(pair_chances(votes.counts), 1).ravel()
    places = votes.rng.choice(len(chances), n, p=chances / chances.sum())
    return [divmod(int(place), votes.m) for place in places]


def boosted(new: int) -> Way:
    """The last `new` models are drawn first five times as often, as the published arena does it."""

    def way(votes: Votes, n: int) -> Pairs:
        models = [str(i) for i in range(votes.m)]
        rules = Rules(boost=frozenset(models[-new:]))
        drawn = (draw_pair(models, rules, rng=votes.random) for _ in range(n))
        return [(int(pair[0]), int(pair[1])) for pair in drawn if pair]

    return way


def votes_needed(votes: Votes, way: Way, batch: int) -> int:
    """Votes from here until the intervals are `WIDTH` wide on average."""
    before = votes.n
    while votes.width() > WIDTH:
        votes.play(way(votes, batch))
    return votes.n - before


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What battles.

    Attributes:
        theta: strengths by seed.
        new: models that join when the others' intervals are `WIDTH` wide after even pairs; None
            where all begin together.
    """

    name: str
    theta: Callable[[int], Any]
    new: int | None = None

    def begun(self, seed: int) -> Votes:
        theta = self.theta(seed)
        if self.new is None:
            return Votes(theta, seed=seed, m=len(theta))
        votes = Votes(theta, seed=seed, m=len(theta) - self.new)
        votes_needed(votes, evenly, 50)
        votes.m = len(theta)
        return votes

    def row(self, seeds: int) -> list[str]:
        """Mean votes by way, and how many fewer than evenly, with the standard error over seeds."""
        batch = 50 if self.new is None else 10
        ways = [evenly, drawn, chosen, *([boosted(self.new)] if self.new else [])]
        needed = [
            [*(votes_needed(self.begun(s), way, batch) for way in ways), self.begun(s).least()]
            for s in range(seeds)
        ]
        boost = f"{np.mean(needed, axis=0)[3]:.0f}" if self.new else ""
        return _row(self.name, np.array(needed)[:, [0, 1, 2, -1]], boost)


def _row(name: str, needed: Any, boost: str) -> list[str]:
    """needed: (seeds, 4) votes evenly, drawn, chosen, and the least."""
    even, by_chance, best, least = (f"{mean:.0f}" for mean in needed.mean(axis=0))
    saved = [
        f"{1 - needed[:, i].mean() / needed[:, 0].mean():.0%} ± {_error(needed, i):.1%}"
        for i in (1, 2, 3)
    ]
    return [name, even, boost, by_chance, best, least, *saved]


def _error(values: Any, i: int) -> float:
    """The standard error of 1 - mean of the i-th / mean of the first, over seeds."""
    ratio = values[:, i].mean() / values[:, 0].mean()
    off = (values[:, i] - ratio * values[:, 0]) / values[:, 0].mean()
    return float(off.std(ddof=1) / np.sqrt(len(off)))


class Growing(Scene):
    """Five models begin, and another joins whenever the intervals are `WIDTH` wide."""

    def row(self, seeds: int) -> list[str]:
        needed = [
            [*(self._grown(s, way) for way in (evenly, drawn, chosen)), self.begun(s).least()]
            for s in range(seeds)
        ]
        return _row(self.name, np.array(needed), "")

    def _grown(self, seed: int, way: Way) -> int:
        theta = self.theta(seed)
        votes = Votes(theta, seed=seed, m=5)
        for m in range(5, len(theta) + 1):
            votes.m = m
            votes_needed(votes, way, 10)
        return votes.n


def normal(points: float) -> Callable[[int], Any]:
    """Thirty strengths that spread by so many rating points."""
    return lambda seed: np.random.default_rng(1000 + seed).normal(0.0, points / POINTS, 30)


def real_spreads(shared: Path) -> list[tuple[str, Any]]:
    """Ratings of real boards: of the shared votes, and one that was published."""
    import json

    found = [
        (which, fit(fold(real_votes(shared, which)))) for which in ("llmfao", "mt_bench_human")
    ]
    published = json.loads((shared / "data/reference/published.json").read_text("utf-8"))
    board = published["arena_leaderboard_2023_06_19"]["ratings"]
    return [
        *((name, ratings.rating) for name, ratings in found),
        ("the published arena, June 2023", np.array(list(board.values()), float)),
    ]


def scenes(real: list[tuple[str, Any]]) -> list[Scene]:
    """What is compared."""
    crowd, _, board = (ratings for _, ratings in real)

    def from_crowd(seed: int) -> Any:
        return np.random.default_rng(seed).choice(crowd, 30, replace=False) / POINTS

    def as_board(seed: int) -> Any:
        places = np.linspace(0.0, 1.0, 30)
        spaced = np.quantile(board, places) / POINTS
        return np.random.default_rng(seed).permutation(spaced)

    return [
        Scene(name="5 join 25, spread by 120 points", theta=normal(120), new=5),
        Scene(name="5 join 25, spread by 210", theta=normal(210), new=5),
        Scene(name="5 join 25, ratings of llmfao", theta=from_crowd, new=5),
        Growing(name="5 models grow to 30 one by one, spread by 120", theta=normal(120)),
        Growing(name="the same, spread by 210", theta=normal(210)),
        Scene(name="all 30 new, ratings of llmfao", theta=from_crowd),
        Scene(name="all 30 new, spaced as the published arena", theta=as_board),
        Scene(name="all 30 new, spread by 120", theta=normal(120)),
        Scene(name="all 30 new, spread by 210", theta=normal(210)),
        Scene(name="all 30 new, spread by 300", theta=normal(300)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=TOOLS.parent)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    real = real_spreads(args.shared)
    print("How far real ratings spread, in points:\n")
    rows = [[n, str(len(r)), f"{r.std():.0f}", f"{np.ptp(r):.0f}"] for n, r in real]
    print(table(["votes", "models", "standard deviation", "best to last"], rows))
    print(f"\nVotes until the intervals are {WIDTH:.0f} points wide, mean of {args.seeds} seeds:\n")
    columns = ["arena", "evenly", "boosted", "drawn by gain", "chosen", "least"]
    columns += ["saved by drawing", "by choosing", "most to save"]
    print(table(columns, [scene.row(args.seeds) for scene in scenes(real)]))
    print(f"\n{LIMIT}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
