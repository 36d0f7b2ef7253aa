"""Whether votes can place all models on one scale, and what stands in the way.

Bradley-Terry ratings are finite exactly when the graph "has beaten or tied" leads from every
model to every other one. Source: Ford 1957, "Solution of a ranking problem from binary
comparisons".
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastchat.arena.counts import Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What of the votes keeps ratings from being finite; nothing in the common case.

    Attributes:
        components: groups of models that met nobody outside; one group holds all when connected.
        never_lost: models without a loss or a tie.
        never_won: models without a win or a tie.
        is_finite: whether every rating is bounded by the votes.
        no_ring: where a tie has a parameter of its own: no model beat one that had beaten it,
            directly or over others, so that a wide gap and many ties fit as well as one might.
    """

    components: tuple[tuple[str, ...], ...]
    never_lost: tuple[str, ...] = ()
    never_won: tuple[str, ...] = ()
    is_finite: bool = True
    no_ring: bool = False

    def lines(self) -> list[str]:
        """What a reader of the board should know, a sentence each."""
        found: list[str] = []
        if len(self.components) > 1:
            shown = "; ".join(", ".join(part) for part in self.components)
            found.append(
                f"{len(self.components)} groups of models never met, so that ratings across "
                f"groups mean nothing: {shown}."
            )
        if self.never_lost:
            found.append(f"never lost, so no upper bound from votes: {', '.join(self.never_lost)}.")
        if self.never_won:
            found.append(f"never won, so no lower bound from votes: {', '.join(self.never_won)}.")
        if self.no_ring:
            found.append(
                "no model beat one that had beaten it, directly or over others, so that votes do "
                "not bound how often equal models tie."
            )
        if not self.is_finite and not found:
            found.append("one group of models won every battle against the others.")
        return found


def connection(counts: Counts) -> Connection:
    """How the votes connect the models; all of which have met somebody."""
    score = counts.score
    beats = score > 0
    m = len(counts.models)
    if m == 0 or (_reaches_all(beats) and _reaches_all(beats.T)):
        return Connection(components=(counts.models,) if m else ())
    names = np.array(counts.models, dtype=object)
    return Connection(
        components=_components(counts),
        never_lost=tuple(names[~beats.any(axis=0) & beats.any(axis=1)]),
        never_won=tuple(names[beats.any(axis=0) & ~beats.any(axis=1)]),
        is_finite=False,
    )


def connection_with_ties(counts: Counts) -> Connection:
    """How the votes connect the models where a tie is an outcome of its own.

    Then a ring of wins is needed besides: without one, rising gaps between those who win and lose
    with ties rising alike may lower no vote's chance. (Some votes without a ring are bounded by
    their ties all the same; these too are called unbounded, which costs them a ridge.)
    """
    found = connection(counts)
    if not counts.ties.any() or _has_ring(counts):
        return found
    return replace(found, is_finite=False, no_ring=True)


def _has_ring(counts: Counts) -> bool:
    """Whether wins lead from some model back to itself."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    wins = csr_matrix(counts.wins > 0)
    n, _ = connected_components(wins, directed=True, connection="strong")
    return n < len(counts.models)


def _reaches_all(edges: NDArray[np.bool_]) -> bool:
    """Whether the first node leads to every other one."""
    reached = np.zeros(len(edges), bool)
    reached[0] = True
    front = reached.copy()
    while front.any():
        front = edges[front].any(axis=0) & ~reached
        reached |= front
    return bool(reached.all())


def _components(counts: Counts) -> tuple[tuple[str, ...], ...]:
    """Groups that never met, the largest first."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    n, label = connected_components(csr_matrix(counts.battles > 0), directed=False)
    groups = [tuple(np.array(counts.models, dtype=object)[label == k]) for k in range(n)]
    return tuple(sorted(groups, key=len, reverse=True))
