"""What adapters add to a product, against the plain formula."""

from collections.abc import Sequence

import pytest
import torch

from fastchat.engine.delta import Delta
from fastchat.engine.owned_rows import BASE, OwnedRows, Places
from fastchat.model.adapters import LowRank

CPU = torch.device("cpu")
N_IN = 24
RANKS = (3, 0, 20, 5)


def pairs(sizes: Sequence[int]) -> dict[tuple[int, int], LowRank]:
    """By layer and place."""
    generator = torch.Generator().manual_seed(0)
    return {
        (i, place): LowRank(
            a=torch.randn(rank, N_IN, generator=generator),
            b=torch.randn(size, rank, generator=generator),
            scale=0.5 + place,
        )
        for i, size in enumerate(sizes)
        for place, rank in enumerate(RANKS)
        if rank and (i, place) != (0, 3)
    }


def filled(sizes: Sequence[int], rows: OwnedRows) -> Delta:
    delta = Delta(N_IN, sizes, rows=lambda _: rows, dtype=torch.float32, device=CPU)
    delta.resize(len(RANKS), max(RANKS))
    for (i, place), pair in pairs(sizes).items():
        delta.put(i, place, pair)
    return delta


def plain(x: torch.Tensor, owners: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """(T, sum of sizes)"""
    found = torch.zeros(len(x), sum(sizes))
    for row, owner in enumerate(owners):
        parts = found[row].split(list(sizes))
        for i, part in enumerate(parts):
            pair = pairs(sizes).get((i, owner))
            if pair is not None:
                part += pair.scale * (pair.b @ (pair.a @ x[row]))
    return found


@pytest.mark.parametrize("sizes", [[12], [8, 8, 8], [16, 4, 4], [6, 10]])
@pytest.mark.parametrize("wide", [1, 100])
@pytest.mark.parametrize(
    "owners",
    [
        [0, BASE, 2, 3, 2],
        [BASE, BASE, BASE, BASE, 3],
        [2] * 40,
        [0, 2, BASE, *[0] * 33, *[BASE] * 35, *[3] * 32, 2],
    ],
)
def test_every_row_gets_its_own_adapters_part_and_no_other(
    sizes: list[int], wide: int, owners: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastchat.engine.delta.WIDE", wide)
    rows = OwnedRows(owners, Places(ranks=RANKS, width=max(RANKS)), device=CPU)
    delta = filled(sizes, rows)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, len(owners), N_IN, generator=generator)
    y = torch.randn(1, len(owners), sum(sizes), generator=generator)
    wanted = y[0] + plain(x[0], owners, sizes)
    before, got = y.clone(), delta.add(x, y)
    torch.testing.assert_close(got[0], wanted, rtol=1e-5, atol=1e-4)
    for row, owner in enumerate(owners):
        if owner == BASE:
            assert torch.equal(got[0, row], before[0, row])


def test_what_is_no_number_stays_with_its_own_rows() -> None:
    owners = [0, 2, 2, BASE, 3]
    rows = OwnedRows(owners, Places(ranks=RANKS, width=max(RANKS)), device=CPU)
    delta = filled([12], rows)
    broken = LowRank(a=torch.full((20, N_IN), torch.inf), b=torch.ones(12, 20), scale=1.0)
    delta.put(0, 2, broken)
    got = delta.add(torch.ones(5, N_IN), torch.zeros(5, 12))
    assert got.isfinite().all(dim=1).tolist() == [True, False, False, True, True]
    delta.wipe(2)
    assert torch.equal(delta.add(torch.ones(5, N_IN), torch.zeros(5, 12))[1], torch.zeros(12))
