"""Votes as integer codes: who met whom, and what came of it.

Names become codes once, when votes are read; every computation after that sees arrays only. A
label that is not known is refused with a count, never taken for a tie.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastchat.errors import DataError

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]

WIN_A, WIN_B, TIE, BOTH_BAD = range(4)
LABELS = ("model_a", "model_b", "tie", "tie (bothbad)")
"""The published outcome labels; a label's place is its code."""
SCORES = np.array([1.0, 0.0, 0.5, 0.5])
"""What the first model gets for each code: a tie is half a win for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Votes in columns; a row is one vote.

    Attributes:
        models: names by code.
        a, b: (n,) int32, codes of the two models.
        outcome: (n,) int8, places in `LABELS`.
        weight: (n,) float64, positive, or None where every vote counts once.
    """

    models: tuple[str, ...]
    a: Codes
    b: Codes
    outcome: NDArray[np.int8]
    weight: Floats | None = None

    def __len__(self) -> int:
        return len(self.a)

    @property
    def score(self) -> Floats:
        """(n,) what the first model got: 1, 0.5 or 0."""
        return SCORES[self.outcome]

    def take(self, rows: NDArray[Any]) -> "Votes":
        """The votes of these rows (a mask or places), with the same codes."""
        weight = None if self.weight is None else self.weight[rows]
        return replace(
            self, a=self.a[rows], b=self.b[rows], outcome=self.outcome[rows], weight=weight
        )


def votes_from_rows(
    model_a: Sequence[str],
    model_b: Sequence[str],
    winner: Sequence[str],
    *,
    models: Sequence[str] | None = None,
) -> Votes:
    """Votes of three columns of names and published labels; codes follow the order of names.

    models: names that get a code whether they occur or not; None takes those that occur.

    Raises:
        DataError: a label is not known, a model meets itself or has no code.
    """
    names = tuple(models) if models is not None else tuple(sorted({*model_a, *model_b}))
    code = {name: i for i, name in enumerate(names)}
    known = {label: i for i, label in enumerate(LABELS)}
    refuse_unknown_labels(Counter(label for label in winner if label not in known))
    try:
        a = np.fromiter((code[x] for x in model_a), np.int32, len(model_a))
        b = np.fromiter((code[x] for x in model_b), np.int32, len(model_b))
    except KeyError as error:
        raise DataError(f"a vote names the model {error.args[0]!r}, which is not listed.") from None
    outcome = np.fromiter((known[x] for x in winner), np.int8, len(winner))
    return checked(Votes(models=names, a=a, b=b, outcome=outcome))


def votes_from_frame(frame: "pl.DataFrame") -> Votes:
    """Votes of a polars frame with the columns `model_a`, `model_b` and `winner`.

    Codes follow the order of names; `weight` is taken where there is such a column.

    Raises:
        DataError: a column or a value is missing, a label not known, a model meets itself.
    """
    import polars as pl

    for name in ("model_a", "model_b", "winner"):
        if name not in frame.columns:
            raise DataError(f"the battles have no column {name}; they have {frame.columns}.")
        if n := frame[name].null_count():
            raise DataError(f"{n} battles have no {name}; clean the battles first.")
    columns = [frame[name].cast(pl.String) for name in ("model_a", "model_b")]
    names = pl.concat([c.unique() for c in columns]).unique().sort()
    known = names.to_list()
    a, b = (_codes(column, known).astype(np.int32, copy=False) for column in columns)
    winner = frame["winner"].cast(pl.String)
    unknown = winner.value_counts().filter(~pl.col("winner").is_in(LABELS))
    refuse_unknown_labels(Counter(dict(unknown.iter_rows())))
    outcome = _codes(winner, list(LABELS)).astype(np.int8)
    weight = None
    if "weight" in frame.columns:
        weight = frame["weight"].cast(pl.Float64).to_numpy()
    return checked(Votes(models=tuple(known), a=a, b=b, outcome=outcome, weight=weight))


def _codes(column: "pl.Series", names: list[str]) -> NDArray[Any]:
    """(n,) the place of each value in `names`, which hold them all."""
    import polars as pl

    return column.cast(pl.Enum(names)).to_physical().to_numpy()


def refuse_unknown_labels(unknown: Mapping[str, int]) -> None:
    """Raises DataError naming the labels that are no outcome, with their counts."""
    if unknown:
        shown = ", ".join(f"{label!r} ({n})" for label, n in list(unknown.items())[:5])
        raise DataError(
            f"{sum(unknown.values())} battles have an outcome that is not known: {shown}; "
            f"an outcome is one of {', '.join(LABELS)}."
        )


def checked(votes: Votes) -> Votes:
    """The votes themselves, when they can be computed with.

    Raises:
        DataError: a model meets itself, or a weight is not a positive number.
    """
    if n := int(np.count_nonzero(votes.a == votes.b)):
        raise DataError(f"in {n} battles a model meets itself; remove these battles.")
    if votes.weight is not None and not np.all(np.isfinite(votes.weight) & (votes.weight > 0)):
        raise DataError("a weight of a battle is not a positive number.")
    return votes
