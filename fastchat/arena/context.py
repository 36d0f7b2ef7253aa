"""What ratings may hold apart: the style of the answers, and columns of one's own.

A column of one's own is a number of the first model against the second (who stood left, who
answered sooner), or a pair of columns `NAME_a`, `NAME_b`, whose difference is taken.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastchat.arena.style import FEATURES, style_features
from fastchat.arena.votes import Floats
from fastchat.errors import UsageError

if TYPE_CHECKING:
    import polars as pl


def features_of(
    battles: "pl.DataFrame", names: Sequence[str], *, style: bool
) -> tuple["pl.DataFrame", Floats, tuple[str, ...]]:
    """The n battles that tell all k features, (n, k) of them, and what they are called.

    names: columns of one's own. style: whether the features of style come before them.

    Raises:
        UsageError: the battles have no such column, or it holds no numbers.
    """
    own = [_columns(battles, name) for name in names]
    styled = [f"{name}_{side}" for side in "ab" for name in FEATURES] if style else []
    known = battles.drop_nulls([*styled, *(c for columns in own for c in columns)])
    parts: list[Floats] = []
    if style:
        found = style_features(known)
        assert found is not None, "columns without nulls give features"
        parts.append(found)
    parts += [_difference(known, columns) for columns in own]
    features = np.hstack(parts) if parts else np.zeros((known.height, 0))
    return known, features, (*(FEATURES if style else ()), *names)


def _columns(battles: "pl.DataFrame", name: str) -> list[str]:
    """The column, or the pair of columns, that the name means."""
    for columns in ([name], [f"{name}_a", f"{name}_b"]):
        if all(column in battles.columns for column in columns):
            for column in columns:
                _check_numbers(battles[column])
            return columns
    raise UsageError(
        f"--features {name}: the battles have no column {name}, nor {name}_a and {name}_b."
    )


def _check_numbers(column: "pl.Series") -> None:
    import polars as pl

    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise UsageError(f"--features: the column {column.name} holds no numbers.")


def _difference(battles: "pl.DataFrame", columns: list[str]) -> Floats:
    """(n, 1) the column, or the first less the second."""
    values = battles.select(columns).to_numpy().astype(np.float64)
    return values[:, :1] if len(columns) == 1 else values[:, :1] - values[:, 1:]
