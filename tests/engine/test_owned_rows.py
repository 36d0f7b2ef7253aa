"""How a pass is cut into spans of owners."""

import numpy as np
import pytest
import torch

from fastchat.engine.owned_rows import BASE, LONG, Layout, OwnedRows, Places

B = BASE
MANY = LONG


@pytest.mark.parametrize(
    ("owners", "spans"),
    [
        ([B] * 5, []),
        ([B, 0, 1, 0, 1], [(0, 5, None)]),
        ([B, 0, 1, B], [(1, 3, None)]),
        ([B] * 9 + [0], [(9, 10, None)]),
        ([0] * MANY, [(0, MANY, 0)]),
        ([0, 1, *[1] * MANY], [(0, 1, None), (1, MANY + 2, 1)]),
        ([0, *[B] * MANY, *[2] * MANY], [(0, 1, None), (MANY + 1, 2 * MANY + 1, 2)]),
        ([0] * (MANY - 1) + [1], [(0, MANY, None)]),
    ],
)
def test_long_runs_are_spans_and_the_base_is_none(
    owners: list[int], spans: list[tuple[int, int, int | None]]
) -> None:
    places = Places(ranks=(4, 4, 4), width=4)
    rows = OwnedRows(owners, places, device=torch.device("cpu"))
    assert [(span.first, span.end, span.owner) for span in rows.spans] == spans
    assert rows.is_whole == (len(spans) == 1 and spans[0][:2] == (0, len(owners)))


def test_few_of_many_adapters_are_computed_alone() -> None:
    places = Places(ranks=(4,) * 12, width=4)
    few = OwnedRows([3, 7, B], places, device=torch.device("cpu"))
    many = OwnedRows([3, 7, 8], places, device=torch.device("cpu"))
    assert few.spans[0].places == [3, 7]
    assert many.spans[0].places is None


def test_layers_of_different_sizes_are_chunks_of_one_width() -> None:
    layout = Layout([32, 8, 8])
    assert (layout.width, layout.firsts) == (8, [0, 4, 5])
    assert np.array_equal(layout.layers, [0, 0, 0, 0, 1, 2])
