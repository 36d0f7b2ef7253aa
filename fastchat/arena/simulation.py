"""Battles that a judge decides: which pair meets next, on which question, and what the votes say.

The loop knows neither servers nor databases: a `Bench` answers and judges, a `Ballot` keeps votes.
Pairs are chosen by what narrows the intervals most (`active`), so that a new model gets a first
position from few battles. Votes carry their origin and never count among people's.
"""

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastchat.arena.active import PairChooser
from fastchat.arena.counts import Counts, counts_of
from fastchat.arena.rating import Ratings, fit
from fastchat.arena.votes import Floats
from fastchat.errors import FastChatError
from fastchat.store.arena_records import Outcome, StoredBattle, StoredConversation, StoredVote


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A battle to be fought: two models and a question, by its place."""

    first: str
    second: str
    question: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fought:
    """A battle with its answers and the judge's outcome."""

    planned: Planned
    said: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
    """Role and text of each side."""
    outcome: Outcome


class Bench(Protocol):
    """Lets a battle happen."""

    async def fight(self, planned: Planned) -> Fought:
        """Answers of both models, and the judge's outcome; raises FastChatError where one fails."""
        ...


class Ballot(Protocol):
    """Keeps votes."""

    def keep(self, vote: StoredVote) -> None: ...


@dataclass(slots=True, kw_only=True)
class Tally:
    """Votes so far, as counts, and which battles they were."""

    models: tuple[str, ...]
    wins: Floats
    ties: Floats
    fought: set[tuple[frozenset[str], int]] = field(default_factory=set)

    @classmethod
    def of(cls, models: Sequence[str]) -> "Tally":
        """One without votes."""
        m = len(models)
        return cls(models=tuple(models), wins=np.zeros((m, m)), ties=np.zeros((m, m)))

    @property
    def counts(self) -> Counts:
        return counts_of(self.models, self.wins, self.ties)

    @property
    def n_votes(self) -> int:
        return round(self.counts.total)

    def add(self, first: str, second: str, outcome: Outcome) -> None:
        """Counts a vote; models that do not take part are passed over."""
        if first not in self.models or second not in self.models or first == second:
            return
        i, j = self.models.index(first), self.models.index(second)
        if outcome == "leftvote":
            self.wins[i, j] += 1
        elif outcome == "rightvote":
            self.wins[j, i] += 1
        else:
            self.ties[i, j] += 1
            self.ties[j, i] += 1

    def ratings(self) -> Ratings:
        """Positions with intervals, by judges' votes alone."""
        return fit(self.counts)


class Planner:
    """Chooses battles: the pair that narrows intervals most, on a question it has not had yet."""

    def __init__(
        self, tally: Tally, n_questions: int, *, newcomers: Sequence[str] = (), seed: int = 42
    ) -> None:
        """
        Args:
            newcomers: every battle is one of these; without any, all models are alike.
        """
        self._tally = tally
        self._n_questions = n_questions
        self._random = random.Random(seed)
        m = len(tally.models)
        self._allowed = ~np.eye(m, dtype=bool)
        if newcomers:
            new = np.array([name in newcomers for name in tally.models])
            self._allowed &= new[:, None] | new[None, :]

    def next(self, n: int) -> list[Planned]:
        """At most n battles that were not fought; each is planned as if those before were."""
        chooser = PairChooser.after(self._tally.counts)
        planned: list[Planned] = []
        for _ in range(n):
            allowed = self._with_questions()
            if not allowed.any():
                break
            i, j = chooser.next(allowed=allowed)
            planned.append(self._planned(i, j))
        return planned

    def _with_questions(self) -> NDArray[np.bool_]:
        """(m, m) which pairs may meet, and have a question left."""
        models = self._tally.models
        allowed = self._allowed.copy()
        for pair, n in Counter(pair for pair, _ in self._fought()).items():
            if n == self._n_questions:
                i, j = (models.index(name) for name in pair)
                allowed[i, j] = allowed[j, i] = False
        return allowed

    def _fought(self) -> Iterator[tuple[frozenset[str], int]]:
        """The battles of these models on these questions."""
        models = set(self._tally.models)
        for pair, question in self._tally.fought:
            if pair <= models and 0 <= question < self._n_questions:
                yield pair, question

    def _planned(self, i: int, j: int) -> Planned:
        pair = (self._tally.models[i], self._tally.models[j])
        question = self._question(*pair)
        self._tally.fought.add((frozenset(pair), question))
        first, second = pair if self._random.random() < 0.5 else pair[::-1]
        return Planned(first=first, second=second, question=question)

    def _question(self, a: str, b: str) -> int:
        """A question that the two have not had, drawn at random."""
        pair = frozenset((a, b))
        free = [q for q in range(self._n_questions) if (pair, q) not in self._tally.fought]
        return self._random.choice(free)


@dataclass(slots=True, kw_only=True)
class Simulated:
    """How a simulation ended."""

    n_votes: int = 0
    failures: list[str] = field(default_factory=list[str])
    ended: str = ""
    """Why no more battles were fought."""


async def simulate(
    planner: Planner,
    bench: Bench,
    ballot: Ballot,
    tally: Tally,
    *,
    judge: str,
    most: int,
    width: float | None = None,
    watched: Sequence[str] = (),
    parallel: int = 1,
    progress: Callable[[Tally], None] = lambda _: None,
) -> Simulated:
    """Battles until `most` votes are given, or the intervals of `watched` are narrow enough.

    judge: the voter's name.
    width: of a 95 % interval, in rating points, at which it ends; None fights all battles.
    """
    done = Simulated()
    failed_in_a_row = 0
    while True:
        if width is not None and (widest := _widest(tally, watched)) <= width:
            done.ended = f"the widest interval is {widest:.0f} points"
            break
        batch = planner.next(min(parallel, most - done.n_votes - len(done.failures)))
        if not batch:
            out = done.n_votes + len(done.failures) >= most
            done.ended = "all battles are fought" if out else "no pair has a question left"
            break
        results = await asyncio.gather(*(_one(bench, planned) for planned in batch))
        for planned, fought in zip(batch, results, strict=True):
            if isinstance(fought, Fought):
                ballot.keep(vote_of(fought, judge=judge))
                tally.add(planned.first, planned.second, fought.outcome)
                done.n_votes += 1
                failed_in_a_row = 0
            else:
                done.failures.append(fought)
                failed_in_a_row += 1
        if failed_in_a_row >= max(8, 2 * parallel):
            done.ended = f"stopped after {failed_in_a_row} failures without a vote"
            break
        progress(tally)
    return done


async def _one(bench: Bench, planned: Planned) -> Fought | str:
    try:
        return await bench.fight(planned)
    except FastChatError as error:
        return error.message


def _widest(tally: Tally, watched: Sequence[str]) -> float:
    """The widest interval of the models, in points; infinite where one has no battle."""
    ratings = tally.ratings()
    widths = dict(zip(ratings.models, (ratings.upper - ratings.lower).tolist(), strict=True))
    if len(ratings.connection.components) > 1 or ratings.ridge is not None:
        return float("inf")
    return max((widths.get(m, float("inf")) for m in watched or tally.models), default=0.0)


def vote_of(fought: Fought, *, judge: str) -> StoredVote:
    """The battle and its vote, marked as a judge's."""
    key, now = secrets.token_hex(16), time.time()
    names = (fought.planned.first, fought.planned.second)
    a, b = (
        StoredConversation(id=f"{key}-{side}", model=name, messages=said, updated_at=now)
        for side, name, said in zip("ab", names, fought.said, strict=True)
    )
    battle = StoredBattle(id=key, kind="anonymous", a=a, b=b, started_at=now, origin="judge")
    turns = max(1, len(fought.said[0]) // 2)
    return StoredVote(
        battle=battle, outcome=fought.outcome, turn=turns, voted_at=now, voter=f"judge:{judge}"
    )


def table_lines(ratings: Ratings) -> list[str]:
    """The positions as Markdown, best first."""
    lines = ["| Rank | Model | Rating | 95% interval | Battles |", "|" + " --- |" * 5]
    order = np.argsort(-ratings.rating)
    rank: Mapping[int, int] = dict(enumerate(ratings.rank.tolist()))
    for i in map(int, order):
        low, high = ratings.lower[i], ratings.upper[i]
        lines.append(
            f"| {rank[i]} | {ratings.models[i]} | {ratings.rating[i]:.0f} | "
            f"{low:.0f} to {high:.0f} | {ratings.n_battles[i]:.0f} |"
        )
    return lines
